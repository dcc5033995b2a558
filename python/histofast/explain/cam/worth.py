"""What class activation maps are worth, measured: against labels, by taking places away, without weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.classify import logits_of, probabilities_of
from histofast.datasets import ImageTask
from histofast.explain.cam.capture import cams
from histofast.explain.cam.definitions import NAMES, Method
from histofast.explain.cam.scores import (
    area,
    curve,
    mass_shares,
    mean_over_groups,
    rank_correlations,
)
from histofast.learning import Metric
from histofast.networks import randomised

UNCHANGED = 0.5  # rank correlation with the map of a network that has learnt nothing
RANDOM, DARKNESS = "random", "darkness"

Maps = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Worth:
    """What the maps of one kind are worth, means over pictures with intervals over groups.

    Attributes:
        name: of the source: a method, its null, darkness or random.
        is_null: whether it is what methods are held against.
        deletion: area under the probability as the highest places are blanked first; the lower, the better.
        insertion: area as they are shown first; the higher, the better.
        less, more: how much lower `deletion`, and higher `insertion`, is than in random order, of the same
            pictures; of random itself 0.
        mass: share on the masks; None without masks.
    """

    name: str
    is_null: bool
    deletion: Metric
    insertion: Metric
    less: Metric
    more: Metric
    mass: Metric | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """How much is left of the maps when a part of the network, and all above it, has lost its weights.

    Attributes:
        part: the last that has lost its weights.
        left: rank correlation with the maps of the whole network, by method.
    """

    part: str
    left: Mapping[Method, Metric]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured on a sample of the pictures.

    Attributes:
        pictures, groups: that the means and intervals stand on.
        worths: of every source.
        changes: from the output down.
        area: mean share of the pictures that the masks cover; None without masks.
    """

    pictures: int
    groups: int
    worths: tuple[Worth, ...]
    changes: tuple[Change, ...]
    area: float | None

    def unchanged(self) -> tuple[Method, ...]:
        """Return the methods whose maps a network without its weights gives nearly as well."""
        if not self.changes:
            return ()
        last = self.changes[-1].left
        return tuple(m for m, left in last.items() if _least(left) > UNCHANGED)


def _least(metric: Metric) -> float:
    return metric.value if math.isnan(metric.low) else metric.low


def measure(
    network: Any,
    pixels: NDArray[np.uint8],
    *,
    layer: str,
    methods: Sequence[Method],
    classes: NDArray[np.int64],
    groups: Sequence[str],
    task: ImageTask,
    masks: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> Measured:
    """Put the maps of a network to the measured.

    Args:
        network: with a head, in evaluation mode.
        pixels: (n, h, w, 3) uint8.
        layer, methods: of the maps.
        classes: (n,) that they are for.
        groups: (n,) whose each picture is.
        task: "classification", where probabilities are of one class of several, or "multilabel".
        masks: (n, h, w) bool, what maps should lie on.
        seed: of the weights drawn anew, of random maps and of equal values.

    Raises:
        ModelError, ValueError: as `cams`, `randomised`.

    Determinism: by the device and the seed.
    """
    asked: dict[str, Any] = {
        "layer": layer,
        "methods": methods,
        "classes": classes[:, np.newaxis],
    }
    whole = {m: v[:, 0] for m, v in cams(network, pixels, **asked).maps.items()}
    changes, null = [], whole
    for part, other in randomised(network, seed=seed):
        null = {m: v[:, 0] for m, v in cams(other, pixels, **asked).maps.items()}
        left = {
            m: mean_over_groups(rank_correlations(whole[m], null[m]), groups, seed=seed)
            for m in methods
        }
        changes.append(Change(part=part, left=left))
    predict = _Predict(network, classes, task=task)
    sources = list(_sources(whole, null, pixels, seed=seed))
    areas = {
        name: [
            area(curve(predict, pixels, maps, insert=insert, seed=seed)) for insert in (False, True)
        ]
        for name, _, maps in sources
    }

    def mean(values: NDArray[np.float64]) -> Metric:
        return mean_over_groups(values, groups, seed=seed)

    worths = [
        Worth(
            name=name,
            is_null=is_null,
            deletion=mean(areas[name][0]),
            insertion=mean(areas[name][1]),
            less=mean(areas[RANDOM][0] - areas[name][0]),
            more=mean(areas[name][1] - areas[RANDOM][1]),
            mass=None if masks is None else mean(mass_shares(maps, masks)),
        )
        for name, is_null, maps in sources
    ]
    return Measured(
        pictures=len(pixels),
        groups=len(set(groups)),
        worths=tuple(worths),
        changes=tuple(changes),
        area=None if masks is None else float(masks.mean()),
    )


def _sources(
    whole: Mapping[Method, Maps],
    null: Mapping[Method, Maps],
    pixels: NDArray[np.uint8],
    *,
    seed: int,
) -> Iterator[tuple[str, bool, Maps]]:
    """Yield name, whether it is a null, and maps (n, h, w) of all that is measured."""
    for method, maps in whole.items():
        yield NAMES[method], False, maps
        yield f"{NAMES[method]}, weights drawn anew", True, null[method]
    shape = next(iter(whole.values())).shape
    yield DARKNESS, True, darkness(pixels, shape[1:])
    yield RANDOM, True, np.random.default_rng(seed).random(shape)


def darkness(pixels: NDArray[np.uint8], places: Sequence[int]) -> NDArray[np.float64]:
    """Return (n, h, w) how dark each place of pictures is, 0..1, on average over its pixels."""
    h, w = places
    light = 1 - pixels.mean(3) / 255  # (n, H, W)
    rows, columns = (
        np.flatnonzero(np.diff(np.arange(side) * k // side, prepend=-1))
        for side, k in zip(light.shape[1:], (h, w), strict=True)
    )
    sums = np.add.reduceat(np.add.reduceat(light, rows, axis=1), columns, axis=2)
    sizes = [
        np.diff(each, append=side)
        for each, side in zip((rows, columns), light.shape[1:], strict=True)
    ]
    found: NDArray[np.float64] = sums / np.outer(*sizes)
    return found


class _Predict:
    """What a network says of each picture's own class."""

    def __init__(self, network: Any, classes: NDArray[np.int64], *, task: ImageTask) -> None:
        self._network, self._classes, self._task = network, classes, task
        self._device = next(network.parameters()).device

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        every = np.arange(len(pixels))
        logits = logits_of(self._network, pixels, every, device=self._device)
        values = probabilities_of(logits, task=self._task)
        found: NDArray[np.float64] = values[every, self._classes]
        return found
