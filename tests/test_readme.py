"""The snippets of the docs run as they are, on models where the quickstart leaves them. Those of the README and of
docs/python.md run in tests/test_wheel.py.

Tables equal the numbers in docs/results.
"""

import re
from pathlib import Path

import pytest

import bertjax
from bertjax.student import Student
from tests.benchmarks.tables import FILES, PICTURE, ROOT, read, rendered

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


FROM_THE_WHEEL = [README, ROOT / "docs" / "python.md"]


def snippets() -> list[str]:
    return [
        snippet
        for page in PAGES
        if page not in FROM_THE_WHEEL
        for snippet in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    ]


@pytest.mark.slow
def test_the_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    labels = ("rotten", "fresh")
    newly_initialized = bertjax.load("demo", architecture="BertForSequenceClassification", labels=labels)
    teacher = bertjax.Bundle(newly_initialized.config, newly_initialized.params, newly_initialized.tokenizer)
    monkeypatch.chdir(tmp_path)
    bertjax.save(teacher, "runs/quickstart/stages/1-teacher/bundle")
    bertjax.save(
        Student(num_hidden_layers=2, intermediate_size=768).initialise(teacher, seed=0), "runs/quickstart/bundle"
    )
    found = snippets()
    assert len(found) == 5
    for snippet in found:
        exec(compile(snippet, str(README), "exec"), {"__name__": "__main__"})
    (printed,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\[('(rotten|fresh)'(, )?){2}\]", printed)
    assert (tmp_path / "runs" / "loop" / "5").is_dir()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_tables_are_what_their_json_gives(file: Path):
    text = file.read_text(encoding="utf-8")
    assert rendered(text) == text


def test_every_result_is_shown_and_says_how_it_was_measured():
    shown = "".join(file.read_text(encoding="utf-8") for file in FILES)
    results = sorted((ROOT / "docs" / "results").glob("*.json"))
    assert results
    for file in results:
        path = file.relative_to(ROOT).as_posix()
        assert path in shown
        assert {"title", "command", "seed", "processor", "versions", "columns", "rows"} <= read(path).keys()
    assert PICTURE.is_file()


def test_links_lead_to_files():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130
