"""How a tensor becomes features: by definition in float64, and as the last nodes of a graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from histofast.encoders import OUTPUT
from histofast.errors import ModelError
from histofast.graphs.graph import Graph

POOLS = ("auto", "nchw", "nhwc", "cls", "mean")


def check_pool(pool: str) -> None:
    """Refuse a way of pooling that does not exist.

    Raises:
        ValueError: not one of `POOLS`.
    """
    if pool not in POOLS:
        raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")


def _is_channels_last(shape: Sequence[int]) -> bool:
    """Whether (n, h, w, c) is likelier than (n, c, h, w): patches are squares."""
    return len(shape) == 4 and shape[1] == shape[2] != shape[3]


def feature_axis(shape: Sequence[int]) -> int:
    """Return the axis that counts the features of a tensor."""
    return 1 if len(shape) == 2 or (len(shape) == 4 and not _is_channels_last(shape)) else -1


def _pooling(shape: Sequence[int], pool: str, *, where: str) -> str:
    """Return how a tensor becomes (n, d): one of `POOLS`, or `none` for one that is.

    Raises:
        ModelError: it cannot, or not in the way that was asked for.
    """
    shown = f"{where} is of shape ({', '.join(map(str, ('n', *shape[1:])))})"
    rank = {"nchw": 4, "nhwc": 4, "cls": 3, "mean": 3}.get(pool)
    if rank == len(shape):
        return pool
    if rank is not None:
        raise ModelError(f"{shown}, pool {pool} is for tensors of {rank} axes: try pool auto")
    if len(shape) == 3:
        raise ModelError(
            f"{shown}: choose its features with pool cls (the first token) or mean (of all tokens)"
        )
    if _is_channels_last(shape):
        raise ModelError(f"{shown}: say which axis has its features with pool nchw or nhwc")
    if len(shape) not in (2, 4):
        raise ModelError(f"{shown}, wanted (n, c, h, w), (n, tokens, d) or (n, d): cut elsewhere")
    return "none" if len(shape) == 2 else "nchw"


def pooled(values: NDArray[np.floating], pool: str, *, where: str) -> NDArray[np.float64]:
    """Return the features of a tensor, (n, d), as the graph made by `give_features` has them.

    Raises:
        ModelError: it holds no floating-point numbers, or cannot be pooled in this way.
    """
    if values.dtype not in (np.float32, np.float16):
        raise ModelError(f"{where} holds {values.dtype}, wanted float32 or float16: cut elsewhere")
    if values.size == 0:
        raise ModelError(f"{where} is of shape {values.shape}, wanted features: cut elsewhere")
    if not np.isfinite(values).all():
        raise ModelError(
            f"{where} gives NaN or infinity for patches that are looked at: cut elsewhere, or export "
            "the network at higher precision"
        )
    x = values.astype(np.float64)
    how = _pooling(values.shape, pool, where=where)
    if how == "cls":
        return x[:, 0]
    axes = {"none": (), "nchw": (2, 3), "nhwc": (1, 2), "mean": (1,)}[how]
    features: NDArray[np.float64] = x.mean(axis=axes) if axes else x
    return features


def give_features(graph: Graph, tensor: str, values: NDArray[np.floating], pool: str) -> None:
    """Let a graph end in `features`: a tensor of it, pooled, as float32.

    Args:
        graph: changed in place.
        tensor: one of its tensors.
        values: what it is for some patches.
        pool: one of `POOLS`.
    """
    if not graph.is_free(OUTPUT):
        inner = graph.unused(f"{OUTPUT}.inner")
        graph.rename({OUTPUT: inner})
        tensor = inner if tensor == OUTPUT else tensor
    graph.outputs = []
    add_features(graph, tensor, values, pool, output=OUTPUT)


def add_features(
    graph: Graph, tensor: str, values: NDArray[np.floating], pool: str, *, output: str
) -> str:
    """Give a graph one more output: a tensor of it, pooled, as float32.

    Args:
        graph: changed in place.
        tensor: one of its tensors.
        values: what it is for some patches.
        pool: one of `POOLS`.
        output: what it is to be called.

    Returns:
        What it is called: `output`, numbered if taken.
    """
    how = _pooling(values.shape, pool, where=tensor)
    output = graph.unused(output)
    x = tensor
    if values.dtype != np.float32:
        x = graph.add("Cast", [x], name="pooled.float", to=onnx.TensorProto.FLOAT)
    if how == "nhwc":
        x = graph.add("Transpose", [x], name="pooled.planes", perm=(0, 3, 1, 2))
    if how in ("nchw", "nhwc"):
        x = graph.add("GlobalAveragePool", [x], name="pooled")
        x = graph.add("Flatten", [x], name="pooled.flat", axis=1)
    elif how == "cls":
        token = graph.constant(np.array(0), name="pooled.token")
        x = graph.add("Gather", [x, token], name="pooled", axis=1)
    elif how == "mean" and graph.opset < 18:
        x = graph.add("ReduceMean", [x], name="pooled", axes=[1], keepdims=0)
    elif how == "mean":
        axes = graph.constant(np.array([1]), name="pooled.axes")
        x = graph.add("ReduceMean", [x, axes], name="pooled", keepdims=0)
    graph.nodes.append(helper.make_node("Identity", [x], [output], name=output))
    d = pooled(values[:1], pool, where=tensor).shape[1]
    graph.outputs.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["n", d]))
    return output
