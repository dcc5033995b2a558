"""The arguments of `extract`, but for slides, encoder and what encoders are made for, as a type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from histofast.features import Layout
from histofast.patches import PatchImages, StainOptions, TissueOptions
from histofast.pipeline.options import Edge
from histofast.pipeline.reports import Progress
from histofast.pipeline.selecting import Selection
from histofast.slides import Icc
from histofast.tiling import Resample


class ExtractArguments(TypedDict, total=False):
    """What is handed on to `extract` as it is; there each is explained."""

    patches: str | Path | PatchImages | None
    mag: float | None
    overlap_px: int
    min_tissue: float
    edge: Edge
    tissue: TissueOptions | str | Path | None
    stain: StainOptions | str | None
    icc: Icc | None
    select: Selection | None
    mask: str | Path | None
    mpp_override: float | None
    resample: Resample
    allow_upsampling: bool
    half: bool
    layout: Layout
    nominal_level0: bool
    strict: bool
    fail_fast: bool
    overwrite: bool
    recursive: bool
    shard: str | None
    device: str
    gpus: Sequence[int] | None
    cluster: str | None
    cpus_per_worker: int | None
    gpus_per_worker: float | None
    threads: int | None
    workers: int | None
    batch_size: int | None
    dry_run: bool
    progress: bool | None
    on_progress: Callable[[Progress], None] | None
