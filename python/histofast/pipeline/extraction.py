"""Slides in, feature files out: `extract`.

Each slide is a job; what does them is a worker that loads the encoders once (`encoding`). Two
threads of its own bring it pixels, one slide after the other (`supply`). One device is worked for
in the calling thread, several by a process each (`jobs`); `gathering` listens and keeps the report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from histofast import jobs
from histofast._files import path_of
from histofast._machine import available_cpus
from histofast._progress import shows
from histofast._remote import Address, Place, place_of, places_of
from histofast._words import counted
from histofast.errors import JobError, ModelError, NoSpaceError, SlideError
from histofast.features import Layout
from histofast.patches import (
    IMAGE_SUFFIXES,
    Job,
    PatchImages,
    StainOptions,
    TissueOptions,
    list_bags,
    list_jobs,
    select_shard,
    with_coords,
    with_masks,
)
from histofast.pipeline.elsewhere import engine_on
from histofast.pipeline.encoding import encode_slides
from histofast.pipeline.estimate import estimate
from histofast.pipeline.gathering import Gathering
from histofast.pipeline.options import (
    DEFAULT_ENCODER,
    Edge,
    ExtractOptions,
    devices_of,
    encoders_of,
    flag,
    refuse_masks,
    refuse_masks_beside_coords,
    refuse_two_scales,
)
from histofast.pipeline.reports import Progress, RunReport, said
from histofast.pipeline.selecting import Selection
from histofast.slides import Icc
from histofast.tiling import Resample

POLL_S = 0.5  # how often a run asks whether another one has let go of a slide
PATIENCE_S = 30.0  # for the batch at hand, before a process that was told to stop is ended


@shows()
def extract(
    slides: str | Place | Sequence[str | Place] | None = None,
    *,
    out: str | Path,
    encoder: str | Path | Sequence[str | Path] = DEFAULT_ENCODER,
    patches: str | Path | PatchImages | None = None,
    mpp: float | None = None,
    mag: float | None = None,
    patch_px: int | None = None,
    overlap_px: int = 0,
    min_tissue: float = 0.25,
    edge: Edge = "drop",
    resample: Resample = "area",
    tissue: TissueOptions | str | Path | None = None,
    stain: StainOptions | str | None = None,
    icc: Icc | None = None,
    select: Selection | None = None,
    mask: str | Path | None = None,
    coords: str | Path | None = None,
    mpp_override: float | None = None,
    allow_upsampling: bool = False,
    half: bool = False,
    layout: Layout = "trident",
    nominal_level0: bool = False,
    strict: bool = False,
    fail_fast: bool = False,
    overwrite: bool = False,
    recursive: bool = False,
    shard: str | None = None,
    device: str = "auto",
    gpus: Sequence[int] | None = None,
    cluster: jobs.Cluster | str | None = None,
    threads: int | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    stage: str | Path | None = None,
    stage_gb: float | None = None,
    dry_run: bool = False,
    progress: bool | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunReport:
    """Encode slides into feature files.

    Args:
        slides: files, folders, globs or CSV lists (wsi[, mpp, mask]), one or several; also addresses in
            buckets and on web servers (s3://, gs://, az://, https://), whose tiled TIFFs are read where they are.
        out: output folder; files come to
            `<out>/<mag>x_<patch>px_<overlap>px_overlap/features_<encoder>/<slide>.h5`.
        encoder: name or ONNX file of one or several encoders; all see the same pixels, decoded once.
            A file of cuts is as many encoders as it has cuts, computed in one run.
        patches: instead of slides, a CSV of patch images (file[, slide, patient, label, x, y, split]), or
            a folder of classes; `PatchImages` says besides which of them are one bag, and so one file, and
            what to do with images of odd sizes.
        mpp: um per pixel of the patches, exactly; what the encoder was made for when None.
        mag: what scanners call it instead: 40 is 0.25 um per pixel, 20 is 0.5. A slide whose own scale is
            that to within 6 % keeps it, which its line and its file say; others are resampled to it.
        patch_px: side of the patches in pixels; what the encoder was made for when None. Patch images are
            then averaged down to it where the encoder takes one size only, and else as they are.
        overlap_px: overlap of neighbouring patches, in patch pixels.
        min_tissue: least share of tissue in a patch, 0..1.
        edge: see `plan_patches`.
        resample: "area", "bicubic" or "bilinear": how pixels of the slide, or patch images, become those of a
            patch; the latter as Pillow resizes, for encoders that were trained so. See `slides.resize_image`.
        tissue: how tissue is found; or the file of a network that finds it, see `graphs.wrap_tissue`. It runs
            on `device` as the encoders do.
        stain: bring the colours of every slide, or bag of patches, to those of a target: "macenko" or
            "reinhard" to the published ones, `StainOptions` to those of a picture. Measured once on 32 patches
            of each; a slide without enough tissue to measure, or without two stains, fails.
        icc: "srgb": bring the colours of patches to sRGB by the ICC profile of their slide, as littleCMS does,
            before stains are measured. A slide without one stays as it is, which its line says; one with a
            broken one fails.
        select: encode only some patches of each slide: those of the highest attention of a trained model of
            slides on the features of a cheap encoder, and some of the others at random; `mil.selection` makes
            one of a run. The file says which rows and why; it is no file of all patches, and not mixed with such.
        mask: ready-made tissue mask (PNG, TIFF, JPEG, GeoJSON) for a single slide, or a folder of masks named
            after the slides; used instead of finding tissue.
        coords: own coordinates instead of a grid on tissue: a CSV (slide, x, y[, size]), an HDF5 file of TRIDENT,
            CLAM or `extract` (`coords`), or GeoJSON points; of the latter two one, or a folder of them named after
            the slides. Tables and HDF5 tell top-left corners in level-0 pixels, points the centres of
            patches, as QuPath counts. Patches are of `mpp` and `patch_px` exactly, sorted by y, then x; where
            the file tells a side that differs by over 6 %, the slide fails. `edge` is for patches across the slide's edge.
        mpp_override: level-0 um per pixel of all slides, instead of what their files say.
        allow_upsampling: take slides that are coarser than `mpp`.
        half: store features as float16.
        layout: "trident", "clam" or "stamp".
        nominal_level0: the attribute `patch_size_level0` is what it would be were the slide's scale that of
            40x, 20x ... to the letter, for tools that want it equal over slides; what was cut stays the same
            and is told as `patch_size_level0_exact`.
        strict: a slide with an unreadable region fails; otherwise regions are counted and listed.
        fail_fast: stop at the first slide that fails.
        overwrite: replace feature files that were made by something else, with other options, or
            that list unreadable regions.
        recursive: look for slides in sub-folders too.
        shard: "i/n": only the slides whose name falls into part i of n (1-based), for job arrays.
        device: where the encoder runs: "cpu"; "cuda" or "tensorrt", or one of several as "cuda:1",
            an error where it does not work; "auto" takes CUDA where it works.
        gpus: indices of the GPUs to run on. Several have a process each; every slide is encoded by
            one of them, the next by whichever is free first. `device` may be "tensorrt".
        cluster: encode on the machines of a Ray cluster: "auto", the one that this machine is part of;
            "HOST:PORT"; "ray://HOST:10001", through its head; or "local:3", three workers on this machine, for
            trying it; `jobs.Cluster` says besides what each worker has. All machines need this version and see the same folders. A worker that is lost is
            replaced, and its slides are given to others; a slide with which two are lost has failed.
        threads: of the encoder; the CPUs available when None. Processes of several GPUs share them.
        workers: threads that decode; the CPUs available when None. Processes of several GPUs share
            them, at least one each.
        batch_size: patches per encoder call; away from the CPU it is part of what a file was made
            with, for there the last bits may depend on it.
        stage: a folder of this machine that slides in buckets are copied to, one ahead, which are no tiled
            TIFFs (MRXS, NDPI, DICOM, pictures ...) and must be files; each is removed when it is done. None:
            such slides fail.
        stage_gb: how many gigabytes may lie there; 50 when None. Processes of several GPUs share them.
        dry_run: only plan; the report says how many patches each slide has.
        progress: show it as lines of text: True, False; None: in a notebook, unless `on_progress` hears it.
        on_progress: called after every batch and every slide.

    Returns:
        The report, which is also saved as `run.json` in `out`. A slide that fails, whatever it meets,
        does not stop the others; one with nothing to encode is "empty" and has a file without
        patches; see `SlideReport` and `RunReport.exit_code`. With several GPUs, a slide on which the
        encoder fails is tried once more on another one, and those of a process that dies are given
        to the others.

    Raises:
        ValueError, TypeError: an argument out of range, two slides of one name, an empty list.
        FileNotFoundError: a path that is not there.
        FeatureError: a folder of features that were made with other options.
        ModelError: an encoder that cannot be used, or a cluster that gives no workers.
        WriteError: the output folder cannot be written, or the disk is full.

    Determinism: the same slide, encoder and options give the same bytes, whatever the threads,
    workers, GPUs of one kind, shards and interruptions.
    """
    start_s = time.perf_counter()
    refuse_two_sources(slides, patches=patches, mask=mask)
    options = options_asked(
        out=out,
        encoder=encoder,
        patches=patches,
        mpp=mpp,
        mag=mag,
        patch_px=patch_px,
        overlap_px=overlap_px,
        min_tissue=min_tissue,
        edge=edge,
        resample=resample,
        tissue=tissue,
        stain=stain,
        icc=icc,
        select=select,
        coords=coords,
        mpp_override=mpp_override,
        allow_upsampling=allow_upsampling,
        half=half,
        layout=layout,
        nominal_level0=nominal_level0,
        strict=strict,
        fail_fast=fail_fast,
        overwrite=overwrite,
        shard=shard,
        device=device,
        threads=threads,
        workers=workers,
        batch_size=batch_size,
        stage=stage,
        stage_gb=stage_gb,
    )
    elsewhere = jobs.Cluster.of(cluster)
    if elsewhere is not None:
        jobs.refuse_with_cluster(gpus=gpus, threads=threads, workers=workers)
    devices, is_dry = devices_of(options.device, gpus), flag("dry_run", dry_run)
    found = slides_asked(slides, options, mask=mask, recursive=recursive)
    found = select_shard(found, options.shard)
    if is_dry:
        return estimate(found, options, devices, on_progress, start_s)
    return encode_found(found, options, devices, elsewhere, on_progress, start_s)


def encode_found(
    slides: Sequence[Job],
    options: ExtractOptions,
    devices: Sequence[str],
    cluster: jobs.Cluster | None,
    on_progress: Callable[[Progress], None] | None,
    start_s: float,
) -> RunReport:
    """Encode slides that were found, as `extract` does."""
    with _engine(slides, options, devices, cluster) as (engine, names):
        return _encode(slides, options, engine, names, on_progress, start_s)


@contextmanager
def _engine(
    slides: Sequence[Job],
    options: ExtractOptions,
    devices: Sequence[str],
    cluster: jobs.Cluster | None,
) -> Iterator[tuple[jobs.Engine, Sequence[str]]]:
    """Give what does the jobs, and the names of its workers."""
    if cluster is not None and slides:
        with engine_on(cluster, slides, options, patience_s=PATIENCE_S, poll_s=POLL_S) as (
            engine,
            names,
        ):
            yield engine, names
        return
    devices = devices if slides else devices[:1]
    local = jobs.Local(
        workers=workers_for(options, devices),
        tries=2,
        replace=False,
        patience_s=PATIENCE_S,
        poll_s=POLL_S,
    )
    yield local, devices


def refuse_two_sources(slides: object, *, patches: object = None, mask: object = None) -> None:
    """Refuse slides beside patches, neither, and masks of patches.

    Raises:
        ValueError: it is so.
    """
    if (slides is None) == (patches is None):
        raise ValueError("slides or patches must be given, and not both")
    if patches is not None and mask is not None:
        raise ValueError("mask must not be given with patches, which are cut already")


def options_asked(
    *,
    out: str | Path,
    encoder: str | Path | Sequence[str | Path],
    patches: str | Path | PatchImages | None = None,
    tissue: TissueOptions | str | Path | None = None,
    stain: StainOptions | str | None = None,
    **options: Any,
) -> ExtractOptions:
    """Return what `extract` is asked for but for the slides.

    Raises:
        What `extract` raises of its arguments.
    """
    refuse_two_scales(mpp=options.get("mpp"), mag=options.get("mag"))
    return ExtractOptions(
        out=path_of("out", out),
        encoders=encoders_of(encoder),
        patches=None if patches is None else PatchImages.of(patches),
        tissue=TissueOptions.of(tissue),
        stain=StainOptions(method=cast(Any, stain)) if isinstance(stain, str) else stain,
        **options,
    )


def slides_asked(
    slides: str | Place | Sequence[str | Place] | None,
    options: ExtractOptions,
    *,
    mask: str | Path | None = None,
    recursive: bool = False,
) -> list[Job]:
    """Return the slides, or bags of patches, that `extract` is asked for, those of all shards.

    Raises:
        What `extract` raises of paths and lists.
    """
    is_recursive = flag("recursive", recursive)
    if options.patches is not None:
        found = list_bags(options.patches)
    else:
        found = _slides_of(_paths(slides), is_recursive=is_recursive)
        _refuse_pictures(found, mpp_override=options.mpp_override)
    found = with_masks(found, None if mask is None else path_of("mask", mask))
    refuse_masks(found, options.tissue)
    if options.coords is not None:
        refuse_masks_beside_coords(found)
        found = with_coords(found, options.coords)
    return found


def _slides_of(paths: Sequence[str | Place], *, is_recursive: bool) -> list[Job]:
    try:
        return list_jobs(paths, recursive=is_recursive)
    except SlideError as error:
        folders = [path for path in paths if not is_recursive and _has_folders_of_pictures(path)]
        if not folders:
            raise
        raise SlideError(
            f'{error}, or take its pictures as patches with patches="{folders[0]}"'
        ) from None


def _has_folders_of_pictures(path: str | Place) -> bool:
    path = place_of("slides", path)
    if isinstance(path, Address):
        return False
    try:
        return any(each.suffix.lower() in IMAGE_SUFFIXES for each in path.glob("*/*"))
    except OSError:
        return False


def _refuse_pictures(slides: Sequence[Job], *, mpp_override: float | None) -> None:
    """Refuse a run in which every slide would fail: PNG and JPEG files do not say their scale."""
    files = [
        slide.path
        for slide in slides
        if isinstance(slide.path, Path)
        and slide.path.suffix.lower() in IMAGE_SUFFIXES
        and not slide.mpp
    ]
    if mpp_override is not None or len(files) < max(2, len(slides)):
        return
    folders = sorted({str(path.parent) for path in files})
    names = counted([path.name for path in files])
    raise ValueError(
        f"slides must say their scale, got plain pictures only, {names}: take them as ready-made "
        f'patches with patches="{folders[0]}", or tell their scale with mpp_override'
    )


def _paths(slides: str | Place | Sequence[str | Place] | None) -> list[Place]:
    return places_of("slides", slides) if slides else []


def _encode(
    slides: Sequence[Job],
    options: ExtractOptions,
    engine: jobs.Engine,
    names: Sequence[str],
    on_progress: Callable[[Progress], None] | None,
    start_s: float,
) -> RunReport:
    """Have the slides encoded, each by one of the workers."""
    todo = jobs_of(slides)
    gathering = Gathering(todo, options, names, on_progress, start_s)
    outcomes: list[jobs.Outcome] = []
    try:
        if not todo:  # a shard may be empty: it has a report all the same
            engine.run(todo, gathering, lambda _: True)
        outcomes = jobs.run(
            todo,
            engine=engine,
            on_event=gathering,
            fail_fast=options.fail_fast,
            stop_when=lambda outcome: isinstance(outcome.error, NoSpaceError),
        )
    except JobError as error:
        if not gathering.is_ready:
            raise ModelError(str(error)) from error
        gathering.report.error = str(error)
    except Exception as error:
        gathering.report.error = said(error)
        raise
    finally:
        is_interrupted = any(isinstance(each.error, KeyboardInterrupt) for each in outcomes)
        gathering.finish(interrupted=is_interrupted)
    if is_interrupted and not gathering.is_ready:
        raise KeyboardInterrupt  # before there was anything to report
    return gathering.report


def jobs_of(slides: Sequence[Job]) -> list[jobs.Job]:
    """Return a job for each slide."""
    return [
        jobs.Job(name=slide.name, arguments={"slide": slide}, cost=_bytes_of(slide))
        for slide in slides
    ]


def workers_for(options: ExtractOptions, devices: Sequence[str]) -> tuple[jobs.Worker, ...]:
    """Return a worker for each device; they share threads, at least one to each."""
    n = len(devices)
    return tuple(
        jobs.Worker(
            function=encode_slides,
            arguments={
                "options": replace(
                    options,
                    device=device,
                    threads=threads,
                    workers=workers,
                    stage_gb=options.stage_gb and options.stage_gb / n,
                )
            },
            name=device,
        )
        for device, threads, workers in zip(
            devices,
            shares(options.threads or available_cpus(), n),
            shares(options.workers or available_cpus(), n),
            strict=True,
        )
    )


def shares(total: int, n: int) -> list[int]:
    """Share `total` things out among `n`, at least one to each."""
    return [max(1, total // n + (i < total % n)) for i in range(n)]


def _bytes_of(slide: Job) -> float:
    """How big a slide is, for whoever wants the big ones first; not more than a guess."""
    if slide.bag is not None:
        return len(slide.bag)
    if isinstance(slide.path, Address):
        return slide.path.size_bytes
    try:
        return slide.path.stat().st_size
    except (OSError, ValueError):  # whoever opens it will say
        return 0
