"""The site is built without a network, its reference is complete, and its answers keep to the tables."""

import ast
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from bertjax.cli import COMMANDS, LIBRARY
from bertjax.engine.fields import leaves
from tests.benchmarks.tables import ROOT, read, table

pytestmark = pytest.mark.slow  # one build for all of them

DOCS = ROOT / "docs"
NOTEBOOK = DOCS / "quickstart.ipynb"
QUESTIONS = (
    "What is distillation, and how is it applied?",
    "How does pruning help?",
    "What does quantization change?",
    "What are depth-adaptive and length-adaptive models?",
    "What does sharing save?",
    "Which technique for phones?",
    "What are the trade-offs?",
    "How does adaptive computation keep accuracy?",
)


class Page(HTMLParser):
    """The headings of a page, what its browser loads, and its text in `code`."""

    def __init__(self, text: str):
        super().__init__()
        self.headings: list[str] = []
        self.loads: list[str] = []
        self.code: set[str] = set()
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in ("script", "img", "iframe", "link") and (source := found.get("src") or found.get("href")):
            self.loads.append(source)
        if re.fullmatch("h[1-6]|code", tag):
            self.inside = tag
            self.headings += [""] if tag != "code" else []

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside == "code":
            self.code.add(data.strip())
        elif self.inside:
            self.headings[-1] += data.replace("¶", "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """Every page, by name. A warning ends the build, and nobody answers where a network would be."""
    out = tmp_path_factory.mktemp("site")
    blocked = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(out / "trees"), "docs", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | blocked, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return {file.stem: Page(file.read_text(encoding="utf-8")) for file in out.glob("*.html")}


def listed() -> set[str]:
    """The names that packages list as theirs."""
    found = set()
    for file in (ROOT / "bertjax").rglob("__init__.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                package = ".".join(file.parent.relative_to(ROOT).parts)
                found |= {f"{package}.{name}" for name in ast.literal_eval(node.value)}
    return found


def imported() -> set[str]:
    """What recipes, README and pages import from the library; the recipes' own dataclasses are commands and flags."""
    pages = [ROOT / "README.md", *DOCS.glob("*.md")]
    code = [file.read_text(encoding="utf-8") for file in (ROOT / "configs").glob("*.py")]
    code += [part for page in pages for part in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)]
    nodes = [node for text in code for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in nodes if node.module and re.match(r"bertjax\b(?!\.recipes)", node.module)]
    return {alias.name for node in ours for alias in node.names}


def test_every_page_is_built_and_loads_nothing_from_elsewhere(site: dict[str, Page]):
    assert {file.stem for file in (*DOCS.glob("*.md"), NOTEBOOK)} <= site.keys()
    assert [source for page in site.values() for source in page.loads if re.match("(https?:)?//", source)] == []


def test_the_reference_has_every_public_name(site: dict[str, Page]):
    headings = set(site["reference_python"].headings)
    assert len(listed()) > 100
    assert listed() - headings == set()
    assert imported() - {heading.rpartition(".")[2] for heading in headings} == set()


def test_the_reference_has_every_flag(site: dict[str, Page]):
    page = site["reference_flags"]
    assert {f"bertjax {command}" for command in COMMANDS | LIBRARY} <= set(page.headings)
    for command in COMMANDS:
        config = get_type_hints(import_module(f"train.{command}").main)["config"]
        assert {f"--{path}" for path in leaves(config())} - page.code == set(), command


def test_the_recipes_are_all_there(site: dict[str, Page]):
    assert {file.stem for file in (ROOT / "configs").glob("*.py")} <= set(site["recipes"].headings)


def test_the_notebook_runs_on_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its cells in order and in one namespace, as in a notebook; its parameters are then smaller ones."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell for cell in cells if cell["outputs"]] == []  # what the site would show as measured
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert {"steps", "rows", "held_out"} <= names.keys()
            names |= {"steps": 2, "rows": 64, "held_out": 24}
    models = names["measured"].report.numbers.rows
    assert len(models) >= 4
    assert names["exported"].file.is_file()
    assert set(names["tuned"].bundle.config.labels) == {"stay", "leave"}


def answers() -> dict[str, str]:
    """The text under each heading that is a question."""
    found = {}
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for question, answer in re.findall(r"^## ([^\n]*\?)\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S):
            found[question] = answer
    return found


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_with_numbers_that_stand_in_a_table(question: str):
    measured = " ".join(table(read(str(file))).markdown() for file in sorted((DOCS / "results").glob("*.json")))
    numbers = re.findall(r"(?<![\w.])\d+\.\d+(?!\w*\.?\d)", re.sub(r"`[^`]*`|\bp = [\d.]+", "", answers()[question]))
    known = set(re.findall(r"\d+\.\d+", measured))
    assert len(numbers) >= 3
    assert [number for number in numbers if number not in known] == []
