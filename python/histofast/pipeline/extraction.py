"""Slides in, feature files out: `extract`.

Two threads of `_supply` bring pixels, one slide after the other; the calling thread encodes and
writes them (`_encoding`). On several GPUs there is a process for each (`_gpus`).
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from histofast import _core
from histofast._files import remove_stale_temporaries
from histofast._machine import ONNX_RUNTIME, available_cpus
from histofast._numbers import mpp_number, real_number, whole_number
from histofast._words import one_line
from histofast.encoders import EncoderSet, EncoderSpec, load_all, runtime
from histofast.errors import ModelError
from histofast.features import Layout
from histofast.patches import (
    SLIDE_FAILURES,
    Job,
    TissueOptions,
    list_bags,
    list_jobs,
    select_shard,
    with_masks,
)
from histofast.pipeline.encoding import Encoding
from histofast.pipeline.gpus import Link, share
from histofast.pipeline.preparing import Options, Request, prepare
from histofast.pipeline.reports import (
    Progress,
    ReportFile,
    RunReport,
    SlideReport,
    make_folder,
)
from histofast.pipeline.supply import POLL_S, Listed, Supply

DEFAULT_ENCODER = "densenet121-t2"
DEFAULT_PATCH_PX = 256
TRIAL_PATCHES = 64  # at most, for the estimate of a dry run


def extract(
    slides: str | Path | Sequence[str | Path] | None = None,
    *,
    out: str | Path,
    encoder: str | Path | Sequence[str | Path] = DEFAULT_ENCODER,
    patches: str | Path | None = None,
    mpp: float | None = None,
    patch_px: int | None = None,
    overlap_px: int = 0,
    min_tissue: float = 0.25,
    edge: Literal["drop", "shift"] = "drop",
    tissue: TissueOptions | None = None,
    mask: str | Path | None = None,
    mpp_override: float | None = None,
    allow_upsampling: bool = False,
    half: bool = False,
    layout: Layout = "trident",
    strict: bool = False,
    fail_fast: bool = False,
    overwrite: bool = False,
    recursive: bool = False,
    shard: str | None = None,
    device: str = "auto",
    gpus: Sequence[int] | None = None,
    threads: int | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    dry_run: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunReport:
    """Encode slides into feature files.

    Args:
        slides: files, folders, globs or CSV lists (wsi[, mpp, mask]), one or several.
        out: output folder; files come to
            `<out>/<mag>x_<patch>px_<overlap>px_overlap/features_<encoder>/<slide>.h5`.
        encoder: name or ONNX file of one or several encoders; all see the same pixels, decoded once.
            A file of cuts is as many encoders as it has cuts, computed in one run.
        patches: instead of slides, a CSV of patch images (file, bag[, label, x, y, split]).
        mpp: um per pixel of the patches; what the encoder was made for when None.
        patch_px: side of the patches in pixels; what the encoder was made for when None (for
            patch images: their own size).
        overlap_px: overlap of neighbouring patches, in patch pixels.
        min_tissue: least share of tissue in a patch, 0..1.
        edge: see `plan_patches`.
        tissue: how tissue is found.
        mask: ready-made tissue mask (PNG, GeoJSON) for a single slide, or a folder of masks named
            after the slides; used instead of finding tissue.
        mpp_override: level-0 um per pixel of all slides, instead of what their files say.
        allow_upsampling: take slides that are coarser than `mpp`.
        half: store features as float16.
        layout: "trident", "clam" or "stamp".
        strict: a slide with an unreadable region fails; otherwise regions are counted and listed.
        fail_fast: stop at the first slide that fails.
        overwrite: replace feature files that were made by something else.
        recursive: look for slides in sub-folders too.
        shard: "i/n": only the slides whose name falls into part i of n (1-based), for job arrays.
        device: where the encoder runs: "cpu"; "cuda" or "tensorrt", or one of several as "cuda:1",
            an error where it does not work; "auto" takes CUDA where it works.
        gpus: indices of the GPUs to run on. Several have a process each; every slide is encoded by
            one of them, the next by whichever is free first. `device` may be "tensorrt".
        threads: of the encoder; the CPUs available when None. Processes of several GPUs share them.
        workers: threads that decode; the CPUs available when None. Processes of several GPUs share
            them, at least one each.
        batch_size: patches per encoder call; away from the CPU it is part of what a file was made
            with, for there the last bits may depend on it.
        dry_run: only plan; the report says how many patches each slide has.
        on_progress: called after every batch and every slide.

    Returns:
        The report, which is also saved as `run.json` in `out`. A slide that fails does not stop the
        others; see `RunReport.exit_code`. With several GPUs, a slide on which the encoder fails is
        tried once more on another one, and those of a process that dies are given to the others.

    Raises:
        ValueError, TypeError: an argument out of range, two slides of one name, an empty list.
        FileNotFoundError: a path that is not there.
        ModelError: an encoder that cannot be used.
        FeatureError: the output folder cannot be written, or the disk is full.

    Determinism: the same slide, encoder and options give the same bytes, whatever the threads,
    workers, GPUs of one kind, shards and interruptions.
    """
    start = time.perf_counter()
    # NumPy's numbers would not go into the identity.
    mpp, mpp_override = real_number("mpp", mpp), mpp_number("mpp_override", mpp_override)
    min_tissue = real_number("min_tissue", min_tissue)
    patch_px = whole_number("patch_px", patch_px, at_least=1)
    overlap_px = whole_number("overlap_px", overlap_px)
    threads = whole_number("threads", threads, at_least=1)
    workers = whole_number("workers", workers, at_least=1)
    batch_size = whole_number("batch_size", batch_size, at_least=1)
    out = Path(out)
    names = [encoder] if isinstance(encoder, str | Path) else list(encoder)
    if not names:
        raise ValueError("encoder must name at least one encoder, got none")
    if (slides is None) == (patches is None):
        raise ValueError("slides or patches must be given, and not both")
    if patches is not None and mask is not None:
        raise ValueError("mask must not be given with patches, which are cut already")
    if half and layout == "clam":
        raise ValueError("half must be False for layout clam, whose readers want float32, got True")
    devices = _devices(device, gpus)

    jobs = (
        list_bags(patches) if patches is not None else list_jobs(slides or (), recursive=recursive)
    )
    jobs = select_shard(with_masks(jobs, mask), shard)
    request = Request(
        out=out,
        encoders=tuple(names),
        mpp=mpp,
        patch_px=patch_px,
        overlap_px=overlap_px,
        min_tissue=min_tissue,
        edge=edge,
        tissue=tissue or TissueOptions(),
        mpp_override=mpp_override,
        allow_upsampling=allow_upsampling,
        half=half,
        layout=layout,
        strict=strict,
        fail_fast=fail_fast,
        overwrite=overwrite,
        shard=shard,
        of_bags=patches is not None,
        device=devices[0],
        threads=threads or available_cpus(),
        workers=workers or available_cpus(),
        batch_size=batch_size,
    )
    if dry_run:
        return _estimate(request, jobs, len(devices), on_progress, start)
    if len(devices) > 1:
        return share(
            jobs,
            request,
            devices=devices,
            on_progress=on_progress,
            start=start,
            poll_s=POLL_S,
        )
    with ExitStack() as stack:
        encoders, options, pool = _equip(request, stack)
        report = _new_report(request, options, encoders, len(jobs))
        make_folder(out)
        remove_stale_temporaries(out)
        saver = stack.enter_context(closing(ReportFile(out, report, shard)))
        supply = stack.enter_context(Supply(Listed(jobs), encoders, options, pool))
        run = Encoding(encoders, options, supply, report, on_progress, start, slides=len(jobs))
        try:
            run.run(fail_fast=fail_fast, ended=lambda slide, error: saver.save())
        finally:
            if report.interrupted:  # maybe before a file had somebody to remove it
                remove_stale_temporaries(out)
            report.add_undone(jobs)
            report.seconds = time.perf_counter() - start
            saver.save(now=True)
    return report


def _devices(device: str, gpus: Sequence[int] | None) -> list[str]:
    """Return one device for each process of a run."""
    if gpus is None:
        return [device]
    kind = "cuda" if device == "auto" else device
    if kind not in ONNX_RUNTIME:
        raise ValueError(f"device must be auto, cuda or tensorrt with gpus, got {device!r}")
    indices = [whole_number("gpus", index) for index in gpus]
    if not indices:
        raise ValueError("gpus must name at least one GPU, got none")
    if min(indices) < 0:
        raise ValueError(f"gpus must not be negative, got {min(indices)}")
    if len(set(indices)) < len(indices):
        raise ValueError(f"gpus must be given once each, got {', '.join(map(str, indices))}")
    problem = runtime.why_not(runtime.PROVIDERS[kind])
    if problem is not None:
        raise ModelError(f"device {kind} does not work: {problem}")
    offered = runtime.driver_gpu_count() or 0
    if max(indices) >= offered:
        raise ValueError(
            f"gpus must be within 0..{offered - 1}, the GPUs that the driver offers, "
            f"got {max(indices)}"
        )
    return [f"{kind}:{index}" for index in indices]


def _equip(
    request: Request, stack: ExitStack
) -> tuple[list[EncoderSet], Options, ThreadPoolExecutor]:
    """Load the encoders and start the threads that decode; `stack` closes them."""
    encoders = [
        stack.enter_context(load_all(name, device=request.device, threads=request.threads))
        for name in request.encoders
    ]
    patch_px = request.patch_px
    options = Options(
        out=request.out,
        mpp=_agreed(encoders, "mpp") if request.mpp is None else request.mpp,
        patch_px=patch_px or (0 if request.of_bags else _agreed(encoders, "patch_px")),
        overlap_px=request.overlap_px,
        min_tissue=request.min_tissue,
        edge=request.edge,
        allow_upsampling=request.allow_upsampling,
        tissue=request.tissue,
        mpp_override=request.mpp_override,
        dtype="float16" if request.half or request.layout == "stamp" else "float32",
        layout=request.layout,
        strict=request.strict,
        overwrite=request.overwrite,
        batch_size=request.batch_size or min(e.preferred_batch for e in encoders),
        mag_known=not request.of_bags or request.mpp is not None,
    )
    _check_options(options, encoders)
    pool = stack.enter_context(
        ThreadPoolExecutor(request.workers, thread_name_prefix="histofast-decode")
    )
    return encoders, options, pool


def serve() -> None:
    """Encode the slides that another process deals out: what `_gpus` starts."""
    link = Link()
    try:
        with ExitStack() as stack:
            request, jobs = link.receive()
            encoders, options, pool = _equip(request, stack)
            report = _new_report(request, options, encoders, len(jobs))
            supply = stack.enter_context(Supply(link, encoders, options, pool))
            stack.callback(link.close)
            link.begin(report, supply.interrupt)
            run = Encoding(
                encoders, options, supply, report, link.tell, time.perf_counter(), slides=0
            )
            run.run(fail_fast=False, ended=lambda slide, error: link.ended(slide, error, report))
        link.over(report)
    except Exception as error:  # noqa: BLE001  # handed to the process that can raise it
        link.fail(error)
    link.exit()


def _specs(encoders: Sequence[EncoderSet]) -> list[EncoderSpec]:
    return [spec for together in encoders for spec in together.specs]


def _agreed(encoders: Sequence[EncoderSet], what: Literal["mpp", "patch_px"]) -> Any:
    values = {spec.name: getattr(spec, what) for spec in _specs(encoders)}
    if len(set(values.values())) > 1:
        option = {"mpp": "--mpp", "patch_px": "--patch-px"}[what]
        listed = ", ".join(f"{name}: {value:g}" for name, value in values.items())
        raise ValueError(
            f"{what} must be given when encoders differ in it ({listed}): use {option}"
        )
    return next(iter(values.values()))


def _check_options(options: Options, encoders: Sequence[EncoderSet]) -> None:
    """Refuse before the first slide what no slide could satisfy."""
    mpp_number("mpp", options.mpp)
    if options.patch_px and not 0 <= options.overlap_px < options.patch_px:
        raise ValueError(
            f"overlap_px must be within 0..{options.patch_px - 1}, got {options.overlap_px}"
        )
    if not 0 <= options.min_tissue <= 1:
        raise ValueError(f"min_tissue must be within 0..1, got {options.min_tissue:g}")
    names = [spec.name for spec in _specs(encoders)]
    if len(set(names)) < len(names):
        raise ValueError(f"encoders must have different names, got {', '.join(names)}")
    for name, value, known in (
        ("layout", options.layout, get_args(Layout)),
        ("edge", options.edge, ("drop", "shift")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    for spec in _specs(encoders):
        fixed = spec.height_px
        if options.patch_px and fixed and fixed != options.patch_px:
            raise ValueError(
                f"patch_px must be {fixed} for encoder {spec.name}, got {options.patch_px}"
            )


def _new_report(
    request: Request, options: Options, encoders: Sequence[EncoderSet], jobs: int
) -> RunReport:
    about = {
        "histofast": _core.version,
        "python": platform.python_version(),
        "machine": platform.node(),
        "isa": _core.current_isa().name,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "encoders": [
            {"name": spec.name, "sha256": spec.sha256, "provider": together.provider}
            for together in encoders
            for spec in together.specs
        ],
        "options": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in asdict(options).items()
        },
        "shard": request.shard,
        "slides": jobs,
    }
    notes = [f"{e.name}: {e.device_note}" for e in encoders if e.device_note]
    return RunReport(about=about, notes=notes)


def _estimate(
    request: Request,
    jobs: Sequence[Job],
    devices: int,
    on_progress: Callable[[Progress], None] | None,
    start: float,
) -> RunReport:
    """Plan every slide, and say how long encoding would take from a short trial of the encoders."""
    patches_of: Counter[int] = Counter()  # by their side in pixels
    with ExitStack() as run:
        encoders, options, pool = _equip(request, run)
        report = _new_report(request, options, encoders, len(jobs))
        for job in jobs:
            entry = SlideReport(name=job.name, path=str(job.path), status="planned")
            try:
                with ExitStack() as stack:
                    prepared = prepare(job, entry, encoders, options, pool, stack, only_plan=True)
                    assert prepared is not None, "what is only planned is never skipped"
                    patches_of[prepared.planned.attributes["patch_size"]] += entry.patches
            except SLIDE_FAILURES as error:
                entry.status, entry.error = "failed", one_line(error)
            report.slides.append(entry)
            if on_progress is not None:
                on_progress(
                    Progress(
                        slides_total=len(jobs),
                        slides_done=len(report.slides),
                        patches_done=0,
                        seconds=time.perf_counter() - start,
                        name=entry.name,
                        slide_patches=entry.patches,
                        slide_patches_done=0,
                        finished=entry,
                    )
                )
        # Bags may be of several sizes: the commonest stands for all.
        side = patches_of.most_common(1)[0][0] if patches_of else _any_side(options, encoders)
        pixels = np.full((min(options.batch_size, TRIAL_PATCHES), side, side, 3), 200, np.uint8)
        rate_s = 0.0  # per patch; the first device stands for all
        for together in encoders:
            together.encode(pixels)  # the first call allocates
            begin = time.perf_counter()
            together.encode(pixels)
            rate_s += (time.perf_counter() - begin) / len(pixels) / devices
    planned = sum(slide.patches for slide in report.of("planned"))
    report.about["estimated_patches_per_s"] = 1 / rate_s
    report.about["estimated_seconds"] = planned * rate_s
    report.seconds = time.perf_counter() - start
    return report


def _any_side(options: Options, encoders: Sequence[EncoderSet]) -> int:
    fixed = [spec.height_px for spec in _specs(encoders) if spec.height_px]
    return options.patch_px or (fixed[0] if fixed else DEFAULT_PATCH_PX)
