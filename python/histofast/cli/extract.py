"""`histofast extract`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from histofast._machine import ONNX_RUNTIME
from histofast.cli import colours, machines, options, selecting, slide_runs
from histofast.cli.output import say, say_document
from histofast.cli.progress import show_progress, summarise
from histofast.cli.summaries import report_on

if TYPE_CHECKING:
    from histofast.features import Layout
    from histofast.slides import Icc
    from histofast.tiling import Resample


def extract(
    slides: Annotated[
        list[str] | None,  # no paths, which have no two slashes in a row
        typer.Argument(
            help="slides, folders, globs, addresses (s3://...), or a CSV list (wsi[, mpp, mask])"
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="output folder")
    ] = Path("features"),
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            "-e",
            metavar="NAME|FILE",
            help="a name of `histofast models list`, or an ONNX file; several share one pass",
        ),
    ] = None,
    dims: Annotated[
        int | None,
        typer.Option(
            "--dims",
            parser=options.whole_number,
            metavar="N",
            help="features along N principal axes, fitted once on these slides and kept in OUT/encoders",
        ),
    ] = None,
    patches: Annotated[
        Path | None,
        typer.Option(
            "--patches",
            metavar="CSV|FOLDER",
            help="patch images instead of slides: file[, slide, patient, label, x, y, split], or a "
            "folder of classes",
        ),
    ] = None,
    bag_from: options.BagFrom = None,
    odd_patches: options.OddPatches = None,
    wsi_dir: Annotated[
        Path | None,
        typer.Option("--wsi-dir", "--wsi_dir", metavar="FOLDER", help="folder of slides"),
    ] = None,
    mpp: options.Mpp = None,
    mag: options.Mag = None,
    patch_px: options.PatchPx = None,
    overlap: options.Overlap = 0,
    min_tissue: options.MinTissue = 0.25,
    edge: options.Edge = "drop",
    resample: slide_runs.HowResampled = "area",
    threshold: options.Threshold = None,
    ink: options.Ink = None,
    tissue: options.Tissue = None,
    stain: colours.Stain = None,
    stain_target: colours.StainTarget = None,
    icc: colours.Icc = None,
    select: selecting.Select = None,
    keep: selecting.Keep = None,
    keep_random: selecting.KeepRandom = None,
    seed: options.Seed = None,
    select_encoder: selecting.SelectEncoder = None,
    mask: options.Mask = None,
    coords: slide_runs.Coords = None,
    mpp_override: options.MppOverride = None,
    allow_upsampling: options.AllowUpsampling = False,
    half: Annotated[bool, typer.Option("--half", help="store features as float16")] = False,
    layout: Annotated[
        str,
        typer.Option(
            "--layout",
            parser=options.one_of("trident", "clam", "stamp"),
            metavar="trident|clam|stamp",
            help="whose feature files to write",
        ),
    ] = "trident",
    nominal_level0: Annotated[
        bool,
        typer.Option(
            "--nominal-level0",
            help="tell the nominal side of patches at level 0, equal over slides of a scanner",
        ),
    ] = False,
    strict: slide_runs.Strict = False,
    fail_fast: slide_runs.FailFast = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace feature files that something else made")
    ] = False,
    recursive: options.Recursive = False,
    shard: slide_runs.Shard = None,
    device: Annotated[str, options.device(ONNX_RUNTIME, help="where the encoder runs")] = "auto",
    gpus: Annotated[
        Any,
        typer.Option(
            "--gpus",
            parser=options.gpu_list,
            metavar="0,1,...",
            help="run on these GPUs, each in a process of its own; they share the slides",
        ),
    ] = None,
    cluster: machines.Cluster = None,
    cpus_per_worker: machines.CpusPerWorker = None,
    gpus_per_worker: machines.GpusPerWorker = None,
    threads: slide_runs.Threads = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            parser=options.whole_number,
            metavar="N",
            help="threads that decode, for all devices together [the CPUs available]",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            "--batch_size",
            parser=options.whole_number,
            metavar="N",
            help="patches per encoder call",
        ),
    ] = None,
    stage: Annotated[
        Path | None,
        typer.Option(
            "--stage",
            metavar="FOLDER",
            help="copy slides of buckets here that are no tiled TIFFs, one ahead, and remove them",
        ),
    ] = None,
    stage_gb: Annotated[
        float | None,
        typer.Option("--stage-gb", parser=options.number, metavar="GB", help="of that folder [50]"),
    ] = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="say afterwards what the features are like: rank, what has collapsed, what is the slide",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only count patches and estimate the time")
    ] = False,
    as_json: options.AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="say only what failed")] = False,
) -> None:
    """Encode slides into feature files.

    \b
      histofast extract slides/ --out features/
      histofast extract slides.csv -o features/ --mag 20 --patch-px 224
      histofast extract slides/ -o chosen/ -e uni2-h.onnx --select runs/abmil

    Patches are of the side and scale that the encoder was made for, unless said otherwise. Files
    come to OUT/<mag>x_<patch>px_<overlap>px_overlap/features_<encoder>/<slide>.h5. A run that was
    interrupted goes on where it was when started again.
    """
    from histofast.encoding import extract as run
    from histofast.pipeline import DEFAULT_ENCODER

    given: list[str | Path] = [*(slides or []), *([wsi_dir] if wsi_dir else [])]
    if not given and patches is None:
        raise ValueError("nothing to encode: name slides, a folder, a CSV list or --patches")
    chosen = selecting.selection_of(
        select, keep=keep, keep_random=keep_random, seed=seed, encoder=select_encoder
    )
    told = options.patch_images(patches, bag_from=bag_from, odd_patches=odd_patches)
    with show_progress(quiet=quiet) as on_progress:
        ran = run(
            given or None,
            out=out,
            encoder=encoder or DEFAULT_ENCODER,
            dims=dims,
            patches=told,
            mpp=mpp,
            mag=mag,
            patch_px=patch_px,
            overlap_px=overlap,
            min_tissue=min_tissue,
            edge=cast(Literal["drop", "shift"], edge),
            resample=cast("Resample", resample),
            tissue=options.tissue_of(ink, threshold=threshold, network=tissue),
            stain=colours.stain_of(stain, stain_target, icc),
            icc=cast("Icc | None", icc),
            select=chosen,
            mask=mask,
            coords=coords,
            mpp_override=mpp_override,
            allow_upsampling=allow_upsampling,
            half=half,
            layout=cast("Layout", layout),
            nominal_level0=nominal_level0,
            strict=strict,
            fail_fast=fail_fast,
            overwrite=overwrite,
            recursive=recursive,
            shard=shard,
            device=device,
            gpus=gpus,
            cluster=machines.cluster_of(cluster, cpus_per_worker, gpus_per_worker),
            threads=threads,
            workers=workers,
            batch_size=batch_size,
            stage=stage,
            stage_gb=stage_gb,
            dry_run=dry_run,
            on_progress=on_progress,
        )
    if as_json:
        say_document(json.dumps(asdict(ran), indent=1))
    if not as_json or quiet:
        for line in summarise(ran, quiet=quiet):
            say(line, err=True)
    if report and not dry_run:
        report_on(ran)
    raise typer.Exit(ran.exit_code)
