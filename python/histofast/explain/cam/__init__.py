"""Class activation maps: where in a picture, or on a slide, a network finds what it says of it."""

from __future__ import annotations

from histofast.errors import missing_extra

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError:
    raise missing_extra("torch", by=__name__) from None

from histofast.explain.cam.answers import answer_of
from histofast.explain.cam.bags import BagCams, attention_and_slopes, cams_of_bag, nulls_of_bag
from histofast.explain.cam.capture import Cams, cams
from histofast.explain.cam.definitions import METHODS, NAMES, Method
from histofast.explain.cam.labels import ByLabels
from histofast.explain.cam.pictures import Explained, explain_pictures, save_maps
from histofast.explain.cam.scores import curve, mass_shares, mean_over_groups, rank_correlations
from histofast.explain.cam.slide import SlideCam, cam_of_slide
from histofast.explain.cam.slide import save as save_slide
from histofast.explain.cam.worth import (
    DARKNESS,
    RANDOM,
    Change,
    Measured,
    Source,
    Worth,
    darkness,
    measure,
    null_of,
)

__all__ = [
    "DARKNESS",
    "METHODS",
    "NAMES",
    "RANDOM",
    "BagCams",
    "ByLabels",
    "Cams",
    "Change",
    "Explained",
    "Measured",
    "Method",
    "SlideCam",
    "Source",
    "Worth",
    "answer_of",
    "attention_and_slopes",
    "cam_of_slide",
    "cams",
    "cams_of_bag",
    "curve",
    "darkness",
    "explain_pictures",
    "mass_shares",
    "mean_over_groups",
    "measure",
    "null_of",
    "nulls_of_bag",
    "rank_correlations",
    "save_maps",
    "save_slide",
]


def __dir__() -> list[str]:
    return __all__
