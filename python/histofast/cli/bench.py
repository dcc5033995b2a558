"""`histofast bench`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from histofast._machine import ONNX_RUNTIME
from histofast.cli import colours, options, slide_runs
from histofast.cli.output import say, say_document

if TYPE_CHECKING:
    from histofast.slides import Icc
    from histofast.tiling import Resample


def bench(
    slides: Annotated[
        list[Path], typer.Argument(help="slides, folders, globs, or a CSV list (wsi[, mpp, mask])")
    ],
    cohort: Annotated[
        int,
        typer.Option("--cohort", parser=options.whole_number, metavar="N", help="slides in all"),
    ] = 1000,
    look: Annotated[
        int,
        typer.Option(
            "--look", parser=options.whole_number, metavar="N", help="slides to draw and plan"
        ),
    ] = 12,
    seconds: Annotated[
        float,
        typer.Option("--seconds", parser=options.number, metavar="S", help="of encoding"),
    ] = 60.0,
    encoder: Annotated[
        list[str] | None,
        typer.Option("--encoder", "-e", metavar="NAME|FILE", help="as of extract; repeatable"),
    ] = None,
    mpp: options.Mpp = None,
    mag: options.Mag = None,
    patch_px: options.PatchPx = None,
    overlap: options.Overlap = 0,
    min_tissue: options.MinTissue = 0.25,
    resample: slide_runs.HowResampled = "area",
    threshold: options.Threshold = None,
    ink: options.Ink = None,
    tissue: options.Tissue = None,
    stain: colours.Stain = None,
    stain_target: colours.StainTarget = None,
    icc: colours.Icc = None,
    mask: options.Mask = None,
    mpp_override: options.MppOverride = None,
    half: Annotated[bool, typer.Option("--half", help="features as float16")] = False,
    recursive: options.Recursive = False,
    device: Annotated[str, options.device(ONNX_RUNTIME, help="where the encoder runs")] = "auto",
    threads: slide_runs.Threads = None,
    seed: options.Seed = None,
    as_json: options.AsJson = False,
) -> None:
    """Say how long `extract` would take of a cohort of slides like these, from a minute of work.

    \b
      histofast bench slides/ --cohort 1000 --encoder uni2-h.onnx

    Some slides are drawn; of each, tissue is found and patches are counted. Then the pipeline as it is encodes them,
    into a folder that is removed, for --seconds. The interval is over slides; the machine is taken to stay as busy as
    it is.
    """
    from histofast.pipeline import DEFAULT_ENCODER, forecast

    found = forecast(
        list(slides),
        cohort=cohort,
        look=look,
        seconds=seconds,
        encoder=encoder or DEFAULT_ENCODER,
        mpp=mpp,
        mag=mag,
        patch_px=patch_px,
        overlap_px=overlap,
        min_tissue=min_tissue,
        resample=cast("Resample", resample),
        tissue=options.tissue_of(ink, threshold=threshold, network=tissue),
        stain=colours.stain_of(stain, stain_target, icc),
        icc=cast("Icc | None", icc),
        mask=mask,
        mpp_override=mpp_override,
        half=half,
        recursive=recursive,
        device=device,
        threads=threads,
        seed=seed or 0,
    )
    if as_json:
        figures = {"hours": found.hours, "interval": found.interval, "gigabytes": found.gigabytes}
        say_document(json.dumps(asdict(found) | figures, indent=1))
    else:
        for line in str(found).splitlines():
            say(line)
