"""The one door for what others wrote: what comes through, what does not, and how that is said."""

import dataclasses
import re
from typing import Annotated, Literal

import jaxtyping
import pytest

from bertjax import UserError
from bertjax.storage.typed_json import Rate, Size, Within, build, check, read_json


@dataclasses.dataclass(frozen=True)
class Part:
    width: Size
    rate: Rate = 0.5

    def __post_init__(self):
        if self.width == 13:
            raise UserError("width is 13; no part has that.")


@dataclasses.dataclass(frozen=True)
class Whole:
    """One field of every kind that configs have."""

    name: str = "a"
    kind: Literal["x", "y"] | None = None
    first: Literal[0, 1] = 0
    on: bool = False
    low: float | None = None
    least: Annotated[int, Within(-1)] = 0
    parts: tuple[Part, ...] = ()
    pairs: tuple[tuple[str, Part], ...] = ()
    part: Part | None = None


def test_what_fits_comes_through_with_lists_as_tuples_and_whole_numbers_as_floats():
    content = {"kind": "y", "low": 1, "parts": [{"width": 2}], "pairs": [["p", {"width": 3, "rate": 0}]], "part": None}
    found = build(Whole, content, "config")
    assert found == Whole(kind="y", low=1.0, parts=(Part(2),), pairs=(("p", Part(3, 0.0)),))
    assert isinstance(found.low, float)
    assert isinstance(found.pairs[0][1].rate, float)
    check(found)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "config is []; expected an object"),
        ({"name": 5}, "config.name is 5; expected Unicode text"),
        ({"name": "\ud800"}, r'config.name is "\ud800"; expected Unicode text'),
        ({"kind": "z"}, 'config.kind is "z"; expected one of x, y'),
        ({"first": True}, "config.first is true; expected one of 0, 1"),
        ({"on": 1}, "config.on is 1; expected true or false"),
        ({"on": None}, "config.on is null; expected true or false"),
        ({"low": "1"}, 'config.low is "1"; expected a number'),
        ({"low": float("nan")}, "config.low is NaN; expected a number"),
        ({"low": 10**400}, "config.low is 1000"),
        ({"least": -2}, "config.least is -2; expected a whole number of at least -1"),
        ({"least": 2.0}, "config.least is 2.0; expected a whole number of at least -1"),
        ({"parts": {"width": 2}}, "config.parts is {'width': 2}; expected a list (an object, ...)"),
        ({"parts": [{"width": 2}, {"width": 0}]}, "config.parts[1].width is 0; expected a whole number from 1 to 2147"),
        ({"parts": [{}]}, "config.parts[0] lacks the field width"),
        ({"parts": [{"width": 2, "rate": 1}]}, "config.parts[0].rate is 1; expected a number of at least 0, below 1"),
        ({"pairs": [["p"]]}, "config.pairs[0] is ['p']; expected a list (Unicode text, an object)"),
        ({"part": {"width": 2, "spin": 1}}, 'config.part has a field "spin" that this version does not know'),
        ({"part": {"width": 13}}, "config.part: width is 13; no part has that"),
        ({"part": {"width": [[[[[[[[1]]]]]]]]}}, "config.part.width is [[[[[[[...]]]]]]]; expected a whole number"),
        ({"name": ["a" * 1000]}, "config.name is ['aaaaaaaaaaaa...aaaaaaaaaaaaa']; expected Unicode text"),
    ],
)
def test_what_does_not_fit_is_one_sentence_with_its_place(content, said):
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        build(Whole, content, "config")
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


def test_what_is_made_by_hand_is_held_to_the_same(monkeypatch):
    """Without the type checks that otherwise run during tests and would answer first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for wrong in ({"name": 5}, {"parts": (5,)}, {"low": float("inf")}, {"first": 2}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))}.* is .*; expected"):
            check(Whole(**wrong))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', '"a" holds NaN, which is not a finite number'),
        ('{"a": -Infinity}', '"a" holds -Infinity, which is not a finite number'),
        ('{"a": [1e999]}', '"a" holds [inf], which is not a finite number'),
        ('{"a": ' + "9" * 10_000_000 + "}", "a number of thousands of digits"),
        ('{"a": ' + "9" * 10_000_000 + ".5}", '"a" holds Infinity, which is not a finite number'),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', 'the key "c" occurs twice'),
        ("[" * 200_000 + "]" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ('{"a": 1', "Expecting ',' delimiter"),
        ("", "Expecting value"),
        ("3", "expected a JSON object, found 3"),
    ],
)
def test_json_that_is_none_is_named_in_one_line(tmp_path, text, said):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        read_json(tmp_path / "config.json")
    assert str(caught.value).startswith(f"{tmp_path}/config.json: ")
    assert len(str(caught.value)) < len(str(tmp_path)) + 200


def test_bytes_that_are_no_text_and_files_that_are_missing(tmp_path):
    assert read_json(tmp_path / "nothing.json") == {}
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(UserError, match=r"latin\.json: not valid JSON \('utf-8' codec can't decode byte 0xe9"):
        read_json(tmp_path / "latin.json")
