"""`histofast explain measure`: texture, stain and colour of each patch of slides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from histofast._words import count, one_line
from histofast.cli import options
from histofast.cli.flags import told
from histofast.cli.output import counted_in_turn, say, say_document


def add_to(app: typer.Typer) -> None:
    """Give the command to the group."""
    app.command(short_help="Texture, stain and colour of each patch, as layers to look at.")(
        measure
    )


def measure(
    slides: Annotated[
        list[str],
        typer.Argument(help="slides, folders, globs, or a CSV list, as extract was given them"),
    ],
    features: Annotated[
        Path,
        typer.Option("--features", metavar="FOLDER|FILE", help="of `histofast extract`"),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="of the tables")
    ] = None,
    concepts: options.Concepts = None,
    nuclei_threshold: options.NucleiThreshold = None,
    recursive: options.Recursive = False,
    overwrite: options.IntoFolder = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure on each patch of slides what a person would say of it: texture, stain, colour.

    \b
      histofast explain measure slides/ --features features/ --out concepts/
      histofast view slides/ --features features/ --explain concepts/

    Writes OUT/<slide>/<concept>.csv with x, y (level-0 px) and the value. Patches are as the encoder saw them: same
    places, scale and colours.
    """
    target = options.out_folder(out, of="the tables", overwrite=overwrite)

    from histofast.explain import concepts as explain

    said = list[dict[str, Any]]()
    with counted_in_turn(quiet=quiet) as on_progress:
        for name, found in explain.measure_slides(
            slides,
            features,
            names=None if concepts is None else options.split(concepts),
            recursive=recursive,
            on_progress=on_progress,
            **options.given(nuclei_threshold=nuclei_threshold),
        ):
            if isinstance(found, Exception):
                said.append({"slide": name, "error": told(found)})
                continue
            where = found.save(target, overwrite=overwrite)
            measured = {"patches": len(found.values), "left_out": found.left_out}
            said.append({"slide": name, **measured, "out": str(where)})
    if as_json:
        say_document(json.dumps(said, indent=1))
    for each in () if as_json else said:
        if "error" in each:
            say(f"{one_line(each['slide'])}: failed: {each['error']}", err=True)
        elif not quiet:
            left_out = f", {each['left_out']} left out" if each["left_out"] else ""
            say(
                f"{one_line(each['slide'])}: {count(each['patches'], 'patch')}{left_out}: {each['out']}"
            )
    raise typer.Exit(int(any("error" in each for each in said)))
