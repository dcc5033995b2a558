"""Look inside an ONNX graph: the values of named tensors for given pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from histofast._words import did_you_mean
from histofast.encoders import runtime
from histofast.errors import ModelError
from histofast.graphs.building import read_model


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
    where = "the model" if isinstance(model, bytes) else os.fspath(model)
    proto = _read(model, where)
    graph = proto.graph
    known = [name for node in graph.node for name in node.output if name]
    for name in tensors:
        if name not in known:
            raise ModelError(f"{where} has no tensor {name!r}{did_you_mean(name, known)}")
    del graph.output[:]
    # Types are inferred by ONNX Runtime; what no tensor asked for needs is not run.
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors))
    try:
        session = runtime.make_session(proto.SerializeToString())
        assert session is not None, "the CPU provider is always there"
        inputs = [value.name for value in session.get_inputs()]
        values = session.run(list(tensors), dict.fromkeys(inputs, pixels))
    except runtime.runtime_errors() as error:
        raise ModelError(f"{where} cannot be run: {runtime.first_line(error)}") from None
    return dict(zip(tensors, values, strict=True))


def _read(model: str | os.PathLike[str] | bytes, where: str) -> onnx.ModelProto:
    if not isinstance(model, bytes) and not Path(model).is_file():
        raise FileNotFoundError(f"no ONNX file at {where}")
    return (
        onnx.load_model_from_string(model) if isinstance(model, bytes) else read_model(Path(model))
    )
