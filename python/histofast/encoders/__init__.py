"""Encoders: ONNX files that take pixels and give features, by name or by path.

`load(name_or_path)` opens one. Nothing here imports ONNX Runtime or onnx before it is needed.
"""

from __future__ import annotations

from histofast.encoders._precision import (
    MIN_PATCHES,
    Agreement,
    LayerSensitivity,
    Precision,
    agreement,
    quantize,
    sensitivity,
)
from histofast.encoders._providers import provider_problems
from histofast.encoders._registry import (
    DEFAULT,
    EncoderEntry,
    Registry,
    WeightsEntry,
    find,
    models_folder,
    read_registry,
    registry,
)
from histofast.encoders._runtime import driver_gpu_count
from histofast.encoders._session import Encoder, load, read_spec
from histofast.encoders._spec import EncoderMetadata, EncoderSpec, sha256_of

__all__ = [
    "DEFAULT",
    "MIN_PATCHES",
    "Agreement",
    "Encoder",
    "EncoderEntry",
    "EncoderMetadata",
    "EncoderSpec",
    "LayerSensitivity",
    "Precision",
    "Registry",
    "WeightsEntry",
    "agreement",
    "driver_gpu_count",
    "find",
    "load",
    "models_folder",
    "provider_problems",
    "quantize",
    "read_registry",
    "read_spec",
    "registry",
    "sensitivity",
    "sha256_of",
]
