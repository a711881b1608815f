"""Two recipes, several runs of each: the mean scores, and whether they differ.

    python -m tests.benchmarks.several_seeds OURS/bundle ... --against THEIRS/bundle ... --data=dev.tsv

Examples are resampled once for all runs, see `bertjax.metrics.uncertainty`.
"""

import argparse
from typing import Any

import numpy as np

import bertjax
from bertjax.metrics.scores import score
from bertjax.metrics.uncertainty import mean_difference_interval, mean_p_value
from bertjax.predict import run_rows
from bertjax.text.encode import encode_examples
from bertjax.text.sources import infer_task, load_examples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", nargs="+")
    parser.add_argument("--against", nargs="+", required=True)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--max_length", type=int, default=64)
    arguments = parser.parse_args()
    task = infer_task(arguments.data)
    examples = load_examples(arguments.data, task, "test")

    def answers(folder: str) -> tuple[Any, Any]:
        bundle = bertjax.load(folder)
        assert bundle.tokenizer is not None
        encoded = encode_examples(examples, task, bundle.tokenizer, arguments.max_length)
        assert encoded.labels is not None
        said = np.stack(run_rows(bundle.model, bundle.device_params, encoded)[0]).argmax(axis=-1)
        print(f"{folder}: {100 * score('accuracy', said, encoded.labels):.2f}")
        return said, encoded.labels

    ours, theirs = ([answers(folder) for folder in folders] for folders in (arguments.ours, arguments.against))
    labels = ours[0][1]
    runs, others = ([said for said, _ in each] for each in (ours, theirs))
    mine, other = (100 * np.mean([score("accuracy", said, labels) for said in each]) for each in (runs, others))
    low, high = (100 * end for end in mean_difference_interval("accuracy", runs, others, labels))
    p = mean_p_value("accuracy", runs, others, labels)
    print(f"{mine:.2f} against {other:.2f}: {mine - other:+.2f} [{low:+.1f}, {high:+.1f}], p = {p:.2g}")


if __name__ == "__main__":
    main()
