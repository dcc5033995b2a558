"""A real encoder file that costs nothing: mean colour of the patch times a fixed matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from histofast.encoders import EncoderMetadata


def write_encoder(
    path: Path,
    *,
    name: str = "tiny",
    d: int = 8,
    patch_px: int = 32,
    mpp: float = 2.0,
    side: int | str = "h",
    scale: float = 1 / 255,
    licence: str = "not stated",
) -> Path:
    """Write an encoder in the pixel-in form; `scale` infinite makes it yield infinity."""
    matrix = np.random.default_rng(d).normal(size=(3, d)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "scale"], ["y"]),
        helper.make_node("ReduceMean", ["y", "axes"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "matrix"], ["features"]),
    ]
    sides = ["h", "w"] if side == "h" else [side, side]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", *sides, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", d])],
        [
            numpy_helper.from_array(np.float32(scale), "scale"),
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(matrix, "matrix"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    metadata = EncoderMetadata(
        name=name,
        network="mean",
        layer="mean",
        d=d,
        patch_px=patch_px,
        mpp=mpp,
        precision="float32",
        weights_sha256="random",
        provenance="made by tests/tiny_encoder.py",
        licence=licence,
        exporter="onnx.helper",
    )
    helper.set_model_props(model, metadata.to_props())
    onnx.save(model, path)
    return path
