"""Values and binary labels of patches in; how well the values find the labelled ones, one against another, out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast.learning import LEAST_GROUPS, Difference, differences_of_draws

_BLOCKS_ALONG = 10  # of the longer side, where no side of a block is given
_PRECISION_AT = (8, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How well values find labelled patches.

    Attributes:
        auroc: chance that a labelled patch has a higher value than one that is not, ties by half;
            of two patches of one slide where slides were given.
        low, high: bounds of its bootstrap interval; NaN where no resample has both labels.
        confidence: share of the resamples between the bounds.
        unit: what was resampled, in words.
        units: how many of them there are.
        resamples: how many had both labels, and count.
        n: patches.
        positives: labelled patches.
        precision: share of labelled patches among the k highest, by k; where slides were given, the
            mean over slides of at least k patches.
    """

    auroc: float
    low: float
    high: float
    confidence: float
    unit: str
    units: int
    resamples: int
    n: int
    positives: int
    precision: Mapping[int, float]


def score(
    values: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    *,
    slides: NDArray[Any] | None = None,
    groups: NDArray[Any] | None = None,
    coords_l0: NDArray[np.int64] | None = None,
    block_l0: int | None = None,
    k: Sequence[int] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Score:
    """Compare values of patches with binary labels.

    Neighbouring patches are no independent samples. The interval is that of a bootstrap over
    `groups`; with coordinates, over square blocks of the slide; with both, over blocks within each
    group, such as slides of one patient each, of which there may be too few to resample.

    Args:
        values: (n,) floating point, higher where the label is expected.
        labels: (n,) bool, or integers 0 and 1.
        slides: (n,) slide of each patch, of any type that can be sorted. Attention of two slides is
            on two scales: patches are then compared with patches of their own slide only. None: one
            slide, or values on one scale.
        groups: (n,) slide or patient of each patch, of any type that can be sorted; `slides` when
            None.
        coords_l0: (n, 2) int64 level-0 (x, y) of each patch.
        block_l0: side of a block in level-0 px; a tenth of the extent of the coordinates when None.
        k: numbers of highest patches to tell the precision of; 8 and 64, as far as there are so
            many patches (in some slide), when None.
        resamples: of the bootstrap; those that draw one label only are left out.
        confidence: of the interval.
        seed: of the resamples.

    Returns:
        The score. Of equal values around rank k, each is as likely to be among the highest.

    Raises:
        TypeError: arrays of another type.
        ValueError: arrays that do not agree, NaN or infinite values, labels other than 0 and 1 or
            of one kind only (in every slide), neither groups nor coordinates, fewer than 2 units to resample, an
            argument out of range.

    Determinism: by the seed.
    Reference: Hanley & McNeil 1982 (AUROC as a rank statistic).

    Example:
        >>> found = score(
        ...     np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]), groups=np.arange(4)
        ... )
        >>> found.auroc, found.positives
        (0.75, 2)
    """
    _check_values("values", values)
    sampled = _Sampled(labels, len(values), slides, groups, coords_l0, block_l0)
    _check_resamples(resamples, confidence)
    ranked = sampled.ranked("values", values)
    largest = sampled.largest
    ks = tuple(at for at in _PRECISION_AT if at <= largest) if k is None else tuple(k)
    for at in ks:
        if not 1 <= at <= largest:
            raise ValueError(f"k must be within 1..{largest}, the patches there are, got {at}")
    drawn = np.array([ranked.auroc(times) for times in sampled.draws(resamples, seed)])
    drawn = drawn[~np.isnan(drawn)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail)) if len(drawn) else (np.nan, np.nan)
    return Score(
        auroc=ranked.auroc(np.ones(len(values))),
        low=float(low),
        high=float(high),
        confidence=confidence,
        unit=sampled.unit,
        units=sampled.units,
        resamples=len(drawn),
        n=len(values),
        positives=int(sampled.is_positive.sum()),
        precision={at: ranked.precision(at) for at in ks},
    )


def score_differences(
    values: Mapping[str, NDArray[np.floating[Any]]],
    labels: NDArray[Any],
    *,
    pairs: Sequence[tuple[str, str]],
    slides: NDArray[Any] | None = None,
    groups: NDArray[Any] | None = None,
    coords_l0: NDArray[np.int64] | None = None,
    block_l0: int | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[tuple[str, str], Difference]:
    """Return how much higher the AUROC of one source is than that of another, told together, after Holm.

    Both sides are of the same resamples, so that what is common to them (a hard slide) cancels: the overlap of
    two intervals of `score` says less.

    Args:
        values: by source, (n,) as of `score`; (k, n) where a source was drawn k times (networks with random
            weights): of its draws the one with the highest AUROC is the other side.
        labels, slides, groups, coords_l0, block_l0, seed: as of `score`.
        pairs: names of two sources each; the first must not be drawn.
        resamples, confidence: of the intervals; resamples that draw one label only are left out.

    Returns:
        By pair; NaN bounds where there are fewer than 5 units to resample.

    Raises:
        TypeError, ValueError: as `score`; too few resamples for so many pairs.

    Determinism: by the seed.
    """
    sampled = _Sampled(labels, len(labels), slides, groups, coords_l0, block_l0)
    _check_resamples(resamples, confidence)
    for name in (name for pair in pairs for name in pair):
        if name not in values:
            raise ValueError(f"pairs must be of {', '.join(values)}, got {name}")
    every = np.ones(len(labels))
    taken = resamples if sampled.units >= LEAST_GROUPS else 0
    found: dict[str, tuple[float, NDArray[np.float64]]] = {}
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        draws = [sampled.ranked(f"values of {name}", each) for each in np.atleast_2d(values[name])]
        ranked = max(draws, key=lambda one: one.auroc(every))
        drawn = [ranked.auroc(times) for times in sampled.draws(taken, seed)]
        found[name] = ranked.auroc(every), np.array(drawn, np.float64)
    return differences_of_draws(
        {(a, b): found[a][0] - found[b][0] for a, b in pairs},
        {(a, b): found[a][1] - found[b][1] for a, b in pairs},
        units=dict.fromkeys(pairs, sampled.units),
        confidence=confidence,
    )


class _Sampled:
    """Labelled patches, and what of them is drawn again."""

    def __init__(
        self,
        labels: NDArray[Any],
        n: int,
        slides: NDArray[Any] | None,
        groups: NDArray[Any] | None,
        coords_l0: NDArray[np.int64] | None,
        block_l0: int | None,
    ) -> None:
        self.is_positive = _checked_labels(labels, n)
        self._slide_of = _numbered("slides", slides, n)
        self.largest = int(np.bincount(self._slide_of).max())
        # Blocks lie within slides, whatever these are grouped by.
        by_slide = groups is None or (slides is not None and coords_l0 is not None)
        self._unit_of, self.unit = _units(n, slides if by_slide else groups, coords_l0, block_l0)
        self.units = int(self._unit_of.max()) + 1
        if self.units < 2:
            raise ValueError(f"the bootstrap needs at least 2 {self.unit}, got {self.units}")

    def ranked(self, name: str, values: NDArray[np.floating[Any]]) -> _Ranked:
        """Return the patches in the order of values, which are checked."""
        _check_values(name, values)
        if values.shape != self.is_positive.shape:
            raise ValueError(
                f"{name} must be of shape {self.is_positive.shape} as labels are, got {values.shape}"
            )
        return _Ranked(values.astype(np.float64), self.is_positive, self._slide_of)

    def draws(self, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
        """Yield (n,) how often each patch counts."""
        rng = np.random.default_rng(seed)
        for _ in range(resamples):
            times = np.bincount(rng.integers(self.units, size=self.units), minlength=self.units)
            yield times.astype(np.float64)[self._unit_of]


class _Ranked:
    """Patches slide by slide, each slide's by their values, the lowest first."""

    def __init__(
        self,
        values: NDArray[np.float64],
        is_positive: NDArray[np.bool_],
        slide_of: NDArray[np.int64],
    ) -> None:
        self._order = np.lexsort((values, slide_of))
        self._values = values[self._order]
        self._positive = is_positive[self._order].astype(np.float64)
        slide = slide_of[self._order]
        begins = np.append(True, slide[1:] != slide[:-1])
        ties = np.flatnonzero(begins | np.append(True, self._values[1:] != self._values[:-1]))
        self._ties = ties
        self._slides = np.flatnonzero(begins[ties])  # where each begins, counted in ties
        self._slide_of_tie = np.cumsum(begins[ties]) - 1
        self._bounds = [*np.flatnonzero(begins), len(values)]
        positives = np.add.reduceat(self._positive, self._bounds[:-1])
        if not ((positives > 0) & (positives < np.diff(self._bounds))).any():
            raise ValueError("labels must be of both kinds in some slide, got one kind in each")

    def auroc(self, weights: NDArray[np.float64]) -> float:
        """AUROC of weighted patches; NaN without both labels in some slide."""
        weights = weights[self._order]
        weighted = weights * self._positive
        hits = np.add.reduceat(weighted, self._ties)
        misses = np.add.reduceat(weights - weighted, self._ties)
        of_slides = [np.add.reduceat(part, self._slides) for part in (hits, misses)]
        # No dot product: at this length its threads cost more than they save.
        pairs = (of_slides[0] * of_slides[1]).sum()
        if pairs == 0:
            return float("nan")
        before = np.cumsum(of_slides[1]) - of_slides[1]  # misses of the slides before
        below = np.cumsum(misses) - misses / 2 - before[self._slide_of_tie]
        return float((hits * below).sum() / pairs)

    def precision(self, k: int) -> float:
        """Expected share of positives among a slide's k highest, equal values in random order."""
        shares = []
        for start, stop in pairwise(self._bounds):
            if stop - start >= k:
                values, positive = self._values[start:stop], self._positive[start:stop]
                edge = values[-k]
                above, level = values > edge, values == edge
                from_level = (k - above.sum()) * positive[level].mean()
                shares.append(float((positive[above].sum() + from_level) / k))
        return float(np.mean(shares))


def _check_kind(name: str, array: Any, kinds: str, wanted: str) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
        got = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be {wanted} of shape (n,), got {got}")


def _check_values(name: str, values: NDArray[np.floating[Any]]) -> None:
    _check_kind(name, values, "f", "floating point")
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name} must be of shape (n,), n at least 1, got {values.shape}")
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(f"{name} must be finite, got NaN or infinity for {bad.sum()} patches")


def _check_resamples(resamples: int, confidence: float) -> None:
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")


def _checked_labels(labels: NDArray[Any], n: int) -> NDArray[np.bool_]:
    """Return the labels as bool."""
    _check_kind("labels", labels, "bui", "bool or integers")
    if labels.shape != (n,):
        raise ValueError(f"labels must be of shape ({n},), got {labels.shape}")
    strange = labels[(labels != 0) & (labels != 1)]
    if len(strange):
        raise ValueError(f"labels must be 0 or 1, got {strange[0]}")
    is_positive = labels.astype(bool)
    if is_positive.all() or not is_positive.any():
        raise ValueError(
            f"labels must be of both kinds, got {is_positive.sum()} of {len(labels)} that are 1"
        )
    return is_positive


def _numbered(name: str, given: NDArray[Any] | None, n: int) -> NDArray[np.int64]:
    """Number what patches belong to from 0; all to one where it is not given."""
    if given is None:
        return np.zeros(n, np.int64)
    if not isinstance(given, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array (n,), got {type(given).__name__}")
    if given.shape != (n,):
        raise ValueError(f"{name} must be of shape ({n},), got {given.shape}")
    numbers: NDArray[np.int64] = np.unique(given, return_inverse=True)[1]
    return numbers


def _units(
    n: int,
    groups: NDArray[Any] | None,
    coords_l0: NDArray[np.int64] | None,
    block_l0: int | None,
) -> tuple[NDArray[np.int64], str]:
    """Number what is resampled from 0, and say in words what it is."""
    if groups is None and coords_l0 is None:
        raise ValueError(
            "groups or coords_l0 must be given: patches of one slide are no independent samples"
        )
    if coords_l0 is None and block_l0 is not None:
        raise ValueError(f"block_l0 is for coords_l0, got {block_l0} without them")
    group_of = _numbered("groups", groups, n)
    if coords_l0 is None:
        return group_of, "groups"
    check("coords_l0", coords_l0, "int64", (n, 2), contiguous=False)
    if block_l0 is None:
        extent = int((coords_l0.max(axis=0) - coords_l0.min(axis=0)).max())
        block_l0 = max(1, -(-(extent + 1) // _BLOCKS_ALONG))
    elif block_l0 < 1:
        raise ValueError(f"block_l0 must be at least 1, got {block_l0}")
    block = np.column_stack([group_of, coords_l0 // block_l0])
    within = "" if groups is None else " within groups"
    unit_of = np.unique(block, axis=0, return_inverse=True)[1].reshape(-1)
    return unit_of, f"square blocks of {block_l0} level-0 px{within}"
