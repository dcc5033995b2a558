"""ONNX files made from ONNX files: wrapped, cut, joined, quantised, measured. The door to onnx."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histofast._lazy import attach

if TYPE_CHECKING:
    from histofast.graphs.building import (
        PixelGraph,
        read_constants,
        read_model,
        set_metadata,
        to_bytes,
    )
    from histofast.graphs.capturing import capture
    from histofast.graphs.cutting import GraphCut, cuts, split, truncate
    from histofast.graphs.joining import join_cuts
    from histofast.graphs.operations import flops, total_flops
    from histofast.graphs.peak import Gemm
    from histofast.graphs.precision import (
        MIN_PATCHES,
        Agreement,
        LayerSensitivity,
        Precision,
        agreement,
        quantize,
        sensitivity,
    )
    from histofast.graphs.providers import provider_problems
    from histofast.graphs.speed import BenchReport, bench
    from histofast.graphs.stained import stained_noise
    from histofast.graphs.tap import Tap
    from histofast.graphs.wrapping import wrap
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "histofast.graphs.building": [
                "PixelGraph",
                "read_constants",
                "read_model",
                "set_metadata",
                "to_bytes",
            ],
            "histofast.graphs.capturing": ["capture"],
            "histofast.graphs.cutting": ["GraphCut", "cuts", "split", "truncate"],
            "histofast.graphs.joining": ["join_cuts"],
            "histofast.graphs.operations": ["flops", "total_flops"],
            "histofast.graphs.peak": ["Gemm"],
            "histofast.graphs.precision": [
                "Agreement",
                "LayerSensitivity",
                "MIN_PATCHES",
                "Precision",
                "agreement",
                "quantize",
                "sensitivity",
            ],
            "histofast.graphs.providers": ["provider_problems"],
            "histofast.graphs.speed": ["BenchReport", "bench"],
            "histofast.graphs.stained": ["stained_noise"],
            "histofast.graphs.tap": ["Tap"],
            "histofast.graphs.wrapping": ["wrap"],
        },
    )

__all__ = [
    "MIN_PATCHES",
    "Agreement",
    "BenchReport",
    "Gemm",
    "GraphCut",
    "LayerSensitivity",
    "PixelGraph",
    "Precision",
    "Tap",
    "agreement",
    "bench",
    "capture",
    "cuts",
    "flops",
    "join_cuts",
    "provider_problems",
    "quantize",
    "read_constants",
    "read_model",
    "sensitivity",
    "set_metadata",
    "split",
    "stained_noise",
    "to_bytes",
    "total_flops",
    "truncate",
    "wrap",
]
