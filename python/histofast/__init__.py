"""histofast: whole-slide images in, verified feature files out.

Names load what they need when they are first used: importing the package imports neither torch nor
ONNX Runtime, and opens no file.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from histofast._core import version as __version__

if TYPE_CHECKING:
    from histofast.comparison import SimilarityResult, compare, compare_features
    from histofast.encoders import Encoder
    from histofast.encoders import load as load_encoder
    from histofast.features import FeatureFile, feature_path, read_features, verify
    from histofast.networks import export
    from histofast.patches import TissueOptions, iter_patches, read_patch_table
    from histofast.pipeline import RunReport, extract
    from histofast.slides import Slide, open_slide
    from histofast.tiling import PatchPlan, plan_patches
    from histofast.tissue import Tissue, find_tissue

# Public name -> (module, name there).
_PUBLIC = {
    "Encoder": ("encoders", "Encoder"),
    "FeatureFile": ("features", "FeatureFile"),
    "PatchPlan": ("tiling", "PatchPlan"),
    "RunReport": ("pipeline", "RunReport"),
    "SimilarityResult": ("comparison", "SimilarityResult"),
    "Slide": ("slides", "Slide"),
    "Tissue": ("tissue", "Tissue"),
    "TissueOptions": ("patches", "TissueOptions"),
    "compare": ("comparison", "compare"),
    "compare_features": ("comparison", "compare_features"),
    "export": ("networks", "export"),
    "extract": ("pipeline", "extract"),
    "feature_path": ("features", "feature_path"),
    "find_tissue": ("tissue", "find_tissue"),
    "iter_patches": ("patches", "iter_patches"),
    "load_encoder": ("encoders", "load"),
    "open_slide": ("slides", "open_slide"),
    "plan_patches": ("tiling", "plan_patches"),
    "read_features": ("features", "read_features"),
    "read_patch_table": ("patches", "read_patch_table"),
    "verify": ("features", "verify"),
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value = getattr(import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


__all__ = [
    "Encoder",
    "FeatureFile",
    "PatchPlan",
    "RunReport",
    "SimilarityResult",
    "Slide",
    "Tissue",
    "TissueOptions",
    "__version__",
    "compare",
    "compare_features",
    "export",
    "extract",
    "feature_path",
    "find_tissue",
    "iter_patches",
    "load_encoder",
    "open_slide",
    "plan_patches",
    "read_features",
    "read_patch_table",
    "verify",
]
