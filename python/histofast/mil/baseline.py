"""What attention has to beat: the mean of a slide's features, and logistic regression."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from histofast.learning import Fold
from histofast.mil.bags import Bags

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of scikit-learn; validation bags choose


def mean_features(bags: Bags) -> NDArray[np.float64]:
    """Return (b, d) means over the patches of each bag."""
    return np.stack([bags.read(i).mean(axis=0, dtype=np.float64) for i in range(len(bags))])


def mean_pooling(bags: Bags, folds: Sequence[Fold]) -> NDArray[np.float64]:
    """Predict each fold's test bags by logistic regression on mean features.

    Features are standardised and the regression fitted, with balanced classes, on training bags;
    validation bags choose its strength, as they choose the epoch of an attention model.

    Args:
        bags: with classes as targets.
        folds: of `folds`.

    Returns:
        (b, c) probabilities, NaN for bags that no fold tests.

    Raises:
        ValueError: bags of another task.

    Determinism: bitwise on one machine.
    """
    if bags.task != "classification":
        raise ValueError(f"bags must have classes as targets, got the task {bags.task}")
    features = mean_features(bags)
    out = np.full((len(bags), len(bags.classes)), np.nan)
    for fold in folds:
        scaler = StandardScaler().fit(features[fold.train])
        x = scaler.transform(features)
        fitted = []
        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
            with warnings.catch_warnings():
                # A fit that has not come to its end is still a fit: validation decides on it.
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(x[fold.train], bags.targets[fold.train])
            loss = log_loss(
                bags.targets[fold.validation],
                model.predict_proba(x[fold.validation]),
                labels=model.classes_,
            )
            fitted.append((loss, strength, model))
        _, _, best = min(fitted, key=lambda entry: entry[:2])
        out[np.ix_(fold.test, best.classes_)] = best.predict_proba(x[fold.test])
    return out
