"""`histofast models quantize` and `histofast models bench`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from histofast._machine import ONNX_RUNTIME
from histofast._words import count
from histofast.cli import lowering, options
from histofast.cli.output import counted, say, say_document

if TYPE_CHECKING:
    from histofast.graphs import BenchReport, LayerSensitivity, Precision
    from histofast.report import Figure

_SHOWN = 20  # layers of a sensitivity table

Calibrate = Annotated[
    list[Path] | None,
    typer.Option(
        "--calibrate",
        "--slides",
        metavar="PATH",
        help="slide, folder of slides or of patch images, or CSV list; repeatable",
    ),
]
Patches = Annotated[
    Path | None,
    typer.Option("--patches", metavar="CSV|FOLDER", help="patch images instead: file, bag[, ...]"),
]


def quantize(
    encoder: Annotated[str, typer.Argument(help="float32 encoder: a name or an ONNX file")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="ONNX file to write")
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            parser=options.one_of("int8", "fp16", "float16"),
            metavar="int8|fp16",
            help="integers for CPUs with VNNI, half precision for GPUs",
        ),
    ] = "int8",
    calibrate: Calibrate = None,
    patches: Patches = None,
    bag_from: options.BagFrom = None,
    odd_patches: options.OddPatches = None,
    n: Annotated[
        int,
        typer.Option(
            "--n",
            parser=options.whole_number,
            metavar="N",
            help="patches to draw: half choose the scales, half measure the agreement",
        ),
    ] = 256,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep", metavar="LAYER", help="layer or group left in float32; repeatable (int8)"
        ),
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity", help="say what each layer alone costs, and write nothing"),
    ] = False,
    mpp_override: options.MppOverride = None,
    ink: options.Ink = None,
    name: Annotated[
        str | None, typer.Option("--name", help="of the encoder [its own and the precision]")
    ] = None,
    seed: options.DrawSeed = 0,
    overwrite: options.ReplaceOut = False,
    as_json: options.AsJson = False,
) -> None:
    """Write an encoder at lower precision, if its features agree with float32's on real patches."""
    from histofast import graphs

    if calibrate is None and patches is None:
        raise ValueError("--calibrate must name slides (or --patches a table): nothing is guessed")
    drawn: dict[str, Any] = {
        "slides": calibrate,
        "patches": options.patch_images(patches, bag_from=bag_from, odd_patches=odd_patches),
        "mpp_override": mpp_override,
        "tissue": options.tissue_of(ink),
        "seed": seed,
    }
    if sensitivity:
        with counted("layers", quiet=False) as on_progress:
            found = graphs.sensitivity(encoder, n=min(n, 64), on_progress=on_progress, **drawn)
        _show_sensitivity(found, as_json=as_json)
        return
    if out is None:
        raise ValueError("--out must name the file to write")
    wanted = cast("Precision", lowering.named(precision))
    spec = graphs.quantize(
        encoder,
        out=out,
        precision=wanted,
        n=n,
        keep=keep or (),
        name=name,
        overwrite=overwrite,
        **drawn,
    )
    said = json.loads(spec.agreement or "{}")
    if as_json:
        say_document(json.dumps({"path": str(out), "name": spec.name, "agreement": said}))
        return
    lowering.tell_lowered(out, spec)


def _show_sensitivity(found: tuple[LayerSensitivity, ...], *, as_json: bool) -> None:
    if as_json:
        say_document(json.dumps([asdict(entry) for entry in found], indent=1))
        return
    say("1 - median cosine to float32 with this layer alone in int8:")
    for entry in found[:_SHOWN]:
        say(f"{entry.loss:10.2e}  {entry.layer}")
    if len(found) > _SHOWN:
        say(f"{count(len(found) - _SHOWN, 'layer')} more, all below (--json has them)")


def bench(
    encoders: Annotated[list[str], typer.Argument(help="encoders: names or ONNX files")],
    slides: Calibrate = None,
    patches: Patches = None,
    bag_from: options.BagFrom = None,
    odd_patches: options.OddPatches = None,
    patch_px: options.PatchPx = None,
    ink: options.Ink = None,
    device: Annotated[str, options.device(ONNX_RUNTIME, help="where the encoders run")] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            parser=options.whole_number,
            metavar="N",
            help="patches at a time on the CPU [all usable CPUs]",
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            "--rounds", parser=options.whole_number, metavar="N", help="of timing, in turns"
        ),
    ] = 7,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="draw it: PNG, PDF or SVG (needs .[train])"),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Time encoders in turns on the same patches, and compare their features with the first's."""
    from histofast.graphs import bench as measure

    if plot is not None:
        from histofast.report import check_figure_path

        check_figure_path(plot)  # before the minutes of measuring
    report = measure(
        encoders,
        slides=slides,
        patches=options.patch_images(patches, bag_from=bag_from, odd_patches=odd_patches),
        patch_px=patch_px,
        tissue=options.tissue_of(ink),
        device=device,
        threads=threads,
        rounds=rounds,
    )
    if plot is not None:
        from histofast.report import save_figure

        save_figure(_bars(report), plot)
    if as_json:
        say_document(report.to_json())
    else:
        _show_times(report)


def _bars(report: BenchReport) -> Figure:
    """Return the speeds as bars, with what each costs behind it."""
    from histofast.report import Axis, Chart, Figure, Point, Series

    points = tuple(
        Point(
            place=k,
            value=entry.patches_per_s,
            note=f"{entry.patches_per_s:.1f}   {100 * entry.gemm_share:.0f} % of GEMM, "
            f"CKA {entry.cka:.3f}",
        )
        for k, entry in enumerate(report.encoders)
    )
    chart = Chart(
        places=Axis(names=tuple(entry.name for entry in report.encoders)),
        values=Axis(label="patches per second"),
        series=(Series(name="", points=points, mark="bar"),),
        sideways=True,
        alt="Speeds of encoders as bars.",
    )
    return Figure(name="speeds", panels=(chart,), title=_conditions(report))


def _conditions(report: BenchReport) -> str:
    where = report.encoders[0].provider.removesuffix("ExecutionProvider")
    return (
        f"{where}, {count(report.threads, 'thread')}, {report.patches} patches of "
        f"{report.patch_px} px, float32 GEMM {report.gemm_gflops:.0f} GFLOP/s"
    )


def _show_times(report: BenchReport) -> None:
    say(_conditions(report))
    header = ("encoder", "precision", "d", "MB", "GFLOP", "patches/s", "of GEMM", "cosine", "CKA")
    rows = [header] + [
        (
            entry.name,
            entry.precision,
            str(entry.d),
            f"{entry.size_bytes / 1e6:.1f}",
            f"{entry.gflop:.2f}",
            f"{entry.patches_per_s:.1f}",
            f"{entry.gemm_share:.2f}",
            "" if entry.median_cosine is None else f"{entry.median_cosine:.4f}",
            f"{entry.cka:.4f}",
        )
        for entry in report.encoders
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    for row in rows:
        cells = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        say("  ".join(cells).rstrip())
