"""Features of a few patches of many slides, with the pixels that `extract` would give its encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._notes import OnNote, log_of, note
from histofast._numbers import whole_number
from histofast._remote import Place
from histofast._stopping import stop_if_asked
from histofast.encoders import EncoderSpec
from histofast.patches import MOST_SLIDES, SLIDE_FAILURES, Job
from histofast.pipeline.encoding import equip
from histofast.pipeline.extraction import options_asked, refuse_two_sources, slides_asked
from histofast.pipeline.options import ExtractOptions, Settled, devices_of
from histofast.pipeline.reports import Clock, said
from histofast.pipeline.sources import BagSource, SlideSource

_log = log_of(__name__)
# Of a run; a sample is of all shards and of all patches, taken here.
_OF_RUNS = ("dry_run", "progress", "on_progress", "shard", "overwrite", "select", "cluster")


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSample:
    """Features of patches drawn at random.

    Attributes:
        spec: of their encoder.
        pixels: what decided which pixels it saw, see `pixels_asked`.
        features: (n, d) float32.
        sources: (n) names of their slides or bags.
        groups: (n) patients, slides or bags where the patient is not known.
    """

    spec: EncoderSpec
    pixels: dict[str, Any]
    features: NDArray[np.float32]
    sources: tuple[str, ...]
    groups: tuple[str, ...]


def sample_features(
    slides: str | Place | Sequence[str | Place] | None = None,
    *,
    encoder: str | Path,
    n: int,
    seed: int = 0,
    on_count: Callable[[int, int], None] | None = None,
    on_note: OnNote | None = None,
    **arguments: Any,
) -> FeatureSample:
    """Encode patches drawn at random, evenly from at most 64 slides or from all bags.

    Memory is that of their features and of one batch of patches. Patches that show something
    unreadable are left out, and so are slides that fail, which is told.

    Args:
        slides: as of `extract`.
        encoder: name or ONNX file of one encoder.
        n: patches wanted; fewer come back where there are no more.
        seed: of the draw.
        on_count: called with the patches encoded and those wanted.
        on_note: called with a line on each slide that is left out.
        arguments: the other arguments of `extract`, but for `out`; those of runs are passed over.

    Raises:
        What `extract` raises before its first slide.
        ValueError: no patch at all.

    Determinism: bitwise on the CPU, whatever the threads.
    """
    n, seed = whole_number("n", n, at_least=1), whole_number("seed", seed, at_least=0)
    given: dict[str, Any] = {k: v for k, v in arguments.items() if k not in _OF_RUNS}
    gpus, mask = given.pop("gpus", None), given.pop("mask", None)
    is_recursive = given.pop("recursive", False)
    refuse_two_sources(slides, patches=given.get("patches"), mask=mask)
    options = options_asked(out=Path(), encoder=encoder, **given)
    options = replace(options, device=devices_of(options.device, gpus)[0])
    jobs = slides_asked(slides, options, mask=mask, recursive=is_recursive)
    features: list[NDArray[np.float32]] = []
    drawn: list[Job] = []
    with ExitStack() as stack:
        (together,), settled, pool = equip(options, stack)
        for job, pixels in _drawn(jobs, settled, n, np.random.default_rng(seed), pool, on_note):
            stop_if_asked()
            features += together.encode(pixels)
            drawn += [job] * len(pixels)
            if on_count is not None:
                on_count(len(drawn), n)
        (spec,) = together.specs
    if not drawn:
        raise ValueError(f"slides must have patches with tissue, got none in {len(jobs)}")
    return FeatureSample(
        spec=spec,
        pixels=pixels_asked(options, spec),
        features=np.concatenate(features),
        sources=tuple(job.name for job in drawn),
        groups=tuple(job.patient or job.name for job in drawn),
    )


def pixels_asked(options: ExtractOptions, spec: EncoderSpec) -> dict[str, Any]:
    """Return what decides which pixels of a slide an encoder sees, as JSON has it."""
    patch_px = options.patch_px
    if patch_px is None:
        patch_px = (spec.height_px or 0) if options.of_bags else spec.patch_px
    return {
        "mpp": spec.mpp if options.mpp is None else options.mpp,
        "patch_px": patch_px,
        "resample": options.resample,
        "stain": None if options.stain is None else options.stain.identity,
        "icc": options.icc,
    }


def _drawn(
    jobs: Sequence[Job],
    options: Settled,
    n: int,
    rng: np.random.Generator,
    pool: ThreadPoolExecutor,
    on_note: OnNote | None,
) -> Iterator[tuple[Job, NDArray[np.uint8]]]:
    """Yield batches of patches, (k, p, p, 3) uint8, with whose they are."""
    most = n if options.of_bags else MOST_SLIDES  # opening a bag costs nothing
    chosen = [jobs[i] for i in sorted(rng.permutation(len(jobs))[:most])]
    found = 0
    for i, job in enumerate(chosen):
        share = -(-(n - found) // (len(chosen) - i))  # what others lack comes from the rest
        try:
            for pixels in _of(job, options, share, rng, pool):
                found += len(pixels)
                yield job, pixels
        except SLIDE_FAILURES as error:
            note(_log, f"{job.name} is left out of the sample: {said(error)}", to=on_note)


def _of(
    job: Job, options: Settled, n: int, rng: np.random.Generator, pool: ThreadPoolExecutor
) -> Iterator[NDArray[np.uint8]]:
    with ExitStack() as stack:
        source = BagSource(job, options) if job.bag else SlideSource(job, options, stack)
        planned = source.plan(options, pool, Clock({}))
        rows = np.sort(rng.permutation(len(planned.coords_l0))[:n])
        start = 0
        for batch in planned.stream(rows) if len(rows) else ():
            whole = np.ones(len(batch.pixels), bool)
            whole[batch.damaged - start] = False
            start += len(batch.pixels)
            if whole.any():
                yield np.ascontiguousarray(batch.pixels[whole])
