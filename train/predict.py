"""Label text with a model: one text per line in, one line of JSON out.

    echo "a quiet masterpiece" | bertjax predict --model=runs/finetune/bundle
    bertjax predict --model=runs/finetune/bundle --input=reviews.txt --out=labels.jsonl

The two texts of a pair are separated by a tab. Each line of the output holds `text`, `label` and `probabilities`, or of
a model that embeds texts the `embedding`, and for a model that exits early the `depth` at which the text exited. Every
line has an output; for a blank line the label is null.
"""

import json
from typing import Any

from bertjax.engine.command_line import run
from bertjax.engine.log import note
from bertjax.errors import UserError
from bertjax.jobs.predict import one_line, read_lines, write_lines
from bertjax.recipes.predict import Config


def main(config: Config) -> None:
    import bertjax

    lines = read_lines(config.input)
    numbers = [number for number, line in enumerate(lines) if line.strip()]
    if not numbers:
        raise UserError(
            f"{'standard input' if config.input == '-' else config.input} holds no text; expected one per line."
        )
    columns = [lines[number].split("\t") for number in numbers]
    counts = {len(row) for row in columns}
    if len(counts) > 1 or max(counts) > 2:
        odd = next(i for i, row in enumerate(columns) if len(row) > 2 or len(row) != len(columns[0]))
        raise UserError(
            f"line {numbers[odd] + 1} has {len(columns[odd])} columns; expected one text per line, or two separated by "
            "a tab."
        )
    texts = [row[0] for row in columns]
    pairs = [row[1] for row in columns] if counts == {2} else None
    bundle = bertjax.load(config.model, dtype=config.dtype)
    predictions = bundle.predict(texts, pairs, batch_size=config.batch_size, max_length=config.max_length)
    if predictions.truncated:
        note(f"{predictions.truncated} of {len(texts)} texts were too long and were truncated")
    key = "embedding" if bundle.config.embedding else "label"
    answers: list[dict[str, Any]] = [{"text": line, key: None} for line in lines]
    for i, number in enumerate(numbers):
        answer = answers[number]
        answer[key] = predictions.labels[i]
        if predictions.probabilities is not None:
            rounded = [round(float(p), 4) for p in predictions.probabilities[i]]
            answer["probabilities"] = dict(zip(bundle.config.labels, rounded, strict=True))
        if predictions.depths is not None:
            answer["depth"] = predictions.depths[i]
    write_lines(config.out, [one_line(json.dumps(answer, ensure_ascii=False, allow_nan=False)) for answer in answers])


if __name__ == "__main__":
    run(main, __doc__, trains=False)
