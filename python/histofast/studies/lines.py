"""The loss along the straight line between two networks that were trained on the same pictures.

A rise between them says that they lie in different valleys, so that their mean is not to be had for nothing.
The statistics of BatchNorms are measured anew at every point, both ends too: those of the ends say nothing
of what lies between. Reference: Frankle et al., 2020, Linear mode connectivity; Jordan et al., 2023, REPAIR.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from histofast.classify import Asked, Runs, logits_of, open_run, standardised
from histofast.datasets import decode
from histofast.jobs import Job, canonical
from histofast.learning import read_json, write_json
from histofast.networks import Network, pick_device, starts

POINTS = 11
_REVISION = 1  # raised when the same networks and pictures would give other numbers
_FILE = "line.json"
_MOST = 256  # pictures that statistics and losses are of, each
_BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Line:
    """Losses between two networks.

    Attributes:
        at: (k,) where on the line, 0 to 1.
        loss: (k,) mean cross-entropy of test pictures, without weights of classes.
        n: test pictures.
    """

    at: NDArray[np.float64]
    loss: NDArray[np.float64]
    n: int

    @property
    def barrier(self) -> float:
        """How far the loss rises above the straight line between its ends, at most."""
        between = self.loss[0] + self.at * (self.loss[-1] - self.loss[0])
        return float((self.loss - between).max())


def plan_line(runs: Runs, a: Job, b: Job, *, asked: Asked, device: str, name: str) -> Job:
    """Have the loss between two runs of one target measured; asked for twice it is done once.

    Args:
        runs: the plan.
        a, b: the runs, of one network and the same classes and split.
        asked: what was asked for one of them: its training pictures give statistics, its test pictures losses.
        device: where it is computed.
        name: for people.
    """
    told = canonical(asked.told(runs.contents_of(asked.images)))
    pictures = min(_MOST, len(asked.fold.train)) + min(_MOST, len(asked.fold.test))
    return runs.look(
        measure_line,
        like=asked,
        pictures=POINTS * pictures,
        name=name,
        kind="line",
        arguments={
            "a": a.folder,
            "b": b.folder,
            "asked": asked,
            "cache": runs.cache,
            "device": device,
        },
        identity={"revision": _REVISION, "run": hashlib.sha256(told.encode()).hexdigest()},
        needs=[a, b],
    )


def measure_line(*, a: Path, b: Path, asked: Asked, cache: Path, device: str, out: Path) -> None:
    """Walk from one network to the other, and write the losses."""
    where = pick_device(device)
    images = asked.images
    found = decode(images, cache=cache, px=asked.px)
    train, test = (
        found.places_of(rows, most=_MOST) for rows in (asked.fold.train, asked.fold.test)
    )
    targets = torch.from_numpy(images.targets[found.rows[test]])
    one, other = open_run(a).network().to(where), open_run(b).network().to(where)
    ends = [{key: value.clone() for key, value in end.state_dict().items()} for end in (one, other)]
    at = np.linspace(0, 1, POINTS)
    losses = []
    for share in at:
        one.load_state_dict(between(ends[0], ends[1], share=float(share)))
        starts.estimate_batchnorm(one, _batches(one, found.pixels, train, where))
        logits = logits_of(one, found.pixels, test, device=where)
        losses.append(float(mean_loss(logits, targets)))
    write_json(out / _FILE, {"at": at.tolist(), "loss": losses, "n": len(test)})


def between(a: dict[str, Tensor], b: dict[str, Tensor], *, share: float) -> dict[str, Tensor]:
    """Return weights on the line from a (0) to b (1); counters are those of a."""
    return {
        key: torch.lerp(value, b[key], share) if value.is_floating_point() else value
        for key, value in a.items()
    }


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of classes (n,), or of labels (n, c) that are known."""
    if targets.ndim == 1:
        return functional.cross_entropy(logits.double(), targets)
    known = ~targets.isnan()
    return functional.binary_cross_entropy_with_logits(logits.double()[known], targets[known])


def read_line(job: Job) -> Line:
    """Return what a job measured.

    Raises:
        ModelError: its file was changed since.
    """
    assert job.folder is not None
    told = read_json(job.folder / _FILE, remedy=f"remove {job.folder} to make it anew")
    return Line(
        at=np.array(told["at"], np.float64),
        loss=np.array(told["loss"], np.float64),
        n=int(told["n"]),
    )


def _batches(
    network: Network, pixels: NDArray[Any], places: NDArray[np.int64], device: torch.device
) -> Iterator[Tensor]:
    count = max(1, len(places) // _BATCH)  # none of one picture
    for part in np.array_split(places, count):
        yield standardised(pixels[part], network, device)
