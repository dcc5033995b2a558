"""Two networks of a study compared, layer by layer, as a job that needs the runs they come of."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.classify import Asked, Runs, open_run
from histofast.comparison import compare
from histofast.datasets import Images, decode, evenly
from histofast.jobs import Job, canonical
from histofast.learning import or_none, read_json, write_json
from histofast.networks import Network

_REVISION = 1  # raised when the same networks and pictures would give other numbers
_FILE = "likeness.json"
_MOST = 256  # pictures; CKA is debiased, and its interval is of their groups
_RESAMPLES = 200
_BATCH = 64
_PASSES, _PASSES_OF_CCA = 3, 10  # of each picture, with what is computed of it; for the time only


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """A network: as a run ends, or as one begins.

    Attributes:
        run: the job of a run; its network as it ends.
        begins: what is asked for, instead; the network before a step.
    """

    run: Job | None = None
    begins: Asked | None = None

    def told(self, runs: Runs) -> tuple[dict[str, Any], list[Job]]:
        """Return what it follows from besides the jobs that it needs, and these."""
        if self.run is not None:
            return {"ends": True}, [self.run]
        assert self.begins is not None, "a side is a run or what is asked for"
        start, needs = runs.start_of(self.begins)
        classes = len(self.begins.images.classes)
        what = {"network": self.begins.network, "start": start, "classes": classes}
        return {**what, "seed": self.begins.seed}, needs

    def like(self, runs: Runs) -> Asked:
        """Return the run that it ends, or that it begins."""
        if self.run is not None:
            return runs.asked_of(self.run)
        assert self.begins is not None
        return self.begins

    def network(self) -> Network:
        """Build it, in evaluation mode."""
        if self.run is not None:
            assert self.run.folder is not None
            return open_run(self.run.folder).network()
        assert self.begins is not None
        return self.begins.begin()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Likeness:
    """How alike two networks are on the same pictures.

    Attributes:
        layers: (k) that both have.
        cka: (k,) debiased linear CKA of the whole maps.
        low, high: (k,) its interval over groups; NaN where there are under 5.
        cca: (k,) mean CCA by the published protocol; NaN where the pictures are too few for a layer, or
            it was not asked for.
        n, groups: pictures, and whose they are.
    """

    layers: tuple[str, ...]
    cka: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    cca: NDArray[np.float64]
    n: int
    groups: int


def plan_likeness(
    runs: Runs,
    a: Side,
    b: Side,
    *,
    images: Images,
    rows: NDArray[np.int64],
    px: int,
    name: str,
    layers: Sequence[str] | None = None,
    with_cca: bool = False,
) -> Job:
    """Have two networks compared on some pictures of a data set; asked for twice it is done once.

    Args:
        runs: the plan.
        a, b: the networks.
        images, rows: the pictures; of many, some, evenly taken.
        px: side that they are resampled to.
        name: for people.
        layers: of both; None: their blocks.
        with_cca: mean CCA by the published protocol as well.
    """
    contents = runs.contents_of(images)
    chosen = evenly(rows, _MOST)
    (told_a, needs_a), (told_b, needs_b) = a.told(runs), b.told(runs)
    shown = canonical(
        {"contents": [contents[i] for i in chosen], "groups": [images.groups[i] for i in chosen]}
    )
    passes = _PASSES + (_PASSES_OF_CCA if with_cca else 0)
    return runs.look(
        compare_sides,
        like=a.like(runs),
        pictures=passes * len(chosen),
        name=name,
        kind="likeness",
        arguments={
            "a": a,
            "b": b,
            "images": images,
            "rows": chosen,
            "px": px,
            "layers": layers,
            "with_cca": with_cca,
            "cache": runs.cache,
        },
        identity={
            "revision": _REVISION,
            "a": told_a,
            "b": told_b,
            "needs": [len(needs_a), len(needs_b)],
            "pictures": hashlib.sha256(shown.encode()).hexdigest(),
            "px": px,
            "layers": layers,
            "cca": with_cca,
        },
        needs=[*needs_a, *needs_b],
    )


def compare_sides(
    *,
    a: Side,
    b: Side,
    images: Images,
    rows: NDArray[np.int64],
    px: int,
    layers: Sequence[str] | None,
    with_cca: bool,
    cache: Path,
    out: Path,
) -> None:
    """Compare two networks, and write what was found."""
    found = decode(images, cache=cache, px=px)
    places = found.places_of(rows)
    shown = found.rows[places]
    pixels = np.ascontiguousarray(found.pixels[places])
    one, other = a.network(), b.network()
    common: dict[str, Any] = {"layers_a": layers, "layers_b": layers, "seed": 0}
    told = compare(
        one,
        other,
        pixels,
        groups=[images.groups[i] for i in shown],
        resamples=_RESAMPLES,
        permutations=0,
        random_seeds=0,
        batch_size=_BATCH,
        **common,
    ).comparison
    cca = dict.fromkeys(told.pair_names)
    for layer in told.pair_names if with_cca else ():
        with contextlib.suppress(ValueError):  # too few pictures for a layer of few places
            by_protocol = compare(
                one, other, pixels, layers_a=[layer], layers_b=[layer], preset="published", seed=0
            )
            cca[layer] = or_none(float(by_protocol.comparison.diagonal[0]))
    none = [None] * len(told.pair_names)
    write_json(
        out / _FILE,
        {
            "layers": list(told.pair_names),
            "cka": [or_none(float(value)) for value in told.diagonal],
            "low": none if told.low is None else [or_none(float(v)) for v in told.low],
            "high": none if told.high is None else [or_none(float(v)) for v in told.high],
            "cca": list(cca.values()),
            "n": told.n,
            "groups": told.groups,
        },
    )


def read_likeness(job: Job) -> Likeness:
    """Return what a job found.

    Raises:
        ModelError: its file was changed since.
    """
    assert job.folder is not None
    found = read_json(job.folder / _FILE, remedy=f"remove {job.folder} to make it anew")
    return Likeness(
        layers=tuple(found["layers"]),
        n=found["n"],
        groups=found["groups"],
        **{name: _array(found, name) for name in ("cka", "low", "high", "cca")},
    )


def _array(found: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in found[name]], np.float64)
