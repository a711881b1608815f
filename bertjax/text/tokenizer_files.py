"""The tokenizer's files in a Hugging Face folder: `tokenizer.json`, `tokenizer_config.json`, `vocab.txt`.

Which file decides? `transformers` 5 rebuilds a `BertTokenizer` from the vocabulary and `tokenizer_config.json`, and
takes from `tokenizer.json` neither lowercasing nor accents; other classes are taken from `tokenizer.json` as it is.
We do the same, for a model was trained with the ids that `transformers` gave. What is written here agrees everywhere.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bertjax.errors import UserError
from bertjax.typed import read_json

BERT_CLASSES = tuple(name + suffix for name in ("BertTokenizer", "DistilBertTokenizer") for suffix in ("", "Fast"))
# Each special token's role, with BERT's name and the one that RoBERTa-like vocabularies have.
ROLES = {
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "unk_token": ("[UNK]", "<unk>"),
    "mask_token": ("[MASK]", "<mask>"),
}


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a folder holds the vocabulary of any tokenizer (a configuration alone does not count)."""
    names = ("tokenizer.json", "vocab*", "*.model", "*.spm")
    return any(True for name in names for _ in Path(folder).glob(name))


def read_folder(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """A folder's tokenizer as its files say, and `tokenizer_config.json` (empty where there is none)."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with a tokenizer in it")
    if not has_tokenizer(folder):
        raise UserError(
            f"{folder}: no tokenizer there\n"
            "expected tokenizer.json, or vocab.txt (with tokenizer_config.json saying whether it is cased)"
        )
    config = read_json(folder / "tokenizer_config.json")
    is_bert = config.get("tokenizer_class") in BERT_CLASSES
    if config.get("tokenizer_class") is None:
        is_bert = read_json(folder / "config.json").get("model_type", "none") in ("bert", "distilbert", "mobilebert")
    if (folder / "tokenizer.json").is_file():
        backend = read_tokenizer_json(folder / "tokenizer.json")
        if is_bert and isinstance(backend.normalizer, normalizers.BertNormalizer):
            backend.normalizer = bert_normalizer(config)
        return backend, config
    plain = is_bert or config.get("tokenizer_class") is None
    if plain and (folder / "vocab.txt").is_file() and not (folder / "added_tokens.json").is_file():
        return from_vocabulary(read_vocabulary(folder / "vocab.txt"), config), config
    return from_transformers(folder), config


def read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every kind of bad file
        raise UserError(f"{path}: not a tokenizer that `tokenizers` can read ({error})") from None


def read_vocabulary(path: Path) -> dict[str, int]:
    """`vocab.txt`: one piece a line, its id the line's number from 0; of a repeated piece the last line counts."""
    try:
        text = path.read_text(encoding="utf-8")  # not splitlines(): vocabularies hold exotic line separators as pieces
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8") from None
    return {piece: number for number, piece in enumerate(text.removesuffix("\n").split("\n"))}


def from_vocabulary(vocabulary: dict[str, int], config: dict[str, Any]) -> tokenizers.Tokenizer:
    """BERT's WordPiece over a vocabulary, cased, uncased or accent-keeping as the configuration says."""
    names = {role: token_name(config, role, vocabulary) for role in ROLES}
    missing = [name for role, name in names.items() if name not in vocabulary and role != "mask_token"]
    if missing:
        raise UserError(f"the vocabulary lacks {', '.join(missing)}, which BERT cannot do without")
    cls, sep = names["cls_token"], names["sep_token"]
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk_token"]))
    backend.normalizer = bert_normalizer(config)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])],
    )
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens([name for name in names.values() if name in vocabulary])
    return backend


def bert_normalizer(config: dict[str, Any]) -> normalizers.BertNormalizer:
    """Cleaning, lowercasing and accents; by default uncased, and accents go where case goes."""
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )


def from_transformers(folder: Path) -> tokenizers.Tokenizer:
    """Whatever `transformers` makes of the folder: slower to start, and it knows every format."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # any of dozens, from a missing package to a broken file
        raise UserError(f"{folder}: transformers cannot open the tokenizer there\n  {error}"[:500]) from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"{folder}: {type(tokenizer).__name__} has no `tokenizers` backend, which is needed here")
    return backend


def token_name(config: dict[str, Any], role: str, vocabulary: dict[str, int]) -> str:
    """A special token's text: as configured, else the usual name that the vocabulary has."""
    given = config.get(role)
    if isinstance(given, dict):  # written by older versions, with the flags of the token next to its text
        given = given.get("content")
    return str(given) if given else next((name for name in ROLES[role] if name in vocabulary), ROLES[role][0])


def write_folder(folder: Path, backend: tokenizers.Tokenizer, names: dict[str, str], max_length: int | None) -> None:
    """The files from which `transformers` gives the same ids: two, and `vocab.txt` where the model is WordPiece."""
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    known = {role: name for role, name in names.items() if backend.token_to_id(name) is not None}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **known}
    if max_length is not None:
        config["model_max_length"] = max_length
    if is_bert(backend, names):
        normalizer = backend.normalizer
        config |= {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": normalizer.lowercase,
            "strip_accents": normalizer.strip_accents,
            "tokenize_chinese_chars": normalizer.handle_chinese_chars,
        }
    if isinstance(backend.model, models.WordPiece):
        vocabulary = backend.get_vocab(with_added_tokens=False)
        pieces = sorted(vocabulary, key=vocabulary.__getitem__)
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8", newline="\n")
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def is_bert(backend: tokenizers.Tokenizer, names: dict[str, str]) -> bool:
    """Whether `BertTokenizer`, which keeps little more than the vocabulary, would rebuild just this."""
    parts = json.loads(backend.to_str())
    normalizer, model = parts["normalizer"] or {}, parts["model"]
    return (
        (normalizer.get("type"), normalizer.get("clean_text")) == ("BertNormalizer", True)
        and parts["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and (model.get("type"), model.get("continuing_subword_prefix")) == ("WordPiece", "##")
        and model.get("max_input_chars_per_word") == 100
        and {token["content"] for token in parts["added_tokens"]} <= set(names.values())
    )
