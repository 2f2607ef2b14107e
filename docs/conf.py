"""Settings of the documentation site. `scripts/docs` builds it."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import bncli  # noqa: E402 - the package of this tree, found by the line above

project = "bncli"
author = "the bncli authors"
copyright = author  # noqa: A001 - the name that Sphinx reads
release = version = bncli.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "myst_nb",
    "bncli_reference",
    "languages",
    "mathml",
    "notebooks",
]
exclude_patterns = ["_build", "_snippets"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
smartquotes = False
default_role = "code"  # a docstring's `name`
myst_heading_anchors = 3
myst_url_schemes = ["http", "https", "mailto"]

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_merge_streams = True

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
add_module_names = False

copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"bncli {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["results/fashion-mnist-report.html"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0b6e99",
        "color-brand-content": "#0b6e99",
        "color-api-name": "#0b6e99",
    },
    "dark_css_variables": {
        "color-brand-primary": "#5cc5ec",
        "color-brand-content": "#5cc5ec",
        "color-api-name": "#5cc5ec",
    },
}
pygments_style = "friendly"
pygments_dark_style = "one-dark"
