"""The text of a data file: opened, decompressed and decoded, each with its own clear error."""

import bz2
import codecs
import difflib
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

from bertjax.errors import UserError

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
ReadBytes = Callable[[Path], bytes]
"""How the bytes of a file are read: `Path.read_bytes`, or by a cache (`reader.TextReader.content`)."""
PACKED = {".gz": gzip.decompress, ".bz2": bz2.decompress}


def ending(path: Path) -> str:
    """The suffix of the content: `.tsv` for both `train.tsv` and `train.tsv.gz`."""
    return Path(path.stem if path.suffix.lower() in PACKED else path.name).suffix.lower()


def check_exists(path: Path) -> None:
    """Raises a `UserError` that names the nearest file name in the folder if there is no such file."""
    if path.is_file():
        return
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected a file")
    if not path.parent.is_dir():
        raise UserError(f"{path}: no such file, nor a folder {path.parent}")
    near = difflib.get_close_matches(path.name, (entry.name for entry in path.parent.iterdir()), n=1)
    hint = f'; the nearest there is "{near[0]}"' if near else ""
    raise UserError(f"{path}: no such file{hint}")


def read_text(path: Path, read: ReadBytes = Path.read_bytes) -> str:
    """The whole text of a file, decompressed if its name ends in .gz or .bz2."""
    try:
        content = read(path)
        content = PACKED.get(path.suffix.lower(), bytes)(content)
    except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged or incomplete {path.suffix} file ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not content:
        raise UserError(f"{path}: the file is empty; expected at least one row")
    return decoded(content, str(path))


def decoded(content: bytes, source: str) -> str:
    """Bytes as text: UTF-8, the encoding of their byte order mark, or UTF-16 without one, in Latin script. Carriage
    returns become line feeds where the text has no line feed at all."""
    # The mark of UTF-32 begins with that of UTF-16, so it is tried first.
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), without_mark(content))
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        place = error.start - content.rfind(b"\n", 0, error.start)
        raise UserError(
            f"{source}, line {line}, byte {place}: 0x{content[error.start]:02x} cannot be decoded; expected UTF-8 text"
            f"\nconvert the file first, for instance: iconv -f latin1 -t utf-8 {Path(source).name} > fixed"
        ) from None
    if text.count("\0") > len(text) / 4:
        raise UserError(
            f"{source}: many of its bytes are 0; expected text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark"
        )
    return text.replace("\r", "\n") if "\n" not in text else text


def without_mark(content: bytes) -> str:
    """The encoding of bytes without a byte order mark: in UTF-16 every second byte of a Latin letter is 0, and in UTF-8
    none is."""
    first, second, half = content[::2].count(0), content[1::2].count(0), len(content) / 2
    if max(first, second) < half / 2 or min(first, second) > half / 10:
        return "utf-8"
    return "utf-16-le" if second > first else "utf-16-be"
