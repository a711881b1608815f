"""Label text with a model: one text a line in, one line of JSON out.

    echo "a quiet masterpiece" | bertjax predict --model=runs/quickstart/bundle
    bertjax predict --model=runs/quickstart/bundle --input=reviews.txt --out=labels.jsonl

For pairs of texts, a tab stands between the two. Each line of the answer holds `text`, `label` and `probabilities`,
and the `depth` at which the text left, where the model lets texts leave early. There is an answer for every line: of a
blank one the label is null.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

TRAINS = False


@dataclass(frozen=True)
class Config:
    """Prediction."""

    model: str = "runs/quickstart/bundle"
    """The model: a folder or hf:NAME, with a trained head."""
    input: str = "-"
    """File with one text a line; - reads standard input."""
    out: str = "-"
    """File for the answers; - writes to standard output."""
    batch_size: int = 32
    max_length: int | None = None
    """Longest input in tokens. None: what the model can hold."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the products: bfloat16 on TPU, GPU and processors with AMX."""


def main(config: Config) -> None:
    import json

    import bertjax
    from bertjax.errors import UserError

    from .log import note

    lines = read_lines(config.input)
    given = [number for number, line in enumerate(lines) if line.strip()]
    if not given:
        raise UserError(
            f"{'standard input' if config.input == '-' else config.input} holds no text; expected one a line."
        )
    columns = [lines[number].split("\t") for number in given]
    counts = {len(row) for row in columns}
    if len(counts) > 1 or max(counts) > 2:
        odd = next(i for i, row in enumerate(columns) if len(row) > 2 or len(row) != len(columns[0]))
        raise UserError(
            f"line {given[odd] + 1} has {len(columns[odd])} columns; expected one text a line, or two with a tab "
            "between."
        )
    texts = [row[0] for row in columns]
    pairs = [row[1] for row in columns] if counts == {2} else None
    bundle = bertjax.load(config.model, dtype=config.dtype)
    predictions = bundle.predict(texts, pairs, batch_size=config.batch_size, max_length=config.max_length)
    if predictions.truncated:
        note(f"{predictions.truncated} of {len(texts)} texts were too long and lost their end")
    answers: list[dict[str, Any]] = [{"text": line, "label": None} for line in lines]
    for i, number in enumerate(given):
        answer = answers[number]
        answer["label"] = predictions.labels[i]
        if predictions.probabilities is not None:
            rounded = [round(float(p), 4) for p in predictions.probabilities[i]]
            answer["probabilities"] = dict(zip(bundle.config.labels, rounded, strict=True))
        if predictions.depths is not None:
            answer["depth"] = predictions.depths[i]
    write_lines(config.out, [one_line(json.dumps(answer, ensure_ascii=False, allow_nan=False)) for answer in answers])


def one_line(text: str) -> str:
    """JSON in which no reader sees a second line: some end one at these as well, which a text may hold."""
    return re.sub("[\x85\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def read_lines(source: str) -> list[str]:
    """The lines of a file or of standard input, as `bertjax.text.files` reads text; what ends none of its lines (a form
    feed, U+2028) is part of one."""
    import sys

    from bertjax.paths import local
    from bertjax.text.files import decoded, read_text

    text = decoded(sys.stdin.buffer.read(), "standard input") if source == "-" else read_text(local(source))
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def write_lines(target: str, lines: list[str]) -> None:
    from bertjax.errors import UserError
    from bertjax.paths import at

    text = "\n".join(lines) + "\n"
    if target == "-":
        print(text, end="")
        return
    try:
        with at(target).open("w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}.") from None


if __name__ == "__main__":
    from .settings import run

    run("predict")
