"""What commands of `histofast explain` say of the pictures that they looked at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histofast._words import count
from histofast.cli.flags import told
from histofast.cli.output import say, say_document

if TYPE_CHECKING:
    from histofast.explain import cam, concepts
    from histofast.report import Answer


def say_found(
    found: cam.Explained | concepts.Explained,
    answer: Answer,
    *,
    page: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Say what was left out, the findings and where the page is, or the answer as JSON."""
    for note in () if quiet else found.notes:
        say(f"note: {told(note)}", err=True)
    for name, reason in () if quiet else found.unreadable:
        say(f"note: {name} is left out: {told(reason)}", err=True)
    if as_json:
        say_document(answer.to_json())
        return
    for line in answer.findings:
        say(line)
    say(f"{count(len(found.images), 'picture')}: {page}")
