"""What class activation maps are worth, measured: against labels, by taking places away, without weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histofast.classify import logits_of, probabilities_of
from histofast.datasets import ImageTask
from histofast.explain.cam.capture import cams
from histofast.explain.cam.definitions import NAMES, Method
from histofast.explain.cam.scores import (
    Predict,
    area,
    curve,
    mass_shares,
    mean_over_groups,
    rank_correlations,
)
from histofast.learning import Difference, Metric, paired_differences
from histofast.networks import drawn_anew, randomised

UNCHANGED = 0.5  # rank correlation with the map of a network that has learnt nothing
RANDOM, DARKNESS = "random", "darkness"
DRAWS = 5  # of networks without weights, and of random maps

Criterion = Literal["deletion", "insertion", "mass"]
# deletion: area under the probability as the highest places are blanked first; insertion: as they are shown
# first; mass: share on the masks.
_INSERTS: Mapping[Criterion, bool] = {"deletion": False, "insertion": True}
SIGNS: Mapping[Criterion, int] = {
    "deletion": -1,
    "insertion": 1,
    "mass": 1,
}  # -1 where lower is better

Maps = NDArray[np.floating[Any]]
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """Maps of one kind on n pictures, and what each is worth.

    Attributes:
        name: a method, its null, darkness or random.
        is_null: whether it is what methods are held against.
        values: (k, n) by criterion, of each picture; k is how often the maps were drawn, with other seeds.
    """

    name: str
    is_null: bool
    values: Mapping[Criterion, Values]

    def mean(self, by: Criterion) -> Values:
        """Return (n,) the mean over draws of each picture; NaN where no draw defines it."""
        return _mean(self.values[by])


@dataclass(frozen=True, kw_only=True, slots=True)
class Worth:
    """What a source is worth by one criterion.

    Attributes:
        metric: mean over pictures, of draws their mean, with an interval over groups.
        lowest, highest: mean over pictures of the draws; the value itself where nothing is drawn.
    """

    metric: Metric
    lowest: float
    highest: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """How much is left of the maps when a part of the network, and all above it, has lost its weights.

    Attributes:
        part: the last that has lost its weights.
        left: rank correlation with the maps of the whole network, by method.
    """

    part: str
    left: Mapping[Method, Metric]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measured:
    """What was measured on a sample of n pictures.

    Attributes:
        sources: methods, each before its null, then darkness and random.
        groups: (n,) whose each picture is.
        changes: from the output down, of one draw of weights.
        left: of each method, rank correlation with the maps of networks without their weights, the mean of draws.
        area: mean share of the pictures that the masks cover; None without masks.
        seed: of intervals.
    """

    sources: tuple[Source, ...]
    groups: tuple[str, ...]
    changes: tuple[Change, ...]
    left: Mapping[Method, Metric]
    area: float | None
    seed: int

    @property
    def pictures(self) -> int:
        """How many all stands on."""
        return len(self.groups)

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """What was measured."""
        return tuple(self.sources[0].values)

    @property
    def draws(self) -> int:
        """Networks without their weights, and random maps."""
        return max(len(each) for source in self.sources for each in source.values.values())

    def worth(self, source: Source, by: Criterion) -> Worth:
        """Return what a source is worth by a criterion."""
        draws = [value for value in _mean(source.values[by].T).tolist() if not math.isnan(value)]
        return Worth(
            metric=mean_over_groups(source.mean(by), self.groups, seed=self.seed),
            lowest=min(draws, default=math.nan),
            highest=max(draws, default=math.nan),
        )

    def compared(self, by: Criterion) -> dict[tuple[str, str], Difference]:
        """Return how much better each method is than its null, darkness, random and each later method.

        Picture by picture, adjusted for their number after Holm. Of the null, networks without their weights,
        it is the draw that comes nearest; random is the mean of its draws.
        """
        sign, pairs = SIGNS[by], {}
        for one, other in _pairs(self.sources):
            drawn = other.mean(by) if other.name == RANDOM else other.values[by]
            pairs[one.name, other.name] = sign * one.mean(by), sign * drawn
        return paired_differences(pairs, groups=self.groups, seed=self.seed)

    def unchanged(self) -> tuple[Method, ...]:
        """Return the methods whose maps networks without their weights give nearly as well."""
        return tuple(m for m, left in self.left.items() if _least(left) > UNCHANGED)


def null_of(name: str) -> str:
    """Return the name of the null of a method of this name."""
    return f"{name}, weights drawn anew"


def _pairs(sources: Sequence[Source]) -> Iterator[tuple[Source, Source]]:
    methods = [source for source in sources if not source.is_null]
    for k, one in enumerate(methods):
        nulls = (null_of(one.name), DARKNESS, RANDOM)
        for other in (*(s for s in sources if s.name in nulls), *methods[k + 1 :]):
            yield one, other


def _mean(values: Values) -> Values:
    """Return (n,) means over the first axis of what is defined; NaN where nothing is."""
    known = ~np.isnan(values)
    sums, sizes = np.where(known, values, 0).sum(axis=0), known.sum(axis=0)
    found: Values = np.divide(sums, sizes, out=np.full(len(sums), np.nan), where=sizes > 0)
    return found


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
    draws: int = DRAWS,
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
        draws: networks with all weights drawn anew, and random maps.
        seed: of the first of them, and of equal values.

    Raises:
        ModelError, ValueError: as `cams`, `randomised`.

    Determinism: by the device and the seed.
    """

    def maps_of(one: Any) -> dict[Method, Maps]:
        found = cams(one, pixels, layer=layer, methods=methods, classes=classes[:, np.newaxis])
        return {method: maps[:, 0] for method, maps in found.maps.items()}

    def left(others: Sequence[Mapping[Method, Maps]]) -> dict[Method, Metric]:
        return {
            m: mean_over_groups(
                _mean(np.array([rank_correlations(whole[m], other[m]) for other in others])),
                groups,
                seed=seed,
            )
            for m in methods
        }

    whole = maps_of(network)
    changes = [
        Change(part=part, left=left([maps_of(other)]))
        for part, other in randomised(network, seed=seed)
    ]
    nulls = [maps_of(drawn_anew(network, seed=seed + k)) for k in range(draws)]
    predict = _Predict(network, classes, task=task)
    return Measured(
        sources=tuple(
            Source(
                name=name,
                is_null=is_null,
                values=_valued(predict, pixels, drawn, masks, seed=seed),
            )
            for name, is_null, drawn in _drawn(whole, nulls, pixels, seed=seed)
        ),
        groups=tuple(groups),
        changes=tuple(changes),
        left=left(nulls),
        area=None if masks is None else float(masks.mean()),
        seed=seed,
    )


def _valued(
    predict: Predict,
    pixels: NDArray[np.uint8],
    drawn: Sequence[Maps],
    masks: NDArray[np.bool_] | None,
    *,
    seed: int,
) -> dict[Criterion, Values]:
    """Return (k, n) what maps that were drawn k times are worth."""
    found: dict[Criterion, Values] = {
        name: np.array(
            [area(curve(predict, pixels, maps, insert=insert, seed=seed)) for maps in drawn]
        )
        for name, insert in _INSERTS.items()
    }
    if masks is not None:
        found["mass"] = np.array([mass_shares(maps, masks) for maps in drawn])
    return found


def _drawn(
    whole: Mapping[Method, Maps],
    nulls: Sequence[Mapping[Method, Maps]],
    pixels: NDArray[np.uint8],
    *,
    seed: int,
) -> Iterator[tuple[str, bool, list[Maps]]]:
    """Yield name, whether it is a null, and maps (n, h, w) of each draw of all that is measured."""
    for method, maps in whole.items():
        yield NAMES[method], False, [maps]
        yield null_of(NAMES[method]), True, [null[method] for null in nulls]
    shape = next(iter(whole.values())).shape
    yield DARKNESS, True, [darkness(pixels, shape[1:])]
    rng = np.random.default_rng(seed)
    yield RANDOM, True, [rng.random(shape) for _ in nulls]


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
