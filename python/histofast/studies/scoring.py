"""What a network promises of pictures that it is yet to be trained on, as a job that needs the run it comes of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from histofast._words import one_line
from histofast.classify import Asked, Runs, logits_of, open_run
from histofast.datasets import decode
from histofast.errors import HistofastError
from histofast.jobs import Job, canonical
from histofast.learning import or_none, read_json, write_json
from histofast.networks import Network, pick_device, starts
from histofast.studies.likeness import Side
from histofast.transferability import SCORES

_REVISION = 1  # raised when the same network and pictures would give other numbers
_FILE = "scores.json"
_MOST = 1000  # training pictures
_PASSES = 6  # of each, forwards and back, with what is computed of it; for the time only


def plan_scores(runs: Runs, side: Side, *, asked: Asked, device: str, name: str) -> Job:
    """Have a network scored on the training pictures of a run; asked for twice it is done once.

    Args:
        runs: the plan.
        side: the network, without its head.
        asked: what was asked for the run whose training pictures it is scored on; of classes.
        device: where it is computed.
        name: for people.
    """
    told, needs = side.told(runs)
    shown = canonical(asked.told(runs.contents_of(asked.images)))
    return runs.look(
        measure_scores,
        like=asked,
        pictures=_PASSES * min(_MOST, len(asked.fold.train)),
        name=name,
        kind="scores",
        arguments={"side": side, "asked": asked, "cache": runs.cache, "device": device},
        identity={
            "revision": _REVISION,
            "side": told,
            "scores": list(SCORES),
            "run": hashlib.sha256(shown.encode()).hexdigest(),
        },
        needs=needs,
    )


def measure_scores(*, side: Side, asked: Asked, cache: Path, device: str, out: Path) -> None:
    """Score a network on training pictures; what cannot be scored says why."""
    where = pick_device(device)
    images = asked.images
    found = decode(images, cache=cache, px=asked.px)
    places = found.places_of(asked.fold.train, most=_MOST)
    rows = found.rows[places]
    network = headless(side).to(where)
    features = logits_of(network, found.pixels, places, device=where).double().numpy()
    labels, groups = images.targets[rows], [images.groups[i] for i in rows]
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name, score in SCORES.items():
        try:
            if score.needs == "features":
                value = score.function(features)
            elif score.needs == "labels":
                value = score.function(features, labels)
            elif score.needs == "groups":
                value = score.function(features, labels, groups=groups)
            else:
                value = score.function(network, found.pixels[places], labels)
            values[name] = or_none(float(value))
        except (HistofastError, ValueError) as error:  # too few groups for a probe, no triplet ...
            values[name], reasons[name] = None, one_line(error)
    write_json(out / _FILE, {"scores": values, "reasons": reasons, "n": len(rows)})


def read_scores(job: Job) -> Mapping[str, float]:
    """Return what a job found, by name of the score; NaN of those that could not be had.

    Raises:
        ModelError: its file was changed since.
    """
    assert job.folder is not None
    told = read_json(job.folder / _FILE, remedy=f"remove {job.folder} to make it anew")["scores"]
    return {name: float("nan") if value is None else value for name, value in told.items()}


def headless(side: Side) -> Network:
    """Build the network of a side without its head, in evaluation mode."""
    if side.run is not None:
        assert side.run.folder is not None
        return open_run(side.run.folder).network(head=False)
    assert side.begins is not None
    return starts.begin(side.begins.network, side.begins.start, seed=side.begins.seed)
