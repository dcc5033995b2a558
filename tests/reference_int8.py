"""Plain NumPy definitions of how products become integers, and of the smoothing before."""

from __future__ import annotations

import numpy as np

STRENGTHS = (0.5, 0.625, 0.75, 0.875)


def rounded_rows(x):
    """The activations (t, c) of one patch, as 256 levels over their range have them; 0 is a level."""
    low, high = min(0.0, x.min()), max(0.0, x.max())
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return (np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step


def rounded_columns(weight):
    """Weights (c, d) in -127..127 steps of their column's largest."""
    step = np.abs(weight).max(axis=0) / 127
    return np.rint(weight / step) * step


def factors_of(patches, weight, strength):
    """(c,) of geometric mean 1: activations are divided by them, rows of weights are multiplied.

    `patches` are (t, c) each. A channel of large activations and small weights is shrunk. Channels
    below a tenth of the mean channel are not looked at closer.
    """
    reach = np.max([np.abs(x).max(axis=0) for x in patches], axis=0)
    rows = np.abs(weight).max(axis=1)
    reach = np.maximum(reach, 0.1 * reach.mean())
    rows = np.maximum(rows, 0.1 * rows.mean())
    factors = reach**strength / rows ** (1 - strength)
    return factors / np.exp(np.log(factors).mean())


def expected_error(patches, weight, factors):
    """Mean squared error of a row of `x @ weight`, summed over its columns.

    Each value that is rounded is off by something independent and even over a step: step**2 / 12.
    """
    errors = []
    weight = weight * factors[:, None]
    for x in patches:
        x = x / factors
        step = (max(0.0, x.max()) - min(0.0, x.min())) / 255
        steps = np.abs(weight).max(axis=0) / 127
        for row in x:
            of_activations = step**2 / 12 * (weight**2).sum()
            of_weights = (steps**2).sum() / 12 * (row**2).sum()
            errors.append(of_activations + of_weights)
    return np.mean(errors)
