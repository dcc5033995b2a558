"""What features promise of a data set before a network is trained on it; `SCORES` is the table of all.

Arrays in, numbers out, without torch; only the gradient ratio asks for a network. Modules are loaded when a
name of theirs is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histofast._lazy import attach

if TYPE_CHECKING:
    from histofast.transferability.classes import h_score, trans_rate
    from histofast.transferability.evidence import log_me
    from histofast.transferability.probing import (
        NEIGHBOURS,
        STRENGTHS,
        Probe,
        knn_probe,
        linear_probe,
    )
    from histofast.transferability.scores import SCORES, Change, Needs, Score, scores_of
    from histofast.transferability.spectrum import rank_me
    from histofast.transferability.words import describe_rankings
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "histofast.transferability.classes": ["h_score", "trans_rate"],
            "histofast.transferability.evidence": ["log_me"],
            "histofast.transferability.probing": [
                "NEIGHBOURS",
                "STRENGTHS",
                "Probe",
                "knn_probe",
                "linear_probe",
            ],
            "histofast.transferability.scores": ["SCORES", "Change", "Needs", "Score", "scores_of"],
            "histofast.transferability.spectrum": ["rank_me"],
            "histofast.transferability.words": ["describe_rankings"],
        },
    )

__all__ = [
    "NEIGHBOURS",
    "SCORES",
    "STRENGTHS",
    "Change",
    "Needs",
    "Probe",
    "Score",
    "describe_rankings",
    "h_score",
    "knn_probe",
    "linear_probe",
    "log_me",
    "rank_me",
    "scores_of",
    "trans_rate",
]
