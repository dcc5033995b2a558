"""The one input of a graph that takes images: its name, layout and sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from histofast.encoders import INPUT
from histofast.errors import ModelError
from histofast.graphs.graph import Graph


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInput:
    """The one input of a graph that takes images; None is a size that the graph leaves open.

    `layout` is NCHW or NHWC; pixels are NHWC uint8.
    """

    name: str
    elem_type: int
    layout: str
    batch: int | None
    height_px: int | None
    width_px: int | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type as NumPy has it."""
        dtype: np.dtype[Any] = np.dtype(helper.tensor_dtype_to_np_dtype(self.elem_type))
        return dtype

    def shape(self, *, batch: int, patch_px: int) -> tuple[int, int, int, int]:
        """Return the shape of a batch of square patches."""
        if self.layout == "NCHW":
            return (batch, 3, patch_px, patch_px)
        return (batch, patch_px, patch_px, 3)


def image_input(graph: Graph, *, bytes_too: bool = False) -> ImageInput:
    """Return the one input, which must be a batch of RGB images; of uint8 only where `bytes_too`.

    Raises:
        ModelError: several inputs, or another type or shape.
    """
    kinds = "uint8, float32 or float16" if bytes_too else "float32 or float16"
    wanted = f"one {kinds} input of shape (n, 3, h, w) or (n, h, w, 3)"
    if len(graph.inputs) != 1:
        names = ", ".join(repr(value.name) for value in graph.inputs) or "none"
        raise ModelError(
            f"{graph.where} must have {wanted}, got {len(graph.inputs)} inputs ({names})"
        )
    (given,) = graph.inputs
    elem_type, shape = type_of(given)
    layout = "NCHW"
    if elem_type == onnx.TensorProto.UINT8 and bytes_too:
        fits = True
    elif elem_type == onnx.TensorProto.UINT8 and given.name == INPUT:
        layout = "NHWC"
        fits = True
    else:
        fits = elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    if shape is None:
        shape = (None,) * 4
    if len(shape) == 4 and shape[1] != 3 and shape[3] == 3:
        layout = "NHWC"
    axes = (1, 2, 3) if layout == "NCHW" else (3, 1, 2)
    if not fits or len(shape) != 4 or shape[axes[0]] not in (3, None):
        sizes = ", ".join(str("?" if size is None else size) for size in shape)
        raise ModelError(
            f"{graph.where} must have {wanted}, got {given.name!r} {_type_name(elem_type)} "
            f"({sizes})"
        )
    return ImageInput(
        name=given.name,
        elem_type=elem_type,
        layout=layout,
        batch=shape[0],
        height_px=shape[axes[1]],
        width_px=shape[axes[2]],
    )


def type_of(value: onnx.ValueInfoProto) -> tuple[int, tuple[int | None, ...] | None]:
    """Return the element type and the shape; an unknown size is None, an unknown rank no shape."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    sizes = (d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return tensor.elem_type, tuple(size if size and size > 0 else None for size in sizes)


def _type_name(elem_type: int) -> str:
    if elem_type == onnx.TensorProto.UNDEFINED:
        return "of unknown type"
    try:
        return str(helper.tensor_dtype_to_np_dtype(elem_type))
    except KeyError:
        return f"of type {elem_type}"
