"""The arguments of `extract`, but for slides, encoder and what encoders are made for, as a type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from histofast.features import Layout
from histofast.jobs import Cluster
from histofast.patches import PatchImages, StainOptions, TissueOptions
from histofast.pipeline.options import Edge
from histofast.pipeline.reports import Progress
from histofast.pipeline.selecting import Selection
from histofast.slides import Icc
from histofast.tiling import Resample


class _SharedArguments(TypedDict, total=False):
    mag: float | None
    overlap_px: int
    min_tissue: float
    edge: Edge
    tissue: TissueOptions | str | Path | None
    stain: StainOptions | str | None
    icc: Icc | None
    mask: str | Path | None
    coords: str | Path | None
    mpp_override: float | None
    resample: Resample
    allow_upsampling: bool
    strict: bool
    fail_fast: bool
    overwrite: bool
    recursive: bool
    shard: str | None
    device: str
    workers: int | None


class PlanArguments(_SharedArguments, total=False):
    """What decides which patches of slides there are, in what colours, and how a run of them goes."""

    mpp: float | None
    patch_px: int | None


class ExtractArguments(_SharedArguments, total=False):
    """What is handed on to `extract` as it is; there each is explained."""

    patches: str | Path | PatchImages | None
    select: Selection | None
    half: bool
    layout: Layout
    nominal_level0: bool
    gpus: Sequence[int] | None
    cluster: Cluster | str | None
    threads: int | None
    batch_size: int | None
    stage: str | Path | None
    stage_gb: float | None
    dry_run: bool
    progress: bool | None
    on_progress: Callable[[Progress], None] | None
