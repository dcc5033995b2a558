"""Encoders: ONNX files that take pixels and give features, by name or by path.

`load(name_or_path)` opens one, `load_all` all that one file computes. Nothing here imports ONNX
Runtime or onnx before it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histofast._lazy import attach

if TYPE_CHECKING:
    from histofast.encoders.catalogue import (
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
    from histofast.encoders.form import Value
    from histofast.encoders.opening import OpenGraph, check_model
    from histofast.encoders.providers import try_providers
    from histofast.encoders.reading import read_spec, read_specs
    from histofast.encoders.runtime import CPU, device_problem, driver_gpu_count
    from histofast.encoders.session import (
        Encoder,
        EncoderSet,
        Pending,
        load,
        load_all,
    )
    from histofast.encoders.sizes import PatchSizes, sizes_around, sizes_near
    from histofast.encoders.spec import (
        INPUT,
        OUTPUT,
        PREFIX,
        EncoderMetadata,
        EncoderSpec,
        cut_name,
        cuts_to_props,
        refuse_cuts,
        sha256_of,
    )
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "histofast.encoders.catalogue": [
                "DEFAULT",
                "EncoderEntry",
                "Registry",
                "SourceEntry",
                "WeightsEntry",
                "find",
                "models_folder",
                "read_registry",
                "registry",
            ],
            "histofast.encoders.form": ["Value"],
            "histofast.encoders.opening": ["OpenGraph", "check_model"],
            "histofast.encoders.providers": ["try_providers"],
            "histofast.encoders.reading": ["read_spec", "read_specs"],
            "histofast.encoders.runtime": ["CPU", "device_problem", "driver_gpu_count"],
            "histofast.encoders.session": [
                "Encoder",
                "EncoderSet",
                "Pending",
                "load",
                "load_all",
            ],
            "histofast.encoders.sizes": ["PatchSizes", "sizes_around", "sizes_near"],
            "histofast.encoders.spec": [
                "EncoderMetadata",
                "EncoderSpec",
                "INPUT",
                "OUTPUT",
                "PREFIX",
                "cut_name",
                "cuts_to_props",
                "refuse_cuts",
                "sha256_of",
            ],
        },
    )

__all__ = [
    "CPU",
    "DEFAULT",
    "INPUT",
    "OUTPUT",
    "PREFIX",
    "Encoder",
    "EncoderEntry",
    "EncoderMetadata",
    "EncoderSet",
    "EncoderSpec",
    "OpenGraph",
    "PatchSizes",
    "Pending",
    "Registry",
    "SourceEntry",
    "Value",
    "WeightsEntry",
    "check_model",
    "cut_name",
    "cuts_to_props",
    "device_problem",
    "driver_gpu_count",
    "find",
    "load",
    "load_all",
    "models_folder",
    "read_registry",
    "read_spec",
    "read_specs",
    "refuse_cuts",
    "registry",
    "sha256_of",
    "sizes_around",
    "sizes_near",
    "try_providers",
]
