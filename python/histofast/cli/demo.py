"""`histofast demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from histofast.cli import options
from histofast.cli.output import say
from histofast.cli.progress import show_progress, summarise


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to make")] = Path(
        "histofast-demo"
    ),
    labelled: Annotated[
        int | None,
        typer.Option(
            "--labelled",
            parser=options.whole_number,
            metavar="N",
            help="N slides of two kinds and labels.csv instead, to try training with",
        ),
    ] = None,
) -> None:
    """Make three small slides, encode them, and show what was done."""
    from histofast.features import read_features, verify
    from histofast.patches import make_demo_slides, make_labelled_slides
    from histofast.pipeline import check_slides, extract

    started = time.perf_counter()
    if labelled is None:
        slides = make_demo_slides(out / "slides")
    else:
        slides, table = make_labelled_slides(out / "slides", n=labelled)
    say(f"1. made {len(slides)} synthetic slides in {out / 'slides'}")
    say("2. tissue and patch grid:")
    for job, result in check_slides(slides, out=out / "qc"):
        if isinstance(result, Exception):
            raise result
        say(f"   {job.name}: {result['patches']} patches, see {result['preview']}")
    say(f"3. histofast extract {out / 'slides'} --out {out / 'features'}")
    with show_progress(quiet=False) as on_progress:
        report = extract(slides, out=out / "features", on_progress=on_progress)
    for line in summarise(report, quiet=False):
        say(line, err=True)
    checked = verify([out / "features"])
    say(f"4. verified {checked.files} files: {len(checked.problems)} with problems")
    for slide in report.of("done") + report.of("skipped"):
        file = read_features(slide.outputs[0])
        say(f"   {slide.outputs[0]}: features {file.features.shape} {file.features.dtype}")
    then = "Now yours: histofast extract slides/ --out features/"
    if labelled is not None:
        then = f"Next: histofast train {out / 'features'} --labels {table} --out {out / 'run'}"
    say(f"done in {time.perf_counter() - started:.0f} s. {then}")
    raise typer.Exit(report.exit_code or int(bool(checked.problems)))
