"""What a person would say of a patch, as numbers, and how well the features of a network tell it."""

from __future__ import annotations

from histofast.explain.concepts.glcm import GLCM_FEATURES, glcm
from histofast.explain.concepts.measures import CONCEPTS, Concept, check_concepts, measure
from histofast.explain.concepts.ridge import PENALTIES, Regression, deal, regress

__all__ = [
    "CONCEPTS",
    "GLCM_FEATURES",
    "PENALTIES",
    "Concept",
    "Regression",
    "check_concepts",
    "deal",
    "glcm",
    "measure",
    "regress",
]


def __dir__() -> list[str]:
    return __all__
