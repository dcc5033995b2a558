"""`histofast models reduce`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from histofast._machine import ONNX_RUNTIME
from histofast.cli import colours, measure, options
from histofast.cli.output import counted, say, say_document

if TYPE_CHECKING:
    from histofast.slides import Icc


def reduce(
    encoder: Annotated[str, typer.Argument(help="encoder: a name or an ONNX file")],
    dims: Annotated[
        int,
        typer.Option(
            "--dims", parser=options.whole_number, metavar="N", help="features that it gives"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="ONNX file to write")],
    calibrate: measure.Calibrate = None,
    patches: measure.Patches = None,
    bag_from: options.BagFrom = None,
    odd_patches: options.OddPatches = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            parser=options.whole_number,
            metavar="N",
            help="patches to draw: on three quarters axes are fitted, on the rest it is measured what "
            "they keep [8 for each of --dims, 512 at least]",
        ),
    ] = None,
    mpp: options.Mpp = None,
    mag: options.Mag = None,
    patch_px: options.PatchPx = None,
    mpp_override: options.MppOverride = None,
    ink: options.Ink = None,
    stain: colours.Stain = None,
    stain_target: colours.StainTarget = None,
    icc: colours.Icc = None,
    device: Annotated[str, options.device(ONNX_RUNTIME, help="where the encoder runs")] = "auto",
    name: Annotated[
        str | None, typer.Option("--name", help="of the encoder [its own and -pca<N>]")
    ] = None,
    seed: options.DrawSeed = 0,
    overwrite: options.ReplaceOut = False,
    as_json: options.AsJson = False,
) -> None:
    """Write an encoder that gives the features of another along their first principal axes.

    \b
      histofast models reduce uni2-h.onnx --dims 256 --calibrate slides/ --out uni2-h-256.onnx

    The axes are fitted on patches of these slides, with the pixels that `extract` would encode, and are
    part of the graph. What they keep of the whole is measured on other patches, and is in the file.
    """
    from histofast import graphs
    from histofast.encoding import reduce as run

    if calibrate is None and patches is None:
        raise ValueError("--calibrate must name slides (or --patches a table): nothing is guessed")
    with counted("patches", quiet=False) as on_count:
        spec = run(
            encoder,
            out=out,
            dims=dims,
            slides=calibrate,
            n=n,
            seed=seed,
            name=name,
            overwrite=overwrite,
            on_count=on_count,
            on_note=lambda text: say(text, err=True),
            patches=options.patch_images(patches, bag_from=bag_from, odd_patches=odd_patches),
            mpp=mpp,
            mag=mag,
            patch_px=patch_px,
            mpp_override=mpp_override,
            tissue=options.tissue_of(ink),
            stain=colours.stain_of(stain, stain_target, icc),
            icc=cast("Icc | None", icc),
            device=device,
        )
    said = graphs.reduction_of(spec)
    if as_json:
        say_document(json.dumps({"path": str(out), "name": spec.name, "reduction": said}))
        return
    say(f"{out}: {spec.name}, {graphs.reduction_in_words(spec)}; sha256 {spec.sha256}")
