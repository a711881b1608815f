# ruff: noqa: RUF001 (look-alike characters are the point)
"""Ids are those of `transformers`, for real sentences, hostile ones, and every kind of BERT vocabulary."""

import contextlib
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from transformers import AutoTokenizer

import bertjax
from bertjax.errors import UserError
from bertjax.text.demo import demo_examples, demo_model_folder
from bertjax.text.tokenizer import Tokenizer, has_tokenizer
from bertjax.text.tokenizer_files import from_vocabulary

HOSTILE = [
    "",
    " ",
    "\t \n",
    ".",
    "'",
    '"',
    "don't 'quote' ``me''",
    "naïve café Ångström İstanbul ﬁn ẞ ß ŒUVRE",
    "cafe\u0301 decomposed e\u0301\u0301\u0301",
    "東京は日本の首都です。中文字符混合 English words",
    "한국어 텍스트, 日本語テキスト",
    "мама мыла раму ПРИВЕТ ёлка",
    "שלום עולם مرحبا بالعالم",
    "हिन्दी में पाठ ไทย",
    "😀😀 emoji 👩‍👩‍👧‍👦 family 🇩🇪 flag 👍🏽",
    "control\x00characters\x01\x02\x07\x08\x1b\x7f here",
    "zero\u200bwidth\u200djoiner\ufeffmark\u00a0space\u2028line\u2029paragraph\u3000wide",
    "replacement \ufffd and private \ue000 \U000f0000 and unassigned \U000e0fff",
    "a" * 100,
    "x" * 101,
    "incomprehensibilities" * 5,
    "https://example.org/a/b?c=d&e=f#g @user #tag $5.00 50% 1,000,000 3.14e-10",
    "[CLS] special [SEP] tokens [MASK] in [PAD] text [UNK] ##ing [cls]",
    "<b>markup</b> &amp; {braces} \\backslash\\ ^caret~ |pipe|",
    "MiXeD CaSe UPPER lower",
    "many     spaces\tand\ttabs\r\nand\nlines",
    "－full－ｗｉｄｔｈ ，punctuation。！？",
    "𝒎𝒂𝒕𝒉 𝔉𝔯𝔞𝔨𝔱𝔲𝔯 ½ ² ① ㎏",
]


@pytest.fixture(scope="module")
def theirs():
    return AutoTokenizer.from_pretrained(demo_model_folder())


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer.from_folder(demo_model_folder())


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    return demo_examples("train").texts[:2500]


def small_folder(folder: Path, **config) -> Path:
    """A folder with a vocabulary of every character in the hostile texts, in both cases, and some longer tokens."""
    characters = sorted(
        {c for text in HOSTILE for c in text + text.upper() + text.lower() if c.strip() and c.isprintable()}
    )
    words = ["MiXeD", "mixed", "CaSe", "café", "cafe", "naïve", "naive", "Ångström", "angstrom", "東京", "##ing", "##é"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters), *words]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(tokens)) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_ids_of_single_texts_equal_transformers(ours, theirs, sentences):
    assert ours.encode(sentences).ids == theirs(sentences)["input_ids"]
    assert ours.encode(HOSTILE).ids == theirs(HOSTILE)["input_ids"]


@pytest.mark.parametrize("max_length", [12, 40])
def test_pairs_are_cut_as_transformers_cuts_them(ours, theirs, sentences, max_length):
    half = len(sentences) // 2
    first, second = sentences[:half] + HOSTILE, sentences[half : 2 * half] + HOSTILE[::-1]
    found = ours.encode(first, second, max_length)
    expected = theirs(first, second, truncation="longest_first", max_length=max_length)
    assert found.ids == expected["input_ids"]
    assert found.type_ids == expected["token_type_ids"]


def test_offsets_and_words_equal_those_of_transformers(ours, theirs):
    texts = [text for text in HOSTILE if text.strip()]
    found, expected = ours.encode(texts), theirs(texts, return_offsets_mapping=True)
    assert found.offsets == expected["offset_mapping"]
    assert found.word_ids == [expected.word_ids(i) for i in range(len(texts))]
    assert found.sequence_ids == [expected.sequence_ids(i) for i in range(len(texts))]


def test_leaving_out_the_spans_changes_no_id(ours, sentences):
    quick = ours.encode(sentences, max_length=16, spans=False)
    full = ours.encode(sentences, max_length=16)
    assert (quick.ids, quick.type_ids, quick.n_truncated) == (full.ids, full.type_ids, full.n_truncated)
    assert quick.offsets is None
    assert quick.word_ids is None


def test_cut_texts_are_counted_and_the_limit_leaves_no_trace(ours, sentences):
    whole = ours.encode(sentences).ids
    for limit in (12, 30):
        assert ours.encode(sentences, max_length=limit).n_truncated == sum(len(ids) > limit for ids in whole)
    assert ours.encode(sentences).ids == whole
    assert ours.encode(sentences).n_truncated == 0


def test_truncation_and_padding_baked_into_the_file_are_gone(ours):
    baked = json.loads((demo_model_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    assert baked["truncation"]["max_length"] == 128
    assert baked["padding"]["strategy"] == {"Fixed": 128}
    assert len(ours.encode(["word " * 300]).ids[0]) == 302
    assert len(ours.encode(["word"]).ids[0]) == 3


def test_vocab_txt_and_tokenizer_json_of_the_demo_agree(ours, sentences, tmp_path):
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((demo_model_folder() / name).read_bytes())
    from_vocabulary = Tokenizer.from_folder(tmp_path)
    assert from_vocabulary.encode(sentences + HOSTILE).ids == ours.encode(sentences + HOSTILE).ids
    assert from_vocabulary.vocab_size == ours.vocab_size == 30522


RULES = list(itertools.product([True, False], [None, True, False], [True, False]))


@pytest.mark.parametrize(("lower", "accents", "chinese"), RULES)
def test_cased_uncased_and_accent_keeping_vocabularies_equal_transformers(tmp_path, lower, accents, chinese):
    rules = {"do_lower_case": lower, "strip_accents": accents, "tokenize_chinese_chars": chinese}
    folder = small_folder(tmp_path, **rules)
    found = Tokenizer.from_folder(folder).encode(HOSTILE).ids
    assert found == AutoTokenizer.from_pretrained(folder)(HOSTILE)["input_ids"]
    Tokenizer.from_folder(folder).save(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(HOSTILE)["input_ids"] == found
    assert Tokenizer.from_folder(tmp_path / "saved").encode(HOSTILE).ids == found


def test_the_rules_of_case_and_accents_do_differ(tmp_path):
    ids = [
        Tokenizer.from_folder(small_folder(tmp_path / str(i), do_lower_case=lower, strip_accents=accents))
        .encode(HOSTILE)
        .ids
        for i, (lower, accents) in enumerate([(True, None), (False, None), (True, False)])
    ]
    assert ids[0] != ids[1] != ids[2] != ids[0]


def test_a_vocabulary_without_configuration_is_uncased_as_in_transformers(tmp_path):
    folder = small_folder(tmp_path)
    assert (
        Tokenizer.from_folder(folder).encode(HOSTILE).ids == AutoTokenizer.from_pretrained(folder)(HOSTILE)["input_ids"]
    )


@pytest.mark.parametrize("tokenizer_class", ["BertTokenizer", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize("lower_in_config", [True, False, None])
def test_where_the_files_disagree_the_same_one_decides_as_in_transformers(tmp_path, tokenizer_class, lower_in_config):
    content = json.loads((demo_model_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"]["lowercase"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    config = {"tokenizer_class": tokenizer_class, "do_lower_case": lower_in_config}
    given = {name: value for name, value in config.items() if value is not None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(given))
    for model_type in (None, "bert"):
        if model_type:
            (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        expected = AutoTokenizer.from_pretrained(tmp_path)(HOSTILE)["input_ids"]
        found = Tokenizer.from_folder(tmp_path).encode(HOSTILE).ids
        assert found == expected


def test_saved_folders_open_in_transformers_with_the_same_ids(ours, theirs, sentences, tmp_path):
    ours.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json", "vocab.txt"}
    reopened = AutoTokenizer.from_pretrained(tmp_path)
    assert type(reopened).__name__ == "BertTokenizer"
    assert reopened.model_max_length == theirs.model_max_length == 512
    texts = sentences[:500] + HOSTILE
    assert reopened(texts)["input_ids"] == theirs(texts)["input_ids"]
    assert (tmp_path / "vocab.txt").read_bytes() == (demo_model_folder() / "vocab.txt").read_bytes()
    assert Tokenizer.from_folder(tmp_path).fingerprint == ours.fingerprint


@pytest.mark.parametrize("change", ["added token", "other normalizer"])
def test_what_a_bert_tokenizer_cannot_express_survives_saving_too(change, tmp_path):
    backend = tokenizers.Tokenizer.from_file(str(demo_model_folder() / "tokenizer.json"))
    if change == "added token":
        backend.add_tokens(["[E1]", "déjà-vu"])
    else:
        backend.normalizer = tokenizers.normalizers.Lowercase()
    backend.no_padding()
    backend.no_truncation()
    texts = [*HOSTILE, "a déjà-vu of [E1]"]
    expected = [encoding.ids for encoding in backend.encode_batch(texts)]
    Tokenizer.wrap(backend).save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert AutoTokenizer.from_pretrained(tmp_path)(texts)["input_ids"] == expected
    assert Tokenizer.from_folder(tmp_path).encode(texts).ids == expected


def test_tokenizers_of_both_libraries_can_be_wrapped(ours, theirs, sentences):
    expected = ours.encode(sentences[:200]).ids
    backend = tokenizers.Tokenizer.from_file(str(demo_model_folder() / "tokenizer.json"))
    for given in (ours, theirs, backend):
        assert Tokenizer.wrap(given).encode(sentences[:200]).ids == expected
    assert Tokenizer.wrap(ours) is ours
    assert backend.truncation is not None  # a copy was taken, the one given is as it was


def test_special_ids_are_known_by_name(ours, theirs, tmp_path):
    assert (ours.pad_id, ours.cls_id, ours.sep_id) == (theirs.pad_token_id, theirs.cls_token_id, theirs.sep_token_id)
    assert (ours.unk_id, ours.mask_id) == (theirs.unk_token_id, theirs.mask_token_id)
    folder = small_folder(tmp_path)
    text = (folder / "vocab.txt").read_text(encoding="utf-8").replace("[MASK]\n", "")
    (folder / "vocab.txt").write_text(text, encoding="utf-8")
    assert Tokenizer.from_folder(folder).mask_id is None
    Tokenizer.from_folder(folder).save(folder / "saved")
    assert Tokenizer.from_folder(folder / "saved").mask_id is None


def test_other_formats_go_through_transformers(tmp_path, ours):
    source = small_folder(tmp_path, tokenizer_class="BertTokenizer")
    expected = Tokenizer.from_folder(source).encode(HOSTILE).ids
    (source / "added_tokens.json").write_text("{}")  # a sign of an older format, which is left to transformers
    assert Tokenizer.from_folder(source).encode(HOSTILE).ids == expected


TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "the", "The", "fox", "##1", "x", "[", "]", "e"]
ADDED = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
LISTED = {str(number): {"content": token, **ADDED} for number, token in enumerate(TOKENS[:5])}
ODD = ["The [E1] fox [MASK] x[unused1] <ent>", "[E1]The[E2] [CLS] fox", ""]
BERT, OWN = {"model_type": "bert"}, {"model_type": "bertjax"}


def odd_folder(folder: Path, files: dict[str, Any], stored: dict[str, Any] | None = None, extra: tuple = ()) -> Path:
    """A vocabulary, these files, and a `tokenizer.json` with changes or tokens of its own if there are any."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    if stored is not None or extra:
        made = from_vocabulary({token: number for number, token in enumerate(TOKENS)}, {})
        made.add_tokens(list(extra))
        (folder / "tokenizer.json").write_text(json.dumps(json.loads(made.to_str()) | (stored or {})))
    return folder


def same_as_transformers(folder: Path) -> list[list[int]]:
    found = Tokenizer.from_folder(folder).encode(ODD).ids
    assert found == AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(ODD)["input_ids"]
    return found


@pytest.mark.parametrize(
    ("config", "beside"),
    [
        ({"added_tokens_decoder": LISTED}, {}),
        ({"added_tokens_decoder": {**LISTED, "14": {"content": "[E1]", **ADDED}}}, {}),
        ({"added_tokens_decoder": {**LISTED, "14": {"content": "[E1]", **ADDED, "special": False}}}, {}),
        ({"additional_special_tokens": ["[E1]", "[E2]"]}, {}),
        ({"additional_special_tokens": ["[unused1]"]}, {}),
        ({"extra_special_tokens": {"entity_token": "[E1]"}}, {}),
        ({"ent_token": "<ent>"}, {}),
        ({"bos_token": "[E1]"}, {}),
        ({"mask_token": {"__type": "AddedToken", "content": "[MASK]", **ADDED, "lstrip": True}}, {}),
        ({"auto_map": {"AutoTokenizer": ["code.Evil", None]}}, {}),
        ({}, {"special_tokens_map": {"cls_token": "[CLS]", "mask_token": {"content": "[MASK]", **ADDED}}}),
        ({}, {"special_tokens_map": {"additional_special_tokens": ["[E1]"]}}),
        ({}, {"special_tokens_map": {"unk_token": "x"}}),
        ({}, {"special_tokens_map": {"mask_token": {"content": "[MASK]", **ADDED, "lstrip": True}}}),
        ({}, {"added_tokens": {"[E1]": 14, "<ent>": 15}}),
    ],
)
def test_tokens_added_in_any_file_have_the_ids_of_transformers(config, beside, tmp_path):
    given = {"tokenizer_class": "BertTokenizer", **config}
    folder = odd_folder(tmp_path, {"config": BERT, "tokenizer_config": given, **beside})
    same_as_transformers(folder)


def test_an_added_token_is_one_id_and_survives_saving(tmp_path):
    files = {"config": BERT, "tokenizer_config": {"additional_special_tokens": ["[E1]"]}}
    found = same_as_transformers(odd_folder(tmp_path / "theirs", files))
    assert [ids.count(len(TOKENS)) for ids in found] == [1, 1, 0]
    Tokenizer.from_folder(tmp_path / "theirs").save(tmp_path / "ours")
    assert same_as_transformers(tmp_path / "ours") == found


@pytest.mark.parametrize("model", [BERT, OWN, {"model_type": "distilbert"}, {"model_type": "mobilebert"}])
@pytest.mark.parametrize(
    "named", ["BertTokenizerFast", "DistilBertTokenizer", "PreTrainedTokenizerFast", "Unheard", None]
)
def test_tokenizer_json_counts_as_much_as_in_transformers(model, named, tmp_path):
    config = {"do_lower_case": False, **({"tokenizer_class": named} if named else {})}
    files = {"config": model, "tokenizer_config": config}
    same_as_transformers(odd_folder(tmp_path / "plain", files, {}))
    same_as_transformers(odd_folder(tmp_path / "added", files, extra=("[E1]", tokenizers.AddedToken("<ent>"))))
    more = {"tokenizer_config": config | {"additional_special_tokens": ["[E2]"]}}
    same_as_transformers(odd_folder(tmp_path / "named", files | more, {}))


@pytest.mark.parametrize("named", ["BertTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "WhitespaceSplit"}},
        {"normalizer": {"type": "Lowercase"}},
        {"added_tokens": [{"id": 0, "content": "[PAD]", **ADDED}]},
        {"added_tokens": [{"id": 5, "content": "[unused1]", **ADDED}]},
    ],
)
def test_a_tokenizer_json_that_is_not_berts_is_left_to_transformers(named, change, tmp_path):
    same_as_transformers(odd_folder(tmp_path, {"config": BERT, "tokenizer_config": {"tokenizer_class": named}}, change))


@pytest.mark.parametrize("stored", [None, {}])
def test_a_class_in_config_json_alone_counts(stored, tmp_path):
    """Japanese is cut into words before tokens; as plain WordPiece most of it would be unknown."""
    japanese = {**BERT, "tokenizer_class": "BertJapaneseTokenizer"}
    with pytest.raises(UserError, match=r"BertJapaneseTokenizer|transformers cannot open the tokenizer"):
        Tokenizer.from_folder(odd_folder(tmp_path / "alone", {"config": japanese}, stored))
    german = {**BERT, "tokenizer_class": "BertTokenizer"}
    same_as_transformers(odd_folder(tmp_path / "plain", {"config": german}, stored))


@pytest.mark.parametrize("where", ["config", "tokenizer_config", "both"])
@pytest.mark.parametrize("there", ["tokenizer.json", "vocab.txt", "spiece.model"])
def test_code_in_a_folder_never_runs_and_no_question_is_asked(where, there, tmp_path, monkeypatch):
    """A file that leaves a mark, everything that may point at it, and a yes on standard input."""
    marker = tmp_path / "marker"
    folder = odd_folder(tmp_path / "folder", {}, {})
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    points = {"auto_map": {"AutoConfig": "code.Evil", "AutoModel": "code.Evil", "AutoTokenizer": [None, "code.Evil"]}}
    for name, content in (("config", OWN), ("tokenizer_config", {})):
        (folder / f"{name}.json").write_text(json.dumps(content | (points if where in (name, "both") else {})))
    for name in {"tokenizer.json", "vocab.txt"} - {there}:
        (folder / name).unlink()
    (folder / there).touch()
    answers = io.StringIO("y\n" * 9)
    monkeypatch.setattr("sys.stdin", answers)
    with contextlib.suppress(UserError):
        Tokenizer.from_folder(folder)
    assert answers.tell() == 0
    assert not marker.exists()


def test_transformers_is_never_asked_without_forbidding_code():
    """Wherever a folder is opened by `transformers`."""
    root = Path(bertjax.__file__).parent.parent
    opened = re.compile(r"^[^#\n]*\.from_pretrained\((?:[^()]|\([^()]*\))*\)", re.MULTILINE)
    sources = [
        file.read_text(encoding="utf-8") for part in ("bertjax", "train") for file in (root / part).rglob("*.py")
    ]
    calls = [call for source in sources for call in opened.findall(source) if "AutoConfig" not in call]
    assert calls
    assert all("trust_remote_code=False" in call for call in calls)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"do_lower_case": "yes"}, 'tokenizer_config.json: do_lower_case is "yes"; expected true or false'),
        ({"do_lower_case": None}, "do_lower_case is null; expected true or false"),
        ({"strip_accents": 5}, "strip_accents is 5; expected true or false"),
        ({"tokenize_chinese_chars": []}, "tokenize_chinese_chars is []; expected true or false"),
        ({"tokenizer_class": ["BertTokenizer"]}, "tokenizer_class is ['BertTokenizer']; expected Unicode text"),
        ({"cls_token": 5}, "cls_token is 5; expected"),
        ({"cls_token": {"content": None}}, "cls_token.content is null; expected Unicode text"),
        ({"cls_token": {}}, "cls_token.content is null; expected Unicode text"),
        ({"added_tokens_decoder": [1]}, "added_tokens_decoder is [1]; expected"),
        ({"added_tokens_decoder": {"x": {"content": "x"}}}, "transformers cannot open the tokenizer in this folder"),
        ({"added_tokens_decoder": {"3": 5}}, "transformers cannot open the tokenizer in this folder"),
        ({"additional_special_tokens": 5}, "additional_special_tokens is 5; expected"),
        ({"additional_special_tokens": [5]}, "transformers cannot open the tokenizer in this folder"),
        ({"model_max_length": "512"}, 'model_max_length is "512"; expected'),
    ],
)
def test_values_of_other_types_are_one_clear_line(config, said, tmp_path):
    for stored in (None, {}):
        with pytest.raises(UserError, match=re.escape(said)) as caught:
            Tokenizer.from_folder(odd_folder(tmp_path, {"config": BERT, "tokenizer_config": config}, stored))
        assert len(str(caught.value).splitlines()) <= 2


def test_files_beside_the_configuration_are_checked_too(tmp_path):
    for name, content in (
        ("special_tokens_map", [1]),
        ("config", {**BERT, "tokenizer_class": 5}),
        ("added_tokens", [1]),
    ):
        folder = odd_folder(tmp_path / name, {"config": BERT, name: content})
        with pytest.raises(UserError, match=f"{name}|transformers cannot open"):
            Tokenizer.from_folder(folder)


def test_a_folder_without_a_tokenizer_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        Tokenizer.from_folder(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert not has_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"no tokenizer in this folder\nexpected tokenizer.json, or vocab.txt"):
        Tokenizer.from_folder(tmp_path)


def test_broken_tokenizer_files_are_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: not valid JSON"):
        Tokenizer.from_folder(tmp_path)
    folder = small_folder(tmp_path / "latin")
    (folder / "vocab.txt").write_bytes(b"[PAD]\n\xe9\n")
    with pytest.raises(UserError, match=r"vocab\.txt: byte 6 is not UTF-8"):
        Tokenizer.from_folder(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\nword\n")
    with pytest.raises(UserError, match=r"vocabulary lacks \[CLS\], \[SEP\]"):
        Tokenizer.from_folder(folder)


def test_bad_texts_and_limits_are_named(ours):
    with pytest.raises(UserError, match=r"text 1 cannot be tokenised: expected Unicode text, found '\\ud800'"):
        ours.encode(["fine", "\ud800"])
    with pytest.raises(UserError, match=r"text 0 cannot be tokenised.*\\ud800"):
        ours.encode(["\ud800"], ["fine"])
    with pytest.raises(UserError, match="max_length is 4; expected at least 5"):
        ours.encode(["a"], ["b"], max_length=4)
    with pytest.raises(UserError, match="int is not a tokenizer"):
        Tokenizer.wrap(3)
