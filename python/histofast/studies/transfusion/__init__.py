"""Where is the gain of pretrained weights, and is it features or scale?

    plan: Trial (data set, network, training pictures) x Way (how weights begin) x split -> runs -> measures
    -> claims, words, charts -> answers

Reference: Raghu, Zhang, Kleinberg, Bengio, 2019, Transfusion: Understanding Transfer Learning for Medical
Imaging. The authors published no code: Slim, mean-var and Gabor filters are our reading.
"""

from __future__ import annotations

from histofast.studies.transfusion.claims import Claim, claims_of, marginal, verdict_of
from histofast.studies.transfusion.measures import (
    MEAN_VAR,
    PRETRAINED,
    RANDOM,
    Measured,
    WayRow,
    faster,
    threshold_of,
)
from histofast.studies.transfusion.plan import Trial, Way
from histofast.studies.transfusion.study import Transfusion
from histofast.studies.transfusion.words import (
    features_or_scale,
    finding_of,
    steps_told,
    times,
    verdicts,
)

__all__ = [
    "MEAN_VAR",
    "PRETRAINED",
    "RANDOM",
    "Claim",
    "Measured",
    "Transfusion",
    "Trial",
    "Way",
    "WayRow",
    "claims_of",
    "faster",
    "features_or_scale",
    "finding_of",
    "marginal",
    "steps_told",
    "threshold_of",
    "times",
    "verdict_of",
    "verdicts",
]


def __dir__() -> list[str]:
    return __all__
