"""Features and concepts in, how well the one tells the other out: ridge regression, nested by group.

Groups (patients, else slides) are dealt to folds. Each fold is predicted by a model of the others, whose
penalty is chosen by leaving out one of these after the other. All sums are taken once, fold by fold, and
subtracted: a model of all but two folds serves both. Features are standardised by the training part.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from histofast._arrays import check
from histofast._numbers import whole_number
from histofast._stopping import stop_if_asked
from histofast.learning import LEAST_GROUPS

Float = NDArray[np.float64]
Rows = NDArray[np.int64]

PENALTIES = tuple(10.0**k for k in range(-1, 8))
CONFIDENCE = 0.95
_CONSTANT = 1e-12  # share of a variance that rounding may leave


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Regression:
    """How well features tell k concepts.

    Attributes:
        r2: (k,) held out: 1 - squared errors / squared differences from the mean of the training part.
        low, high: (k,) bounds of its 95 % interval over groups, the models fixed; NaN with fewer than 5.
        permuted: (draws, k) the same of concepts that were shuffled, within groups where there are any.
        in_sample: (k,) R2 of least squares on the very rows it was fitted to: near 1 with many features,
            whatever they are.
        penalties: (k,) chosen on all folds, for the directions.
        filters: (k, d) unit vectors of the model of all rows: what predicts the concept.
        patterns: (k, d) unit vectors along cov(features, concept): how features move with the concept.
        spread: (d,) standard deviations of the features.
        errors, totals: (g, k) squared errors, and squared differences from that mean, of each group in the order
            of their names: what `r2` is made of, for differences of two regressions on the same rows.
        d, n, groups, folds: of them.
    """

    r2: Float
    low: Float
    high: Float
    permuted: Float
    in_sample: Float
    penalties: Float
    filters: Float
    patterns: Float
    spread: Float
    errors: Float
    totals: Float
    d: int
    n: int
    groups: int
    folds: int

    @property
    def p(self) -> Float:
        """(k,) share of shuffles that are told as well: (1 + count) / (1 + draws)."""
        p: Float = (1 + (self.permuted >= self.r2).sum(axis=0)) / (1 + len(self.permuted))
        return p


def deal(groups: Sequence[str] | NDArray[Any], *, folds: int, seed: int) -> Rows:
    """Return the fold of each row: groups stay whole, the large ones first to the emptiest fold.

    Raises:
        ValueError: fewer than 3 folds, or fewer groups than folds.
    """
    folds = whole_number("folds", folds, at_least=3)
    names, group_of = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < folds:
        raise ValueError(f"folds must be at most the number of groups, {len(names)}, got {folds}")
    sizes = np.bincount(group_of)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    load = np.zeros(folds, np.int64)
    fold_of = np.zeros(len(names), np.int64)
    for group in order:
        fold_of[group] = load.argmin()
        load[fold_of[group]] += sizes[group]
    dealt: Rows = fold_of[group_of]
    return dealt


def regress(
    features: NDArray[np.floating[Any]],
    concepts: Float,
    *,
    groups: Sequence[str] | NDArray[Any],
    folds: int = 5,
    penalties: Sequence[float] = PENALTIES,
    permutations: int = 20,
    draws: int = 1000,
    seed: int = 0,
) -> Regression:
    """Regress concepts on features, and say what is left on groups that trained nothing.

    Args:
        features: (n, d) floating point.
        concepts: (n, k) float64.
        groups: (n) whose each row is; where all differ, rows are shuffled over all of them.
        folds: at least 3.
        penalties: of ridge regression, each above 0; of standardised features, as a sum over rows.
        permutations: of the null.
        draws: of groups, for the interval.
        seed: of the dealing, the shuffles and the draws.

    Raises:
        TypeError: arrays of another type.
        ValueError: arrays that do not agree or are not finite, a concept that is constant, fewer groups
            than folds, or a parameter out of range.
        Interrupted: asked to stop.

    Reference: Haufe et al., 2014, NeuroImage 87 (patterns).
    """
    n, d, k = _check(features, concepts, groups)
    permutations = whole_number("permutations", permutations, at_least=0)
    draws = whole_number("draws", draws, at_least=1)
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"penalties must be at least one, each above 0, got {tuple(penalties)}")
    fold_of = deal(groups, folds=folds, seed=seed)
    group_of = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    rng = np.random.default_rng([seed, 1])
    shuffled = [concepts[_shuffle(group_of, rng)] for _ in range(permutations)]
    targets = np.concatenate([concepts, *shuffled], axis=1)
    nested = _Nested(features, targets, fold_of, penalties)
    errors, totals = nested.held_out()
    summed = 1 - errors.sum(axis=0) / totals.sum(axis=0)
    errors, totals = (_by_group(each[:, :k], group_of) for each in (errors, totals))
    low, high = _interval(errors, totals, draws, seed)
    chosen, filters, patterns, in_sample = nested.whole(k)
    return Regression(
        r2=summed[:k],
        low=low,
        high=high,
        permuted=summed[k:].reshape(permutations, k),
        in_sample=in_sample,
        penalties=chosen,
        filters=filters,
        patterns=patterns,
        spread=features.std(axis=0, dtype=np.float64),
        errors=errors,
        totals=totals,
        d=d,
        n=n,
        groups=int(group_of.max()) + 1,
        folds=folds,
    )


def _check(features: Any, concepts: Any, groups: Any) -> tuple[int, int, int]:
    n, d = check("features", features, ("float32", "float64"), ("n", "d"), contiguous=False)
    k = check("concepts", concepts, "float64", (n, "k"), contiguous=False)[0]
    if d == 0 or k == 0:
        raise ValueError(f"features and concepts must have columns, got {d} and {k}")
    if len(groups) != n:
        raise ValueError(f"groups must be {n}, one for each row, got {len(groups)}")
    for name, values in (("features", features), ("concepts", concepts)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    constant = np.flatnonzero(is_constant(concepts))
    if constant.size:
        value = concepts[0, constant[0]] if n else 0.0
        raise ValueError(
            f"concepts must vary, got {value:g} in all rows of column {constant[0]}: leave it out"
        )
    return n, d, k


def is_constant(concepts: Float) -> NDArray[np.bool_]:
    """(k,) whether a concept is the same everywhere, but for rounding."""
    if not len(concepts):
        return np.ones(concepts.shape[1], np.bool_)
    constant: NDArray[np.bool_] = np.ptp(concepts, axis=0) <= _CONSTANT * np.abs(concepts).max(0)
    return constant


def _shuffle(group_of: Rows, rng: np.random.Generator) -> Rows:
    """Return rows in an order that leaves groups in their places; of groups of one, any order."""
    n = len(group_of)
    if group_of.max() + 1 == n:
        return rng.permutation(n)
    order = np.empty(n, np.int64)
    order[np.argsort(group_of, kind="stable")] = np.lexsort((rng.random(n), group_of))
    return order


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """What is added up over rows: count, features, targets, and their products."""

    n: int
    x: Float  # (d,)
    y: Float  # (t,)
    xx: Float  # (d, d)
    xy: Float  # (d, t)
    yy: Float  # (t,)

    def plus(self, other: _Sums, times: int = 1) -> _Sums:
        return _Sums(
            self.n + times * other.n,
            self.x + times * other.x,
            self.y + times * other.y,
            self.xx + times * other.xx,
            self.xy + times * other.xy,
            self.yy + times * other.yy,
        )

    def less(self, other: _Sums) -> _Sums:
        return self.plus(other, -1)


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """A centred problem of standardised features: correlations, and what they are to be solved for."""

    mean_x: Float
    mean_y: Float
    scale: Float
    gram: Float
    right: Float

    @classmethod
    def of(cls, sums: _Sums) -> _Model:
        mean_x, mean_y = sums.x / sums.n, sums.y / sums.n
        gram = sums.xx - np.outer(sums.x, mean_x)
        variance = np.diag(gram) / sums.n
        varies = variance > _CONSTANT * np.maximum(np.diag(sums.xx) / sums.n, 1e-300)
        scale = np.where(varies, np.sqrt(np.where(varies, variance, 1.0)), np.inf)
        gram /= scale
        gram /= scale[:, np.newaxis]
        right = (sums.xy - np.outer(sums.x, mean_y)) / scale[:, np.newaxis]
        return cls(mean_x, mean_y, scale, gram, right)

    def solve(self, penalty: float) -> Float:
        """Return (d, t) coefficients of the features as they are."""
        system = self.gram.copy()
        system[np.diag_indices_from(system)] += penalty
        factor = linalg.cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
        found: Float = linalg.cho_solve(factor, self.right, check_finite=False)
        return found / self.scale[:, np.newaxis]


class _Nested:
    """Sums of each fold, and the models of all but one and all but two of them."""

    def __init__(
        self, features: NDArray[Any], targets: Float, fold_of: Rows, penalties: Sequence[float]
    ) -> None:
        # Only so that sums lose no digits: the models standardise by their own part.
        self._mean = features.mean(axis=0, dtype=np.float64)
        spread = features.std(axis=0, dtype=np.float64)
        self._scale = np.where(spread > 0, spread, 1.0)
        self._level = targets.mean(axis=0)
        self._unit = targets.std(axis=0)
        self._features, self._targets = features, targets
        self._rows = [np.flatnonzero(fold_of == f) for f in range(int(fold_of.max()) + 1)]
        self._penalties = tuple(penalties)
        self._sums = [self._sums_of(*self._part(rows)) for rows in self._rows]
        self._total = functools.reduce(_Sums.plus, self._sums)

    def _part(self, rows: Rows) -> tuple[Float, Float]:
        x = (self._features[rows] - self._mean) / self._scale
        return x, (self._targets[rows] - self._level) / self._unit

    @staticmethod
    def _sums_of(x: Float, y: Float) -> _Sums:
        return _Sums(
            len(x), x.sum(axis=0), y.sum(axis=0), x.T @ x, x.T @ y, np.einsum("nt,nt->t", y, y)
        )

    def held_out(self) -> tuple[Float, Float]:
        """Return (n, t) squared errors of each row's prediction, and of the training part's mean."""
        folds, t = len(self._rows), self._targets.shape[1]
        inner = np.zeros((folds, len(self._penalties), t))
        for f, g in itertools.combinations(range(folds), 2):
            stop_if_asked()
            model = _Model.of(self._total.less(self._sums[f]).less(self._sums[g]))
            for p, penalty in enumerate(self._penalties):
                weights = model.solve(penalty)
                inner[f, p] += _errors(self._sums[g], model, weights)
                inner[g, p] += _errors(self._sums[f], model, weights)
        errors, totals = np.empty_like(self._targets), np.empty_like(self._targets)
        self._outer = np.zeros((len(self._penalties), t))
        for f, rows in enumerate(self._rows):
            stop_if_asked()
            model = _Model.of(self._total.less(self._sums[f]))
            chosen, weights = inner[f].argmin(axis=0), np.empty((len(self._mean), t))
            for p, penalty in enumerate(self._penalties):
                found = model.solve(penalty)
                weights[:, chosen == p] = found[:, chosen == p]
                self._outer[p] += _errors(self._sums[f], model, found)
            x, y = self._part(rows)
            apart = y - model.mean_y
            errors[rows] = (apart - (x - model.mean_x) @ weights) ** 2
            totals[rows] = apart**2
        return errors, totals

    def whole(self, k: int) -> tuple[Float, Float, Float, Float]:
        """Return penalties, filters, patterns and R2 in sample of the first k targets, of all rows."""
        model = _Model.of(self._total)
        chosen = self._outer[:, :k].argmin(axis=0)
        filters = np.empty((k, len(self._mean)))
        for p in np.unique(chosen):
            weights = model.solve(self._penalties[p])[:, :k] / self._scale[:, np.newaxis]
            filters[chosen == p] = weights.T[chosen == p]
        right = model.right[:, :k]
        patterns = (right * np.where(np.isfinite(model.scale), model.scale, 0)[:, np.newaxis]).T
        patterns = patterns * self._scale
        values, vectors = np.linalg.eigh(model.gram)
        kept = values > max(model.gram.shape) * np.finfo(float).eps * values[-1]
        along = vectors[:, kept].T @ right
        varied = self._total.yy[:k] - self._total.y[:k] ** 2 / self._total.n
        in_sample = (along**2 / values[kept, np.newaxis]).sum(axis=0) / varied
        penalties = np.array(self._penalties)[chosen]
        return penalties, _units(filters), _units(patterns), np.minimum(in_sample, 1.0)


def _errors(sums: _Sums, model: _Model, weights: Float) -> Float:
    """Return (t,) squared errors on the rows of the sums, of targets less their mean and prediction."""
    mean_x, mean_y = model.mean_x, model.mean_y
    yy = sums.yy - 2 * mean_y * sums.y + sums.n * mean_y**2
    at_mean = mean_x @ weights  # (t,)
    of_x = sums.x @ weights
    xy = np.einsum("dt,dt->t", sums.xy, weights) - at_mean * sums.y
    xy -= mean_y * (of_x - sums.n * at_mean)
    xx = np.einsum("dt,dt->t", sums.xx @ weights, weights)
    xx += at_mean * (sums.n * at_mean - 2 * of_x)
    errors: Float = yy - 2 * xy + xx
    return errors


def _units(vectors: Float) -> Float:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)


def _by_group(values: Float, group_of: Rows) -> Float:
    """Return (g, k) sums of rows."""
    found = np.zeros((int(group_of.max()) + 1, values.shape[1]))
    np.add.at(found, group_of, values)
    return found


def _interval(errors: Float, totals: Float, draws: int, seed: int) -> tuple[Float, Float]:
    """Return bounds of R2 over draws of groups, of sums (g, k) of each."""
    count, k = errors.shape
    if count < LEAST_GROUPS:
        return np.full(k, np.nan), np.full(k, np.nan)
    rng = np.random.default_rng([seed, 2])
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
    r2 = 1 - (drawn @ errors) / (drawn @ totals)
    half = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(r2, [half, 100 - half], axis=0)
    return low, high
