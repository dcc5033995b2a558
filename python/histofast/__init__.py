"""histofast: whole-slide images in, verified feature files out.

Names load what they need when they are first used: importing the package imports neither torch nor
ONNX Runtime, and opens no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histofast._core import version as __version__
from histofast._lazy import attach
from histofast._notes import LOG as _LOG  # noqa: F401  # silent until a program sets it up

if TYPE_CHECKING:
    from histofast import classify as classify
    from histofast import comparison as comparison
    from histofast import datasets as datasets
    from histofast import doctor as doctor
    from histofast import encoders as encoders
    from histofast import encoding as encoding
    from histofast import errors as errors
    from histofast import explain as explain
    from histofast import features as features
    from histofast import graphs as graphs
    from histofast import jobs as jobs
    from histofast import learning as learning
    from histofast import mil as mil
    from histofast import networks as networks
    from histofast import patches as patches
    from histofast import pipeline as pipeline
    from histofast import report as report
    from histofast import robustness as robustness
    from histofast import similarity as similarity
    from histofast import slides as slides
    from histofast import studies as studies
    from histofast import summaries as summaries
    from histofast import tiling as tiling
    from histofast import tissue as tissue
    from histofast import transferability as transferability
    from histofast import viewer as viewer
    from histofast.comparison import SimilarityResult, compare, compare_features
    from histofast.encoders import Encoder
    from histofast.encoders import load as load_encoder
    from histofast.encoding import extract
    from histofast.features import FeatureFile, feature_path, read_features, verify
    from histofast.networks import export
    from histofast.patches import PatchImages, TissueOptions, iter_patches, read_patch_table
    from histofast.pipeline import RunReport
    from histofast.slides import Slide, open_slide
    from histofast.tiling import PatchPlan, plan_patches
    from histofast.tissue import Tissue, find_tissue
    from histofast.viewer import view
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "histofast.comparison": ["SimilarityResult", "compare", "compare_features"],
            "histofast.encoders": ["Encoder", "load as load_encoder"],
            "histofast.encoding": ["extract"],
            "histofast.features": ["FeatureFile", "feature_path", "read_features", "verify"],
            "histofast.networks": ["export"],
            "histofast.patches": [
                "PatchImages",
                "TissueOptions",
                "iter_patches",
                "read_patch_table",
            ],
            "histofast.pipeline": ["RunReport"],
            "histofast.slides": ["Slide", "open_slide"],
            "histofast.tiling": ["PatchPlan", "plan_patches"],
            "histofast.tissue": ["Tissue", "find_tissue"],
            "histofast.viewer": ["view"],
        },
        rooms=[
            "classify",
            "comparison",
            "datasets",
            "doctor",
            "encoders",
            "encoding",
            "errors",
            "explain",
            "features",
            "graphs",
            "jobs",
            "learning",
            "mil",
            "networks",
            "patches",
            "pipeline",
            "report",
            "robustness",
            "similarity",
            "slides",
            "studies",
            "summaries",
            "tiling",
            "tissue",
            "transferability",
            "viewer",
        ],
    )

__all__ = [
    "Encoder",
    "FeatureFile",
    "PatchImages",
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
    "view",
]
