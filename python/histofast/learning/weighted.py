"""Metrics of weighted rows: targets and predictions in, functions of weights out.

A weight is how often a row counts. Each function takes the weights of many resamples at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Task = Literal["classification", "multilabel", "regression", "survival"]

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Models = Sequence[Any] | NDArray[Any] | None
Statistic = Callable[[Array], Array]  # (r, b) weights of r resamples -> (r,) values
Parts = Callable[[Array], tuple[Array, Array]]  # ... -> (r,) numerators and denominators

PANEL = 2_000_000  # weights that are held at a time

_BINS = 10  # of the calibration error
_ROUNDING = 1e-9  # of the scale: what varies less is constant


def numbered(name: str, labels: Sequence[Any] | NDArray[Any], b: int) -> Rows:
    """(b,) a number from 0 for each different label."""
    array = np.asarray(labels)
    if array.shape != (b,):
        got = len(labels) if array.ndim == 1 else f"an array of shape {array.shape}"
        raise ValueError(f"{name} must be {b}, one per bag, got {got}")
    numbers: Rows = np.unique(
        array.astype(str) if array.dtype == object else array, return_inverse=True
    )[1]
    return numbers


def _divide(a: Array, b: Array) -> Array:
    """a / b, NaN where b is 0."""
    found = np.full(a.shape, np.nan)
    np.divide(a, b, out=found, where=b > 0)
    return found


def _within(models: Models, b: int, parts_of: Callable[[Rows], Parts]) -> Statistic:
    """Return the sum over models of the numerators of their rows, over that of the denominators."""
    if models is None:
        rows_of: list[Rows] = [np.arange(b)]
    else:
        model_of = numbered("models", models, b)
        order = np.argsort(model_of, kind="stable")
        rows_of = np.split(order, np.flatnonzero(np.diff(model_of[order])) + 1)
    parts = [(rows, parts_of(rows)) for rows in rows_of]

    def statistic(weights: Array) -> Array:
        above, below = np.zeros((2, len(weights)))
        for rows, part in parts:
            numerator, denominator = part(weights if len(parts) == 1 else weights[:, rows])
            above += numerator
            below += denominator
        return _divide(above, below)

    return statistic


# --- Classification ----------------------------------------------------------------------------


def _of_classification(
    targets: NDArray[Any],
    outputs: NDArray[np.floating[Any]],
    classes: Sequence[str],
    models: Models,
) -> Mapping[str, Statistic]:
    probabilities = _checked("outputs", outputs, 2)
    c = probabilities.shape[1]
    if c < 2 or (classes and len(classes) != c):
        wanted = f"a column for each of {', '.join(classes)}" if classes else "at least 2 columns"
        raise ValueError(f"outputs must have {wanted}, got {c}")
    if not isinstance(targets, np.ndarray) or not np.issubdtype(targets.dtype, np.integer):
        raise TypeError(f"targets must be an array of integer classes, got {_kind(targets)}")
    _check_length(targets, (len(probabilities),))
    if targets.min() < 0 or targets.max() >= c:
        wrong = targets.min() if targets.min() < 0 else targets.max()
        raise ValueError(f"targets must be classes 0..{c - 1}, got {wrong}")
    sums = probabilities.sum(axis=1)
    worst = sums[np.abs(sums - 1).argmax()]
    if probabilities.min() < 0 or abs(worst - 1) > 0.01:
        got = (
            f"{probabilities.min():.6g}"
            if probabilities.min() < 0
            else f"a row that sums to {worst:.6g}"
        )
        raise ValueError(f"outputs must be probabilities, got {got}: apply softmax")
    truth = targets[:, None] == np.arange(c)  # (b, c)
    positives = [1] if c == 2 else list(range(c))
    right = (probabilities.argmax(axis=1) == targets).astype(np.float64)
    errors = (probabilities - truth) ** 2

    def within(parts: Callable[[_Curve], Parts]) -> Statistic:
        def of_class(k: int, rows: Rows) -> Parts:
            return parts(_Curve(probabilities[rows, k], truth[rows, k]))

        of_classes = [_within(models, len(targets), partial(of_class, k)) for k in positives]
        return lambda w: np.mean([statistic(w) for statistic in of_classes], axis=0)

    return {
        "auroc": within(lambda curve: curve.concordance),
        "auprc": within(lambda curve: curve.precision),
        "accuracy": partial(_mean, right),
        "balanced_accuracy": lambda w: np.mean(
            [_divide(w @ (right * member), w @ member) for member in truth.T.astype(np.float64)],
            axis=0,
        ),
        "kappa": partial(_kappa, truth, probabilities.argmax(axis=1)[:, None] == np.arange(c)),
        "ece": partial(_calibration_error, _Ties(probabilities.max(axis=1)), right),
        "brier": partial(_mean, errors[:, 1] if c == 2 else errors.sum(axis=1)),
    }


def _kappa(truth: NDArray[np.bool_], chosen: NDArray[np.bool_], weights: Array) -> Array:
    """Agreement beyond that of two independent columns of the same shares; Cohen, 1960."""
    total = weights.sum(axis=1)
    agreed = _divide(weights @ (truth & chosen).any(axis=1), total)
    by_chance = _divide(((weights @ truth) * (weights @ chosen)).sum(axis=1), total**2)
    return _divide(agreed - by_chance, np.where(by_chance < 1 - _ROUNDING, 1 - by_chance, 0))


def _of_multilabel(
    targets: NDArray[Any],
    outputs: NDArray[np.floating[Any]],
    classes: Sequence[str],
    models: Models,
) -> Mapping[str, Statistic]:
    probabilities = _checked("outputs", outputs, 2)
    b, c = probabilities.shape
    if classes and len(classes) != c:
        raise ValueError(f"outputs must have a column for each of {', '.join(classes)}, got {c}")
    if not isinstance(targets, np.ndarray) or not np.issubdtype(targets.dtype, np.floating):
        raise TypeError(f"targets must be an array of 0, 1 and NaN, got {_kind(targets)}")
    _check_length(targets, (b, c))
    known = ~np.isnan(targets)
    if not np.isin(targets[known], (0, 1)).all():
        raise ValueError("targets must be 0, 1, or NaN where not known, got another number")
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise ValueError("outputs must be probabilities of each label: apply the sigmoid")
    truth = targets == 1
    labels = [k for k in range(c) if known[:, k].any()]
    if not labels:
        raise ValueError("targets must be known for some label, got NaN only")

    def within(parts: Callable[[_Curve], Parts]) -> Statistic:
        def of_label(k: int, rows: Rows) -> Parts:
            here = np.flatnonzero(known[rows, k])
            if not len(here):
                return lambda w: (np.zeros(len(w)), np.zeros(len(w)))
            part = parts(_Curve(probabilities[rows[here], k], truth[rows[here], k]))
            return lambda w: part(w[:, here])

        return _mean_of([_within(models, b, partial(of_label, k)) for k in labels])

    right = ((probabilities >= 0.5) == truth) & known
    errors = np.where(known, (probabilities - truth) ** 2, 0)
    confidence = np.maximum(probabilities, 1 - probabilities)
    return {
        "auroc": within(lambda curve: curve.concordance),
        "auprc": within(lambda curve: curve.precision),
        "accuracy": lambda w: _divide(
            w @ right.sum(axis=1).astype(np.float64), w @ known.sum(axis=1).astype(np.float64)
        ),
        "balanced_accuracy": _mean_of(
            [_recalls(right[:, k], truth[:, k], known[:, k]) for k in labels]
        ),
        "ece": _mean_of(
            [
                _gap_of_label(confidence[:, k], right[:, k], np.flatnonzero(known[:, k]))
                for k in labels
            ]
        ),
        "brier": lambda w: _divide(
            w @ errors.sum(axis=1), w @ known.sum(axis=1).astype(np.float64)
        ),
    }


def _mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """The mean over labels of those that are defined."""

    def statistic(weights: Array) -> Array:
        values = np.stack([each(weights) for each in statistics])
        defined = ~np.isnan(values)
        return _divide(np.nan_to_num(values).sum(axis=0), defined.sum(axis=0).astype(np.float64))

    return statistic


def _recalls(
    right: NDArray[np.bool_], truth: NDArray[np.bool_], known: NDArray[np.bool_]
) -> Statistic:
    """The mean of the shares of positives and of negatives that are told right."""

    def statistic(weights: Array) -> Array:
        sides = [known & truth, known & ~truth]
        found = [_divide(weights @ (right & side), weights @ side) for side in sides]
        return (found[0] + found[1]) / 2

    return statistic


def _gap_of_label(confidence: Array, right: NDArray[np.bool_], rows: Rows) -> Statistic:
    ties = _Ties(confidence[rows])
    values = right[rows].astype(np.float64)

    def statistic(weights: Array) -> Array:
        found = np.full(len(weights), np.nan)
        some = weights[:, rows].sum(axis=1) > 0
        if some.any():
            found[some] = _calibration_error(ties, values, weights[some][:, rows])
        return found

    return statistic


def _mean(values: Array, weights: Array) -> Array:
    return _divide(weights @ values, weights.sum(axis=1))


class _Ties:
    """The order of some values, with equal ones taken together."""

    def __init__(self, values: Array) -> None:
        self.values = values
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        fresh = np.append(True, ordered[1:] != ordered[:-1])
        self._starts = np.flatnonzero(fresh)
        self._group = np.cumsum(fresh) - 1  # (b,) of each value, in order

    def sums(self, weights: Array) -> Array:
        """(r, t) weight at each of the t different values, ascending."""
        found: Array = np.add.reduceat(weights[:, self.order], self._starts, axis=1)
        return found

    def spread(self, of_ties: Array) -> Array:
        """(r, b) what belongs to the value of each bag, in the order of the bags."""
        found = np.empty((len(of_ties), len(self.order)))
        found[:, self.order] = of_ties[:, self._group]
        return found

    def ranks(self, weights: Array) -> Array:
        """(r, b) mean ranks, from 0.5, if each bag were there as often as it weighs."""
        sums = self.sums(weights)
        return self.spread(sums.cumsum(axis=1) - sums / 2)


class _Curve:
    """Scores of one class against the rest."""

    def __init__(self, scores: Array, is_positive: NDArray[np.bool_]) -> None:
        self._ties = _Ties(scores)
        self._is_positive = is_positive

    def concordance(self, weights: Array) -> tuple[Array, Array]:
        """Pairs of a positive that scores above a negative, equal ones by half; all pairs."""
        positive = self._ties.sums(weights * self._is_positive)
        negative = self._ties.sums(weights * ~self._is_positive)
        below = negative.cumsum(axis=1) - negative / 2
        return (positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1)

    def precision(self, weights: Array) -> tuple[Array, Array]:
        """Precision at the threshold of each positive, summed; the positives."""
        positive = self._ties.sums(weights * self._is_positive)[:, ::-1]
        drawn = self._ties.sums(weights)[:, ::-1]
        precision = positive.cumsum(axis=1) / np.maximum(drawn.cumsum(axis=1), 1)
        # As for AUROC, there is nothing to tell apart without negatives.
        mixed = positive.sum(axis=1) < drawn.sum(axis=1)
        return (positive * precision).sum(axis=1) * mixed, positive.sum(axis=1) * mixed


def _calibration_error(confidence: _Ties, right: Array, weights: Array) -> Array:
    total = weights.sum(axis=1)
    # The middle of equal confidences decides: they never part, whatever the order of the bags.
    bins = (_BINS * confidence.ranks(weights) / total[:, None]).astype(np.int64)
    bins = np.minimum(bins, _BINS - 1) + _BINS * np.arange(len(weights))[:, None]
    gaps = np.bincount(
        bins.ravel(), (weights * (right - confidence.values)).ravel(), _BINS * len(weights)
    )
    return _divide(np.abs(gaps.reshape(-1, _BINS)).sum(axis=1), total)


# --- Regression --------------------------------------------------------------------------------


def _of_regression(
    targets: NDArray[Any],
    outputs: NDArray[np.floating[Any]],
    classes: Sequence[str],
    models: Models,
) -> Mapping[str, Statistic]:
    predicted = _checked("outputs", outputs, 1)
    values = _checked("targets", targets, 1)
    _check_length(values, predicted.shape)

    def r2(weights: Array) -> Array:
        mean = _mean(values, weights)
        spread = _mean_of_rows((values - mean[:, None]) ** 2, weights)
        return 1 - _divide(_mean((values - predicted) ** 2, weights), _or_zero(spread, values))

    def pearson(rows: Rows) -> Parts:
        x, y = values[rows], predicted[rows]
        return lambda w: _by_pairs(_correlation(x[None], y[None], w), w)

    def spearman(rows: Rows) -> Parts:
        x, y = _Ties(values[rows]), _Ties(predicted[rows])
        return lambda w: _by_pairs(_correlation(x.ranks(w), y.ranks(w), w), w)

    return {
        "mae": partial(_mean, np.abs(values - predicted)),
        "r2": r2,
        "pearson": _within(models, len(values), pearson),
        "spearman": _within(models, len(values), spearman),
    }


def _by_pairs(correlation: Array, weights: Array) -> tuple[Array, Array]:
    """A correlation times the pairs that it stands on, and these; none where it is undefined."""
    rows = weights.sum(axis=1)
    pairs = np.where(np.isnan(correlation), 0, rows * (rows - 1) / 2)
    return np.nan_to_num(correlation) * pairs, pairs


def _mean_of_rows(values: Array, weights: Array) -> Array:
    return _divide((weights * values).sum(axis=1), weights.sum(axis=1))


def _or_zero(variance: Array, values: Array) -> Array:
    """The variances, 0 where they are rounding errors."""
    scale = max(float(np.abs(values).max()), np.finfo(np.float64).tiny)
    return np.where(variance > (_ROUNDING * scale) ** 2, variance, 0.0)


def _correlation(x: Array, y: Array, weights: Array) -> Array:
    dx, dy = (v - _mean_of_rows(v, weights)[:, None] for v in (x, y))
    xx = _or_zero(_mean_of_rows(dx * dx, weights), x)
    yy = _or_zero(_mean_of_rows(dy * dy, weights), y)
    return _divide(_mean_of_rows(dx * dy, weights), np.sqrt(xx) * np.sqrt(yy))


# --- Survival ----------------------------------------------------------------------------------


def _of_survival(
    targets: NDArray[Any],
    outputs: NDArray[np.floating[Any]],
    classes: Sequence[str],
    models: Models,
) -> Mapping[str, Statistic]:
    risk = _checked("outputs", outputs, 1)
    known = _checked("targets", targets, 2)
    _check_length(known, (len(risk), 2))
    time, event = known.T
    if not np.isin(event, (0, 1)).all():
        raise ValueError(
            f"targets must have events 0 or 1 in column 1, got {event[~np.isin(event, (0, 1))][0]:g}"
        )

    def parts(rows: Rows) -> Parts:
        return partial(_c_index, risk[rows], time[rows], event[rows] > 0)

    return {"c_index": _within(models, len(risk), parts)}


def _c_index(
    risk: Array, time: Array, event: NDArray[np.bool_], weights: Array
) -> tuple[Array, Array]:
    concordant, comparable = np.zeros(len(weights)), np.zeros(len(weights))
    first = np.flatnonzero(event)
    step = max(1, PANEL // len(time))
    for start in range(0, len(first), step):
        i = first[start : start + step]
        # Observation that ended when the other's event happened went on longer.
        outlived = (time > time[i, None]) | ((time == time[i, None]) & ~event)
        order = np.sign(risk[i, None] - risk)
        own = weights[:, i]
        pairs = weights @ outlived.T.astype(np.float64)
        comparable += (own * pairs).sum(axis=1)
        concordant += (own * (pairs + weights @ (outlived * order).T)).sum(axis=1) / 2
    return concordant, comparable


# --- What comes in -----------------------------------------------------------------------------

STATISTICS: Mapping[str, Callable[..., Mapping[str, Statistic]]] = {
    "classification": _of_classification,
    "multilabel": _of_multilabel,
    "regression": _of_regression,
    "survival": _of_survival,
}


def _kind(array: Any) -> str:
    return array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__


def _checked(name: str, array: Any, ndim: int) -> Array:
    """Return a finite array of this rank in float64."""
    second = "2" if name == "targets" else "c"
    wanted = f"floating point of shape {'(b,)' if ndim == 1 else f'(b, {second})'}"
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"{name} must be {wanted}, got {_kind(array)}")
    if array.ndim != ndim or not len(array):
        raise ValueError(f"{name} must be {wanted} with b >= 1, got {array.shape}")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array).reshape(len(array), -1).all(axis=1)).sum())
        raise ValueError(f"{name} must be finite, got NaN or infinity for {bad} of {len(array)}")
    return array.astype(np.float64)


def _check_length(targets: NDArray[Any], shape: tuple[int, ...]) -> None:
    if targets.shape != shape:
        raise ValueError(f"targets must be of shape {shape} for these outputs, got {targets.shape}")
