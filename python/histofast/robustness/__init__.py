"""How much an encoder's features say of where a slide was made, beside what it shows.

`robustness_of` takes arrays, `compare_robustness` feature files of several encoders and the table of
labels. Modules are loaded when a name of theirs is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histofast._lazy import attach

if TYPE_CHECKING:
    from histofast.robustness.answers import answer_of
    from histofast.robustness.dependence import Estimate, Robustness, robustness_of
    from histofast.robustness.feature_files import (
        RobustnessResult,
        check_column,
        compare_robustness,
    )
    from histofast.robustness.variance import adjusted_share, explained_share
    from histofast.robustness.words import describe_robustness
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "histofast.robustness.answers": ["answer_of"],
            "histofast.robustness.dependence": ["Estimate", "Robustness", "robustness_of"],
            "histofast.robustness.feature_files": [
                "RobustnessResult",
                "check_column",
                "compare_robustness",
            ],
            "histofast.robustness.variance": ["adjusted_share", "explained_share"],
            "histofast.robustness.words": ["describe_robustness"],
        },
    )

__all__ = [
    "Estimate",
    "Robustness",
    "RobustnessResult",
    "adjusted_share",
    "answer_of",
    "check_column",
    "compare_robustness",
    "describe_robustness",
    "explained_share",
    "robustness_of",
]
