"""Scores and true values of sources on targets in; how well the scores rank the sources out.

A *target* is what is learnt, a *source* what is learnt from first. Targets are what is drawn again: pairs of
source and target are not independent, for every source is there on every target.

Reference: Kendall, 1945, The treatment of ties in ranking problems (tau-b).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._numbers import whole_number
from histofast.learning.association import LEAST_GROUPS
from histofast.learning.scores import Metric, measured
from histofast.learning.weighted import Array, Rows, Statistic, numbered

_DIGITS = 12  # of means of shares: equal ones differ by rounding, and are no ranking

Values = Sequence[Any] | NDArray[np.number[Any]]
Groups = Sequence[Any] | NDArray[Any] | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Agreement:
    """How well a score ranks sources.

    Attributes:
        tau: mean of Kendall's tau-b over the targets where it is defined; interval by bootstrap over targets,
            NaN for under five of them.
        of_targets: (t,) tau-b on each; NaN where the score, or the truth, is equal for all sources.
        p: of no better than chance, one-sided: the share of orders of the sources, each the same on all
            targets, whose mean tau is as high, the one as given counted; NaN where none were drawn.
        n_sources: (t,) sources that have both score and truth, for each target.
        group_of: (t,) number of what each target is drawn with.
    """

    tau: Metric
    of_targets: Array
    p: float
    n_sources: Rows
    group_of: Rows

    @property
    def n_defined(self) -> int:
        """Targets on which there is a tau."""
        return int((~np.isnan(self.of_targets)).sum())


def kendall_tau(x: Values, y: Values) -> float:
    """Return Kendall's tau-b: (concordant - discordant pairs) / sqrt(pairs untied in x x pairs untied in y).

    Args:
        x: (s,) numbers; NaN: not known, left out.
        y: (s,) others of the same.

    Returns:
        -1 to 1; NaN where x or y does not vary.

    Raises:
        ValueError: not one number of each for every one, or infinity.

    Determinism: exact counts. Memory grows with the square of s: for sources, not for pictures.

    Example:
        >>> kendall_tau([1, 2, 3, 4], [1, 2, 4, 3])
        0.6666666666666666
    """
    one, two = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if one.ndim != 1 or one.shape != two.shape:
        raise ValueError(f"y must be one for each of x, {one.shape}, got {two.shape}")
    for name, values in (("x", one), ("y", two)):
        _refuse_infinity(name, values)
    return float(_taus(*_where_both(one[None], two[None]))[0])


def agreement_of_rankings(
    scores: Values,
    truth: Values,
    *,
    groups: Groups = None,
    resamples: int = 2000,
    permutations: int = 9999,
    confidence: float = 0.95,
    seed: int = 0,
) -> Agreement:
    """Measure how well scores rank sources, over targets.

    A score that is equal for all sources of a target ranks none of them: that target is left out of the
    mean, and counts against the score nowhere but in `n_defined`. Look at it.

    The interval holds for these sources on other targets like these. The p-value gives each source the scores
    of another, on all targets at once: a source that is good everywhere, and scores high everywhere,
    is one stroke of luck and not one for each target.

    Args:
        scores: (t, s) the higher, the better the source is said to be; NaN: none (the source is the target).
        truth: (t, s) what the source was worth, the higher the better; NaN: not known.
        groups: (t,) targets of one kind (three views of one set of scans) are drawn together; None:
            each by itself.
        resamples: draws of targets; 0: no interval.
        permutations: orders of the sources; 0: no p-value.
        confidence: of the interval, percentiles of the draws; with few targets it is somewhat narrow.
        seed: of both.

    Raises:
        ValueError: other shapes, infinity, groups that are not one for each target, options out of range.

    Determinism: by the seed.
    """
    one, two = _where_both(*_tables(scores=scores, truth=truth))
    _check(confidence, resamples=resamples, permutations=permutations)
    group_of = _group_of(groups, len(one))
    taus = _taus(one, two)
    return Agreement(
        tau=_mean_tau(taus, group_of, resamples=resamples, confidence=confidence, seed=seed),
        of_targets=taus,
        p=_p(one, two, taus, permutations, np.random.default_rng([seed, 1])),
        n_sources=(~np.isnan(one)).sum(axis=1),
        group_of=group_of,
    )


def difference_of_agreements(
    one: Agreement,
    other: Agreement,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Metric:
    """Return how much higher the mean tau of one score is than that of another, target by target.

    Args:
        one, other: of `agreement_of_rankings` on the same targets and groups of them.
        resamples, confidence, seed: as there.

    Returns:
        Mean over the targets where both are defined, with its interval.

    Raises:
        ValueError: other targets or groups, options out of range.

    Determinism: by the seed.
    """
    if not np.array_equal(one.group_of, other.group_of):
        raise ValueError(
            f"other must be of the targets of one, {len(one.group_of)} in the same groups, got "
            f"{len(other.group_of)}"
            + (" in others" if len(one.group_of) == len(other.group_of) else "")
        )
    _check(confidence, resamples=resamples)
    taus = one.of_targets - other.of_targets
    return _mean_tau(taus, one.group_of, resamples=resamples, confidence=confidence, seed=seed)


def merit_elsewhere(truth: Values, *, groups: Groups = None) -> Array:
    """Return what each source was worth on the other targets: the score that looks at no target at all.

    Whoever has the table of past transfers has this ranking already; a score has to beat it.

    Args:
        truth: (t, s) the higher the better; NaN: not known.
        groups: (t,) targets of one kind tell each other's values, and are not "other"; None: each by itself.

    Returns:
        (t, s): mean over the other targets of the share of the other sources that the source beats there,
        equal ones counted half; NaN where it is not known for any other target, and where `truth` is NaN.

    Raises:
        ValueError: another shape, infinity, groups that are not one for each target.

    Example:
        >>> merit_elsewhere([[0.9, 0.8, 0.7], [0.6, 0.7, 0.5]])
        array([[0.5, 1. , 0. ],
               [1. , 0.5, 0. ]])
    """
    (values,) = _tables(truth=truth)
    group_of = _group_of(groups, len(values))
    is_other = (group_of[:, None] != group_of).astype(np.float64)  # (t, t)
    above = (values[:, :, None] > values[:, None, :]) + (
        values[:, :, None] == values[:, None, :]
    ) / 2
    known = ~np.isnan(values)
    others = known.sum(axis=1, keepdims=True) - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(known & (others > 0), (above.sum(axis=2) - 0.5) / others, np.nan)
        defined = ~np.isnan(shares)
        found: Array = (is_other @ np.where(defined, shares, 0)) / (is_other @ defined)
    return np.where(known, np.round(found, _DIGITS), np.nan)


# --- How it is done ----------------------------------------------------------------------------


def _tables(**tables: Values) -> tuple[Array, ...]:
    """Return (t, s) tables of one shape, without infinity."""
    arrays = {name: np.asarray(table, np.float64) for name, table in tables.items()}
    first = next(iter(arrays.values()))
    for name, array in arrays.items():
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(f"{name} must be of shape (targets, sources), got {array.shape}")
        if array.shape != first.shape:
            raise ValueError(f"{name} must be of shape {first.shape}, as scores, got {array.shape}")
        _refuse_infinity(name, array)
    return tuple(arrays.values())


def _group_of(groups: Groups, targets: int) -> Rows:
    if groups is not None and len(groups) != targets:
        raise ValueError(f"groups must be {targets}, one for each target, got {len(groups)}")
    return numbered("groups", range(targets) if groups is None else groups, targets)


def _refuse_infinity(name: str, values: Array) -> None:
    if np.isinf(values).any():
        raise ValueError(f"{name} must be finite or NaN, got infinity")


def _check(confidence: float, **counts: int) -> None:
    for name, value in counts.items():
        whole_number(name, value, at_least=0)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")


def _where_both(one: Array, two: Array) -> tuple[Array, Array]:
    """Return both with NaN wherever one has it."""
    unknown = np.isnan(one) | np.isnan(two)
    return np.where(unknown, np.nan, one), np.where(unknown, np.nan, two)


def _signs(values: Array) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """(t, s, s) signs of the differences of all pairs, 0 where one is not known; which are known."""
    known = ~np.isnan(values)
    pairs = known[:, :, None] & known[:, None, :]
    with np.errstate(invalid="ignore"):
        signs = np.sign(values[:, :, None] - values[:, None, :])
    return np.where(pairs, signs, 0).astype(np.int8), pairs


def _taus(one: Array, two: Array) -> Array:
    return _taus_of_signs(*_signs(one), *_signs(two))


def _taus_of_signs(
    one: NDArray[np.int8],
    known: NDArray[np.bool_],
    two: NDArray[np.int8],
    others: NDArray[np.bool_],
) -> Array:
    """(t,) tau-b; NaN where no pair is known, or all are tied on a side."""
    axes = (1, 2)
    agreeing = (one * two).sum(axis=axes, dtype=np.float64)
    untied = ((one != 0) & others).sum(axis=axes), ((two != 0) & known).sum(axis=axes)
    scale = np.sqrt(untied[0].astype(np.float64) * untied[1])
    taus = np.full(len(one), np.nan)
    np.divide(agreeing, scale, out=taus, where=scale > 0)
    return taus


def _p(one: Array, two: Array, taus: Array, permutations: int, rng: np.random.Generator) -> float:
    value = _mean(taus)
    if not permutations or np.isnan(value):
        return float("nan")
    (signs, known), (others, known_too) = _signs(one), _signs(two)
    reached = 1
    for _ in range(permutations):
        order = rng.permutation(one.shape[1])
        drawn, drawn_known = signs[:, order][:, :, order], known[:, order][:, :, order]
        found = _mean(_taus_of_signs(drawn, drawn_known, others, known_too))
        reached += bool(found >= value - 1e-12)  # equal means are equal but for rounding
    return reached / (1 + permutations)


def _mean(taus: Array) -> float:
    defined = ~np.isnan(taus)
    return float(taus[defined].mean()) if defined.any() else float("nan")


def _mean_tau(
    taus: Array, group_of: Rows, *, resamples: int, confidence: float, seed: int
) -> Metric:
    defined = ~np.isnan(taus)
    few = len(np.unique(group_of[defined])) < LEAST_GROUPS
    values, counts = np.where(defined, taus, 0), defined.astype(np.float64)

    def statistic(weights: Array) -> Array:
        found = np.full(len(weights), np.nan)
        np.divide(weights @ values, weights @ counts, out=found, where=weights @ counts > 0)
        return found

    statistics: dict[str, Statistic] = {"tau": statistic}
    return measured(
        statistics,
        len(taus),
        group_of,
        resamples=0 if few else resamples,
        confidence=confidence,
        seed=seed,
    )["tau"]
