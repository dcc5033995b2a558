"""Whether an encoder's inner values have room in float16: on a CPU its file would not show it.

ONNX Runtime computes float16 in float32 there, so that what becomes infinite on a GPU stays finite.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from histofast.encoders import INPUT, EncoderSpec
from histofast.errors import ModelError
from histofast.graphs.graph import Graph
from histofast.graphs.onnx_file import read_model

LARGEST = 65_504.0  # float16 has none beyond
_HEADROOM = 1.25  # other slides reach further; as integers have it


def refuse_overflow(spec: EncoderSpec, patches: NDArray[np.uint8], *, out: object) -> None:
    """Refuse to write in float16 what does not fit, with room for a quarter more.

    Args:
        spec: of the encoder in float32.
        patches: (n, h, w, 3) uint8 real patches, n >= 1.
        out: what would be written.

    Raises:
        ModelError: a tensor does not fit; the first one is named.
    """
    for tensor, largest in largest_values(spec, patches).items():
        if LARGEST < largest * _HEADROOM < np.inf:  # infinity is float16's as well
            raise ModelError(
                f"{out} is not written: float16 ends at {LARGEST:.0f}, and {tensor!r} of {spec.name} "
                f"reaches {largest:.0f} on {len(patches)} patches: keep the encoder in float32"
            )


def largest_values(spec: EncoderSpec, patches: NDArray[np.uint8]) -> dict[str, float]:
    """Return the largest magnitude of each inner tensor that would be in float16, in their order.

    Args:
        spec: of an encoder in float32.
        patches: (n, h, w, 3) uint8, run one by one.
    """
    graph = Graph(read_model(spec.path), where=str(spec.path))
    wanted = _float_tensors(graph)
    measured = graph.sibling()
    for tensor in wanted:
        magnitude = measured.add("Abs", [tensor], name=f"{tensor}.abs")
        measured.add("ReduceMax", [magnitude], name=f"{tensor}.largest", keepdims=0)
    names = [node.output[0] for node in measured.nodes[len(graph.nodes) + 1 :: 2]]
    opened = measured.opened(names)
    found = [
        opened.run({INPUT: patches[i : i + 1]}, names, where=f"encoder {spec.name} failed")
        for i in range(len(patches))
    ]
    largest = np.array(found, np.float64).reshape(len(patches), len(names)).max(0)
    return dict(zip(wanted, largest.tolist(), strict=True))


def _float_tensors(graph: Graph) -> Sequence[str]:
    """Return what depends on pixels and is in float32, but for their standardising."""
    dependent = graph.dependent_on(INPUT) - {INPUT}
    made = [
        name
        for node in graph.nodes
        if not node.name.startswith("pixels.")
        for name in node.output
        if name in dependent
    ]
    # ONNX Runtime infers the types.
    kinds = {output.name: output.dtype for output in graph.opened(made).outputs}
    return [name for name in made if kinds[name] == "float32"]
