"""Gradients of an output by a layer and directions in it, how the output moves along them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._numbers import whole_number

Float = NDArray[np.float64]

RANDOM_DIRECTIONS = 1_000
_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sensitivity:
    """How one output moves along k directions, over n pictures.

    Attributes:
        mean, deviation: (k,) of the derivative along each direction, a unit vector.
        tcav: (k,) share of pictures whose derivative is above 0.
        random_low, random_high: the middle 95 % of that share of random directions.
        p: (k,) how often a random direction's share is as far from 1/2: (1 + count) / (1 + draws).
        relevance: (k,) Br = R2 x mean / deviation; NaN where the derivative is the same everywhere.
    """

    mean: Float
    deviation: Float
    tcav: Float
    random_low: float
    random_high: float
    p: Float
    relevance: Float


def sensitivity(
    gradients: NDArray[np.floating[Any]],
    directions: Float,
    *,
    r2: Float,
    spread: Float,
    draws: int = RANDOM_DIRECTIONS,
    seed: int = 0,
) -> Sensitivity:
    """Measure how an output moves along directions, against random ones.

    Args:
        gradients: (n, d) of the output by the features; of a map, summed over its places: every place
            moves along.
        directions: (k, d) unit vectors.
        r2: (k,) of the concepts, for Br.
        spread: (d,) standard deviations of the features: random directions are normal in units of it.
        draws: random directions.
        seed: of them.

    Raises:
        TypeError, ValueError: draws that are no whole number of at least 1.

    Reference: Kim et al., 2018, ICML (TCAV); Graziani et al., 2018, iMIMIC (Br).
    """
    draws = whole_number("draws", draws, at_least=1)
    rng = np.random.default_rng([seed, 3])
    along = gradients.astype(np.float64) @ directions.T  # (n, k)
    tcav = (along > 0).mean(axis=0)
    scaled = (gradients * spread).astype(np.float32)
    by_chance = np.concatenate(
        [
            (
                scaled @ rng.normal(size=(len(spread), min(_AT_ONCE, draws - k))).astype(np.float32)
                > 0
            ).mean(axis=0)
            for k in range(0, draws, _AT_ONCE)
        ]
    )
    as_far = np.abs(by_chance - 0.5)[:, np.newaxis] >= np.abs(tcav - 0.5) - 1e-12
    mean, deviation = along.mean(axis=0), along.std(axis=0)
    varies = deviation > 1e-9 * np.abs(mean)
    low, high = np.percentile(by_chance, [2.5, 97.5])
    return Sensitivity(
        mean=mean,
        deviation=deviation,
        tcav=tcav,
        random_low=float(low),
        random_high=float(high),
        p=(1 + as_far.sum(axis=0)) / (1 + draws),
        relevance=np.where(varies, r2 * mean / np.where(varies, deviation, 1.0), np.nan),
    )
