"""How well features tell classes apart on groups that were not learnt from: the honest baseline of all scores.

Folds are by group; in each, other groups choose what there is to choose. Rows are compared only where one
fold's model scored both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from histofast.learning import (
    Fold,
    Metric,
    Task,
    corrected_interval,
    folds,
    metrics,
    metrics_of_models,
)
from histofast.transferability.given import Array, Features, Labels, Rows, given

STRENGTHS = (
    1e-3,
    1e-2,
    1e-1,
    1.0,
    10.0,
    100.0,
    1000.0,
)  # of the ridge, in units of the training rows
NEIGHBOURS = (1, 3, 5, 10, 20, 50, 100)

_ROUNDING = 1e-12  # of a column's size: what varies less is constant
_BLOCK = 1024  # rows whose neighbours are looked for at a time

Groups = Sequence[Any] | NDArray[Any] | None
Fit = Callable[
    [Array, Array, Array], Array
]  # training features, their classes, others -> (k, n, c)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Probe:
    """What a simple classifier on features reaches.

    Attributes:
        auroc, balanced_accuracy, accuracy: of all rows, each scored by the fold that did not learn from its
            group; intervals by bootstrap of groups, for these fitted models.
        auroc_of_folds: (n,) AUROC of each fold, NaN where its test rows are of one class.
        over_folds: their mean with the corrected interval, for the way of fitting.
        chosen: (n,) strength or number of neighbours that each fold's validation groups chose.
        outputs: (n, c) what was scored: rows sum to 1, classes in the order of their labels.
    """

    auroc: Metric
    balanced_accuracy: Metric
    accuracy: Metric
    auroc_of_folds: Array
    over_folds: Metric
    chosen: tuple[float, ...]
    outputs: Array


def linear_probe(
    features: Features,
    labels: Labels,
    *,
    groups: Groups = None,
    n: int = 5,
    seed: int = 0,
) -> Probe:
    """Cross-validate a ridge regression of the classes on the features.

    Columns are standardised by the training rows; the classes, as ones and zeros, are fitted by least
    squares with an unpenalised constant and a penalty of strength times rows times the squared
    coefficients. Of `STRENGTHS` the one with the least squared error on validation rows is taken.

    Args:
        features: (n, d) floating point, one row per picture.
        labels: (n,) integer classes.
        groups: (n,) patient or slide of each row, never on two sides; None: each row by itself, which
            flatters the features where pictures of one patient are alike.
        n: number of folds, >= 2.
        seed: of the folds and of the bootstrap.

    Raises:
        TypeError: features that are not floating point, labels that are not integers.
        ValueError: other shapes or lengths, NaN or infinity, under two classes, a class with fewer groups
            than folds.

    Determinism: by the seed; the last bits may depend on the BLAS library and its threads.
    """
    return _probe(features, labels, groups, n=n, seed=seed, choices=STRENGTHS, fit=_ridges)


def knn_probe(
    features: Features,
    labels: Labels,
    *,
    groups: Groups = None,
    n: int = 5,
    seed: int = 0,
) -> Probe:
    """Cross-validate the vote of the nearest neighbours.

    A row is scored by the shares of the classes among the k training rows of the highest cosine, after the
    mean of the training rows was taken off. Of `NEIGHBOURS` the k with the least squared error on
    validation rows is taken. The work grows with the square of the rows: 10,000 take seconds.

    Args, Raises, Determinism: as `linear_probe`.
    """
    return _probe(features, labels, groups, n=n, seed=seed, choices=NEIGHBOURS, fit=_votes)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Labelled:
    """What `folds` deals."""

    targets: Rows
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    group_kind: str
    task: Task = "classification"
    has_targets: bool = True

    @property
    def splits(self) -> tuple[str, ...]:
        return ("",) * len(self.groups)

    def part(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> Self:
        return type(self)(
            targets=self.targets[np.asarray(rows)],
            classes=self.classes,
            groups=tuple(self.groups[i] for i in rows),
            group_kind=self.group_kind,
        )


def _probe(
    features: Features,
    labels: Labels,
    groups: Groups,
    *,
    n: int,
    seed: int,
    choices: Sequence[float],
    fit: Fit,
) -> Probe:
    rows = given(features, labels)
    count = len(labels)
    if groups is not None and len(groups) != count:
        raise ValueError(f"groups must be {count}, one for each row, got {len(groups)}")
    told = range(count) if groups is None else groups
    labelled = _Labelled(
        targets=rows.class_of,
        classes=tuple(map(str, np.unique(labels))),
        groups=tuple(map(str, told)),
        group_kind="row" if groups is None else "group",
    )
    truth = rows.one_hot(slice(None))
    values = features * np.float64(rows.scale)
    outputs = np.full(truth.shape, np.nan)
    model_of = np.zeros(count, np.int64)
    chosen = []
    for i, fold in enumerate(folds(labelled, n=n, seed=seed)):
        outputs[fold.test], at = _predicted(values, truth, fold, fit)
        model_of[fold.test] = i
        chosen.append(choices[at])
    found = metrics(
        "classification", rows.class_of, outputs, groups=labelled.groups, models=model_of, seed=seed
    )
    each = metrics_of_models("classification", rows.class_of, outputs, models=model_of)["auroc"]
    return Probe(
        auroc=found["auroc"],
        balanced_accuracy=found["balanced_accuracy"],
        accuracy=found["accuracy"],
        auroc_of_folds=each,
        over_folds=corrected_interval(each, test_share=1 / n, of="auroc"),
        chosen=tuple(map(float, chosen)),
        outputs=outputs,
    )


def _predicted(values: Array, truth: Array, fold: Fold, fit: Fit) -> tuple[Array, int]:
    """Return (rows, c) outputs for the test rows, and which choice validation preferred."""
    others = np.concatenate([fold.validation, fold.test])
    found = fit(values[fold.train], truth[fold.train], values[others])  # (k, rows, c)
    m = len(fold.validation)
    errors = ((found[:, :m] - truth[fold.validation]) ** 2).mean(axis=(1, 2))
    at = int(errors.argmin())
    return _as_shares(found[at, m:]), at


def _as_shares(scores: Array) -> Array:
    """Return scores whose rows sum to 1 without negative ones; the order in each column stays."""
    low = min(float(scores.min()), 0.0)
    shares: Array = (scores - low) / (1 - scores.shape[1] * low)
    return shares


def _ridges(train: Array, truth: Array, others: Array) -> Array:
    """Return the outputs for `others` at each of `STRENGTHS`."""
    means, spread = train.mean(axis=0), train.std(axis=0)
    spread[spread <= _ROUNDING * np.abs(train).max(axis=0)] = np.inf
    x, z = (train - means) / spread, (others - means) / spread
    level = truth.mean(axis=0)
    y = truth - level
    n, d = x.shape
    if n > d:
        values, vectors = np.linalg.eigh(x.T @ x)
        left, right = z @ vectors, vectors.T @ (x.T @ y)
    else:
        values, vectors = np.linalg.eigh(x @ x.T)
        left, right = z @ (x.T @ vectors), vectors.T @ y
    values = np.maximum(values, 0)
    return np.stack([level + left @ (right / (values + s * n)[:, None]) for s in STRENGTHS])


def _votes(train: Array, truth: Array, others: Array) -> Array:
    """Return the outputs for `others` at each of `NEIGHBOURS`, at most all training rows."""
    means = train.mean(axis=0)
    x, z = _directions(train - means), _directions(others - means)
    most = min(NEIGHBOURS[-1], len(x))
    found = np.empty((len(NEIGHBOURS), len(z), truth.shape[1]))
    for start in range(0, len(z), _BLOCK):
        rows = slice(start, start + _BLOCK)
        cosines = z[rows] @ x.T
        near = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
        order = np.argsort(-np.take_along_axis(cosines, near, axis=1), axis=1, kind="stable")
        votes = truth[np.take_along_axis(near, order, axis=1)].cumsum(axis=1)  # (rows, most, c)
        for i, k in enumerate(NEIGHBOURS):
            found[i, rows] = votes[:, min(k, most) - 1] / min(k, most)
    return found


def _directions(values: Array) -> Array:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1)
