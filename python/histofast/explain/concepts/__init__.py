"""What a person would say of a patch, as numbers, and how well the layers of a network tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histofast._lazy import attach
from histofast.explain.concepts.glcm import GLCM_FEATURES, glcm
from histofast.explain.concepts.measures import CONCEPTS, Concept, check_concepts, measure
from histofast.explain.concepts.on_slides import MeasuredSlide, measure_slides
from histofast.explain.concepts.ridge import PENALTIES, Regression, deal, regress
from histofast.explain.concepts.sensitivity import Sensitivity, sensitivity

if TYPE_CHECKING:
    from histofast.explain.concepts.answers import answer_of
    from histofast.explain.concepts.explaining import Explained, explain_concepts
else:
    # What needs torch is loaded when it is first asked for: measuring does without.
    __getattr__, __dir__ = attach(
        __name__,
        {
            "histofast.explain.concepts.answers": ["answer_of"],
            "histofast.explain.concepts.explaining": ["Explained", "explain_concepts"],
        },
        rooms=[],
    )

__all__ = [
    "CONCEPTS",
    "GLCM_FEATURES",
    "PENALTIES",
    "Concept",
    "Explained",
    "MeasuredSlide",
    "Regression",
    "Sensitivity",
    "answer_of",
    "check_concepts",
    "deal",
    "explain_concepts",
    "glcm",
    "measure",
    "measure_slides",
    "regress",
    "sensitivity",
]
