"""`histofast models`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="List and export encoders: ONNX files that start at pixels.", rich_markup_mode=None
)


@app.command(name="export", short_help="Export a network, cut at a layer (needs torch).")
def export(
    network: Annotated[str, typer.Argument(help="name of the network, e.g. densenet121")],
    weights: Annotated[Path, typer.Option("--weights", help="safetensors file of its weights")],
    out: Annotated[Path, typer.Option("--out", "-o", help="ONNX file to write")],
    layer: Annotated[
        str | None, typer.Option("--layer", help="cut after this layer [the last]")
    ] = None,
    mpp: Annotated[float, typer.Option("--mpp", help="um per pixel it is meant for")] = 0.5,
    patch_px: Annotated[
        int, typer.Option("--patch-px", "--patch-size", help="patch side it is meant for")
    ] = 256,
    name: Annotated[
        str | None, typer.Option("--name", help="of the encoder [network and layer]")
    ] = None,
    provenance: Annotated[
        str | None, typer.Option("--provenance", help="where the weights come from [registry's]")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="of the weights [registry's]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace OUT")] = False,
) -> None:
    """Export a network, cut at a layer, as one ONNX file that starts at pixels (needs torch)."""
    from histofast.networks import export_encoder

    spec = export_encoder(
        network,
        weights=weights,
        layer=layer,
        out=out,
        name=name,
        mpp=mpp,
        patch_px=patch_px,
        provenance=provenance,
        licence=licence,
        overwrite=overwrite,
    )
    typer.echo(
        f"{out}: {spec.name}, {spec.d} features, {spec.size_bytes / 1e6:.1f} MB, verified against "
        f"torch, sha256 {spec.sha256}"
    )


@app.command(name="list")
def list_models() -> None:
    """Show the encoders that come with histofast."""
    from histofast.encoders import registry

    for entry in registry().encoders.values():
        state = "present" if entry.path.is_file() else "missing"
        typer.echo(
            f"{entry.name}: {entry.network} up to {entry.layer}, {entry.d} features, "
            f"{entry.patch_px} px at {entry.mpp:g} um/px, {entry.precision}, "
            f"{entry.size_bytes / 1e6:.1f} MB, {entry.licence}, {state}"
        )
