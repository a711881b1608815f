"""The site: Sphinx with MyST, so that every page is Markdown that is also readable where it lies.

    sphinx-build -W --keep-going docs build/site

Nothing is fetched, neither for the build nor by a reader's browser: equations become MathML, which browsers draw
themselves, and the theme brings its own files. The price is that equations have the plain typesetting of MathML. The
reference is written from the code while the site is built (reference.py), and the notebook is shown without its
outputs, because tests execute it on a few steps only.
"""

import json
import re
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import reference
from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger

import bertjax

project, author = "bertjax", "the authors of bertjax"
version = release = bertjax.__version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
exclude_patterns = ["results"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
smartquotes = False  # a dash of a flag stays what it is
html_theme = "furo"
html_title = f"bertjax {version}"
html_math_renderer = "mathml"
html_show_sphinx = False
suppress_warnings = ["config.cache"]


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("source-read", _source)


def _inline(writer, node) -> None:
    writer.body.append(_mathml(node, as_block=False))
    raise SkipNode


def _block(writer, node) -> None:
    writer.body.append(f'<div class="math">{_mathml(node, as_block=True)}</div>')
    raise SkipNode


def _mathml(node, as_block: bool) -> str:
    try:
        return tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        getLogger(__name__).warning("equation: %s", error, location=node)
        return ""


def _source(app: Sphinx, page: str, source: list[str]) -> None:
    """The text of a page: generated behind what its file says, or made of the cells of a notebook."""
    if page == "index":  # a page that the navigation does not name comes at this place, so none is forgotten
        named = set(re.findall(r"^\w+$", source[0], flags=re.M))
        others = sorted({file.stem for file in Path(app.srcdir).glob("*.md")} - named - {page})
        source[0] = source[0].replace("PAGES NOT NAMED HERE", "\n".join(others))
    if page in reference.PAGES:
        source[0] += reference.PAGES[page]()
    elif source[0].startswith("{"):
        source[0] = "\n\n".join(map(_cell, json.loads(source[0])["cells"]))


def _cell(cell: dict) -> str:
    text = "".join(cell["source"])
    return text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
