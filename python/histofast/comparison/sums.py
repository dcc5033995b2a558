"""What is added up over the batches, whatever a row is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.comparison.source import Source

CONSTANT = 1e-9  # of the features' own norm: below it what is left after centring is rounding


@dataclass(kw_only=True, eq=False)
class Sums:
    """What comparisons by batches have in common, however a row is defined.

    `outputs` are what the two networks gave at their ends, batch by batch, if they are to be kept.
    Randomly initialised networks share the batches: `turns` says which of them see each.
    """

    a: Source
    b: Source
    random: Sequence[Source]
    turns: Sequence[Sequence[int]]
    pairs: NDArray[np.int64]
    permutations: int
    seed: int
    keep_outputs: bool

    def __post_init__(self) -> None:
        self._turns = iter(self.turns)
        self._permuted = np.zeros((self.permutations, len(self.pairs)))
        self._rng = np.random.default_rng(self.seed + 1)
        self.outputs: tuple[list[Any], list[Any]] = ([], [])

    def _null(self) -> dict[str, str]:
        """Say what the similarities are held against."""
        shuffles = f"{self.permutations} shuffles of network b's images within batches"
        told = {"null": shuffles if self.permutations else "none"}
        if self.random:
            told["random networks"] = (
                f"{len(self.random)} seeds, each on its part of the batches: their range holds what "
                "seeds and images vary"
            )
        return told

    def _against_shuffles(
        self, norm: NDArray[np.float64], values: NDArray[np.float64], confidence: float
    ) -> dict[str, NDArray[np.float64]]:
        """Return what shuffled images reach, and the p of the values among them."""
        if not self.permutations:
            return {}
        null = self._permuted / norm
        reached = (null >= values).sum(axis=0)
        p = np.where(np.isnan(values), np.nan, (1 + reached) / (1 + self.permutations))
        return {"permuted": np.quantile(null, confidence, axis=0), "permuted_p": p}


def turns_of(batches: int, seeds: int) -> list[list[int]]:
    """Deal seeds to batches in turn: every batch to one, and every seed at least one batch.

    Five random networks then cost no more than one.
    """
    turns: list[list[int]] = [[] for _ in range(batches)]
    for turn in range(max(batches, seeds) if seeds else 0):
        turns[turn % batches].append(turn % seeds)
    return turns
