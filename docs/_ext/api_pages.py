"""Sphinx extension: writes a page for each room of the package into `api/`, before pages are read."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import histofast


def rooms() -> list[str]:
    """Return the full names of the package and of its public rooms."""
    public = (name for name in dir(histofast) if name not in histofast.__all__)
    return ["histofast", *(f"histofast.{name}" for name in sorted(public))]


def page_of(room: str) -> str:
    """Return the page of a room in reStructuredText: what its `__all__` promises."""
    # The package itself only offers what rooms have: their pages are where links lead.
    twice = "   :no-index:\n" if room == "histofast" else ""
    return f"{room}\n{'=' * len(room)}\n\n.. automodule:: {room}\n   :members:\n{twice}"


def index_of(names: list[str]) -> str:
    """Return the page that leads to all others, with the first sentence of each room."""
    first = {name: (import_module(name).__doc__ or "").strip().split("\n\n")[0] for name in names}
    table = "\n".join(f":doc:`{n}`\n   {' '.join(first[n].split())}\n" for n in names)
    listed = "\n".join(f"   {name}" for name in names)
    return f"Python\n======\n\n{table}\n.. toctree::\n   :hidden:\n\n{listed}\n"


def write(site: Sphinx) -> None:
    """Write the pages; one that says the same stays, so that it is not read again."""
    folder = Path(site.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    names = rooms()
    pages = {name: page_of(name) for name in names} | {"index": index_of(names)}
    for name, text in pages.items():
        page = folder / f"{name}.rst"
        if not page.is_file() or page.read_text() != text:
            page.write_text(text)


def escape(site: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with code in backticks: no other sign in them means anything."""
    for i, line in enumerate(lines):
        code = re.split(r"(`+[^`]*`+)", line)
        code[::2] = [re.sub(r"(?<!\\)([|*])", r"\\\1", text) for text in code[::2]]
        lines[i] = "".join(code)


def shorten(
    site: Sphinx, what: str, name: str, found: Any, options: Any, arguments: str, result: str
) -> tuple[str, str]:
    """Write `NDArray[float32]` where NumPy's alias has been spelled out."""
    array = re.compile(
        r"(?:numpy\.)?ndarray\[tuple\[Any, \.\.\.\], (?:numpy\.)?dtype\[([^][]*(?:\[[^][]*\])?)\]\]"
    )
    return tuple(text and array.sub(r"NDArray[\1]", text) for text in (arguments, result))


def setup(site: Sphinx) -> dict[str, Any]:
    site.connect("builder-inited", write)
    site.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon's
    site.connect("autodoc-process-signature", shorten)
    return {"parallel_read_safe": True}
