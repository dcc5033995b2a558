"""How the site is built: `sphinx-build -W -b html docs build/site` (CONTRIBUTING.md, "Site")."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import histofast

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "histofast"
author = "the histofast developers"
release = version = histofast.__version__

extensions = [
    "myst_nb",  # pages in Markdown, notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # docstrings with Args, Returns, Raises
    "sphinx_copybutton",
    "sphinx_design",  # cards of the first page
    "command_pages",  # ours: what --help says, as pages
    "api_pages",  # ours: a page for each room
]
exclude_patterns = ["_ext"]
suppress_warnings = ["ref.python"]  # attributes of several classes share a name
default_role = "code"  # docstrings mark code by single backticks

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # notebooks are kept without what they show
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 900  # seconds a cell

autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # docstrings say shape and unit, which is more

html_theme = "pydata_sphinx_theme"
html_title = "histofast"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["llms.txt"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark-high-contrast",
}
html_context = {"default_mode": "auto"}
copyright = "the histofast developers, Apache-2.0"

# Pages that commands wrote: they are whole as they are, and lead to the CSVs beside them.
EXAMPLES = [page.parent.name for page in Path(__file__).parent.glob("*/index.html")]
exclude_patterns += EXAMPLES


def copy_examples(site: Any, error: Exception | None) -> None:
    """Put the example pages beside ours, where links to them lead."""
    if error is None and site.builder.format == "html":
        for name in EXAMPLES:
            shutil.copytree(Path(site.srcdir) / name, Path(site.outdir) / name, dirs_exist_ok=True)


def setup(site: Any) -> None:
    site.connect("build-finished", copy_examples)
