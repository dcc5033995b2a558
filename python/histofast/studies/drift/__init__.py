"""What fine-tuning changes in a network: the study, its numbers, its words, and what was published.

Reference: Juodelyte, Jimenez-Sanchez, Cheplygina, 2023, Revisiting hidden representations in transfer
learning for medical imaging.
"""

from __future__ import annotations

from histofast.studies.drift.found import DriftFound, found_of, independent_as_published
from histofast.studies.drift.published import LAYERS, PublishedPoint, published_points
from histofast.studies.drift.study import Drift, Held, Way
from histofast.studies.drift.words import describe_drift, limits_of

__all__ = [
    "LAYERS",
    "Drift",
    "DriftFound",
    "Held",
    "PublishedPoint",
    "Way",
    "describe_drift",
    "found_of",
    "independent_as_published",
    "limits_of",
    "published_points",
]


def __dir__() -> list[str]:
    return __all__
