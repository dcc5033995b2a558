"""`histofast models`."""

from __future__ import annotations

import json
import shlex
import shutil
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histofast.cli import adding, exporting, flags, measure, merge, options, reduce
from histofast.cli.output import say, say_document

if TYPE_CHECKING:
    from histofast.encoders import EncoderEntry, FoundationEntry, SourceEntry

_INDENT = "    "

app = typer.Typer(
    cls=flags.Group,
    help="Make, cut, shrink and compare encoders: ONNX files that start at pixels.",
    rich_markup_mode=None,
)
app.command(name="add", short_help="Turn any ONNX file into an encoder, proven equal.")(adding.add)
app.command(name="export", short_help="Export a network, cut at a layer (needs torch).")(
    exporting.export
)
app.command(name="merge", short_help="Merge checkpoints of one network (needs torch).")(merge.merge)
app.command(name="quantize", short_help="Write an encoder in int8 or float16, if it agrees.")(
    measure.quantize
)
app.command(name="reduce", short_help="Write an encoder of fewer features.")(reduce.reduce)
app.command(name="bench", short_help="Time encoders side by side and compare their features.")(
    measure.bench
)


@app.command(name="layers", short_help="Show where a network can be cut (needs torch).")
def layers(
    network: Annotated[
        str | None, typer.Argument(help="name of the network; without it the names are listed")
    ] = None,
    timm_args: options.TimmArgs = None,
    as_json: options.AsJson = False,
) -> None:
    """Show where a network can be cut: width of the features, work and weights up to there."""
    from histofast import networks

    if network is None:
        if timm_args:
            raise ValueError("--timm-arg must come with NETWORK, got none: timm:NAME")
        known = networks.names()
        say(*([json.dumps(known)] if as_json else [*known, "timm:NAME"]))
        return
    network = options.network_of(network, timm_args)
    cuts = networks.layers(network)
    if as_json:
        say_document(json.dumps([asdict(cut) for cut in cuts], indent=1))
        return
    say(f"{'layer':24}{'features':>9}{'GMAC':>9}{'work':>9}{'M':>9}{'weights':>9}")
    plain = [cut for cut in cuts if networks.block_of(cut.name) == cut.name]
    for cut in plain:
        say(
            f"{cut.name:24}{cut.d:9d}{cut.gmac:9.3g}{cut.flops_share:9.1%}"
            f"{cut.parameters / 1e6:9.3g}{cut.parameters_share:9.1%}"
        )
    say(
        "GMAC: billion multiply-adds of a patch; M: million parameters; work, weights: of the whole's"
    )
    if len(plain) < len(cuts):
        first = plain[0].name
        ways = [c.name for c in cuts if c.name != first and networks.block_of(c.name) == first]
        say(f"each block by other tokens, or without the last norm: {', '.join(ways)}")
    say(
        f"features of all in one run: histofast models export {shlex.quote(network)} --weights FILE --layers all "
        "--out FILE.onnx"
    )


@app.command(name="list", short_help="Show the encoders at hand, and weights to fetch.")
def list_models(
    foundation: Annotated[
        bool, typer.Option("--foundation", help="published vision transformers to fetch instead")
    ] = False,
    speed: Annotated[
        bool,
        typer.Option(
            "--speed/--no-speed",
            help="with --foundation: estimate patches/s from products that are timed for under a second",
        ),
    ] = True,
    as_json: options.AsJson = False,
) -> None:
    """Show the encoders that come with histofast, and weights that it knows how to load.

    With --foundation published vision transformers: what they give, how fast this machine's CPUs may run
    them, their terms, where their files are.
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
            "foundation": [asdict(entry) for entry in known.foundation.values()],
            "elsewhere": [
                asdict(entry) | {"told": entry.told} for entry in known.elsewhere.values()
            ],
        }
        say_document(json.dumps(report, indent=1))
        return
    if foundation:
        say(*_foundation_lines(known.foundation.values(), speed=speed))
        say(
            f"known, not built here, histofast models layers NAME says why: {', '.join(known.elsewhere)}"
        )
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
    say(f"{len(known.foundation)} foundation models: histofast models list --foundation")


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
    return _with_places(_aligned([header, *rows], right=set()), [e.where for e in entries])


def _foundation_lines(entries: Collection[FoundationEntry], *, speed: bool) -> list[str]:
    from histofast import graphs
    from histofast.encoders import SHARE_OF_PEAK

    peak = graphs.peak_flops_per_s() if speed else None
    header = (
        *("name", "d", "pooling", "px", "mpp", "basis", "M", "GMAC"),
        *([] if peak is None else ["patches/s"]),
        *("loader", "terms"),
    )
    rows = [
        (
            entry.name,
            str(entry.d),
            entry.pooling,
            str(entry.patch_px),
            f"{entry.mpp:g}",
            entry.mpp_basis,
            f"{entry.parameters_m:.0f}",
            "" if entry.gmac is None else f"{entry.gmac:.0f}",
            *([] if peak is None else [_rate(entry.patches_per_s(peak))]),
            "tested" if entry.tested else "untested",
            entry.terms,
        )
        for entry in entries
    ]
    lines = _aligned([header, *rows], right={"d", "px", "mpp", "M", "GMAC", "patches/s"})
    estimated = (
        f"patches/s: an estimate for this machine's CPUs in float32, {SHARE_OF_PEAK:g} of what its products of "
        f"matrices reach, {(peak or 0) / 1e9:.0f} GFLOP/s; --no-speed leaves it out"
    )
    return [
        *_with_places(lines, [e.where for e in entries]),
        "",
        "M: million parameters; GMAC: billion multiply-adds of a patch; gated: a login or an agreement",
        *([estimated] if speed else []),
        "then: histofast models export NAME --weights FILE --out OUT.onnx (needs torch and timm)",
    ]


def _rate(patches_per_s: float | None) -> str:
    """Return a rate that is about right."""
    if patches_per_s is None:
        return ""
    return f"{patches_per_s:.0f}" if patches_per_s >= 10 else f"{patches_per_s:.2g}"


def _with_places(rows: Sequence[str], places: Sequence[str]) -> list[str]:
    """Return lines of a table with, below each row, where its file is."""
    first, *others = rows
    lines = [first]
    for line, place in zip(others, places, strict=True):
        # Addresses stay whole, so that a terminal can open them.
        where = textwrap.wrap(
            place,
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
    patch_px: Annotated[
        int | None,
        typer.Option(
            "--patch-px",
            "--patch-size",
            parser=options.whole_number,
            metavar="PX",
            help="with --list: patch side to look at it with [what it is meant for, else 224]",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="of the encoder [OUT's]")] = None,
    overwrite: options.ReplaceOut = False,
) -> None:
    """List where a graph can be cut (any ONNX file), or cut an encoder and write the first part."""
    from histofast import graphs

    if show:
        for cut in graphs.cuts(model, patch_px=patch_px):
            also = f" (also {', '.join(cut.aliases)})" if cut.aliases else ""
            shape = " x ".join(map(str, cut.shape[1:]))
            aside = "" if cut.carries_all else ", others go beside it"
            say(
                f"{cut.name}{also}: {cut.d} features, {shape}, {cut.flops_share:.1%} of the FLOPs"
                f"{aside}"
            )
        say(f"{model} takes patches of {graphs.patch_sizes(model, patch_px=patch_px)}")
        return
    if at is not None and layers is not None:
        raise ValueError("--at and --layers must not be given together")
    if out is None or (at is None and layers is None):
        raise ValueError("--at and --out must be given, or --list to see where to cut")
    if at is None:
        specs = graphs.join_cuts(
            model,
            at=exporting.named_layers(layers),
            out=out,
            pool=pool,
            name=name,
            overwrite=overwrite,
        )
        exporting.tell_cuts(out, specs, against=model)
        return
    spec = graphs.truncate(model, at=at, out=out, pool=pool, name=name, overwrite=overwrite)
    say(
        f"{out}: {spec.name}, {spec.d} features from {spec.layer}, {spec.size_bytes / 1e6:.1f} MB, "
        f"verified against {model}, sha256 {spec.sha256}"
    )
