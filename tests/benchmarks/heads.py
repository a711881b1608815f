"""What does a model lose with its heads, by each measure of what a head is worth?

    python -m tests.benchmarks.heads MODEL [MODEL ...] --train=train.tsv --eval=dev.tsv [--max_length=64]
    [--calibration_examples=512]

Each model (fine-tuned bundles, for instance of several seeds) loses 10 to 70 % of its heads at once, the least worth
first, without any training afterwards. Heads are gated by 0, which equals their removal (tests/prune/test_surgery.py)
and needs no new program for each pattern. The score is the mean over the models, with the lowest and the highest.
"""

import argparse
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.jobs.data import Text, evenly_spaced, open_model, tokenizer_of
from bertjax.jobs.removal import task_loss
from bertjax.metrics.scores import score
from bertjax.model import LayerGates
from bertjax.prune.select import select_top
from bertjax.recipes.data import Data
from bertjax.recipes.prune import Config
from bertjax.text.batches import eval_batches, inputs_of
from bertjax.text.buckets import length_buckets

MEASURES = ("importance", "official", "transformers", "magnitude", "activity", "random")
FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@partial(jax.jit, static_argnames="model")
def logits(model: Any, params: Any, inputs: Any, heads: Any) -> Any:
    return model.apply({"params": params}, *inputs, gates=[LayerGates(heads=one) for one in heads]).logits


def accuracy(bundle: Any, encoded: Any, kept: dict[int, list[int]]) -> float:
    """With these heads alone, of each layer."""
    counts = [step.num_attention_heads for step in bundle.config.depth_steps()]
    heads = [jnp.asarray(np.isin(np.arange(count), kept[layer]), jnp.float32) for layer, count in enumerate(counts)]
    said, gold = np.zeros(len(encoded), int), np.zeros(len(encoded), int)
    buckets = length_buckets(encoded.lengths, bundle.config.max_position_embeddings)
    for batch in eval_batches(encoded, 32, buckets):
        rows = np.flatnonzero(batch["weights"])
        answers = np.asarray(logits(bundle.model, bundle.device_params, inputs_of(batch), heads)).argmax(axis=-1)
        said[batch["example_ids"][rows]] = answers[rows]
        gold[batch["example_ids"][rows]] = batch["labels"][rows]
    return 100 * score("accuracy", said, gold)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--train", required=True)
    parser.add_argument("--eval", required=True)
    parser.add_argument("--max_length", type=int, default=64)
    parser.add_argument("--calibration_examples", type=int, default=512)
    given = parser.parse_args()
    data = Data(train=given.train, eval=given.eval, max_length=given.max_length)
    found: dict[str, list[list[float]]] = {measure: [] for measure in MEASURES}
    for number, name in enumerate(given.models):
        text = Text.of(data)
        bundle, task = open_model(name, text.task(), 0)
        train, held_out = text.training(task, tokenizer_of(bundle)), text.held_out(task, tokenizer_of(bundle))
        batches = evenly_spaced(train.encoded, given.calibration_examples, one_length=True)
        for measure in MEASURES:
            scores = Config(criterion=measure, seed=number).scores_by.scores(
                bundle, batches, task_loss(bundle), "heads"
            )
            total = sum(map(len, scores.values()))
            curve = [accuracy(bundle, held_out.encoded, select_top(scores, round(f * total))) for f in FRACTIONS]
            found[measure].append(curve)
            print(f"{name} {measure}: {' '.join(f'{one:.1f}' for one in curve)}", flush=True)
    print(f"\n{'heads gone':<13} {' '.join(f'{f:>17.0%}' for f in FRACTIONS)}")
    for measure, curves in found.items():
        array = np.array(curves)
        cells = zip(array.mean(0), array.min(0), array.max(0), strict=True)
        print(f"{measure:<13} {' '.join(f'{m:.1f} [{low:.1f}, {high:.1f}]'.rjust(17) for m, low, high in cells)}")


if __name__ == "__main__":
    main()
