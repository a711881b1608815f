"""Texts in, one line of JSON out."""

import re
from typing import Any

from bertjax.recipes.predict import Config


def main(config: Config) -> None:
    import json

    import bertjax
    from bertjax.engine.log import note
    from bertjax.errors import UserError

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

    from bertjax.storage.paths import local
    from bertjax.text.files import decoded, read_text

    text = decoded(sys.stdin.buffer.read(), "standard input") if source == "-" else read_text(local(source))
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def write_lines(target: str, lines: list[str]) -> None:
    from bertjax.errors import UserError
    from bertjax.storage.paths import as_path

    text = "\n".join(lines) + "\n"
    if target == "-":
        print(text, end="")
        return
    try:
        with as_path(target).open("w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}.") from None
