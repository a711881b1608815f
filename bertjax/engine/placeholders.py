"""What a config names and is not there, stood in for, so that a recipe of any size can be compiled without it.

How a step compiles depends on shapes alone. So in place of text that is missing there is text whose rows are as long
as --data.max_length allows, and in place of weights that are missing beside a `config.json` there are zeros; a script
reads them as it reads any others, and knows of nothing. What is there is used as it is.
"""

from pathlib import Path
from typing import Any

from bertjax.engine.fields import leaves, replace
from bertjax.engine.log import note
from bertjax.errors import UserError

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a")
"""A vocabulary for a model that has none: enough for the text below, whatever the size of its word table."""


def with_placeholders(config: Any, folder: Path) -> Any:
    """The config with every text and every model that is missing replaced by one in `folder`."""
    from bertjax.bundle import stored_config
    from bertjax.recipes.pretrain import VOCABULARY

    named = {path: leaf.value for path, leaf in leaves(config).items() if isinstance(leaf.value, str)}
    changes = {path: model_like(name, folder / path) for path, name in named.items() if lacks_weights(name)}
    # What a finished model would be measured on is read before it is trained, and decides nothing.
    evaluated = ["data.eval"] if "data.eval" in named else []
    if is_absent(named.get("data.train", "demo")):
        note(f"{named['data.train']} is not there; rows of {config.data.max_length} pieces stand in for it")
        if hasattr(config.data, "kind"):
            model: Any = changes.get("model", config.model)
            text = table_of(config.data, config.data.labels or stored_config(model).labels, folder / "text.tsv")
        else:
            text = text_of(config.data.max_length, folder / "text.txt")
            if config.model is None:  # it would learn its vocabulary from the text
                shape = config.shape.config(config.vocab_size or VOCABULARY, "ForPreTraining")
                changes["model"] = zeros(shape, None, folder / "model")
        changes |= dict.fromkeys(["data.train", *evaluated], text)
    elif is_absent(named.get("data.eval", "demo")):
        changes["data.eval"] = named["data.train"]
    return replace(config, changes)


def is_absent(source: str) -> bool:
    return source != "demo" and not source.startswith("tfds:") and not Path(source).expanduser().exists()


def lacks_weights(name: str) -> bool:
    """Whether this is the folder of a model that is described and has no weights."""
    folder = Path(name)
    return (folder / "config.json").is_file() and not any(folder.glob("*.safetensors"))


def model_like(name: str, target: Path) -> str:
    """A model of zeros as the `config.json` of a folder describes it, with the folder's tokenizer if there is one."""
    from bertjax.bundle import stored_config
    from bertjax.text.tokenizer import Tokenizer, has_tokenizer

    note(f"{name} has no weights; zeros stand in for them")
    return zeros(stored_config(name), Tokenizer.from_folder(name) if has_tokenizer(name) else None, target)


def zeros(config: Any, tokenizer: Any, target: Path) -> str:
    """The folder of a model whose parameters are 0."""
    import jax
    import numpy as np

    from bertjax.bundle import Bundle, save
    from bertjax.model import abstract_params
    from bertjax.text.tokenizer import Tokenizer

    if tokenizer is None:
        vocabulary = target.with_name(f"{target.name}-vocabulary")
        vocabulary.mkdir()
        (vocabulary / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
        tokenizer = Tokenizer.from_folder(vocabulary)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_params(config))
    save(Bundle(config, params, tokenizer), target)
    return str(target)


def table_of(data: Any, labels: tuple[str, ...], file: Path) -> str:
    """A table with every label, under the columns that the config names."""
    if data.kind not in ("auto", "classification", "regression"):
        raise UserError(f"--data.train={data.train} is not there, and nothing stands in for --data.kind={data.kind}.")
    answers = ("0.5", "1.5") if data.kind == "regression" else labels
    columns = [data.text or "text", *([data.text_pair] if data.text_pair else []), data.label or "label"]
    texts = len(columns) - 1  # with [CLS], and [SEP] behind each
    words = " ".join(["a"] * max(1, (data.max_length - 1 - texts) // texts))
    rows = [[words] * (len(columns) - 1) + [answer] for answer in answers]
    file.write_text("".join("\t".join(row) + "\n" for row in [columns, *rows]))
    return str(file)


def text_of(max_length: int, file: Path) -> str:
    """Documents of short sentences, which fill rows to the last piece."""
    document = "a\n" * (4 * max_length)
    file.write_text("\n".join([document] * 4))
    return str(file)
