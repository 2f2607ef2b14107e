"""The scripts of `examples/` as notebooks of the site, which runs them while it is built."""

from __future__ import annotations

from pathlib import Path

import jupytext
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.typing import ExtensionMetadata

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = Path(__file__).parents[1] / "examples"


def write_notebooks(app: Sphinx, config: Config) -> None:
    """Write `docs/examples/NAME.ipynb` for each `examples/NAME.py`."""
    for script in sorted(EXAMPLES.glob("*.py")):
        notebook = jupytext.read(script)
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        jupytext.write(notebook, NOTEBOOKS / f"{script.stem}.ipynb")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Write the notebooks before Sphinx looks for pages."""
    app.connect("config-inited", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
