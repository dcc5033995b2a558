"""`histofast models export`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histofast._words import count
from histofast.cli import lowering, options, standardising
from histofast.cli.output import say

if TYPE_CHECKING:
    from histofast.encoders import EncoderSpec
    from histofast.networks import AnyNetwork


def export(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="ONNX file to write")],
    network: Annotated[
        str | None,
        typer.Argument(help="name of the network, e.g. resnet50, densenet121, timm:convnext_tiny"),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN", help="folder of a finished run of classify instead"),
    ] = None,
    head: Annotated[
        bool, typer.Option("--head", help="with --run: keep its head, and give the logits")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="FILE|hub",
            help="safetensors, torch or Keras file; hub lets timm download its own",
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
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool",
            metavar="cls|mean|cls+mean",
            help="which tokens of a vision transformer are the features, of the whole or of --layer "
            "blockN, several of --layers [its authors', mean]",
        ),
    ] = None,
    no_norm: Annotated[
        bool,
        typer.Option(
            "--no-norm",
            help="with such tokens: as they are, not through the model's last norm",
        ),
    ] = False,
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
    timm_args: options.TimmArgs = None,
    mean: standardising.Mean = None,
    std: standardising.Std = None,
    channels: standardising.Channels = "rgb",
    scale: standardising.Scale = None,
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
    opset: Annotated[
        int | None,
        typer.Option(
            "--opset",
            parser=options.whole_number,
            metavar="18|23",
            help="of a network of timm: 18 for TensorRT and older runtimes [23]",
        ),
    ] = None,
    precision: lowering.PrecisionName = None,
    calibrate: lowering.Calibrate = None,
    patches: lowering.Patches = None,
    name: Annotated[str | None, typer.Option("--name", help="of the encoder [OUT's]")] = None,
    provenance: Annotated[
        str | None, typer.Option("--provenance", help="where the weights come from [registry's]")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="of the weights [registry's]")
    ] = None,
    overwrite: options.ReplaceOut = False,
) -> None:
    """Export a network, cut at a layer, as one ONNX file that starts at pixels (needs torch).

    With --layers the file computes the features of many cuts in one run; `extract` writes a folder
    features_<name>-<layer> for each.
    """
    if layers is not None and layer is not None:
        raise ValueError("--layer and --layers must not be given together")
    lower = lowering.lowering_of(precision, calibrate, patches, layers=layers, run=run)
    meant: dict[str, Any] = {
        "name": name,
        "mpp": mpp,
        "patch_px": patch_px,
        "provenance": provenance,
        "licence": licence,
        "overwrite": overwrite,
    }
    if run is not None:
        of_run = {
            "NETWORK": network,
            "--weights": weights,
            "--random": random,
            "--classes": classes or None,
            "--bn-eps": bn_eps,
            "--partial": partial or None,
            "--timm-arg": timm_args or None,
            "--opset": opset,
            "--pool": pool,
            "--no-norm": no_norm or None,
            "--mean": mean,
            "--std": std,
            "--scale": scale,
            "--channels": None if channels == "rgb" else channels,
        }
        for flag, value in of_run.items():
            if value is not None:
                raise ValueError(f"--run brings its own network: leave out {flag}")
        _export_run(run, out, layer=layer, layers=layers, head=head, meant=meant)
        return
    if head:
        raise ValueError("--head must come with --run: without one, --classes N keeps a head")
    if network is None:
        raise ValueError("NETWORK must be given, or --run RUN instead")
    _export_network(
        options.network_of(network, timm_args),
        out,
        layers=layers,
        pool=pool,
        norm=not no_norm,
        lower=lower,
        random=random,
        meant=meant if opset is None else meant | {"opset": opset},
        weights=weights,
        layer=layer,
        classes=classes,
        bn_eps=bn_eps,
        standardising=standardising.standardising_of(
            mean=mean, std=std, channels=channels, scale=scale
        ),
        partial=partial,
    )


def _export_network(
    network: str,
    out: Path,
    *,
    layers: str | None,
    pool: str | None,
    norm: bool,
    lower: lowering.Lowering | None,
    random: int | None,
    meant: dict[str, Any],
    weights: str | None,
    layer: str | None,
    **options: Any,
) -> None:
    from histofast import networks

    if (weights is None) == (random is None):
        raise ValueError("--weights FILE must be given, or --random SEED instead")
    chosen = named_layers(layers)
    if layers is not None and (pool is not None or not norm):
        chosen = _pooled_layers(network, chosen, pool=pool, norm=norm)
    elif pool is not None or not norm:
        layer = networks.pooled_layer(network, pool=pool or "mean", layer=layer, norm=norm)
    if chosen:
        layer = _last(chosen, [cut.name for cut in networks.layers(network)])
    remarks: list[str] = []
    missing: list[str] = []

    def make() -> AnyNetwork:
        made = networks.create(network, weights=weights, layer=layer, seed=random or 0, **options)
        if made.loaded is not None:
            if made.loaded.head == "new":
                raise ValueError(
                    f"--classes must be those of a linear head in {weights}, got {options['classes']}, "
                    "and it has no such head: leave it out for features"
                )
            remarks.extend(made.loaded.remarks())
            missing.extend(made.loaded.missing)
        if made.standardised_by == "guess":
            remarks.append(
                "nobody knows what these weights want of pixels, ImageNet's mean and deviation are "
                "taken: say --mean and --std"
            )
        return made

    if layers is not None:
        specs = networks.export_cuts_made(make, out, layers=chosen, **meant)
    elif lower is None:
        specs = (networks.export_made(make, out, **meant),)
    else:
        meant["name"] = meant["name"] or out.stem
        specs = (
            lower.write(
                lambda plain: networks.export_made(make, plain, **meant),
                out,
                name=meant["name"],
                overwrite=meant["overwrite"],
            ),
        )
    for line in remarks:
        say(f"{weights}: {line}")
    if lower is not None:
        lowering.tell_lowered(out, specs[0])
        return
    _tell_exported(out, specs, are_cuts=layers is not None, random=len(missing))


def _pooled_layers(
    network: str, blocks: Sequence[str] | None, *, pool: str | None, norm: bool
) -> list[str]:
    """Return the cuts that --pool and --no-norm make of --layers; None: of all blocks."""
    from histofast import networks

    if blocks is None:
        known = [cut.name for cut in networks.layers(network)]
        # A network that has none is refused with the first name.
        blocks = [name for name in known if re.fullmatch(r"block\d+", name)] or known[:1]
    pools = ["mean"] if pool is None else options.split(pool)
    return [
        networks.pooled_layer(network, pool=each, layer=block, norm=norm)
        for block in blocks
        for each in pools
    ]


def _export_run(
    run: Path,
    out: Path,
    *,
    layer: str | None,
    layers: str | None,
    head: bool,
    meant: dict[str, Any],
) -> None:
    from histofast import classify

    if head and (layer or layers) is not None:
        raise ValueError(
            "--head must be of the whole network: leave out --layer and --layers, or --head"
        )
    opened = classify.open_run(run)
    specs = (
        classify.export_cuts(opened, out, layers=named_layers(layers), **meant)
        if layers is not None
        else (classify.export(opened, out, layer=layer, head=head, **meant),)
    )
    if meant["mpp"] is None and opened.mpp is None:
        say(
            f"the resolution of its images is not known: {specs[0].mpp:g} um/px is put down, or what "
            "--mpp says"
        )
    if head:
        say(f"logits, in this order: {', '.join(opened.classes)}")
    _tell_exported(out, specs, are_cuts=layers is not None)


def _tell_exported(
    out: Path, specs: Sequence[EncoderSpec], *, are_cuts: bool, random: int = 0
) -> None:
    with_random = f" with {count(random, 'random tensor')}" if random else ""
    if are_cuts:
        tell_cuts(out, specs, against=f"torch{with_random}", work=_work_of(specs))
        return
    spec = specs[0]
    say(
        f"{out}: {spec.name}, {spec.d} features, {spec.size_bytes / 1e6:.1f} MB, verified against "
        f"torch{with_random}, sha256 {spec.sha256}"
    )
    for layer, takes in _work_of(specs).items():
        say(f"{layer}: {takes}")


def _work_of(specs: Sequence[EncoderSpec]) -> dict[str, str]:
    """Return what each encoder's layer takes of the whole network, by the layer; no logits."""
    from histofast import networks

    known = {cut.name: str(cut) for cut in networks.layers(specs[0].network)}
    return {spec.layer: known[spec.layer] for spec in specs if spec.layer in known}


def tell_cuts(
    out: Path,
    specs: Sequence[EncoderSpec],
    *,
    against: str,
    work: Mapping[str, str] = MappingProxyType({}),
) -> None:
    for spec in specs:
        takes = f", {work[spec.layer]}" if spec.layer in work else ""
        say(f"{spec.name}: {spec.d} features from {spec.layer}{takes}")
    say(
        f"{out}: {len(specs)} cut{'s' * (len(specs) > 1)}, {specs[0].size_bytes / 1e6:.1f} MB, "
        f"verified against {against}, sha256 {specs[0].sha256}"
    )


def named_layers(layers: str | None) -> list[str] | None:
    """Return the layers named; None where all are meant."""
    if layers is None or layers == "all":
        return None
    return [name.strip() for name in layers.split(",") if name.strip()]


def _last(chosen: Sequence[str], order: Sequence[str]) -> str:
    """Return the last of some layers, up to which a network is to be built; or one there is not."""
    strange = [layer for layer in chosen if layer not in order]
    return strange[0] if strange else max(chosen, key=order.index)
