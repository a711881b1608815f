"""A task and a model so small that a script runs in seconds: real processes, real files, nothing else left out."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import bertjax
from bertjax.bundle import Bundle, init_params
from bertjax.model import BertConfig, roberta_config
from bertjax.recipes.data import Data
from bertjax.recipes.stage import Context
from bertjax.text.reader import TextReader
from bertjax.text.tokenizer import Tokenizer
from tests.text.subwords import bpe

ROOT = Path(__file__).resolve().parents[2]


def context(model: str, data: Data, out: Path | str, **more: Any) -> Context:
    """What a stage is given, with text that nothing has been read of yet."""
    return Context(model, data, TextReader(), str(out), **more)


GOOD, BAD = ("fine", "great", "lovely", "warm"), ("poor", "awful", "dull", "cold")
FILLER = ("the", "film", "a", "story", "with", "its", "cast", "and", "music", "scenes", "very", "often")


def write_model(folder: Path, **changes) -> Path:
    """A model folder with a vocabulary of words that the task uses."""
    source = folder.with_name(f"{folder.name}-vocabulary")
    source.mkdir(parents=True)
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *FILLER)
    (source / "vocab.txt").write_text("\n".join(pieces) + "\n")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(**{"vocab_size": len(pieces), "max_position_embeddings": 24, **sizes, **changes})
    bertjax.save(Bundle(config, init_params(config, 0), Tokenizer.from_folder(source)), folder)
    return folder


def write_roberta(folder: Path, **changes: Any) -> Path:
    """The folder of a RoBERTa with byte-level BPE, trained on the words that the task uses."""
    tokenizer = Tokenizer.wrap(bpe([" ".join((*GOOD, *BAD, *FILLER))] * 3, size=300))
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    given = {"vocab_size": 300, "max_position_embeddings": 66, "initializer_range": 0.2, **sizes, **changes}
    config = roberta_config("roberta", **given)
    bertjax.save(Bundle(config, init_params(config, 0), tokenizer), folder)
    return folder


def write_table(path: Path, rows: int, seed: int = 0, labelled: bool = True, filler: tuple[int, ...] = (4, 12)) -> Path:
    """Sentences of so many words, and one more that decides. (10, 12) gives rows of one bucket: one program a step."""
    rng = random.Random(seed)
    lines = ["sentence\tlabel" if labelled else "sentence"]
    for row in range(rows):
        words: list[str] = rng.choices(FILLER, k=rng.choice(filler))
        words.insert(rng.randrange(len(words)), rng.choice((BAD, GOOD)[row % 2]))
        lines.append(" ".join(words) + (f"\t{('bad', 'good')[row % 2]}" if labelled else ""))
    path.write_text("\n".join(lines) + "\n")
    return path


def script(name: str, *flags: str, cwd: Path = ROOT) -> list[str]:
    """The command line of a script."""
    return [sys.executable, "-m", f"train.{name}", *map(str, flags)]


def run(name: str, *flags: str, check: bool = True, **options) -> subprocess.CompletedProcess:
    """Runs a script in a process of its own, with one device, as a user does."""
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(
        script(name, *flags), cwd=ROOT, capture_output=True, text=True, timeout=600, env=environment, **options
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> bytes:
    return (out / "bundle" / "model.safetensors").read_bytes()
