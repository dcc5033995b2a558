"""`histofast models`."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histofast.cli import flags, measure, options
from histofast.cli.output import say, say_document

if TYPE_CHECKING:
    from histofast.encoders import EncoderEntry, EncoderSpec, SourceEntry

_INDENT = "    "

app = typer.Typer(
    cls=flags.Group,
    help="Make, cut, shrink and compare encoders: ONNX files that start at pixels.",
    rich_markup_mode=None,
)
app.command(name="quantize", short_help="Write an encoder in int8 or float16, if it agrees.")(
    measure.quantize
)
app.command(name="bench", short_help="Time encoders side by side and compare their features.")(
    measure.bench
)


@app.command(name="export", short_help="Export a network, cut at a layer (needs torch).")
def export(
    network: Annotated[
        str,
        typer.Argument(help="name of the network, e.g. resnet50, densenet121, timm:convnext_tiny"),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="ONNX file to write")],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="FILE|hub",
            help="safetensors or torch file; hub lets timm download its own",
        ),
    ] = None,
    random: Annotated[
        int | None,
        typer.Option(
            "--random",
            parser=options.whole_number,
            metavar="SEED",
            help="random weights instead, for a baseline",
        ),
    ] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", help="cut after this layer (see models layers)")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="all|A,B,...",
            help="features of these cuts in one file and one run: an encoder each for extract",
        ),
    ] = None,
    classes: Annotated[
        int,
        typer.Option(
            "--classes",
            parser=options.whole_number,
            metavar="N",
            help="keep a linear head of N classes, and give its logits; 0: features",
        ),
    ] = 0,
    bn_eps: Annotated[
        float | None,
        typer.Option(
            "--bn-eps",
            parser=options.number,
            metavar="EPS",
            help="of the BatchNorms; Keras trains with 1.001e-5 [the network's usual]",
        ),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="missing tensors stay random, strange ones are left")
    ] = False,
    mpp: Annotated[
        float | None,
        typer.Option(
            "--mpp",
            parser=options.number,
            metavar="UM",
            help="scale it is meant for, um per pixel [the source's, else 0.5]",
        ),
    ] = None,
    patch_px: options.PatchPx = None,
    name: Annotated[str | None, typer.Option("--name", help="of the encoder [OUT's]")] = None,
    provenance: Annotated[
        str | None, typer.Option("--provenance", help="where the weights come from [registry's]")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="of the weights [registry's]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace OUT")] = False,
) -> None:
    """Export a network, cut at a layer, as one ONNX file that starts at pixels (needs torch).

    With --layers the file computes the features of many cuts in one run; `extract` writes a folder
    features_<name>-<layer> for each.
    """
    from histofast import networks

    if (weights is None) == (random is None):
        raise ValueError("--weights FILE must be given, or --random SEED instead")
    if layers is not None and layer is not None:
        raise ValueError("--layer and --layers must not be given together")
    chosen = _names(layers)
    if chosen:
        layer = _last(chosen, [cut.name for cut in networks.layers(network)])
    made = networks.create(
        network,
        weights=weights,
        layer=layer,
        classes=classes,
        bn_eps=bn_eps,
        seed=random or 0,
        partial=partial,
    )
    meant: dict[str, Any] = {
        "name": name,
        "mpp": mpp,
        "patch_px": patch_px,
        "provenance": provenance,
        "licence": licence,
        "overwrite": overwrite,
    }
    specs = (
        networks.export_cuts(made, out, layers=chosen, **meant)
        if layers is not None
        else (networks.export(made, out, **meant),)
    )
    if made.loaded is not None:
        for line in made.loaded.remarks():
            say(f"{weights}: {line}")
    if layers is not None:
        _tell_cuts(out, specs, against="torch")
        return
    spec = specs[0]
    say(
        f"{out}: {spec.name}, {spec.d} features, {spec.size_bytes / 1e6:.1f} MB, verified against "
        f"torch, sha256 {spec.sha256}"
    )


def _tell_cuts(out: Path, specs: Sequence[EncoderSpec], *, against: str) -> None:
    for spec in specs:
        say(f"{spec.name}: {spec.d} features from {spec.layer}")
    say(
        f"{out}: {len(specs)} cut{'s' * (len(specs) > 1)}, {specs[0].size_bytes / 1e6:.1f} MB, "
        f"verified against {against}, sha256 {specs[0].sha256}"
    )


def _names(layers: str | None) -> list[str] | None:
    """Return the layers named; None where all are meant."""
    if layers is None or layers == "all":
        return None
    return [name.strip() for name in layers.split(",") if name.strip()]


def _last(chosen: Sequence[str], order: Sequence[str]) -> str:
    """Return the last of some layers, up to which a network is to be built; or one there is not."""
    strange = [layer for layer in chosen if layer not in order]
    return strange[0] if strange else max(chosen, key=order.index)


@app.command(name="layers", short_help="Show where a network can be cut (needs torch).")
def layers(
    network: Annotated[
        str | None, typer.Argument(help="name of the network; without it the names are listed")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show where a network can be cut: width of the features, share of the whole's work."""
    from histofast import networks

    if network is None:
        known = networks.names()
        say(*([json.dumps(known)] if as_json else [*known, "timm:NAME"]))
        return
    cuts = networks.layers(network)
    if as_json:
        say_document(json.dumps([asdict(cut) for cut in cuts], indent=1))
        return
    say(f"{'layer':24}{'features':>9}{'work':>9}")
    for cut in cuts:
        say(f"{cut.name:24}{cut.d:9d}{cut.flops_share:9.1%}")
    say(
        f"features of all in one run: histofast models export {network} --weights FILE --layers all "
        "--out FILE.onnx"
    )


@app.command(name="list", short_help="Show the encoders at hand, and weights to fetch.")
def list_models(as_json: options.AsJson = False) -> None:
    """Show the encoders that come with histofast, and weights that it knows how to load.

    Speed is fast below 2 GFLOP per patch, medium below 8, else slow.
    """
    from histofast.encoders import registry

    known = registry()
    if as_json:
        found = [
            asdict(entry)
            | {
                "path": str(entry.path),
                "speed": entry.speed_class,
                "present": entry.path.is_file(),
            }
            for entry in known.encoders.values()
        ]
        report = {
            "encoders": found,
            "weights": [asdict(entry) for entry in known.weights.values()],
            "sources": [asdict(entry) for entry in known.sources.values()],
        }
        say_document(json.dumps(report, indent=1))
        return
    for line in _encoder_lines(known.encoders.values()):
        say(line)
    say(
        "",
        "weights to fetch, then: histofast models export NAME --weights FILE --out OUT.onnx",
        "(loader untested: it has not met the real file)",
    )
    for line in _source_lines(known.sources.values()):
        say(line)


def _encoder_lines(entries: Collection[EncoderEntry]) -> list[str]:
    rows = [
        (
            entry.name,
            str(entry.d),
            str(entry.patch_px),
            f"{entry.mpp:g}",
            entry.precision,
            f"{entry.size_bytes / 1e6:.1f}",
            "" if entry.gflop is None else f"{entry.gflop:.1f}",
            entry.speed_class or "",
            entry.licence,
            entry.weights,
            "yes" if entry.path.is_file() else "no",
        )
        for entry in entries
    ]
    header = (
        *("encoder", "d", "px", "mpp", "type", "MB", "GFLOP", "speed", "licence"),
        *("weights", "here"),
    )
    return _aligned([header, *rows], right={"d", "px", "mpp", "MB", "GFLOP"})


def _source_lines(entries: Collection[SourceEntry]) -> list[str]:
    header = ("name", "network", "loader", "licence")
    rows = [(e.name, e.network, "tested" if e.tested else "untested", e.licence) for e in entries]
    first, *others = _aligned([header, *rows], right=set())
    lines = [first]
    for line, entry in zip(others, entries, strict=True):
        # Addresses stay whole, so that a terminal can open them.
        where = textwrap.wrap(
            entry.where,
            width=shutil.get_terminal_size().columns,
            initial_indent=_INDENT,
            subsequent_indent=_INDENT,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [line, *where]
    return lines


def _aligned(rows: Sequence[Sequence[str]], *, right: set[str]) -> list[str]:
    """Return lines of columns; `right` are the headers of columns of numbers."""
    columns = [
        [cell.rjust(width) if column[0] in right else cell.ljust(width) for cell in column]
        for column in zip(*rows, strict=True)
        for width in [max(map(len, column))]
    ]
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


_CHANNELS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # ImageNet's


@app.command(name="add", short_help="Turn any ONNX file into an encoder, proven equal.")
def add(
    model: Annotated[Path, typer.Argument(help="ONNX file that takes float RGB images")],
    out: Annotated[Path, typer.Option("--out", "-o", help="ONNX file to write")],
    mean: Annotated[
        str,
        typer.Option("--mean", metavar="R,G,B", help="mean it expects, in 0..1, or imagenet"),
    ],
    std: Annotated[
        str | None,
        typer.Option("--std", metavar="R,G,B", help="deviation likewise [with --mean imagenet]"),
    ] = None,
    size_px: Annotated[
        int | None, typer.Option("--size", metavar="PX", help="fix the patch side [the file's]")
    ] = None,
    patch_px: Annotated[
        int | None,
        typer.Option("--patch-px", "--patch-size", help="patch side it is meant for [--size]"),
    ] = None,
    mpp: Annotated[float, typer.Option("--mpp", help="um per pixel it is meant for")] = 0.5,
    output: Annotated[
        str | None,
        typer.Option("--output", "--at", metavar="NAME", help="output, or tensor to cut at"),
    ] = None,
    pool: Annotated[
        str, typer.Option("--pool", help="auto, nchw, nhwc, cls (first token) or mean")
    ] = "auto",
    name: Annotated[str | None, typer.Option("--name", help="of the encoder [OUT's]")] = None,
    provenance: Annotated[
        str | None, typer.Option("--provenance", help="where the weights come from")
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="of the weights")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace OUT")] = False,
) -> None:
    """Turn any ONNX file that takes images into an encoder file, proven equal.

    Scaling, mean and deviation go into the graph, a fixed batch is freed, weights beside the file
    are taken in. Nothing is guessed: say the mean and deviation that the network was trained with.
    """
    from histofast.graphs import wrap

    spec = wrap(
        model,
        out=out,
        mean=_channels("mean", mean),
        std=_channels("std", "imagenet" if std is None and mean == "imagenet" else std),
        size_px=size_px,
        patch_px=patch_px,
        mpp=mpp,
        output=output,
        pool=pool,
        name=name,
        provenance=provenance,
        licence=licence,
        overwrite=overwrite,
    )
    size = f"{spec.height_px} px only" if spec.height_px else "any patch size"
    say(
        f"{out}: {spec.name}, {spec.d} features from {spec.layer}, {size}, "
        f"{spec.size_bytes / 1e6:.1f} MB, verified against {model}, sha256 {spec.sha256}"
    )


def _channels(name: str, text: str | None) -> tuple[float, ...]:
    """Read three numbers, one number for all three channels, or `imagenet`."""
    if text == "imagenet":
        return _CHANNELS[name]
    try:
        values = tuple(float(part) for part in (text or "").split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise ValueError(
            f"--{name} must be R,G,B in 0..1, one number for all, or imagenet, got "
            f"{'nothing' if text is None else repr(text)}"
        )
    return values if len(values) == 3 else values * 3


@app.command(name="truncate", short_help="List where a graph can be cut, and cut an encoder.")
def truncate(
    model: Annotated[str, typer.Argument(help="ONNX file, or name of an encoder")],
    at: Annotated[
        str | None, typer.Option("--at", metavar="NAME", help="cut after this tensor or module")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers", metavar="all|A,B,...", help="features of these cuts in one file and one run"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="ONNX file to write")] = None,
    show: Annotated[bool, typer.Option("--list", help="show the places to cut at")] = False,
    pool: Annotated[
        str, typer.Option("--pool", help="auto, nchw, nhwc, cls (first token) or mean")
    ] = "auto",
    name: Annotated[str | None, typer.Option("--name", help="of the encoder [OUT's]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace OUT")] = False,
) -> None:
    """List where a graph can be cut (any ONNX file), or cut an encoder and write the first part."""
    from histofast import graphs

    if show:
        for cut in graphs.cuts(model):
            also = f" (also {', '.join(cut.aliases)})" if cut.aliases else ""
            shape = " x ".join(map(str, cut.shape[1:]))
            say(f"{cut.name}{also}: {cut.d} features, {shape}, {cut.flops_share:.1%} of the FLOPs")
        return
    if at is not None and layers is not None:
        raise ValueError("--at and --layers must not be given together")
    if out is None or (at is None and layers is None):
        raise ValueError("--at and --out must be given, or --list to see where to cut")
    if at is None:
        specs = graphs.join_cuts(
            model, at=_names(layers), out=out, pool=pool, name=name, overwrite=overwrite
        )
        _tell_cuts(out, specs, against=model)
        return
    spec = graphs.truncate(model, at=at, out=out, pool=pool, name=name, overwrite=overwrite)
    say(
        f"{out}: {spec.name}, {spec.d} features from {spec.layer}, {spec.size_bytes / 1e6:.1f} MB, "
        f"verified against {model}, sha256 {spec.sha256}"
    )
