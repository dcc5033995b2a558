"""`histofast verify`, `histofast status` and `histofast doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from histofast.cli import options
from histofast.cli.output import counted, say, say_document


def verify(
    paths: Annotated[list[Path], typer.Argument(help="feature files, or folders of them")],
    encoder: Annotated[
        list[Path] | None,
        typer.Option(
            "--encoder",
            "-e",
            metavar="FILE",
            help="ONNX file that the feature files under its name must be made by",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Check that every feature file is whole, finite, and made by what it says.

    Files of other tools have no seal: that they open and are finite is all there is to see.
    """
    from histofast.features import verify as run

    expected = {}
    if encoder:
        from histofast.encoders import read_specs

        expected = {spec.name: spec.sha256 for path in encoder for spec in read_specs(path)}
    with counted("verifying feature files", quiet=as_json) as on_progress:
        report = run(paths, encoders_sha256=expected, on_progress=on_progress)
    if as_json:
        told = {
            "files": report.files,
            "patches": report.patches,
            "problems": {str(path): list(found) for path, found in report.problems.items()},
            "not_sealed": [str(path) for path in report.not_sealed],
            "notes": list(report.notes),
        }
        say(json.dumps(told))
    else:
        say(*report.lines, report.totals, *report.notes)
    raise typer.Exit(1 if report.problems else 0)


def status(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="output folder of extract")],
    as_json: options.AsJson = False,
) -> None:
    """Show where the runs stand that write into a folder: done, failed, at work by whom, speed, time left.

    Nobody is asked: it is read from their reports and locks, of shards and of runs that were killed too.
    """
    from histofast.pipeline import status_of

    found = status_of(out)
    if as_json:
        say_document(json.dumps(asdict(found) | {"path": str(found.path)}, indent=1))
    else:
        say(*found.lines, found.totals)
    raise typer.Exit(1 if found.failed else 0)


def doctor(
    shared: Annotated[
        Path | None,
        typer.Option(
            "--shared",
            metavar="FOLDER",
            help="try a folder that several processes are to write to: locks, renaming, fsync",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show versions, CPU features and what really works here, and what to do about the rest."""
    from histofast.doctor import examine

    findings = examine(shared=shared)
    if as_json:
        say_document(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            say(f"{finding.status:4}  {finding.topic}: {finding.text}")
            if finding.remedy:
                say(f"      -> {finding.remedy}")
    raise typer.Exit(1 if any(finding.status == "fail" for finding in findings) else 0)
