"""Placeholders for models and text that are missing, so that a recipe of any size can be compiled without them.

How a step compiles depends on shapes alone. Missing text becomes text whose rows have --data.max_length tokens; missing
weights beside a `config.json` become zeros. The command reads them like any others. What exists is used as it is.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from bertjax.bundle import Bundle, save, stored_config
from bertjax.engine.fields import leaves, replace
from bertjax.engine.log import note
from bertjax.errors import UserError
from bertjax.model import BertConfig, abstract_params
from bertjax.recipes.data import Data
from bertjax.recipes.pretrain import VOCABULARY
from bertjax.text.tokenizer import Tokenizer, has_tokenizer

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a")
"""A vocabulary for a model that has none: enough for the text below, whatever the size of its embedding table."""


def with_placeholders(config: Any, folder: Path) -> Any:
    """The config with every text and every model that is missing replaced by one in `folder`."""
    named = {path: leaf.value for path, leaf in leaves(config).items() if isinstance(leaf.value, str)}
    changes = {path: model_like(name, folder / path) for path, name in named.items() if lacks_weights(name)}
    evaluated = ["data.eval"] if "data.eval" in named else []
    if is_absent(named.get("data.train", "demo")):
        note(
            f"{named['data.train']} does not exist; a placeholder with rows of {config.data.max_length} tokens is used"
        )
        if hasattr(config.data, "kind"):
            model: Any = changes.get("model", config.model)
            text = table_of(config.data, config.data.labels or stored_config(model).labels, folder / "text.tsv")
        else:
            text = text_of(config.data.max_length, folder / "text.txt")
            if config.model is None:  # its vocabulary would be learned from the text
                shape = config.shape.config(config.vocab_size or VOCABULARY, "ForPreTraining")
                changes["model"] = zeros(shape, None, folder / "model")
        changes |= dict.fromkeys(["data.train", *evaluated], text)
    elif is_absent(named.get("data.eval", "demo")):
        changes["data.eval"] = named["data.train"]
    return replace(config, changes)


def is_absent(source: str) -> bool:
    return source != "demo" and not source.startswith("tfds:") and not Path(source).expanduser().exists()


def lacks_weights(name: str) -> bool:
    """Whether this is the folder of a model with a config.json and no weights."""
    folder = Path(name)
    return (folder / "config.json").is_file() and not any(folder.glob("*.safetensors"))


def model_like(name: str, target: Path) -> str:
    """A model of zeros with the `config.json` of a folder, and the folder's tokenizer if there is one."""
    note(f"{name} has no weights; zeros are used")
    return zeros(stored_config(name), Tokenizer.from_folder(name) if has_tokenizer(name) else None, target)


def zeros(config: BertConfig, tokenizer: Tokenizer | None, target: Path) -> str:
    """The folder of a model whose parameters are 0."""
    if tokenizer is None:
        vocabulary = target.with_name(f"{target.name}-vocabulary")
        vocabulary.mkdir()
        (vocabulary / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
        tokenizer = Tokenizer.from_folder(vocabulary)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_params(config))
    save(Bundle(config, params, tokenizer), target)
    return str(target)


def table_of(data: Data, labels: tuple[str, ...], file: Path) -> str:
    """A table with one row for each label, under the columns that the config names."""
    if data.kind not in ("auto", "classification", "regression"):
        raise UserError(
            f"--data.train={data.train} does not exist, and there is no placeholder for --data.kind={data.kind}."
        )
    values = ("0.5", "1.5") if data.kind == "regression" else labels
    columns = [data.text or "text", *([data.text_pair] if data.text_pair else []), data.label or "label"]
    texts = len(columns) - 1  # with [CLS], and [SEP] behind each
    words = " ".join(["a"] * max(1, (data.max_length - 1 - texts) // texts))
    rows = [[words] * (len(columns) - 1) + [value] for value in values]
    file.write_text("".join("\t".join(row) + "\n" for row in [columns, *rows]))
    return str(file)


def text_of(max_length: int, file: Path) -> str:
    """Documents of short sentences, which fill rows to the last token."""
    document = "a\n" * (4 * max_length)
    file.write_text("\n".join([document] * 4))
    return str(file)
