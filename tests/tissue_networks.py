"""Small networks that map images to classes, as others export them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DARK = 180.5  # mean of the channels; darker is tissue

_FLOAT, _BYTES = TensorProto.FLOAT, TensorProto.UINT8


class _Sketch:
    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def constant(self, values: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def save(
        self, path: Path, given: tuple[int, list[Any]], out: dict[str, tuple[int, list[Any]]]
    ) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "main_graph",
            [helper.make_tensor_value_info("image", *given)],
            [helper.make_tensor_value_info(name, *value) for name, value in out.items()],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, path)
        return path


def brightness(
    path: Path,
    *,
    kind: str = "logits",
    layout: str = "NCHW",
    is_bytes: bool = False,
    side: int | str = "h",
    cell_px: int = 1,
    channels: int = 3,
    batch: int | str = "n",
    also: tuple[str, ...] = (),
) -> Path:
    """Write a network whose class 1 is what is darker than `DARK`, of the mean of cells.

    Args:
        path: of the file.
        kind: "logits" (two scores), "last" (they come last), "labels" (n, 1, h, w), "flat" labels (n, h, w),
            "score" (n, 1, h, w), or "classifier" (n, 2).
        layout: of the images, 0..255.
        is_bytes: whether they are uint8.
        side: fixed or free.
        cell_px: pixels that one of the map stands for.
        channels, batch: of the input.
        also: names of further outputs.
    """
    s = _Sketch()
    sides = [side, "w" if side == "h" else side]
    shape = [batch, channels, *sides] if layout == "NCHW" else [batch, *sides, channels]
    x = s.add("Cast", "image", to=_FLOAT) if is_bytes else "image"
    if layout == "NHWC":
        x = s.add("Transpose", x, perm=[0, 3, 1, 2])
    x = s.add("ReduceMean", x, axes=[1], keepdims=1)
    if cell_px > 1:
        x = s.add("AveragePool", x, kernel_shape=[cell_px] * 2, strides=[cell_px] * 2)
    score = s.add("Sub", s.constant(np.float32(DARK)), x)
    none = s.add("Mul", score, s.constant(np.float32(0)))
    free = ["n", "c", "a", "b"]
    kinds: dict[str, Any] = {"score": (score, _FLOAT, free)}
    if kind in ("logits", "last", "labels", "flat"):
        both = s.add("Concat", none, score, axis=1)
        kinds["logits"] = (both, _FLOAT, free)
        if kind == "last":
            kinds["last"] = (s.add("Transpose", both, perm=[0, 2, 3, 1]), _FLOAT, free)
        if kind in ("labels", "flat"):
            keeps = int(kind == "labels")
            label = s.add("ArgMax", both, axis=1, keepdims=keeps)
            kinds[kind] = (label, TensorProto.INT64, free if keeps else free[:3])
    if kind == "classifier":
        pooled = s.add("ReduceMean", score, axes=[2, 3], keepdims=0)
        kinds[kind] = (s.add("Concat", pooled, pooled, axis=1), _FLOAT, free[:2])
    tensor, elem_type, out_shape = kinds[kind]
    s.nodes.append(helper.make_node("Identity", [tensor], ["out"]))
    outs = {"out": (elem_type, out_shape)}
    for name in also:
        s.nodes.append(helper.make_node("Identity", [tensor], [name]))
        outs[name] = (elem_type, out_shape)
    return s.save(path, (_BYTES if is_bytes else _FLOAT, shape), outs)


def convolutions(path: Path, *, seed: int = 0, halvings: int = 0) -> Path:
    """Write three convolutions of 5 x 5, which see 6 pixels far, to three classes; halved in between.

    With halvings a pixel of the map stands for 2 ** halvings pixels, and sees as many times as far.
    """
    rng = np.random.default_rng(seed)
    s, x, d = _Sketch(), "image", 3
    for layer, width in enumerate((6, 6, 3)):
        weights = rng.normal(size=(width, d, 5, 5)) / np.sqrt(25 * d)
        bias = rng.normal(size=width) * 0.1
        x = s.add(
            "Conv",
            x,
            s.constant(weights.astype(np.float32)),
            s.constant(bias.astype(np.float32)),
            pads=[2] * 4,
        )
        d = width
        if layer < 2:
            x = s.add("Relu", x)
        if layer < halvings:
            x = s.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    s.nodes.append(helper.make_node("Identity", [x], ["out"]))
    return s.save(path, (_FLOAT, ["n", 3, "h", "w"]), {"out": (_FLOAT, ["n", 3, "a", "b"])})
