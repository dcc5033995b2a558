"""Values and binary labels of patches in, how well the values find the labelled ones out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check

_BLOCKS_ALONG = 10  # of the longer side, where no side of a block is given
_PRECISION_AT = (8, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How well values find labelled patches.

    Attributes:
        auroc: chance that a labelled patch has a higher value than one that is not, ties by half.
        low, high: bounds of its bootstrap interval; NaN where no resample has both labels.
        confidence: share of the resamples between the bounds.
        unit: what was resampled, in words.
        units: how many of them there are.
        resamples: how many had both labels, and count.
        n: patches.
        positives: labelled patches.
        precision: share of labelled patches among the k highest, by k.
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
        groups: (n,) slide or patient of each patch, of any type that can be sorted.
        coords_l0: (n, 2) int64 level-0 (x, y) of each patch.
        block_l0: side of a block in level-0 px; a tenth of the extent of the coordinates when None.
        k: numbers of highest patches to tell the precision of; 8 and 64, as far as there are so
            many patches, when None.
        resamples: of the bootstrap; those that draw one label only are left out.
        confidence: of the interval.
        seed: of the resamples.

    Returns:
        The score. Of equal values around rank k, each is as likely to be among the highest.

    Raises:
        TypeError: arrays of another type.
        ValueError: arrays that do not agree, NaN or infinite values, labels other than 0 and 1 or
            of one kind only, neither groups nor coordinates, fewer than 2 units to resample, an
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
    order, is_positive = _checked(values, labels)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    n = len(order)
    ks = tuple(at for at in _PRECISION_AT if at <= n) if k is None else tuple(k)
    for at in ks:
        if not 1 <= at <= n:
            raise ValueError(f"k must be within 1..{n}, the patches there are, got {at}")
    unit_of, unit = _units(n, groups, coords_l0, block_l0)
    units = int(unit_of.max()) + 1
    if units < 2:
        raise ValueError(f"the bootstrap needs at least 2 {unit}, got {units}")

    ranked = values[order].astype(np.float64)
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    positive = is_positive[order].astype(np.float64)
    unit_of = unit_of[order]

    def auroc(weights: NDArray[np.float64]) -> float:
        """AUROC of weighted patches; NaN without both labels."""
        weighted = weights * positive
        hits = np.add.reduceat(weighted, starts)
        misses = np.add.reduceat(weights - weighted, starts)
        pairs = hits.sum() * misses.sum()
        if pairs == 0:
            return float("nan")
        # No dot product: at this length its threads cost more than they save.
        return float((hits * (np.cumsum(misses) - misses / 2)).sum() / pairs)

    rng = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for i in range(resamples):
        times = np.bincount(rng.integers(units, size=units), minlength=units)
        drawn[i] = auroc(times.astype(np.float64)[unit_of])
    drawn = drawn[~np.isnan(drawn)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail)) if len(drawn) else (np.nan, np.nan)
    return Score(
        auroc=auroc(np.ones(n)),
        low=float(low),
        high=float(high),
        confidence=confidence,
        unit=unit,
        units=units,
        resamples=len(drawn),
        n=n,
        positives=int(is_positive.sum()),
        precision={at: _precision(ranked, positive, at) for at in ks},
    )


def _checked(
    values: NDArray[np.floating[Any]], labels: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the order of the values, lowest first, and the labels as bool."""
    for name, array, kinds, wanted in (
        ("values", values, "f", "floating point"),
        ("labels", labels, "bui", "bool or integers"),
    ):
        if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
            got = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"{name} must be {wanted} of shape (n,), got {got}")
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"values must be of shape (n,), n at least 1, got {values.shape}")
    if labels.shape != values.shape:
        raise ValueError(f"labels must be of shape {values.shape}, got {labels.shape}")
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(f"values must be finite, got NaN or infinity for {bad.sum()} patches")
    strange = labels[(labels != 0) & (labels != 1)]
    if len(strange):
        raise ValueError(f"labels must be 0 or 1, got {strange[0]}")
    is_positive = labels.astype(bool)
    if is_positive.all() or not is_positive.any():
        raise ValueError(
            f"labels must be of both kinds, got {is_positive.sum()} of {len(labels)} that are 1"
        )
    return np.argsort(values, kind="stable"), is_positive


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
    group_of = np.zeros(n, np.int64)
    if groups is not None:
        if not isinstance(groups, np.ndarray):
            raise TypeError(f"groups must be a NumPy array (n,), got {type(groups).__name__}")
        if groups.shape != (n,):
            raise ValueError(f"groups must be of shape ({n},), got {groups.shape}")
        group_of = np.unique(groups, return_inverse=True)[1]
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


def _precision(ranked: NDArray[np.floating[Any]], positive: NDArray[np.float64], k: int) -> float:
    """Expected share of positives among the k highest, equal values in random order."""
    edge = ranked[-k]
    above, level = ranked > edge, ranked == edge
    from_level = (k - above.sum()) * positive[level].mean()
    return float((positive[above].sum() + from_level) / k)
