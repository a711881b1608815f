"""Lines of text in, lines of JSON out."""

import re


def one_line(text: str) -> str:
    """JSON with U+0085, U+2028 and U+2029 escaped: some readers end a line at these characters, which a text may
    contain."""
    return re.sub("[\x85\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)


def read_lines(source: str) -> list[str]:
    """The lines of a file or of standard input, decoded as in `bertjax.text.files`. Only line feeds end a line; other
    separators (a form feed, U+2028) are part of it."""
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
