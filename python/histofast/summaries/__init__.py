"""Feature files in few numbers: one vector of each slide, and what features of an encoder are like.

Needs no torch; only a page needs what draws it. Modules are loaded when a name of theirs is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histofast._lazy import attach

if TYPE_CHECKING:
    from histofast.summaries.answers import answer_of, write_look
    from histofast.summaries.looking import (
        FeatureLook,
        LookResult,
        Spread,
        look_at,
        look_at_files,
    )
    from histofast.summaries.vectors import (
        POOLINGS,
        Pooling,
        SlideVectors,
        check_vectors_out,
        pool,
        slide_vectors,
    )
    from histofast.summaries.words import describe_look
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "histofast.summaries.answers": ["answer_of", "write_look"],
            "histofast.summaries.looking": [
                "FeatureLook",
                "LookResult",
                "Spread",
                "look_at",
                "look_at_files",
            ],
            "histofast.summaries.vectors": [
                "POOLINGS",
                "Pooling",
                "SlideVectors",
                "check_vectors_out",
                "pool",
                "slide_vectors",
            ],
            "histofast.summaries.words": ["describe_look"],
        },
    )

__all__ = [
    "POOLINGS",
    "FeatureLook",
    "LookResult",
    "Pooling",
    "SlideVectors",
    "Spread",
    "answer_of",
    "check_vectors_out",
    "describe_look",
    "look_at",
    "look_at_files",
    "pool",
    "slide_vectors",
    "write_look",
]
