"""Maps of pictures in; what they are worth out, a number for each picture, and means with intervals.

A *source* is anything with a value for each place of a picture: a class activation map, or what it is held
against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.explain.maps import ranks
from histofast.learning import LEAST_GROUPS, Metric

Maps = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]
Predict = Callable[[Pixels], NDArray[np.float64]]

STEPS = 8
_RESAMPLES = 2000


def spread(maps: Maps, shape: tuple[int, int]) -> Maps:
    """Return (..., h, w) values as (..., *shape) pixels, each that of the place it lies in."""
    rows, columns = (
        np.arange(side) * places // side
        for side, places in zip(shape, maps.shape[-2:], strict=True)
    )
    found: Maps = maps[..., rows[:, np.newaxis], columns]
    return found


def mass_shares(maps: Maps, masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return which share of each map lies on its mask.

    Args:
        maps: (n, h, w), not below 0.
        masks: (n, H, W) bool, finer than the maps.

    Returns:
        (n,) float64, 0..1; NaN for a map that is 0 everywhere.

    Raises:
        ValueError: arrays that do not agree, values below 0.
    """
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks):
        raise ValueError(
            f"masks must be (n, H, W) as maps are (n, h, w), got {masks.shape} and {maps.shape}"
        )
    if maps.size and maps.min() < 0:
        raise ValueError(f"maps must not be below 0, got {maps.min():g}")
    found = np.full(len(maps), np.nan)
    for i, (values, mask) in enumerate(zip(maps, masks, strict=True)):
        large = spread(values, mask.shape).astype(np.float64)
        if large.sum() > 0:
            found[i] = large[mask].sum() / large.sum()
    return found


def rank_correlations(maps: Maps, others: Maps) -> NDArray[np.float64]:
    """Return Spearman's correlation of the places of each map with another one of the same picture.

    Args:
        maps, others: (n, h, w).

    Returns:
        (n,) float64; NaN where one of the two is the same everywhere.
    """
    if maps.shape != others.shape:
        raise ValueError(f"others must be {maps.shape} as maps are, got {others.shape}")
    one, other = _ranks(maps), _ranks(others)
    one -= one.mean(1, keepdims=True)
    other -= other.mean(1, keepdims=True)
    below = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    found: NDArray[np.float64] = np.divide(
        (one * other).sum(1), below, out=np.full(len(maps), np.nan), where=below > 0
    )
    return found


def _ranks(maps: Maps) -> NDArray[np.float64]:
    """Return (n, places) the rank of each place in its map."""
    found = np.empty((len(maps), math.prod(maps.shape[1:])))
    for i, values in enumerate(maps):
        found[i] = ranks(values.ravel())
    return found


def curve(
    predict: Predict, pixels: Pixels, maps: Maps, *, insert: bool, steps: int = STEPS, seed: int = 0
) -> NDArray[np.float64]:
    """Return what a network says as the highest places of pictures are blanked, or shown, step by step.

    What is blank has the mean colour of its picture. Places of equal value come in random order.

    Args:
        predict: of (n, h, w, 3) uint8 the probabilities (n,) that the maps are for.
        pixels: (n, H, W, 3) uint8.
        maps: (n, h, w) coarser than the pixels.
        insert: begin with blank pictures and show the highest places first; else begin with whole ones
            and blank these.
        steps: after the first value; each is as many places more, as evenly as can be.
        seed: of the order of equal values.

    Returns:
        (n, steps + 1) float64 probabilities.

    Reference: Petsiuk, Das, Saenko, 2018, RISE, section 3.2; Samek et al., 2017 (most relevant first).
    """
    n, h, w = maps.shape
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(h * w), (n, 1)), axis=1)
    flat = np.take_along_axis(maps.reshape(n, -1), order, axis=1)
    order = np.take_along_axis(order, np.argsort(-flat, axis=1, kind="stable"), axis=1)
    place = np.empty_like(order)  # of each cell, from the highest
    np.put_along_axis(place, order, np.tile(np.arange(h * w), (n, 1)), axis=1)
    place = spread(place.reshape(n, h, w), pixels.shape[1:3])
    blank = np.rint(pixels.mean((1, 2), keepdims=True)).astype(np.uint8)
    found = np.empty((n, steps + 1))
    for step in range(steps + 1):
        taken = place < round(step * h * w / steps)
        kept = taken if insert else ~taken
        found[:, step] = predict(np.where(kept[..., np.newaxis], pixels, blank))
    return found


def area(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area under each curve, its steps from 0 to 1."""
    found: NDArray[np.float64] = (curves[:, 1:] + curves[:, :-1]).mean(1) / 2
    return found


def mean_over_groups(
    values: NDArray[np.float64],
    groups: Sequence[Any] | NDArray[Any],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Metric:
    """Return the mean of pictures, and its interval as whole groups (slides, patients) are drawn again.

    Args:
        values: (n,); NaN is left out.
        groups: (n,) whose each is.
        confidence: of the interval.
        seed: of the draws.

    Returns:
        NaN without values; NaN bounds for under 5 groups.
    """
    kept = ~np.isnan(values)
    if not kept.any():
        return Metric(value=math.nan, low=math.nan, high=math.nan)
    _, group_of = np.unique(np.asarray(groups)[kept], return_inverse=True)
    k = int(group_of.max()) + 1
    sums = np.bincount(group_of, values[kept], minlength=k)
    sizes = np.bincount(group_of, minlength=k)
    value = float(sums.sum() / sizes.sum())
    if k < LEAST_GROUPS:
        return Metric(value=value, low=math.nan, high=math.nan)
    draws = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=_RESAMPLES)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile((draws @ sums) / (draws @ sizes), tails)
    return Metric(value=value, low=float(low), high=float(high))
