"""Attention of a slide's patches in, those that an expensive encoder is to see out; what is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from histofast._numbers import real_number, whole_number

# Raised whenever the same attention would give other rows than before; part of every file's identity.
_REVISION = 1
_DIGITS = 9  # of a number of rows: 0.29 x 50 is not 14.499999999999998


class Ranking(Protocol):
    """What ranks the patches of a slide by the features of a cheap encoder (`mil.selection` has one)."""

    @property
    def encoder(self) -> str | Path:
        """Name or file of the cheap encoder."""

    @property
    def made_by(self) -> Mapping[str, str]:
        """Name and sha256 that it must have."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Those of `ExtractOptions` that its patches must be cut with, as far as they are known."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that its attention follows from, but for the features."""

    def folds_of(self, slide: str) -> tuple[int, ...]:
        """Return the models that are asked about a slide of this name."""

    def attention(
        self, features: NDArray[np.float32], *, folds: tuple[int, ...]
    ) -> NDArray[np.float64]:
        """Return what (n, d) patches are ranked by, (n,), their mean over the models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which patches of each slide are encoded.

    Attributes:
        ranking: what ranks them.
        keep: share of all patches of a slide that are taken for their attention, above 0, at most 1.
        keep_random: share of the others that is taken at random, 0..1.
        seed: of that draw.

    Raises:
        TypeError, ValueError: numbers that are none, or out of range.
    """

    ranking: Ranking
    keep: float = 0.2
    keep_random: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        keep, keep_random = checked_shares(self.keep, self.keep_random)
        object.__setattr__(self, "keep", keep)
        object.__setattr__(self, "keep_random", keep_random)
        object.__setattr__(self, "seed", whole_number("seed", self.seed, at_least=0))

    @property
    def identity(self) -> dict[str, Any]:
        """All that the rows follow from, but for slides and features."""
        return {
            **self.ranking.identity,
            "revision": _REVISION,
            "keep": self.keep,
            "keep_random": self.keep_random,
            "seed": self.seed,
        }

    def sizes(self, n: int) -> tuple[int, int]:
        """Return how many of `n` patches are taken for their attention, and at random."""
        return selected_sizes(n, keep=self.keep, keep_random=self.keep_random)


def checked_shares(keep: float, keep_random: float) -> tuple[float, float]:
    """Take the two shares of a selection.

    Raises:
        TypeError, ValueError: they are none.
    """
    told = {"keep": keep, "keep_random": keep_random}
    for name, value in told.items():
        if value is None:
            raise TypeError(f"{name} must be a number, got None")
        told[name] = real_number(name, value)
    if not 0 < told["keep"] <= 1:
        raise ValueError(f"keep must be above 0 and at most 1, got {told['keep']:g}")
    if not 0 <= told["keep_random"] <= 1:
        raise ValueError(f"keep_random must be within 0..1, got {told['keep_random']:g}")
    return told["keep"], told["keep_random"]


def selected_sizes(n: int, *, keep: float, keep_random: float) -> tuple[int, int]:
    """Return how many of `n` patches are taken for their attention, and how many of the others at random.

    Both rounded half up; for its attention at least one of any.

    Example:
        >>> selected_sizes(25, keep=0.1, keep_random=0.1)
        (3, 2)
    """
    highest = min(n, max(1, _share(n, keep)))
    return highest, _share(n - highest, keep_random)


def _share(n: int, share: float) -> int:
    return math.floor(round(share * n, _DIGITS) + 0.5)


def selected_rows(
    attention: NDArray[np.floating[Any]], *, keep: float, keep_random: float = 0.1, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Choose the patches of a slide that an expensive encoder is to see.

    The share `keep` of the highest attention, of equal ones the earlier; and of the others the share
    `keep_random`: each draws a number, in order, and those of the lowest are taken. How many:
    `selected_sizes`.

    Args:
        attention: (n,) finite.
        keep, keep_random, seed: see `Selection`.

    Returns:
        (k,) int64 rows, rising; (k,) bool, whether each was taken for its attention.

    Raises:
        TypeError, ValueError: another shape, NaN or infinity, shares out of range.

    Determinism: by the seed.

    Example:
        >>> rows, highest = selected_rows(np.array([0.1, 0.5, 0.5, 0.2]), keep=0.25, keep_random=0)
        >>> rows.tolist()
        [1]
    """
    keep, keep_random = checked_shares(keep, keep_random)
    if attention.ndim != 1 or not np.isfinite(attention).all():
        raise ValueError(f"attention must be (n,) and finite, got shape {attention.shape}")
    n = len(attention)
    if not n:
        return np.zeros(0, np.int64), np.zeros(0, np.bool_)
    most, drawn = selected_sizes(n, keep=keep, keep_random=keep_random)
    highest = np.argsort(-attention, kind="stable")[:most]
    others = np.setdiff1d(np.arange(n), highest)
    numbers = np.random.default_rng(seed).random(len(others))
    at_random = others[np.argsort(numbers, kind="stable")[:drawn]]
    rows = np.sort(np.concatenate([highest, at_random])).astype(np.int64)
    return rows, np.isin(rows, highest)


def attention_on(
    attention: NDArray[np.float64],
    corners_l0: NDArray[np.int64],
    side_l0: int,
    *,
    onto_l0: NDArray[np.int64],
    onto_side_l0: int,
) -> NDArray[np.float64]:
    """Return attention of squares for others on the same slide: the mean, weighted by the area they share.

    Args:
        attention: (m,) of the squares.
        corners_l0: (m, 2) int64 their upper left corners, level-0 px.
        side_l0: their side.
        onto_l0: (n, 2) int64 corners of the others.
        onto_side_l0: their side.

    Returns:
        (n,) float64; 0 where nothing is shared.
    """
    from scipy.spatial import cKDTree

    found = np.zeros(len(onto_l0))
    if not len(onto_l0) or not len(corners_l0):
        return found
    # Two squares meet where their centres are nearer than half of both sides, along either axis.
    tree = cKDTree(corners_l0 + side_l0 / 2)
    meets = tree.query_ball_point(
        onto_l0 + onto_side_l0 / 2, (side_l0 + onto_side_l0) / 2, p=np.inf, return_sorted=True
    )
    counts = np.array([len(each) for each in meets])
    theirs = np.concatenate([np.array(each, np.int64) for each in meets])
    ours = np.repeat(np.arange(len(onto_l0)), counts)
    ends = np.minimum(corners_l0[theirs] + side_l0, onto_l0[ours] + onto_side_l0)
    shared = np.clip(ends - np.maximum(corners_l0[theirs], onto_l0[ours]), 0, None)
    areas = shared.prod(axis=1).astype(np.float64)
    whole = np.bincount(ours, areas, minlength=len(found))
    total = np.bincount(ours, areas * attention[theirs], minlength=len(found))
    np.divide(total, whole, out=found, where=whole > 0)
    return found
