"""What a network is to a comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Mode = Literal["flatten", "spatial", "pool"]
Array = NDArray[np.float64]


class Source(Protocol):
    """What a network is to a comparison."""

    names: tuple[str, ...]

    def run(
        self, pixels: NDArray[np.uint8], consume: Callable[[str, Any], None]
    ) -> NDArray[np.float32]:
        """Run a batch, hand over each layer's activations, return what comes out at the end.

        Activations are (n, ...) float32, NumPy's or a tensor on the network's GPU.
        """
