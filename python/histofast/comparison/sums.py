"""What is added up over the batches, whatever a row is."""

from __future__ import annotations

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
    """

    a: Source
    b: Source
    random: Source | None
    pairs: NDArray[np.int64]
    permutations: int
    seed: int
    keep_outputs: bool

    def __post_init__(self) -> None:
        self._permuted = np.zeros((self.permutations, len(self.pairs)))
        self._rng = np.random.default_rng(self.seed + 1)
        self.outputs: tuple[list[Any], list[Any]] = ([], [])

    def _null(self) -> str:
        if not self.permutations:
            return "none"
        return f"{self.permutations} shuffles of network b's images within batches"
