"""The inner tensors of an encoder file, batch after batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from histofast.encoders import INPUT, OUTPUT, find, read_spec
from histofast.graphs.cutting import cuts
from histofast.graphs.names import TensorNames
from histofast.graphs.onnx_file import read_onnx


class Tap:
    """An encoder file with the tensors of some cuts as further outputs, run on the CPU."""

    def __init__(
        self, encoder: str | os.PathLike[str], layers: Sequence[str] | None = None
    ) -> None:
        """Find the cuts.

        Args:
            encoder: name or path of an encoder.
            layers: names of `cuts`, or their aliases, or other tensors or modules; None: all cuts
                that lie in no module of another (no dot in the name), or all where there are none
                such.

        Raises:
            FileNotFoundError, ModelError: no such encoder, no such layer.
        """
        path = find(encoder)
        self.spec = read_spec(path)
        graph = read_onnx(path).graph
        if layers is None:
            known = cuts(path)
            outer = [cut for cut in known if "." not in cut.name]
            tensors = {cut.name: cut.tensor for cut in outer or known}
        else:
            names = TensorNames(graph)
            tensors = {name: names.find(name) for name in layers}
        self.names = tuple(tensors)
        self._tensors = list(tensors.values())
        self._wanted = list(dict.fromkeys([OUTPUT, *self._tensors]))
        self._opened = graph.opened(self._wanted)

    def run(
        self, pixels: NDArray[np.uint8], consume: Callable[[str, NDArray[np.float32]], None]
    ) -> NDArray[np.float32]:
        """Run (n, h, w, 3) uint8 pixels; `consume` gets each layer's name and (n, ...) values.

        Raises:
            ModelError: the graph fails.
        """
        told = f"encoder {self.spec.name} failed"
        values = self._opened.run({INPUT: pixels}, self._wanted, where=told)
        found = dict(zip(self._wanted, values, strict=True))
        for name, tensor in zip(self.names, self._tensors, strict=True):
            consume(name, found[tensor])
        features: NDArray[np.float32] = found[OUTPUT]
        return features
