"""Features of patches in; how much they say of where a slide was made, beside what it shows, out.

A row has a *class* (what it shows), a *level* of a confounder (the centre, the scanner) and a *group*
(its patient). Neighbours are by cosine distance and of other groups, so that nothing is near for being
the same tissue. *Own* neighbours are of a row's class and of another level; *strange* ones of another
class and of the row's level: what is nearer tells which of the two the features are made of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._numbers import real_number, whole_number
from histofast.robustness.looking import lower_tail, median, neighbours_of
from histofast.robustness.variance import adjusted_share, explained_share, shares_without
from histofast.similarity import check_features

NEIGHBOURS = 10
NEAREST = 5  # of a margin: no one neighbour is more than a fifth of it
TAIL = 0.1
MIN_GROUPS = 5  # fewer carry no interval

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number, how sure it is, and what it is when the confounder is dealt at random.

    Attributes:
        value: of all rows; NaN: undefined.
        low, high: its interval over groups; NaN: there are too few.
        shuffled: mean over shuffles; NaN: none were asked for, or none can be.
        shuffled_low, shuffled_high: what all but a share of the shuffles lie between.
        p: (1 + shuffles that depend on the confounder as much or more) / (1 + shuffles); NaN likewise.
    """

    value: float
    low: float = np.nan
    high: float = np.nan
    shuffled: float = np.nan
    shuffled_low: float = np.nan
    shuffled_high: float = np.nan
    p: float = np.nan


@dataclass(frozen=True, kw_only=True, slots=True)
class Robustness:
    """How much features depend on a confounder.

    Attributes:
        index: robustness index, 0..1: own neighbours among the own and the strange of the k nearest of
            all rows. Where levels and classes are not dealt evenly chance is not 0.5: see `shuffled`.
        margin: median over rows of (d_strange - d_own) / (d_strange + d_own), -1..1, d the mean distance
            of the m nearest of either; above 0: what it shows is nearer than where it is from.
        tail: mean of the margins of the tenth of the rows where they are lowest.
        share: of the variance of rows of length 1 within classes, that between levels of the confounder.
        share_of_groups: the same between groups, adjusted for how many they are.
        n, groups, levels, classes: rows, groups, and names of levels and classes by their number of rows.
        k, m: neighbours counted, and of a margin.
        support: share of the rows that have own or strange ones among k, and share of those with a margin.
        confidence: of intervals and of the range of shuffles.
        notes: what cannot be said and why, a line each.
    """

    index: Estimate
    margin: Estimate
    tail: float
    share: Estimate
    share_of_groups: float
    n: int
    groups: int
    levels: dict[str, int]
    classes: dict[str, int]
    k: int
    m: int
    support: tuple[float, float]
    confidence: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Rows:
    """Numbers of the rows' classes, levels and groups, (n,) each."""

    classes: Ints
    levels: Ints
    groups: Ints


def robustness_of(
    features: NDArray[np.floating[Any]],
    *,
    classes: Sequence[Any] | NDArray[Any],
    confounder: Sequence[Any] | NDArray[Any],
    groups: Sequence[Any] | NDArray[Any],
    k: int = NEIGHBOURS,
    m: int = NEAREST,
    resamples: int = 1000,
    permutations: int = 99,
    confidence: float = 0.95,
    seed: int = 0,
) -> Robustness:
    """Measure how much features depend on a confounder, beside the class.

    Intervals are over groups: of index and margin a bootstrap, each row with the neighbours that it has
    among all; of the share a jackknife, for a group drawn twice would look like a level of its own.
    Shuffles deal the levels anew among groups with the same classes, whole groups of a level at a time: what
    is left of index, margin and share then is what numbers of patients, classes and levels make alone.

    Args:
        features: (n, d), one patch or picture a row. Memory grows with n^2: 50 MB for 2,048 rows.
        classes: (n,) what each shows.
        confounder: (n,) its centre, scanner, ...; two or more levels.
        groups: (n,) its patient, or its slide where patients are not known.
        k: nearest rows that are looked at.
        m: nearest own and strange ones of a margin.
        resamples: of the groups; 0: no intervals. Fewer than 5 groups give none.
        permutations: of the levels; 0: none.
        confidence: of intervals, and of the range of shuffles.
        seed: of what is drawn.

    Raises:
        TypeError: features that are no floating point numbers, numbers that are none.
        ValueError: features that are not (n, d), NaN or infinity, a row of zeros, lists of other lengths,
            one class, level or group, a k or m below 1 or a confidence out of (0, 1).

    Determinism: by the seed; the last bits may differ between machines.

    Reference: Koemen et al., 2025, Towards robust foundation models for digital pathology (PathoROB), for
    the index; Grisi, van der Laak, Litjens, 2026, A distributional robustness margin for pathology
    foundation models (CRoMa), for margin and tail.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> what, where, who = np.arange(120) % 2, np.arange(120) // 2 % 2, np.arange(120) // 4
        >>> found = robustness_of(rng.normal(size=(120, 3)) + 5 * np.eye(3)[what], classes=what,
        ...     confounder=where, groups=who, resamples=0, permutations=0)
        >>> round(found.index.value), found.margin.value > 0.5
        (1, True)
    """
    k, m = whole_number("k", k, at_least=1), whole_number("m", m, at_least=1)
    resamples = whole_number("resamples", resamples, at_least=0)
    permutations = whole_number("permutations", permutations, at_least=0)
    confidence = real_number("confidence", confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in 0..1, got {confidence:g}")
    check_features("features", features)
    names = {"classes": classes, "confounder": confounder, "groups": groups}
    given = {name: _numbered(name, values, len(features)) for name, values in names.items()}
    rows = _Rows(
        classes=given["classes"][0], levels=given["confounder"][0], groups=given["groups"][0]
    )
    unit = of_length_1(features)
    near = neighbours_of(unit, rows.classes, rows.groups)
    rng = np.random.default_rng(seed)
    dealt = list(_dealt(rows, permutations, rng))
    draws = _drawn(rows.groups, resamples, rng)
    counts, margins = near.looked_at(rows.levels, k=k, m=m)
    nulls = [near.looked_at(levels, k=k, m=m) for levels in dealt]
    of_rows: dict[str, Any] = {"draws": draws, "confidence": confidence}
    return Robustness(
        index=_of_rows(index_of, counts, [null[0] for null in nulls], **of_rows),
        margin=_of_rows(median, margins, [null[1] for null in nulls], **of_rows),
        tail=lower_tail(margins, TAIL),
        share=_share(unit, rows, dealt, confidence, with_interval=draws is not None),
        share_of_groups=adjusted_share(unit, rows.classes, rows.groups),
        n=len(features),
        groups=len(given["groups"][1]),
        levels=given["confounder"][1],
        classes=given["classes"][1],
        k=k,
        m=m,
        support=(float((counts.sum(axis=1) > 0).mean()), float((~np.isnan(margins)).mean())),
        confidence=confidence,
        notes=tuple(_notes(rows, margins, m, resamples=resamples, shuffles=(permutations, dealt))),
    )


def of_length_1(features: NDArray[np.floating[Any]]) -> Floats:
    """Return checked rows, scaled to length 1."""
    rows = features.astype(np.float64)
    rows /= np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    zeros = int((lengths == 0).sum())
    if zeros:
        raise ValueError(
            f"features must have a direction, got {zeros} of {len(rows)} rows of zeros"
        )
    rows /= lengths
    return rows


def index_of(counts: Ints, weights: Floats) -> float:
    """Return own neighbours among all (n, 2) counted, own first; NaN where there are none."""
    own, strange = weights @ counts
    return float(own / (own + strange)) if own + strange else float("nan")


def _numbered(name: str, given: Any, n: int) -> tuple[Ints, dict[str, int]]:
    """Return what is named as numbers, and the names with their rows, most rows first."""
    texts = np.asarray([str(each) for each in given])
    if len(texts) != n:
        raise ValueError(f"{name} must have one entry per row, got {len(texts)} for {n} rows")
    found, numbers, sizes = np.unique(texts, return_inverse=True, return_counts=True)
    if len(found) < 2:
        raise ValueError(f"{name} must be at least 2, got only {', '.join(found) or 'none'}")
    counts = Counter(dict(zip(found.tolist(), sizes.tolist(), strict=True)))
    return numbers.astype(np.int64), dict(counts.most_common())


def _dealt(rows: _Rows, permutations: int, rng: np.random.Generator) -> Iterator[Ints]:
    """Yield levels dealt anew among groups with the same classes; nothing where all are alike."""
    n_levels, n_classes = int(rows.levels.max()) + 1, int(rows.classes.max()) + 1
    unit_of = np.unique(rows.groups * n_levels + rows.levels, return_inverse=True)[1]
    n_units = int(unit_of.max()) + 1
    level_of = np.empty(n_units, np.int64)
    level_of[unit_of] = rows.levels
    has = np.zeros((n_units, n_classes), np.bool_)
    has[unit_of, rows.classes] = True
    kind_of = np.unique(has, axis=0, return_inverse=True)[1].reshape(-1)
    kinds = [np.flatnonzero(kind_of == kind) for kind in range(int(kind_of.max()) + 1)]
    if all(len(set(level_of[units])) == 1 for units in kinds):
        return
    for _ in range(permutations):
        dealt = level_of.copy()
        for units in kinds:
            dealt[units] = level_of[rng.permutation(units)]
        yield dealt[unit_of]


def _drawn(groups: Ints, resamples: int, rng: np.random.Generator) -> Floats | None:
    """Return (resamples, n) how often each row's group is drawn; None where there are too few."""
    n_groups = int(groups.max()) + 1
    if not resamples or n_groups < MIN_GROUPS:
        return None
    draws = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=resamples)
    return draws[:, groups].astype(np.float64)


def _of_rows(
    statistic: Callable[[Any, Floats], float],
    values: Any,
    nulls: Sequence[Any],
    *,
    draws: Floats | None,
    confidence: float,
) -> Estimate:
    """Return a statistic of weighted rows, its bootstrap interval and what shuffles make of it."""
    whole = np.ones(len(values))
    value = statistic(values, whole)
    low = high = float("nan")
    if draws is not None:
        low, high = _between([statistic(values, weights) for weights in draws], confidence)
    shuffled = [statistic(null, whole) for null in nulls]
    as_low = sum(each <= value for each in shuffled)
    return Estimate(value=value, low=low, high=high, **_null(value, shuffled, as_low, confidence))


def _share(
    unit: Floats, rows: _Rows, dealt: Sequence[Ints], confidence: float, *, with_interval: bool
) -> Estimate:
    value = explained_share(unit, rows.classes, rows.levels)
    low = high = float("nan")
    if with_interval and not np.isnan(value):
        from scipy.special import stdtrit  # half a second that only who asks for an interval spends

        g = int(rows.groups.max()) + 1
        left = shares_without(unit, rows.classes, rows.levels, rows.groups)
        half = float(stdtrit(g - 1, (1 + confidence) / 2) * left.std() * np.sqrt(g - 1))
        low, high = max(0.0, value - half), min(1.0, value + half)
    shuffled = [explained_share(unit, rows.classes, levels) for levels in dealt]
    as_high = sum(each >= value for each in shuffled)
    return Estimate(value=value, low=low, high=high, **_null(value, shuffled, as_high, confidence))


def _null(
    value: float, shuffled: Sequence[float], as_far: int, confidence: float
) -> dict[str, float]:
    if not shuffled or np.isnan(value) or np.isnan(shuffled).all():
        return {}
    low, high = _between(shuffled, confidence)
    return {
        "shuffled": float(np.nanmean(shuffled)),
        "shuffled_low": low,
        "shuffled_high": high,
        "p": (1 + as_far) / (1 + len(shuffled)),
    }


def _between(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return what a share of the values that are defined lies between."""
    defined = np.array(values)[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _notes(
    rows: _Rows,
    margins: Floats,
    m: int,
    *,
    resamples: int,
    shuffles: tuple[int, Sequence[Ints]],
) -> Iterator[str]:
    n_groups = int(rows.groups.max()) + 1
    if resamples and n_groups < MIN_GROUPS:
        yield f"no intervals: {MIN_GROUPS} patients or slides are needed, these are {n_groups}"
    cells = set(zip(rows.classes.tolist(), rows.levels.tolist(), strict=True))
    if len(cells) == len(set(rows.classes.tolist())):
        yield "every class is of one level only: what comes of which cannot be told"
    if shuffles[0] and not shuffles[1]:
        yield "no shuffles: groups with the same classes are all of one level"
    lacking = int(np.isnan(margins).sum())
    if lacking:
        yield (
            f"{lacking} of {len(margins)} rows have no margin: fewer than {m} rows of other groups are "
            "of their class and another level, or of another class and their level"
        )
