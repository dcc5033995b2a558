"""Labelled images: tables and folders of pictures in; targets, groups and splits out. Without torch.

An *image* is a picture that is classified as a whole, a *group* whose it is: a patient, else a slide,
else the picture itself. No group is ever on two sides of a split.
"""

from __future__ import annotations

from histofast.datasets.augmenting import Augmentation, augment, colour_axes, draws_of
from histofast.datasets.copies import NearCopies, near_copies
from histofast.datasets.cutting import contrast, crops
from histofast.datasets.decoding import (
    Decoded,
    contents_of,
    decode,
    decode_each,
    evenly,
    none_readable,
    read_in_batches,
    refuse_lost_classes,
    resampled,
    unreadable_note,
)
from histofast.datasets.drawing import HED
from histofast.datasets.images import Images, ImageTask
from histofast.datasets.looks import Copy, Form, Look, Share
from histofast.datasets.opening import open_images
from histofast.datasets.showing import show
from histofast.datasets.splitting import split
from histofast.datasets.standardising import standardise
from histofast.datasets.standards import Standard, Standardised
from histofast.patches import GroupKind

__all__ = [
    "HED",
    "Augmentation",
    "Copy",
    "Decoded",
    "Form",
    "GroupKind",
    "ImageTask",
    "Images",
    "Look",
    "NearCopies",
    "Share",
    "Standard",
    "Standardised",
    "augment",
    "colour_axes",
    "contents_of",
    "contrast",
    "crops",
    "decode",
    "decode_each",
    "draws_of",
    "evenly",
    "near_copies",
    "none_readable",
    "open_images",
    "read_in_batches",
    "refuse_lost_classes",
    "resampled",
    "show",
    "split",
    "standardise",
    "unreadable_note",
]


def __dir__() -> list[str]:
    return __all__
