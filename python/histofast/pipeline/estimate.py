"""`extract(dry_run=True)`: how many patches, and how long they would take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from histofast.encoders import EncoderSet
from histofast.patches import SLIDE_FAILURES, Job
from histofast.pipeline.encoding import about, equip, licences_of, notes_of
from histofast.pipeline.folders import folders_for
from histofast.pipeline.options import ExtractOptions, Settled, specs_of
from histofast.pipeline.preparing import folders_of, prepare
from histofast.pipeline.ranking import ranker_of
from histofast.pipeline.reports import Progress, RunReport, SlideReport

DEFAULT_PATCH_PX = 256
TRIAL_PATCHES = 64  # at most


def estimate(
    slides: Sequence[Job],
    options: ExtractOptions,
    devices: Sequence[str],
    on_progress: Callable[[Progress], None] | None,
    start_s: float,
) -> RunReport:
    """Plan every slide, and say how long encoding would take from a short trial of the encoders."""
    patches_of: Counter[int] = Counter()  # by their side in pixels
    with ExitStack() as stack:
        options = replace(options, device=devices[0])
        encoders, settled, pool = equip(options, stack)
        ranker = ranker_of(options, settled, stack)
        report = RunReport(
            about={**about(settled, encoders), "slides": len(slides)},
            notes=[*notes_of(encoders), *licences_of(encoders)],
        )
        if not options.overwrite:
            for folder in folders_for(folders_of(encoders, settled), slides):
                folder.refuse_others()
        for slide in slides:
            entry = _plan(slide, encoders, settled, pool, patches_of)
            report.add(entry)
            if on_progress is not None:
                on_progress(
                    Progress(
                        slides_total=len(slides),
                        slides_done=len(report.slides),
                        patches_done=0,
                        seconds=time.perf_counter() - start_s,
                        name=entry.name,
                        slide_patches=entry.patches,
                        slide_patches_done=0,
                        finished=entry,
                    )
                )
        # Bags may be of several sizes: the commonest stands for all.
        side = patches_of.most_common(1)[0][0] if patches_of else _any_side(settled, encoders)
        # The first device stands for all.
        patch_s = _seconds_per_patch(encoders, settled, side) / len(devices)
        rank_s = 0.0
        if ranker is not None:
            its_side = ranker.looking.patch_px or side
            rank_s = _seconds_per_patch([ranker.together], settled, its_side) / len(devices)
    planned = sum(slide.patches for slide in report.of("planned"))
    ranked = sum(slide.tissue_patches for slide in report.of("planned"))
    report.about["estimated_seconds"] = planned * patch_s + ranked * rank_s
    report.about["estimated_patches_per_s"] = (
        planned / report.about["estimated_seconds"] if planned else 1 / patch_s
    )
    report.seconds = time.perf_counter() - start_s
    return report


def _plan(
    slide: Job,
    encoders: Sequence[EncoderSet],
    settled: Settled,
    pool: ThreadPoolExecutor,
    patches_of: Counter[int],
) -> SlideReport:
    entry = SlideReport(name=slide.name, path=str(slide.path), status="planned")
    try:
        with ExitStack() as stack:
            prepared = prepare(slide, entry, encoders, settled, pool, stack, holding=None)
            assert prepared is not None, "what is only planned is never skipped"
            entry.status = "empty" if entry.reason else "planned"
            if settled.select is not None:
                entry.tissue_patches = entry.patches
                entry.patches = sum(settled.select.sizes(entry.patches)) if entry.patches else 0
            patches_of[prepared.planned.attributes["patch_size"]] += entry.patches
    except SLIDE_FAILURES as error:
        entry.fail(error)
    return entry


def _seconds_per_patch(encoders: Sequence[EncoderSet], settled: Settled, side_px: int) -> float:
    n = min(settled.batch_size, TRIAL_PATCHES)
    pixels = np.full((n, side_px, side_px, 3), 200, np.uint8)
    seconds = 0.0
    for together in encoders:
        together.encode(pixels)  # the first call allocates
        begin = time.perf_counter()
        together.encode(pixels)
        seconds += time.perf_counter() - begin
    return seconds / n


def _any_side(settled: Settled, encoders: Sequence[EncoderSet]) -> int:
    fixed = [spec.height_px for spec in specs_of(encoders) if spec.height_px]
    return settled.patch_px or (fixed[0] if fixed else DEFAULT_PATCH_PX)
