"""Encoders: ONNX files that take pixels and give features, by name or by path.

`load(name_or_path)` opens one, `load_all` all that one file computes. Nothing here imports ONNX
Runtime or onnx before it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    SourceEntry,
    WeightsEntry,
    find,
    models_folder,
    read_registry,
    registry,
)
from histofast.encoders._runtime import driver_gpu_count
from histofast.encoders._session import (
    Encoder,
    EncoderSet,
    Pending,
    load,
    load_all,
    read_spec,
    read_specs,
)
from histofast.encoders._spec import EncoderMetadata, EncoderSpec, sha256_of
from histofast.encoders._stained import stained_noise

if TYPE_CHECKING:
    from histofast.encoders._flops import flops, total_flops
    from histofast.encoders._join import join_cuts
    from histofast.encoders._peak import Gemm
    from histofast.encoders._tap import Tap
    from histofast.encoders._truncate import GraphCut, cuts, split, truncate
    from histofast.encoders._wrap import wrap

# Public name -> the module that has it; these need onnx, which is heavy: only who asks pays.
_LAZY = {
    "Gemm": "_peak",
    "GraphCut": "_truncate",
    "cuts": "_truncate",
    "flops": "_flops",
    "join_cuts": "_join",
    "split": "_truncate",
    "Tap": "_tap",
    "total_flops": "_flops",
    "truncate": "_truncate",
    "wrap": "_wrap",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


__all__ = [
    "DEFAULT",
    "MIN_PATCHES",
    "Agreement",
    "Encoder",
    "EncoderEntry",
    "EncoderMetadata",
    "EncoderSet",
    "EncoderSpec",
    "Gemm",
    "GraphCut",
    "LayerSensitivity",
    "Pending",
    "Precision",
    "Registry",
    "SourceEntry",
    "Tap",
    "WeightsEntry",
    "agreement",
    "cuts",
    "driver_gpu_count",
    "find",
    "flops",
    "join_cuts",
    "load",
    "load_all",
    "models_folder",
    "provider_problems",
    "quantize",
    "read_registry",
    "read_spec",
    "read_specs",
    "registry",
    "sensitivity",
    "sha256_of",
    "split",
    "stained_noise",
    "total_flops",
    "truncate",
    "wrap",
]
