"""Networks of a study compared, layer by layer, as a job that comes after the runs they are of."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.classify import Asked, Runs, open_run
from histofast.comparison import Alike, compare_pairs
from histofast.datasets import Images, decode, evenly
from histofast.errors import HistofastError
from histofast.jobs import Job, canonical, is_there, key_of
from histofast.learning import or_none, read_json, write_json
from histofast.networks import Network, pick_device

_REVISION = 2  # raised when the same networks and pictures would give other numbers
_FILE = "likeness.json"
_MOST = 256  # pictures; CKA is debiased, and its interval is of their groups
_RESAMPLES = 200
# Passes of each picture that the work is worth, of a network and of a pair; for the time only.
_VIEW, _PAIR, _PAIR_WITH_CCA = 1.6, 0.1, 0.4


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
            return {"ends": key_of(self.run)}, [self.run]
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


START_AND_END = "start and end"  # of the pair where it is the only one

Pairs = Mapping[str, tuple[Side, Side]]


def plan_likeness(
    runs: Runs,
    pairs: Pairs,
    *,
    images: Images,
    rows: NDArray[np.int64],
    px: int,
    name: str,
    layers: Sequence[str] | None = None,
    with_cca: bool = False,
) -> Job:
    """Have pairs of networks compared on some pictures of a data set; asked for twice it is done once.

    A network that is in several pairs runs once. A pair whose run failed is left out, and fails the job in
    the end: what `read_likeness` gives are the others.

    Args:
        runs: the plan.
        pairs: by name.
        images, rows: the pictures; of many, some, evenly taken.
        px: side that they are resampled to.
        name: for people.
        layers: of all; None: their blocks.
        with_cca: mean CCA by the published protocol as well.
    """
    contents = runs.contents_of(images)
    chosen = evenly(rows, _MOST)
    each = {what: [side.told(runs) for side in sides] for what, sides in pairs.items()}
    told = {what: [found for found, _ in both] for what, both in each.items()}
    needs = {what: [job for _, of_side in both for job in of_side] for what, both in each.items()}
    after = {key_of(job): job for of_pair in needs.values() for job in of_pair}
    names = {what: [canonical(one) for one in both] for what, both in told.items()}
    networks = set(itertools.chain(*names.values()))
    shown = canonical(
        {"contents": [contents[i] for i in chosen], "groups": [images.groups[i] for i in chosen]}
    )
    passes = _VIEW * len(networks) + (_PAIR_WITH_CCA if with_cca else _PAIR) * len(pairs)
    return runs.look(
        compare_sides,
        like=next(iter(pairs.values()))[0].like(runs),
        pictures=passes * len(chosen),
        name=name,
        kind="likeness",
        arguments={
            "pairs": dict(pairs),
            "needs": needs,
            "names": names,
            "images": images,
            "rows": chosen,
            "px": px,
            "layers": layers,
            "with_cca": with_cca,
            "cache": runs.cache,
            "device": runs.device,
        },
        identity={
            "revision": _REVISION,
            "pairs": told,
            "pictures": hashlib.sha256(shown.encode()).hexdigest(),
            "px": px,
            "layers": layers,
            "cca": with_cca,
        },
        after=list(after.values()),
    )


def compare_sides(
    *,
    pairs: Pairs,
    needs: Mapping[str, Sequence[Job]],
    names: Mapping[str, Sequence[str]],
    images: Images,
    rows: NDArray[np.int64],
    px: int,
    layers: Sequence[str] | None,
    with_cca: bool,
    cache: Path,
    device: str,
    out: Path,
) -> None:
    """Compare networks, and write what was found.

    Raises:
        HistofastError: the run of some pair is not there; the others were compared.
    """
    where = pick_device(device)
    found = decode(images, cache=cache, px=px)
    places = found.places_of(rows)
    there = [what for what in pairs if all(is_there(job) for job in needs[what])]
    sides = {
        name: side for what in there for name, side in zip(names[what], pairs[what], strict=True)
    }
    likenesses = compare_pairs(
        [(names[what][0], names[what][1]) for what in there],
        lambda name: sides[name].network().to(where),
        np.ascontiguousarray(found.pixels[places]),
        groups=[images.groups[i] for i in found.rows[places]],
        layers=layers,
        with_cca=with_cca,
        resamples=_RESAMPLES,
    )
    write_likeness(dict(zip(there, likenesses, strict=True)), out)
    lacking = [what for what in pairs if what not in there]
    if lacking:
        raise HistofastError(
            f"{len(lacking)} of {len(pairs)} comparisons lack a run: {', '.join(lacking)}"
        )


def write_likeness(found: Mapping[str, Alike], out: Path) -> None:
    """Write what a job found, by the name of the pair, as `read_likeness` reads it."""
    write_json(out / _FILE, {what: _told(alike) for what, alike in found.items()})


def _told(alike: Alike) -> dict[str, Any]:
    return {
        "layers": list(alike.layers),
        "n": alike.n,
        "groups": alike.groups,
        **{
            name: [or_none(float(value)) for value in getattr(alike, name)]
            for name in ("cka", "low", "high", "cca")
        },
    }


def read_likeness(job: Job) -> Mapping[str, Alike]:
    """Return what a job found, by the name of the pair; those whose run failed are not there.

    Raises:
        ModelError: its file was changed since.
    """
    assert job.folder is not None
    file = job.folder / _FILE
    if not file.exists():  # the job itself failed
        return {}
    told = read_json(file, remedy=f"remove {job.folder} to make it anew")
    return {
        what: Alike(
            layers=tuple(found["layers"]),
            n=found["n"],
            groups=found["groups"],
            **{name: _array(found, name) for name in ("cka", "low", "high", "cca")},
        )
        for what, found in told.items()
    }


def _array(found: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in found[name]], np.float64)
