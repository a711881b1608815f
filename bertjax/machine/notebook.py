"""Whether output goes to a notebook, which shows HTML, Markdown and pictures where a terminal shows text."""

import sys


def in_notebook() -> bool:
    """Whether this process runs the cells of a notebook (Jupyter, VS Code, Colab). IPython in a terminal is none."""
    if (ipython := sys.modules.get("IPython")) is None:
        return False
    return hasattr(ipython.get_ipython(), "kernel")
