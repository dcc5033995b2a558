"""The door to onnx: build a graph that starts at pixels, and write it whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from histofast.encoders import INPUT, OUTPUT, EncoderMetadata, cuts_to_props
from histofast.errors import ModelError

OPSET, IR_VERSION = 18, 8  # old enough for every ONNX Runtime of the last years


class PixelGraph:
    """A graph under construction; it begins with scaling, standardising and channels first.

    The names of tensors are kept, so that a graph can later be cut at one of them. The same calls
    give the same bytes.
    """

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._names = {INPUT, OUTPUT}
        # Subtracting before scaling: pixels are whole numbers, so this rounds least.
        offset = (np.asarray(mean, np.float64) * 255).astype(np.float32)
        scale = (1 / (np.asarray(std, np.float64) * 255)).astype(np.float32)
        x = self.add("Transpose", [INPUT], name="pixels.planes", perm=(0, 3, 1, 2))
        x = self.add("Cast", [x], name="pixels.float", to=onnx.TensorProto.FLOAT)
        mean_of = self.constant(offset.reshape(1, 3, 1, 1), name="pixels.mean")
        x = self.add("Sub", [x, mean_of], name="pixels.centred")
        scale_of = self.constant(scale.reshape(1, 3, 1, 1), name="pixels.scale")
        self.standardised = self.add("Mul", [x, scale_of], name="pixels.standardised")

    def constant(self, array: NDArray[Any], *, name: str) -> str:
        """Add a constant tensor and return its name."""
        name = self._unique(name)
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, op: str, inputs: Sequence[str], *, name: str, **attributes: Any) -> str:
        """Add a node of one output and return the output's name (`name`, numbered if taken)."""
        name = self._unique(name)
        self._nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def finish(self, features: str, *, metadata: EncoderMetadata) -> onnx.ModelProto:
        """Return the checked model whose output is the tensor `features` of shape (n, d)."""
        self._nodes.append(helper.make_node("Identity", [features], [OUTPUT], name=OUTPUT))
        return self._model({OUTPUT: metadata.d}, metadata.to_props(), name=metadata.name)

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
        return self._model(widths, cuts_to_props(outputs, name=name), name=name)

    def _model(
        self, widths: Mapping[str, int], props: Mapping[str, str], *, name: str
    ) -> onnx.ModelProto:
        pixels = helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, ["n", "h", "w", 3])
        outputs = [
            helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["n", d])
            for output, d in widths.items()
        ]
        graph = helper.make_graph(self._nodes, name, [pixels], outputs, initializer=self._constants)
        model = helper.make_model(
            graph,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="histofast",
        )
        set_metadata(model, props)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _unique(self, name: str) -> str:
        free, n = name, 1
        while free in self._names:
            n += 1
            free = f"{name}.{n}"
        self._names.add(free)
        return free


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model in an encoder file.

    Raises:
        ModelError: it cannot be read as ONNX.
    """
    try:
        return onnx.load(path)
    except (OSError, DecodeError) as error:
        raise ModelError(f"{path} is not an ONNX file, or is truncated: {error}") from None


def set_metadata(model: onnx.ModelProto, props: Mapping[str, str]) -> None:
    """Replace the metadata entries of a model."""
    del model.metadata_props[:]
    for key, value in props.items():
        model.metadata_props.add(key=key, value=value)


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


def read_constants(path: Path) -> dict[str, NDArray[Any]]:
    """Return the weights of an ONNX file by the names of their tensors.

    Raises:
        FileNotFoundError, ModelError: as `read_model`.
    """
    return {
        entry.name: numpy_helper.to_array(entry) for entry in read_model(path).graph.initializer
    }


def to_bytes(model: onnx.ModelProto) -> bytes:
    """Return the bytes of a model; the same model gives the same bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data
