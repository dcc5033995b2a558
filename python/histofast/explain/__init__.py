"""What a model looked at: maps of values of patches on the slide, their agreement with labels, concepts."""

from __future__ import annotations

from histofast.explain import concepts
from histofast.explain.maps import AttentionMap, PatchValues, Scale, attention_map, read_values
from histofast.explain.runs import attention_of_run
from histofast.explain.scoring import Score, score

__all__ = [
    "AttentionMap",
    "PatchValues",
    "Scale",
    "Score",
    "attention_map",
    "attention_of_run",
    "concepts",
    "read_values",
    "score",
]


def __dir__() -> list[str]:
    return __all__
