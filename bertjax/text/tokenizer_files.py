"""The tokenizer's files in a Hugging Face folder: `tokenizer.json`, `tokenizer_config.json`, `vocab.txt`.

These files may contradict each other. `transformers` 5 rebuilds a `BertTokenizer` from the vocabulary and
`tokenizer_config.json`, and takes neither lowercasing nor accent stripping from `tokenizer.json`; for a class that it
does not know, it uses `tokenizer.json` as it is. The same is done here, because a model was trained with the ids that
`transformers` gave. Plain BERT folders are read here; all others by `transformers` itself, which is slower to start.
What is written here is consistent across the files.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bertjax.errors import UserError
from bertjax.storage.typed_json import read_json, value

BERT_CLASSES = tuple(
    f"{family}Tokenizer{suffix}" for family in ("Bert", "DistilBert", "MobileBert") for suffix in ("", "Fast")
)
CLASS_OF = {
    **dict.fromkeys(("bert", "distilbert", "mobilebert"), "BertTokenizer"),
    "albert": "AlbertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
}
"""The class of a folder that names none, by the family of its model."""
AS_STORED = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes for which `tokenizer.json` is used as it is."""
# Each special token's role, with its text in BERT and in RoBERTa-like vocabularies.
ROLES = {
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "unk_token": ("[UNK]", "<unk>"),
    "mask_token": ("[MASK]", "<mask>"),
}
KINDS: dict[str, Any] = {
    "tokenizer_class": str | None,
    "do_lower_case": bool,
    "strip_accents": bool | None,
    "tokenize_chinese_chars": bool,
    "model_max_length": int | float | None,
    "added_tokens_decoder": dict | None,
    "additional_special_tokens": list | dict | None,
    "extra_special_tokens": list | dict | None,
    **dict.fromkeys(ROLES, str | dict | None),
}
"""Types of the fields of `tokenizer_config.json` that are read here."""
NEUTRAL = (
    *("clean_up_tokenization_spaces", "do_basic_tokenize", "name_or_path", "special_tokens_map_file", "padding_side"),
    *("backend", "is_local", "local_files_only", "model_input_names", "max_len", "truncation_side"),
)
"""Fields that change no id."""
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
STANDARD = (False, False, False, False, True)
"""The `FLAGS` of BERT's special tokens."""
Added = tuple[str, tuple[bool, ...]]


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a folder holds the vocabulary of any tokenizer (a configuration alone does not count)."""
    names = ("tokenizer.json", "vocab*", "*.model", "*.spm")
    return any(True for name in names for _ in Path(folder).glob(name))


def read_folder(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer of a folder, and its `tokenizer_config.json` (empty if there is none)."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with a tokenizer in it")
    if not has_tokenizer(folder):
        raise UserError(
            f"{folder}: no tokenizer in this folder\n"
            "expected tokenizer.json, or vocab.txt (with tokenizer_config.json saying whether it is cased)"
        )
    config = read_tokenizer_config(folder)
    backend = from_files(folder, config) if has_known_settings_only(folder, config) else None
    return (backend, config) if backend else from_transformers(folder, config)


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json`, with the types of the fields that are read here checked."""
    path = folder / "tokenizer_config.json"
    config = read_json(path)
    for name in config.keys() & KINDS.keys():
        value(KINDS[name], config[name], f"{path}: {name}")
        if name in ROLES and isinstance(config[name], dict):
            value(str, config[name].get("content"), f"{path}: {name}.content")
    return config


def from_files(folder: Path, config: dict[str, Any]) -> tokenizers.Tokenizer | None:
    """The tokenizer of a plain BERT folder; None where only `transformers` can tell the ids."""
    named = tokenizer_class(folder, config)
    if not (folder / "tokenizer.json").is_file():
        if named not in (*BERT_CLASSES, None) or not (folder / "vocab.txt").is_file():
            return None
        backend = from_vocabulary(read_vocabulary(folder / "vocab.txt"), config)
        return backend if adds_no_tokens(config, added_tokens(backend)) else None
    if named not in (*BERT_CLASSES, *AS_STORED, None):
        return None
    backend = read_tokenizer_json(folder / "tokenizer.json")
    vocabulary, added = backend.get_vocab(), added_tokens(backend)
    names = {role: token_name(config, role, vocabulary) for role in ROLES}
    if not adds_no_tokens(config, added):
        return None
    if named not in BERT_CLASSES:
        return backend
    special = {(name, STANDARD) for name in names.values() if name in vocabulary}
    if not is_bert(backend, names) or set(added.values()) != special:
        return None
    backend.normalizer = bert_normalizer(config)
    return backend


def tokenizer_class(folder: Path, config: dict[str, Any]) -> str | None:
    """The tokenizer class that `transformers` would use."""
    path = folder / "config.json"
    model = read_json(path)
    named = config.get("tokenizer_class") or value(str | None, model.get("tokenizer_class"), f"{path}: tokenizer_class")
    family = model.get("model_type")
    return named or (CLASS_OF.get(family) if isinstance(family, str) else None)


def has_known_settings_only(folder: Path, config: dict[str, Any]) -> bool:
    """Whether no other file, and no field other than those read here, can add tokens or change ids."""
    special = read_json(folder / "special_tokens_map.json")
    known = all(name in KINDS or name in NEUTRAL or given in (None, [], {}) for name, given in config.items())
    same = all(
        role in ROLES and token_text(token) == (token_text(config.get(role)) or ROLES[role][0])
        for role, token in special.items()
    )
    plain = all(is_plain(given.get(role)) for given in (config, special) for role in ROLES)
    return known and same and plain and not (folder / "added_tokens.json").is_file()


def adds_no_tokens(config: dict[str, Any], added: dict[int, Added]) -> bool:
    """Whether all special tokens of a configuration are in the tokenizer already, with the same flags."""
    contents = {content for content, _ in added.values()}
    listed = config.get("added_tokens_decoder") or {}
    more = config.get("additional_special_tokens") or config.get("extra_special_tokens")
    named = [text for role in ROLES if (text := token_text(config.get(role)))]
    same = all(added.get(int(number)) == token_flags(token) for number, token in listed.items() if number.isdecimal())
    return not more and contents.issuperset(named) and same and all(map(str.isdecimal, listed))


def added_tokens(backend: tokenizers.Tokenizer) -> dict[int, Added]:
    """The tokens that are split off a text before all else, by id: their texts and flags."""
    return {number: token_flags(token) for number, token in backend.get_added_tokens_decoder().items()}


def token_flags(token: Any) -> Added:
    """Text and flags of an `AddedToken`, or of one in JSON; an empty text for anything else."""
    if isinstance(token, tokenizers.AddedToken):
        return token.content, tuple(getattr(token, name) for name in FLAGS)
    fields = token if isinstance(token, dict) else {}
    return str(fields.get("content", "")), tuple(fields.get(name, False) for name in FLAGS)


def is_plain(token: Any) -> bool:
    """Whether a token has the flags of BERT's special tokens."""
    return not isinstance(token, dict) or not any(token_flags(token)[1][:-1])


def token_text(token: Any) -> str | None:
    """The text of a token. Older versions stored it together with its flags."""
    return token.get("content") if isinstance(token, dict) else token


def read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every kind of bad file
        raise UserError(f"{path}: not a tokenizer that `tokenizers` can read ({str(error)[:300]})") from None


def read_vocabulary(path: Path) -> dict[str, int]:
    """`vocab.txt`: one token per line, its id the number of the line from 0; of a repeated token the last line
    counts."""
    try:
        text = path.read_text(encoding="utf-8")  # not splitlines(): some tokens are Unicode line separators
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8") from None
    return {token: number for number, token in enumerate(text.removesuffix("\n").split("\n"))}


def from_vocabulary(vocabulary: dict[str, int], config: dict[str, Any]) -> tokenizers.Tokenizer:
    """BERT's WordPiece tokenizer for a vocabulary; casing and accents as configured."""
    names = {role: token_name(config, role, vocabulary) for role in ROLES}
    missing = [name for role, name in names.items() if name not in vocabulary and role != "mask_token"]
    if missing:
        raise UserError(f"the vocabulary lacks {', '.join(missing)}, which BERT needs")
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
    """Cleaning, lowercasing and accent stripping; by default uncased, and accents are stripped if the text is
    lowercased."""
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )


def from_transformers(folder: Path, config: dict[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer that `transformers` opens: slower to start, but every format. A folder's own code is never run, and
    there is no prompt for it."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # any of dozens, from a missing package to a broken file
        reason = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in reason:
            reason = "it needs code from that folder, which bertjax does not run"
        raise UserError(f"{folder}: transformers cannot open the tokenizer in this folder\n  {reason}"[:500]) from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"{folder}: {type(tokenizer).__name__} has no `tokenizers` backend, which is needed here")
    names = {role: str(name) for role in ROLES if (name := getattr(tokenizer, role, None)) is not None}
    return backend, config | names


def token_name(config: dict[str, Any], role: str, vocabulary: dict[str, int]) -> str:
    """A special token's text: as configured, else the usual one that the vocabulary contains."""
    configured = token_text(config.get(role))
    return configured or next((name for name in ROLES[role] if name in vocabulary), ROLES[role][0])


def write_folder(folder: Path, backend: tokenizers.Tokenizer, names: dict[str, str], max_length: int | None) -> None:
    """Write the files from which `transformers` gives the same ids: two, and `vocab.txt` if the model is WordPiece."""
    folder.mkdir(parents=True, exist_ok=True)
    # Not by `backend.save`, which reports a full disk by a bare Exception (tokenizers 0.23).
    (folder / "tokenizer.json").write_text(backend.to_str(pretty=True), encoding="utf-8", newline="\n")
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
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="\n")
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def is_bert(backend: tokenizers.Tokenizer, names: dict[str, str]) -> bool:
    """Whether `BertTokenizer`, which keeps little more than the vocabulary, would rebuild exactly this tokenizer."""
    parts = json.loads(backend.to_str())
    normalizer, model = parts["normalizer"] or {}, parts["model"]
    return (
        (normalizer.get("type"), normalizer.get("clean_text")) == ("BertNormalizer", True)
        and parts["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and (model.get("type"), model.get("continuing_subword_prefix")) == ("WordPiece", "##")
        and model.get("max_input_chars_per_word") == 100
        and {token["content"] for token in parts["added_tokens"]} <= set(names.values())
    )
