"""ONNX files made from ONNX files: wrapped, cut, joined, quantised, measured. The door to onnx."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histofast._lazy import attach

if TYPE_CHECKING:
    from histofast.graphs.agreeing import MIN_PATCHES, Agreement, agreement
    from histofast.graphs.building import PixelGraph, provider_problems, tiny_encoder
    from histofast.graphs.calibration import quantize, sensitivity
    from histofast.graphs.capturing import capture
    from histofast.graphs.cutting import GraphCut, cuts, split, truncate
    from histofast.graphs.graph import Graph, set_metadata, to_bytes
    from histofast.graphs.int8 import Int8Writer
    from histofast.graphs.joining import join_cuts
    from histofast.graphs.onnx_file import read_constants, read_model
    from histofast.graphs.operations import flops, total_flops
    from histofast.graphs.peak import Gemm, peak_flops_per_s
    from histofast.graphs.precision import (
        LayerSensitivity,
        Precision,
        layer_sensitivity,
        write_quantized,
    )
    from histofast.graphs.principal import PrincipalAxes, kept_by, principal_axes
    from histofast.graphs.proof import BATCHES, checked_patches
    from histofast.graphs.reducing import (
        check_dims,
        reduction_in_words,
        reduction_of,
        write_reduced,
    )
    from histofast.graphs.sizes import patch_sizes
    from histofast.graphs.speed import BenchReport, bench
    from histofast.graphs.stained import stained_noise
    from histofast.graphs.standardising import IMAGENET, Channels, Standardising
    from histofast.graphs.tap import Tap
    from histofast.graphs.tissue import wrap_tissue
    from histofast.graphs.wrapping import wrap, wrap_cuts, wrap_exported
    from histofast.graphs.writing import replacing_encoder, write_model
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "histofast.graphs.agreeing": ["MIN_PATCHES", "Agreement", "agreement"],
            "histofast.graphs.building": ["PixelGraph", "provider_problems", "tiny_encoder"],
            "histofast.graphs.calibration": ["quantize", "sensitivity"],
            "histofast.graphs.capturing": ["capture"],
            "histofast.graphs.cutting": ["GraphCut", "cuts", "split", "truncate"],
            "histofast.graphs.graph": ["Graph", "set_metadata", "to_bytes"],
            "histofast.graphs.int8": ["Int8Writer"],
            "histofast.graphs.joining": ["join_cuts"],
            "histofast.graphs.onnx_file": ["read_constants", "read_model"],
            "histofast.graphs.operations": ["flops", "total_flops"],
            "histofast.graphs.peak": ["Gemm", "peak_flops_per_s"],
            "histofast.graphs.precision": [
                "LayerSensitivity",
                "Precision",
                "layer_sensitivity",
                "write_quantized",
            ],
            "histofast.graphs.principal": ["PrincipalAxes", "kept_by", "principal_axes"],
            "histofast.graphs.proof": ["BATCHES", "checked_patches"],
            "histofast.graphs.reducing": [
                "check_dims",
                "reduction_in_words",
                "reduction_of",
                "write_reduced",
            ],
            "histofast.graphs.sizes": ["patch_sizes"],
            "histofast.graphs.speed": ["BenchReport", "bench"],
            "histofast.graphs.stained": ["stained_noise"],
            "histofast.graphs.standardising": ["IMAGENET", "Channels", "Standardising"],
            "histofast.graphs.tap": ["Tap"],
            "histofast.graphs.tissue": ["wrap_tissue"],
            "histofast.graphs.wrapping": ["wrap", "wrap_cuts", "wrap_exported"],
            "histofast.graphs.writing": ["replacing_encoder", "write_model"],
        },
    )

__all__ = [
    "BATCHES",
    "IMAGENET",
    "MIN_PATCHES",
    "Agreement",
    "BenchReport",
    "Channels",
    "Gemm",
    "Graph",
    "GraphCut",
    "Int8Writer",
    "LayerSensitivity",
    "PixelGraph",
    "Precision",
    "PrincipalAxes",
    "Standardising",
    "Tap",
    "agreement",
    "bench",
    "capture",
    "check_dims",
    "checked_patches",
    "cuts",
    "flops",
    "join_cuts",
    "kept_by",
    "layer_sensitivity",
    "patch_sizes",
    "peak_flops_per_s",
    "principal_axes",
    "provider_problems",
    "quantize",
    "read_constants",
    "read_model",
    "reduction_in_words",
    "reduction_of",
    "replacing_encoder",
    "sensitivity",
    "set_metadata",
    "split",
    "stained_noise",
    "tiny_encoder",
    "to_bytes",
    "total_flops",
    "truncate",
    "wrap",
    "wrap_cuts",
    "wrap_exported",
    "wrap_tissue",
    "write_model",
    "write_quantized",
    "write_reduced",
]
