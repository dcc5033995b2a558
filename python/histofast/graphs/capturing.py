"""Look inside an ONNX graph: the values of named tensors for given pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from histofast._files import path_of
from histofast._words import did_you_mean
from histofast.errors import ModelError
from histofast.graphs.graph import Graph
from histofast.graphs.onnx_file import model_of, read_model


def capture(
    model: str | os.PathLike[str] | bytes, tensors: Sequence[str], pixels: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Run a graph once on the CPU and return tensors from its inside; the file stays as it is.

    Args:
        model: path or bytes of an ONNX file with one input.
        tensors: names of nodes' outputs, in any order.
        pixels: what the input takes, (n, h, w, 3) uint8 for an encoder.

    Returns:
        The arrays by name, in the order asked for. ONNX Runtime does not fuse across a tensor that
        is asked for, so last bits may differ from a run that asks for fewer.

    Raises:
        FileNotFoundError: no file at the path.
        ModelError: a file that is not ONNX, no such tensor (close names are offered), or the graph
            fails.
    """
    where = "the model" if isinstance(model, bytes) else str(path_of("model", model))
    graph = Graph(_read(model, where), where=where)
    known = [name for node in graph.nodes for name in node.output if name]
    for name in tensors:
        if name not in known:
            raise ModelError(f"{where} has no tensor {name!r}{did_you_mean(name, known)}")
    # Types are inferred by ONNX Runtime; what no tensor asked for needs is not run.
    opened = graph.opened(dict.fromkeys(tensors))
    feed = dict.fromkeys([value.name for value in opened.inputs], pixels)
    values = opened.run(feed, tensors, where=f"{where} cannot be run")
    return dict(zip(tensors, values, strict=True))


def _read(model: str | os.PathLike[str] | bytes, where: str) -> onnx.ModelProto:
    return model_of(model, where=where) if isinstance(model, bytes) else read_model(Path(model))
