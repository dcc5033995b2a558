"""`histofast similarity`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histofast._files import regular_file
from histofast._machine import TORCH
from histofast.cli import options
from histofast.cli.output import counted, say, say_document
from histofast.similarity import MEASURES, Need, names_of

if TYPE_CHECKING:
    from histofast.comparison import SimilarityResult

_NETWORKS = "--a FILE --b FILE --images PATH"


def _titles(need: Need) -> str:
    return ", ".join(f"{name} = {MEASURES[name].title}" for name in names_of(need))


def similarity(
    more_features: Annotated[
        list[Path] | None, typer.Argument(hidden=True, metavar="FOLDER", show_default=False)
    ] = None,
    a: Annotated[
        Path | None,
        typer.Option("--a", metavar="FILE", help="weights of one network, or an ONNX file"),
    ] = None,
    b: Annotated[Path | None, typer.Option("--b", metavar="FILE", help="of the other")] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", metavar="NAME", help="that the weights are of, e.g. densenet121"),
    ] = None,
    timm_args: options.TimmArgs = None,
    classes: Annotated[
        int | None,
        typer.Option(
            "--classes",
            parser=options.whole_number,
            metavar="N",
            help="of the head in the weights, to compare predictions too (with the labels in the "
            "CSV list)",
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images",
            metavar="PATH",
            help="CSV list of patch images, or slides or a folder of them; repeatable",
        ),
    ] = None,
    bag_from: options.BagFrom = None,
    odd_patches: options.OddPatches = None,
    features: Annotated[
        list[Path] | None,
        typer.Option(
            "--features",
            metavar="FOLDER...",
            help="feature files of two or more encoders instead, a folder each",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="of the report")
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", metavar="A,B,...", help="layers to compare [all blocks]"),
    ] = None,
    mode: Annotated[
        str | None,
        options.choice(
            "--mode",
            *("flatten", "spatial", "pool"),
            help="compare whole maps, their channels over all places, or their means [flatten]",
        ),
    ] = None,
    measure: Annotated[
        str | None,
        options.choice(
            "--measure",
            *names_of("rows", "pooled rows"),
            help=f"of similarity: {_titles('rows')}; with --mode pool or of --features also "
            f"{_titles('pooled rows')} [cka]",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        options.choice(
            "--preset",
            *names_of("maps"),
            help=f"repeat published tables: {MEASURES['published'].formula}",
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            parser=options.whole_number,
            metavar="N",
            help="images to draw [512]; of --features, patches [2048]",
        ),
    ] = None,
    patch_px: options.PatchPx = None,
    mpp: options.Mpp = None,
    ink: options.Ink = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", parser=options.whole_number, metavar="N", help="of the draw"),
    ] = None,
    device: Annotated[
        str | None, options.device(TORCH, help="where networks of weights run (else auto)")
    ] = None,
    intersect: Annotated[
        bool,
        typer.Option("--intersect", help="of feature files that differ, take what all have"),
    ] = False,
    overwrite: options.IntoFolder = False,
    as_json: options.AsJson = False,
) -> None:
    """Compare two networks layer by layer, or encoders by their feature files; write a report.

    histofast similarity --a ONE --b OTHER --network NAME --images PATH --out FOLDER

    histofast similarity --features FOLDER FOLDER ... --out FOLDER
    """
    # Only --features takes several values after it: the rest of them arrive as arguments.
    folders = [*(features or ()), *(more_features or ())]
    network = options.network_with(network, timm_args)
    split = None if layers is None else [name for text in layers for name in options.split(text)]
    given = options.given(
        layers=split,
        mode=mode,
        measure=measure,
        preset=preset,
        n=n,
        patch_px=patch_px,
        mpp=mpp,
        ink=ink,
        seed=seed,
    )
    of_images = {"bag_from": bag_from, "odd_patches": odd_patches}
    asked = options.given(a=a, b=b, network=network, classes=classes, images=images, device=device)
    asked |= options.given(**of_images)
    if features is None and folders:
        raise ValueError(f"{folders[0]} belongs to no option: folders go behind --features")
    if features is not None:
        _check_features(folders, [*asked, *given])
    else:
        _check_networks(a, b, network, images, classes=classes, device=device, intersect=intersect)
    target = options.out_folder(out, of="the report", overwrite=overwrite)

    from histofast.comparison import compare, compare_features
    from histofast.report import check_installed

    check_installed()  # before the minutes of comparing

    result: SimilarityResult
    if features is not None:
        with counted("comparing encoders", quiet=False) as on_progress:
            result = compare_features(
                folders, intersect=intersect, on_progress=on_progress, **given
            )
    else:
        assert a is not None
        assert b is not None
        assert images is not None
        label_a, label_b = _labels(a, b)
        chosen = given.pop("layers", None)
        tissue = options.tissue_of(given.pop("ink", None))
        with counted("comparing images", quiet=False) as on_progress:
            result = compare(
                _network(a, network, classes, device),
                _network(b, network, classes, device),
                _images(images, **of_images),
                label_a=label_a,
                label_b=label_b,
                tissue=tissue,
                on_progress=on_progress,
                **({} if chosen is None else {"layers_a": chosen, "layers_b": chosen}),
                **given,
            )
    _tell(result, target, as_json=as_json)


def _tell(result: SimilarityResult, target: Path, *, as_json: bool) -> None:
    from histofast.comparison import comparison_text

    result.save(target)
    if as_json:
        say_document(result.comparison.to_json())
        return
    say_document(comparison_text(result.comparison))
    say(f"report: {target / 'index.html'}")


def _check_features(folders: Sequence[Path], others: Sequence[str]) -> None:
    wrong = [name for name in others if name not in ("n", "seed", "measure")]
    if wrong:
        name = wrong[0].replace("_", "-")
        raise ValueError(f"--{name} must not be given with --features: that compares what is there")
    if len(folders) < 2:
        raise ValueError(f"--features must name at least 2 folders, got {len(folders)}")


def _check_networks(
    a: Path | None,
    b: Path | None,
    network: str | None,
    images: Sequence[Path] | None,
    *,
    classes: int | None,
    device: str | None,
    intersect: bool,
) -> None:
    if a is None and b is None:
        raise ValueError(f"{_NETWORKS} must be given, or --features with two or more folders")
    if a is None or b is None:
        missing = "--a" if a is None else "--b"
        raise ValueError(f"{missing} must be given too: two networks are compared")
    if not images:
        raise ValueError("--images must name a list of patches, or slides: nothing is guessed")
    if intersect:
        raise ValueError("--intersect is for --features: both networks see the same images")
    weights = [path for path in (a, b) if not _is_onnx(path)]
    if weights and network is None:
        raise ValueError(f"--network must name the network that {weights[0]} holds weights of")
    for name, value in (("network", network), ("classes", classes), ("device", device)):
        if value is not None and not weights:
            raise ValueError(f"--{name} is for weights: {a.name} and {b.name} are whole networks")
    for path in (a, b):
        regular_file(path, kind="network")


def _images(images: Sequence[Path], *, bag_from: str | None, odd_patches: str | None) -> Any:
    """Return what `compare` draws from; what is told of patch images makes one path some."""
    if bag_from is None and odd_patches is None:
        return images
    if len(images) > 1:
        raise ValueError(
            f"--images must be one list or folder of patch images with --bag-from or --odd-patches, "
            f"got {len(images)}"
        )
    return options.patch_images(images[0], bag_from=bag_from, odd_patches=odd_patches)


def _is_onnx(path: Path) -> bool:
    return path.suffix.lower() == ".onnx"


def _network(path: Path, network: str | None, classes: int | None, device: str | None) -> Any:
    """Return what `compare` takes: the path of an ONNX file, or the network with its weights."""
    if _is_onnx(path):
        return path
    from histofast import networks

    assert network is not None
    place = networks.pick_device(device or "auto")
    return networks.create(network, weights=path, classes=classes or 0).to(place)


def _labels(a: Path, b: Path) -> tuple[str, str]:
    """Name two files: by their stems, or by more of their paths where these are equal."""
    if a.stem != b.stem:
        return a.stem, b.stem
    return str(a), str(b)
