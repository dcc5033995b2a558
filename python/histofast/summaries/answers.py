"""A look at features as a page, and as JSON where no page can be drawn."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from histofast._files import replacing
from histofast._words import count
from histofast.report import (
    Answer,
    Axis,
    Chart,
    Column,
    Figure,
    Point,
    Series,
    Table,
    check_installed,
    save,
)
from histofast.summaries.looking import LookResult
from histofast.summaries.words import describe_look

_LIMITS = (
    "A high rank is no promise that features tell what is asked of them: train on them.",
    "Slides differ in tissue too: what the slide explains is an upper bound of what its making does.",
)


def answer_of(result: LookResult) -> Answer:
    """Return all of it for a page and a folder."""
    look = result.look
    whose = result.encoder or "an encoder"
    basis = (
        f"{count(look.n, 'patch')} of {count(look.slides, 'slide')}, drawn evenly from "
        f"{count(result.patches, 'patch')} of {count(result.files, 'slide')}; {count(look.d, 'feature')}"
    )
    return Answer(
        name="features",
        title=f"Features of {whose}",
        question="How many directions do the features use, has anything collapsed, and how much of "
        "them is the slide?",
        basis=basis,
        findings=(
            *describe_look(result),
            *(f"{note[:1].upper()}{note[1:]}." for note in result.notes),
        ),
        limits=_LIMITS,
        figures=_figures(result),
        tables=(_table(result),),
        method={
            "RankMe": "exp of the entropy of the singular values, as shares of their sum (Garrido 2022)",
            "less their mean": "the same of the features less their mean over these patches",
            "hardly move": "deviation below 1/1000 of the median one of the features that move",
            "slide": "eta squared of slides, rows of length 1; adjusted for their number: epsilon squared",
            "cosines": "of pairs of patches of different slides, drawn at random",
            "seed": str(result.seed),
        },
        data={"encoder": result.encoder, "files": result.files, "patches": result.patches}
        | {"seed": result.seed, "notes": list(result.notes), "findings": describe_look(result)}
        | asdict(look),
    )


def write_look(result: LookResult, folder: str | os.PathLike[str]) -> tuple[Path, str]:
    """Write features.json, and where matplotlib and jinja2 are installed the page, index.html.

    Returns:
        The path of the page, or of the JSON, and why there is no page ("": there is).
    """
    folder, answer = Path(folder), answer_of(result)
    try:
        check_installed()
    except ModuleNotFoundError as error:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{answer.name}.json"
        with replacing(path, overwrite=True) as pending:
            pending.write_text(answer.to_json(), encoding="utf-8", newline="")
        return path, str(error)
    return save(answer, folder), ""


def _figures(result: LookResult) -> tuple[Figure, ...]:
    shares = result.look.variance_in
    if not shares:
        return ()
    chart = Chart(
        title="Variance along the first principal axes",
        caption="What a reduction of the encoder to as many features would keep of these patches.",
        alt="Curve of the share of the variance by the number of principal axes. The table has the numbers.",
        places=Axis(label="principal axes", scale="log", form="whole"),
        values=Axis(label="share of the variance", form="share", low=0.0, high=1.0),
        series=(
            Series(
                name="",
                points=tuple(
                    Point(place=k, value=share, tip=f"{k}: {share:.1%}")
                    for k, share in shares.items()
                ),
            ),
        ),
    )
    return (Figure(name="variance", panels=(chart,)),)


def _table(result: LookResult) -> Table:
    return Table(
        name="variance-by-axes",
        title="Axes and variance",
        columns=(
            Column(title="principal axes", names=("axes",), form="whole"),
            Column(title="share of the variance", names=("share",), form="number"),
        ),
        rows=tuple((float(k), share) for k, share in result.look.variance_in.items()),
    )
