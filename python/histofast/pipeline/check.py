"""Look before encoding: tissue mask, contours and patch grid of slides, as files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from histofast._files import path_of, replacing
from histofast._machine import available_cpus
from histofast.errors import SlideError
from histofast.patches import (
    SLIDE_FAILURES,
    Job,
    TissueOptions,
    list_jobs,
    survey_tissue,
    with_masks,
)
from histofast.pipeline.options import Edge, Settled, refuse_masks, refuse_two_scales
from histofast.pipeline.reports import is_plain, make_folder, said
from histofast.slides import write_png
from histofast.tiling import plan_patches
from histofast.tissue import MaskFile, preview

PREVIEW_MAX_PX = 1600
_MPP = 0.5  # of the patches, where nothing is asked for


def check_slides(
    slides: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    mpp: float | None = None,
    mag: float | None = None,
    patch_px: int = 256,
    overlap_px: int = 0,
    min_tissue: float = 0.25,
    edge: Edge = "drop",
    tissue: TissueOptions | str | Path | None = None,
    mask: str | Path | None = None,
    mpp_override: float | None = None,
    allow_upsampling: bool = False,
    recursive: bool = False,
    device: str = "auto",
) -> Iterator[tuple[Job, dict[str, Any] | Exception]]:
    """Write mask, contours and a preview of every slide.

    Per slide: `<slide>_mask.png` (0 and 255, whole slide), `<slide>.geojson` (contours with holes
    in level-0 pixels, for QuPath) and `<slide>_preview.png` (tissue outline and patch grid).

    Args:
        slides: as in `extract`.
        out: output folder.
        mpp: of the patches, 0.5 where neither this nor `mag` is given; so `mag`, `patch_px`, `overlap_px`, `min_tissue`, `edge`: as in `extract`.
        tissue: how tissue is found, or the file of a network that finds it.
        mask: ready masks, as in `extract`.
        mpp_override: level-0 um per pixel of all slides.
        allow_upsampling: take slides that are coarser than `mpp`.
        recursive: look in sub-folders too.
        device: where a network of tissue runs.

    Yields:
        Per slide its job, and either what was found and where it was written, or the error.

    Raises:
        ValueError, FileNotFoundError, WriteError: as `extract`, before the first slide.
    """
    refuse_two_scales(mpp=mpp, mag=mag)
    options = Settled(
        out=path_of("out", out),
        mpp=_MPP if mpp is None else mpp,
        mag=mag,
        patch_px=patch_px,
        batch_size=1,  # nothing is streamed
        is_mpp_given=True,
        overlap_px=overlap_px,
        min_tissue=min_tissue,
        edge=edge,
        tissue=TissueOptions.of(tissue),
        device=device,
        mpp_override=mpp_override,
        allow_upsampling=allow_upsampling,
    )
    jobs = with_masks(list_jobs(slides, recursive=recursive), mask)
    refuse_masks(jobs, options.tissue)
    make_folder(options.out)
    with ThreadPoolExecutor(available_cpus()) as pool:
        for job in jobs:
            try:
                found = _check(job, options, pool)
            except SLIDE_FAILURES as error:
                yield job, error if is_plain(error) else SlideError(said(error))
            else:
                yield job, found


def _check(job: Job, options: Settled, pool: ThreadPoolExecutor) -> dict[str, Any]:
    """Write the files of one slide; return what was found."""
    with job.open(mpp=job.mpp or options.mpp_override) as slide:
        given = MaskFile(job.mask) if job.mask else None
        survey = survey_tissue(slide, options.tissue, given, pool, device=options.device)
        found = survey.tissue
        plan = plan_patches(
            slide,
            found,
            mpp=options.mpp_on(slide.mpp),
            patch_px=options.patch_px,
            overlap_px=options.overlap_px,
            min_tissue=options.min_tissue,
            edge=options.edge,
            allow_upsampling=options.allow_upsampling,
        )
        base = slide.levels[0]
        side_um = max(base.width, base.height) * slide.mpp
        picture = slide.overview(mpp=max(side_um / PREVIEW_MAX_PX, slide.mpp), workers=pool)
    files = {
        "mask": options.out / f"{job.name}_mask.png",
        "geojson": options.out / f"{job.name}.geojson",
        "preview": options.out / f"{job.name}_preview.png",
    }
    with ExitStack() as stack:
        pending = {
            kind: stack.enter_context(replacing(path, overwrite=True))
            for kind, path in files.items()
        }
        write_png(pending["mask"], found.mask * 255)
        pending["geojson"].write_text(json.dumps(found.geojson(origin_l0=slide.origin_l0)))
        write_png(pending["preview"], preview(picture, found, plan.boxes_l0))
    return {
        "tissue_mm2": found.area_mm2(slide.mpp),
        "tissue_fraction": found.fraction,
        "threshold": found.threshold,
        "patches": len(plan),
        "unreadable": len(survey.unreadable_l0),
        "notes": [*options.notes_on(slide.mpp), *found.notes, *plan.notes],
        **{kind: str(path) for kind, path in files.items()},
    }
