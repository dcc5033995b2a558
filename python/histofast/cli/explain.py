"""`histofast explain`: what networks look at, and what they have learnt to see."""

from __future__ import annotations

import typer

from histofast.cli import explain_cam, explain_channels, explain_concepts, explain_measure, flags

app = typer.Typer(
    cls=flags.Group,
    help="Show what a network looks at, each time beside what one that has learnt nothing shows.",
    rich_markup_mode=None,
)

explain_cam.add_to(app)
explain_channels.add_to(app)
explain_concepts.add_to(app)
explain_measure.add_to(app)
