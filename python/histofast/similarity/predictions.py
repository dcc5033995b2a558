"""How alike the predictions of two classifiers are.

Predictions are (n, c) floating point scores, of which the largest (the first of equal ones) is the
predicted class, or (n,) integers, the classes themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.similarity.matrix import Features, check_features

Predictions = NDArray[Any]  # floating point scores or integer classes


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionAgreement:
    """How often two classifiers are both right or both wrong.

    Attributes:
        observed: share of the samples.
        chance: what classifiers of these accuracies reach whose errors are independent.
        accuracy_a, accuracy_b: shares of right predictions.
    """

    observed: float
    chance: float
    accuracy_a: float
    accuracy_b: float


def prediction_agreement(
    a: Predictions, b: Predictions, labels: NDArray[np.integer[Any]]
) -> PredictionAgreement:
    """Return the share of samples on which both classifiers are right or both are wrong.

    Args:
        a: (n, c) scores or (n,) classes.
        b: the same of another classifier; the samples in the same order.
        labels: (n,) true classes.

    Raises:
        TypeError: scores that are not floating point, classes that are not integers.
        ValueError: no samples, different numbers of samples or classes, NaN or infinity, negative
            classes, a label that has no score.

    Example:
        >>> found = prediction_agreement(np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([0, 1, 1]))
        >>> round(found.observed, 3), round(found.chance, 3)
        (0.667, 0.667)
    """
    classes_a, classes_b = _two_classes(a, b)
    _check_classes("labels", labels)
    if len(labels) != len(classes_a):
        raise ValueError(
            f"labels must have one class per sample, got {len(labels)} for {len(classes_a)}"
        )
    for scores in (a, b):
        if scores.ndim == 2 and labels.max() >= scores.shape[1]:
            raise ValueError(
                f"labels must be below the {scores.shape[1]} classes that have scores, "
                f"got {labels.max()}"
            )
    right_a, right_b = classes_a == labels, classes_b == labels
    accuracy_a, accuracy_b = float(right_a.mean()), float(right_b.mean())
    return PredictionAgreement(
        observed=float((right_a == right_b).mean()),
        chance=accuracy_a * accuracy_b + (1 - accuracy_a) * (1 - accuracy_b),
        accuracy_a=accuracy_a,
        accuracy_b=accuracy_b,
    )


def error_consistency(a: Predictions, b: Predictions, labels: NDArray[np.integer[Any]]) -> float:
    """Return Cohen's kappa of being right: (observed - chance) / (1 - chance) of the agreement.

    1 when both err on the same samples, 0 when their errors are independent.

    Args:
        a: (n, c) scores or (n,) classes.
        b: the same of another classifier; the samples in the same order.
        labels: (n,) true classes.

    Raises:
        TypeError: as `prediction_agreement`.
        ValueError: as `prediction_agreement`; both always right or both always wrong.

    Reference: Geirhos, Meding, Wichmann, 2020, Beyond accuracy: quantifying trial-by-trial behaviour
    of CNNs and humans by measuring error consistency.

    Example:
        >>> error_consistency(np.array([0, 1, 1]), np.array([0, 1, 1]), np.array([0, 1, 0]))
        1.0
    """
    found = prediction_agreement(a, b, labels)
    if found.accuracy_a == found.accuracy_b and found.accuracy_a in (0, 1):
        always = "right" if found.accuracy_a else "wrong"
        raise ValueError(
            f"a and b must be right on some samples and wrong on others, got both always {always}: "
            "error consistency is undefined"
        )
    return (found.observed - found.chance) / (1 - found.chance)


def js_divergence(a: Features, b: Features) -> float:
    """Return the mean Jensen-Shannon divergence of the class probabilities, in bits.

    Args:
        a: (n, c) probabilities; rows sum to 1.
        b: (n, c) those of another classifier; the samples in the same order.

    Returns:
        0 for equal probabilities, 1 for ones that share no class.

    Raises:
        TypeError: not arrays of floating point numbers.
        ValueError: other shapes, no samples, NaN or infinity, negative numbers, rows that do not
            sum to 1 within 0.01.

    Reference: Lin, 1991, Divergence measures based on the Shannon entropy.

    Example:
        >>> js_divergence(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
        1.0
    """
    probabilities = []
    for name, values in (("a", a), ("b", b)):
        check_features(name, values, min_rows=1)
        if values.min() < 0:
            raise ValueError(f"{name} must be probabilities, got {values.min()}: apply softmax")
        sums = values.sum(axis=1, dtype=np.float64)
        worst = sums[np.abs(sums - 1).argmax()]
        if abs(worst - 1) > 0.01:
            raise ValueError(
                f"{name} must be probabilities, got a row that sums to {worst:.6g}: apply softmax"
            )
        probabilities.append(values.astype(np.float64) / sums[:, None])
    if a.shape != b.shape:
        raise ValueError(f"a and b must have the same shape, got {a.shape} and {b.shape}")
    mixture = (probabilities[0] + probabilities[1]) / 2
    divergence = np.zeros(len(a))
    for values in probabilities:
        ratio = np.divide(values, mixture, out=np.ones_like(values), where=values > 0)
        divergence += (values * np.log2(ratio)).sum(axis=1) / 2
    return float(np.maximum(divergence, 0).mean())


def top1_disagreement(a: Predictions, b: Predictions) -> float:
    """Return the share of samples that two classifiers put into different classes.

    Args:
        a: (n, c) scores or (n,) classes.
        b: the same of another classifier; the samples in the same order.

    Raises:
        TypeError: scores that are not floating point, classes that are not integers.
        ValueError: no samples, different numbers of samples or classes, NaN or infinity, negative
            classes.

    Example:
        >>> top1_disagreement(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]))
        0.25
    """
    classes_a, classes_b = _two_classes(a, b)
    return float((classes_a != classes_b).mean())


def _two_classes(
    a: Predictions, b: Predictions
) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
    classes = []
    for name, values in (("a", a), ("b", b)):
        if isinstance(values, np.ndarray) and values.ndim == 2:
            check_features(name, values, min_rows=1)
            classes.append(values.argmax(axis=1))
        else:
            _check_classes(name, values)
            classes.append(values)
    if len(a) != len(b):
        raise ValueError(f"a and b must have the same samples, got {len(a)} and {len(b)}")
    if a.ndim == b.ndim == 2 and a.shape != b.shape:
        raise ValueError(f"a and b must have the same classes, got {a.shape[1]} and {b.shape[1]}")
    return classes[0], classes[1]


def _check_classes(name: str, classes: Any) -> None:
    if not isinstance(classes, np.ndarray) or not np.issubdtype(classes.dtype, np.integer):
        got = classes.dtype.name if isinstance(classes, np.ndarray) else type(classes).__name__
        raise TypeError(f"{name} must be integer classes (n,), got {got}")
    if classes.ndim != 1:
        raise ValueError(f"{name} must be of shape (n,), got {classes.shape}")
    if len(classes) == 0:
        raise ValueError(f"{name} must have at least 1 sample, got none")
    if classes.min() < 0:
        raise ValueError(f"{name} must be classes from 0, got {classes.min()}")
