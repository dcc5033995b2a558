"""Graphs that start at pixels: the front that all of them share, and their ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from histofast.encoders import INPUT, OUTPUT, EncoderMetadata, cuts_to_props, try_providers
from histofast.graphs.graph import IR_VERSION, OPSET, Graph, to_bytes


class PixelGraph(Graph):
    """A graph under construction; it begins with scaling, standardising and channels first.

    The names of tensors are kept, so that a graph can later be cut at one of them. The same calls
    give the same bytes.
    """

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(
            onnx.ModelProto(
                ir_version=IR_VERSION,
                opset_import=[helper.make_opsetid("", OPSET)],
                producer_name="histofast",
            )
        )
        for name in (INPUT, OUTPUT):
            self.unused(name)
        take_pixels(self)
        self.standardised = standardise_pixels(self, mean=mean, std=std)

    def finish(self, features: str, *, metadata: EncoderMetadata) -> onnx.ModelProto:
        """Return the checked model whose output is the tensor `features` of shape (n, d)."""
        self.nodes.append(helper.make_node("Identity", [features], [OUTPUT], name=OUTPUT))
        return self._checked({OUTPUT: metadata.d}, metadata.to_props(), name=metadata.name)

    def finish_cuts(self, features: Mapping[str, EncoderMetadata], *, name: str) -> onnx.ModelProto:
        """Return the checked model of several encoders, by their tensors of shape (n, d).

        Raises:
            ValueError: two encoders of one name, or none.
        """
        outputs = {
            self.add("Identity", [tensor], name=f"{OUTPUT}.{metadata.layer}"): metadata
            for tensor, metadata in features.items()
        }
        widths = {output: metadata.d for output, metadata in outputs.items()}
        return self._checked(widths, cuts_to_props(outputs, name=name), name=name)

    def _checked(
        self, widths: Mapping[str, int], props: Mapping[str, str], *, name: str
    ) -> onnx.ModelProto:
        self.name, self.props = name, dict(props)
        self.outputs = [
            helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["n", d])
            for output, d in widths.items()
        ]
        model = self.to_model()
        onnx.checker.check_model(model, full_check=True)
        return model


def take_pixels(graph: Graph, *, size_px: int | None = None) -> None:
    """Give a graph its one input, of squares of one size or of any; nothing reads it yet."""
    sizes = [size_px, size_px] if size_px else ["h", "w"]
    graph.inputs = [helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, ["n", *sizes, 3])]


def standardise_pixels(
    graph: Graph, *, mean: Sequence[float], std: Sequence[float], layout: str = "NCHW"
) -> str:
    """Add nodes that make float32 images of the pixels, standardised, and return their tensor.

    Args:
        graph: that takes pixels.
        mean: per channel, in [0, 1] units, RGB.
        std: likewise, all > 0.
        layout: of the images, NCHW or NHWC.
    """
    offset, scale = offset_and_scale(mean, std)
    shape = (1, 3, 1, 1) if layout == "NCHW" else (1, 1, 1, 3)
    x = INPUT
    if layout == "NCHW":
        x = graph.add("Transpose", [x], name="pixels.planes", perm=(0, 3, 1, 2))
    x = graph.add("Cast", [x], name="pixels.float", to=onnx.TensorProto.FLOAT)
    mean_of = graph.constant(offset.reshape(shape), name="pixels.mean")
    x = graph.add("Sub", [x, mean_of], name="pixels.centred")
    scale_of = graph.constant(scale.reshape(shape), name="pixels.scale")
    return graph.add("Mul", [x, scale_of], name="pixels.standardised")


def offset_and_scale(
    mean: Sequence[float], std: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what to subtract from pixels and what to multiply the rest with, (3,) each."""
    # Subtracting before scaling: pixels are whole numbers, so this rounds least.
    offset = (np.asarray(mean, np.float64) * 255).astype(np.float32)
    return offset, (1 / (np.asarray(std, np.float64) * 255)).astype(np.float32)


def tiny_encoder() -> onnx.ModelProto:
    """Return the smallest encoder: the mean colour (d = 3), standardised to itself."""
    graph = PixelGraph(mean=(0, 0, 0), std=(1, 1, 1))
    x = graph.add("GlobalAveragePool", [graph.standardised], name="pooled")
    x = graph.add("Flatten", [x], name="pooled.flat", axis=1)
    metadata = EncoderMetadata(
        name="mean-colour",
        network="mean-colour",
        layer="pixels",
        d=3,
        patch_px=16,
        mpp=0.5,
        precision="float32",
        weights_sha256="random",
        provenance="no weights",
        licence="Apache-2.0",
        exporter="histofast",
    )
    return graph.finish(x, metadata=metadata)


def provider_problems() -> dict[str, str | None]:
    """Return what keeps each of ONNX Runtime's providers from working, or None; all are tried.

    Raises:
        ModelError: onnxruntime cannot be imported.
    """
    return try_providers(to_bytes(tiny_encoder()))
