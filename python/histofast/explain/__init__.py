"""What a model looked at: maps of values of patches on the slide, their agreement with labels, concepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histofast._lazy import attach
from histofast.explain.maps import AttentionMap, PatchValues, Scale, attention_map, read_values
from histofast.explain.runs import attention_of_run
from histofast.explain.scoring import Score, score, score_differences

if TYPE_CHECKING:
    from histofast.explain import cam as cam
    from histofast.explain import channels as channels
    from histofast.explain import concepts as concepts
else:
    # What needs torch is loaded when it is first asked for: maps of values do without.
    __getattr__, __dir__ = attach(__name__, {}, rooms=["cam", "channels", "concepts"])

__all__ = [
    "AttentionMap",
    "PatchValues",
    "Scale",
    "Score",
    "attention_map",
    "attention_of_run",
    "cam",
    "channels",
    "concepts",
    "read_values",
    "score",
    "score_differences",
]
