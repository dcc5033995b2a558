"""The parts of the study, each a job: channels of a layer, maps of a layer, concepts, likeness.

Every part is one call of what `histofast explain` or `similarity` does, writes its own page into its folder,
and leaves there what the study's page shows of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from histofast import report
from histofast.comparison import compare_pairs
from histofast.datasets import Images, decode, evenly
from histofast.explain import cam, channels, concepts
from histofast.learning import or_none, plain, without_nan
from histofast.networks import pick_device, starts
from histofast.report import Grid, Picture
from histofast.studies.likeness import START_AND_END, write_likeness
from histofast.studies.reuse.kept import keep

START, TUNED = "start", "tuned"  # the two networks, on every page
METHOD: cam.Method = "hirescam"  # of the maps: exact for a linear head on the mean of a map
NAME = cam.NAMES[METHOD]
MOST_COMPARED = 256  # pictures; CKA is debiased, and its interval is of their groups
_RESAMPLES = 200
_ROOM = "histofast-reuse-"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Given:
    """What all parts look at.

    Attributes:
        network: architecture of both networks.
        start: file that tuning began with.
        tuned: folder of the run.
        images: the pictures.
        px: side that they are resampled to, that of the run.
        seed: of all that is drawn.
        device: where networks run.
    """

    network: str
    start: starts.File
    tuned: Path
    images: Images
    px: int
    seed: int
    device: str

    @property
    def end(self) -> starts.Run:
        """What tuning ended with."""
        return starts.Run(str(self.tuned))


def show_channels(
    *, given: Given, layer: str, options: channels.Options, threads: int | None, out: Path
) -> None:
    """Search for pictures that excite channels of both networks, beside the real ones that do."""
    look = channels.show(
        given.network,
        given.start,
        layer=layer,
        images=given.images,
        out=out,
        options=options,
        against=given.end,
        device=given.device,
        threads=threads,
    )
    names = (START, TUNED)
    look = replace(
        look, sides=tuple(replace(s, name=n) for s, n in zip(look.sides, names, strict=True))
    )
    answer = channels.answer_of(look)
    r = look.together()
    r = r[np.isfinite(r)]
    quartiles = [float(np.quantile(r, q)) for q in (0.5, 0.25, 0.75)] if len(r) else [None] * 3
    (table,) = (table for table in answer.tables if table.name == "channels")
    grids = [p for figure in answer.figures for p in figure.panels if isinstance(p, Grid)]
    keep(
        {
            "layer": layer,
            "channels": look.sides[0].real.channels,
            "dead": [int(side.real.dead.sum()) for side in look.sides],
            "together": dict(zip(("value", "low", "high"), quartiles, strict=True)),
            "rows": [without_nan(row) for row in table.records()],
        },
        [
            replace(grid, title=f"{layer}: {grid.title[:1].lower()}{grid.title[1:]}")
            for grid in grids
        ],
        out=out,
    )


def show_maps(
    *, given: Given, layer: str, shown: int, sample: int, random_seeds: int, out: Path
) -> None:
    """Show where in pictures the tuned network finds its classes, and measure it against its null."""
    found = cam.explain_pictures(
        given.tuned,
        given.images,
        layer=layer,
        methods=[METHOD],
        shown=shown,
        sample=sample,
        random_seeds=random_seeds,
        seed=given.seed,
        device=given.device,
    )
    answer = cam.answer_of(found)
    report.save(answer, out)
    measured = found.measured
    assert measured is not None, "a sample was asked for"
    panels = [p for figure in answer.figures for p in figure.panels if isinstance(p, Picture)]
    (table,) = (table for table in answer.tables if table.name == "worth")
    keep(
        {
            "layer": layer,
            "groups": list(measured.groups),
            "left": plain(measured.left[METHOD]),
            "is_unchanged": METHOD in measured.unchanged(),
            "deletion": {
                source.name: [
                    list(map(or_none, draw)) for draw in source.values["deletion"].tolist()
                ]
                for source in measured.sources
            },
            "rows": [without_nan(row) for row in table.records()],
        },
        [replace(panel, title=f"{layer}: {panel.title}") for panel in panels],
        out=out,
    )


def tell_concepts(
    *,
    given: Given,
    layers: Sequence[str],
    names: Sequence[str] | None,
    folds: int,
    permutations: int,
    random_seeds: int,
    out: Path,
) -> None:
    """Regress concepts on the features of both networks and of random ones."""
    found = concepts.explain_concepts(
        given.images,
        network=given.network,
        weights=given.start.path,
        run=given.tuned,
        layers=layers,
        concepts=names,
        px=given.px,
        folds=folds,
        permutations=permutations,
        random_seeds=random_seeds,
        seed=given.seed,
        device=given.device,
    )
    answer = concepts.answer_of(found)
    report.save(answer, out)
    tables = {table.name: table.records() for table in answer.tables}
    as_here = dict(zip(found.found, (START, TUNED), strict=True))
    keep(
        {
            "concepts": list(found.concepts),
            "constant": sorted(found.constant),
            "groups": len(set(found.images.groups)),
            "group_kind": found.images.group_kind,
            "rows": [
                without_nan({**row, "network": as_here[str(row["network"])]})
                for row in tables["r2"]
            ],
            "changed": [without_nan(row) for row in tables["changed"]],
        },
        [],
        out=out,
    )


def compare_ends(*, given: Given, layers: Sequence[str], out: Path) -> None:
    """Compare the network as tuning began with it and as it ended, layer by layer."""
    begins: dict[str, starts.Start] = {START: given.start, TUNED: given.end}
    where = pick_device(given.device)
    some = evenly(np.arange(len(given.images)), MOST_COMPARED)
    with tempfile.TemporaryDirectory(prefix=_ROOM) as cache:
        found = decode(given.images.part(some), cache=cache, px=given.px)
        groups = given.images.part(some[found.rows]).groups
        (alike,) = compare_pairs(
            [(START, TUNED)],
            lambda name: starts.begin(given.network, begins[name], seed=given.seed).to(where),
            np.ascontiguousarray(found.pixels),
            groups=groups,
            layers=layers,
            resamples=_RESAMPLES,
            seed=given.seed,
        )
        del found
    write_likeness({START_AND_END: alike}, out)
