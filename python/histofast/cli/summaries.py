"""`histofast slide-features`, and the report of `histofast extract`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from histofast._words import count
from histofast.cli import options
from histofast.cli.flags import told
from histofast.cli.output import counted, say, say_document

if TYPE_CHECKING:
    from histofast.pipeline import RunReport
    from histofast.summaries import Pooling

_WITH_FILES = ("done", "empty", "skipped")


def slide_features(
    features: Annotated[
        list[Path],
        typer.Argument(
            metavar="FEATURES...",
            help="folder of feature files of one encoder, or files and folders",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="slides.csv or slides.h5 to write"),
    ],
    pooling: Annotated[
        str,
        options.choice(
            "--pool", "mean", "max", "mean+max", help="of the features of a slide's patches"
        ),
    ] = "mean",
    overwrite: options.ReplaceOut = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Pool feature files to one vector of each slide.

    \b
      histofast slide-features features/ --pool mean+max --out slides.csv

    A table has slide, n_patches, mean_0, mean_1 ...; an h5 file has features (slides, numbers), slides
    and n_patches. Feature files of TRIDENT, CLAM and STAMP will do.
    """
    from histofast.summaries import check_vectors_out, slide_vectors

    check_vectors_out(out, overwrite=overwrite)
    with counted("slides", quiet=quiet) as on_progress:
        found = slide_vectors(features, pooling=cast("Pooling", pooling), on_progress=on_progress)
    found.save(out, overwrite=overwrite)
    for note in () if quiet else found.notes:
        say(f"note: {told(note)}", err=True)
    numbers = found.vectors.shape[1]
    if as_json:
        say_document(json.dumps({"path": str(out), "slides": len(found.names), "numbers": numbers}))
        return
    say(f"{out}: {pooling} of {count(len(found.names), 'slide')}, {count(numbers, 'number')} each")


def report_on(run: RunReport) -> None:
    """Say what the features of a run are like, and write it beside each folder of them."""
    from histofast.summaries import describe_look, look_at_files, write_look

    by_folder: dict[Path, list[Path]] = {}
    for slide in run.slides:
        for output in map(Path, slide.outputs):
            if slide.status in _WITH_FILES and output.is_file():
                folder = output.parent.parent if output.parent.name == "h5_files" else output.parent
                by_folder.setdefault(folder, []).append(output)
    for folder, files in sorted(by_folder.items()):
        try:
            found = look_at_files(files)
        except ValueError as error:  # no slide with a patch
            say(f"no report on {folder}: {told(error)}", err=True)
            continue
        encoder = found.encoder or folder.name
        page, why_none = write_look(found, folder.with_name(f"report_{encoder}"))
        say(*(f"{encoder}: {line}" for line in describe_look(found)), err=True)
        if why_none:
            say(f"no page: {why_none}", err=True)
        say(f"report on {encoder}: {page}", err=True)
