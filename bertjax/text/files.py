"""A data file's text: opened, unpacked and decoded, each with its own clear error."""

import bz2
import difflib
import gzip
import zlib
from pathlib import Path

from bertjax.errors import UserError

PACKED = {".gz": gzip.decompress, ".bz2": bz2.decompress}


def ending(path: Path) -> str:
    """The ending that says what is inside: `.tsv` for both `train.tsv` and `train.tsv.gz`."""
    return Path(path.stem if path.suffix in PACKED else path.name).suffix


def check_exists(path: Path) -> None:
    """A `UserError` with the nearest name in the folder if there is no such file."""
    if path.is_file():
        return
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected a file")
    if not path.parent.is_dir():
        raise UserError(f"{path}: no such file, nor a folder {path.parent}")
    near = difflib.get_close_matches(path.name, (entry.name for entry in path.parent.iterdir()), n=1)
    hint = f'; the nearest there is "{near[0]}"' if near else ""
    raise UserError(f"{path}: no such file{hint}")


def read_text(path: Path) -> str:
    """The whole text of a file in UTF-8 (with or without byte order mark), unpacked if it ends in .gz or .bz2."""
    try:
        content = path.read_bytes()
        content = PACKED.get(path.suffix, bytes)(content)
    except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged or incomplete {path.suffix} file ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not content:
        raise UserError(f"{path}: the file is empty; expected at least one row")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        place = error.start - content.rfind(b"\n", 0, error.start)
        raise UserError(
            f"{path}, line {line}, byte {place}: 0x{content[error.start]:02x} cannot be decoded; expected UTF-8 text\n"
            f"convert the file first, for instance: iconv -f latin1 -t utf-8 {path.name} > fixed"
        ) from None
