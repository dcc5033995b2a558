"""Sphinx extension: the directive `commands`, which shows every command of the command line with its options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from histofast.cli import app

WIDTH = 100


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield (full name, command) of all that can be run, in the order of the help."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for word, inner in below.items():
        if not inner.hidden:
            yield from commands(inner, f"{name} {word}")


def help_of(command: Any, name: str) -> str:
    """Return what `--help` prints."""
    with typer.Context(command, info_name=name, max_content_width=WIDTH) as context:
        return command.get_help(context).strip()


class Commands(SphinxDirective):
    """A section for each command: its help, word for word."""

    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for name, command in commands(typer.main.get_command(app), "histofast"):
            section = nodes.section(
                ids=[nodes.make_id(name)], names=[nodes.fully_normalize_name(name)]
            )
            section += nodes.title(text=name)
            text = help_of(command, name)
            section += nodes.literal_block(text, text, language="text")
            found.append(section)
        return found


def setup(site: Sphinx) -> dict[str, Any]:
    site.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
