"""Patches in order: from slides and plans, from tables of ready-made patch images, or a sample of either."""

from __future__ import annotations

from histofast.patches.coordinates import GivenCoords, read_given, with_coords
from histofast.patches.fitting import FittedBag, fit_bag
from histofast.patches.folders import SPLIT_NAMES, table_meant
from histofast.patches.images import stream_bag, stream_fitted
from histofast.patches.pictures import (
    STANDARDISED,
    GroupKind,
    Picture,
    Pictures,
    read_pictures,
)
from histofast.patches.rows import PatchReader, read_at, read_rows
from histofast.patches.sample import (
    IMAGE_SUFFIXES,
    MOST_SLIDES,
    PatchSample,
    sample_patches,
    split_rows,
)
from histofast.patches.sources import (
    Job,
    list_bags,
    list_jobs,
    select_shard,
    with_masks,
)
from histofast.patches.stain import (
    SAMPLED,
    StainMap,
    StainOptions,
    measured_rows,
    stain_map,
)
from histofast.patches.stream import PatchBatch, iter_patches, stream_slide
from histofast.patches.survey import (
    SLIDE_FAILURES,
    FoundTissue,
    TissueOptions,
    survey_tissue,
)
from histofast.patches.synthetic import make_demo_slides, make_labelled_slides, make_slide
from histofast.patches.tables import OddPatches, PatchBag, PatchImages, read_patch_table

__all__ = [
    "IMAGE_SUFFIXES",
    "MOST_SLIDES",
    "SAMPLED",
    "SLIDE_FAILURES",
    "SPLIT_NAMES",
    "STANDARDISED",
    "FittedBag",
    "FoundTissue",
    "GivenCoords",
    "GroupKind",
    "Job",
    "OddPatches",
    "PatchBag",
    "PatchBatch",
    "PatchImages",
    "PatchReader",
    "PatchSample",
    "Picture",
    "Pictures",
    "StainMap",
    "StainOptions",
    "TissueOptions",
    "fit_bag",
    "iter_patches",
    "list_bags",
    "list_jobs",
    "make_demo_slides",
    "make_labelled_slides",
    "make_slide",
    "measured_rows",
    "read_at",
    "read_given",
    "read_patch_table",
    "read_pictures",
    "read_rows",
    "sample_patches",
    "select_shard",
    "split_rows",
    "stain_map",
    "stream_bag",
    "stream_fitted",
    "stream_slide",
    "survey_tissue",
    "table_meant",
    "with_coords",
    "with_masks",
]


def __dir__() -> list[str]:
    return __all__
