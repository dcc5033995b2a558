"""Experiments that answer a question about pretrained networks, each with a page that says so."""

from __future__ import annotations

from histofast.errors import missing_extra

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError:
    raise missing_extra("torch", by=__name__) from None

from histofast.studies import drift, reuse, selection
from histofast.studies.answers import answer_of
from histofast.studies.conducting import conduct, conduct_part, levels_of
from histofast.studies.cuts import Truncation
from histofast.studies.drift import Drift
from histofast.studies.filters import filter_grid, filters_moved, first_filters
from histofast.studies.likeness import Side, plan_likeness, read_likeness
from histofast.studies.lines import Line, read_line
from histofast.studies.maps import FeatureMap, Told, flat, read_map
from histofast.studies.maps import methods as map_methods
from histofast.studies.networks import NetworkStudy
from histofast.studies.pictures import (
    Conditions,
    Conducted,
    Done,
    PictureSetting,
    PictureStudy,
    Split,
    look_ahead_of,
)
from histofast.studies.reuse import Reuse
from histofast.studies.rows import PoolDifference, Study, StudyRow
from histofast.studies.scoring import read_scores
from histofast.studies.selection import SelectionStudy
from histofast.studies.setting import Setting, StudyProgress
from histofast.studies.slides import SlideStudy, StudyResult
from histofast.studies.subsets import train_on_fewer, training_order
from histofast.studies.transfer import Transfer
from histofast.studies.transfer_answers import Made, answer_of_transfer
from histofast.studies.transfer_found import Mapped, Pair, TransferFound, Way
from histofast.studies.transfer_words import describe_transfer, limits_of
from histofast.studies.transfusion import Transfusion
from histofast.studies.words import describe_study

__all__ = [
    "Conditions",
    "Conducted",
    "Done",
    "Drift",
    "FeatureMap",
    "Line",
    "Made",
    "Mapped",
    "NetworkStudy",
    "Pair",
    "PictureSetting",
    "PictureStudy",
    "PoolDifference",
    "Reuse",
    "SelectionStudy",
    "Setting",
    "Side",
    "SlideStudy",
    "Split",
    "Study",
    "StudyProgress",
    "StudyResult",
    "StudyRow",
    "Told",
    "Transfer",
    "TransferFound",
    "Transfusion",
    "Truncation",
    "Way",
    "answer_of",
    "answer_of_transfer",
    "conduct",
    "conduct_part",
    "describe_study",
    "describe_transfer",
    "drift",
    "filter_grid",
    "filters_moved",
    "first_filters",
    "flat",
    "levels_of",
    "limits_of",
    "look_ahead_of",
    "map_methods",
    "plan_likeness",
    "read_likeness",
    "read_line",
    "read_map",
    "read_scores",
    "reuse",
    "selection",
    "train_on_fewer",
    "training_order",
    "transfusion",
]


def __dir__() -> list[str]:
    return __all__
