"""The README's snippets run as they stand, in its order, where the first command would have left its models."""

import re
from pathlib import Path

import pytest

import bertjax
from bertjax.student import Student

README = Path(__file__).resolve().parents[1] / "README.md"


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)


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
    assert len(found) == 3
    for snippet in found:
        exec(compile(snippet, str(README), "exec"), {"__name__": "__main__"})
    assert re.fullmatch(r"\[('(rotten|fresh)'(, )?){2}\]", capsys.readouterr().out.strip())
    assert bertjax.load("runs/smaller").config.num_hidden_layers == 3
    assert (tmp_path / "runs" / "loop" / "5").is_dir()
