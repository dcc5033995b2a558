"""`histofast heatmap`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histofast._words import count, one_line
from histofast.cli import options
from histofast.cli.output import say, say_document
from histofast.cli.progress import show_progress

if TYPE_CHECKING:
    from histofast.explain import AttentionMap


def heatmap(
    run_and_slide: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN] SLIDE", help="folder of `histofast train`; a slide", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="output folder")
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            "--features", metavar="FILE", help="of the slide; made on the fly where missing"
        ),
    ] = None,
    values: Annotated[
        Path | None,
        typer.Option(
            "--values", metavar="CSV", help="x, y, value of patches, level-0 px, instead of RUN"
        ),
    ] = None,
    patch_l0: Annotated[
        int | None,
        typer.Option(
            "--patch-l0",
            parser=options.whole_number,
            metavar="PX",
            help="side of a patch in level-0 pixels, where no feature file tells it",
        ),
    ] = None,
    method: Annotated[
        str | None,
        options.choice(
            "--method",
            *options.CAMS,
            help="a class activation map through the encoder instead of attention alone",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option("--layer", metavar="NAME", help="of the encoder, for --method [its last]"),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="for --method [the predicted one]"),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(
            "--encoder", metavar="FILE", help="that RUN's features are of [found by its name]"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", parser=options.whole_number, metavar="N", help="of the null of --method [0]"
        ),
    ] = None,
    scale: Annotated[
        str | None,
        options.choice(
            "--scale",
            *("rank", "minmax", "raw"),
            help="what is coloured: percentile ranks, lowest to highest, or 0 to 1 [rank; minmax with --method]",
        ),
    ] = None,
    alpha: Annotated[
        float,
        typer.Option(
            "--alpha", parser=options.number, metavar="SHARE", help="opacity of the colours, 0..1"
        ),
    ] = 0.5,
    fold: Annotated[
        int | None,
        typer.Option(
            "--fold",
            parser=options.whole_number,
            metavar="N",
            help="whose model to take, from 0 [the one that tested the slide, else all]",
        ),
    ] = None,
    mpp_override: options.MppOverride = None,
    allow_upsampling: options.AllowUpsampling = False,
    overwrite: options.IntoFolder = False,
    as_json: options.AsJson = False,
) -> None:
    """Show on a slide what a model looks at.

    histofast heatmap RUN SLIDE --out FOLDER

    histofast heatmap SLIDE --values CSV --patch-l0 PX --out FOLDER

    Writes overlay.png, attention.geojson (patches for QuPath), attention.ome.tif (a pyramid with its
    scale) and attention.csv (x, y, value). With --method the same of places within patches as cam.geojson ...,
    that of an encoder and models with all weights drawn anew in null/, and a page of both.
    """
    run_path, slide_path = _paths(run_and_slide, values)
    of_method = {"layer": layer, "class_name": class_name, "seed": seed}
    if values is not None:
        of_run = {"features": features, "encoder": encoder, "fold": fold, "method": method}
        _check_values(of_run, patch_l0=patch_l0)
    if method is None:
        _refuse_without_method(of_method)
    target = options.out_folder(out, of="the maps", overwrite=overwrite)

    from histofast.explain import attention_of_run
    from histofast.report import check_installed

    check_installed()  # before the minutes of encoding
    look: dict[str, Any] = {"scale": scale or ("minmax" if method else "rank"), "alpha": alpha}
    if run_path is None:
        assert values is not None
        made = _of_table(values, slide_path, patch_l0=patch_l0, mpp_override=mpp_override, **look)
    else:
        with show_progress(quiet=False) as on_progress:
            on_slide: dict[str, Any] = {
                "features": features,
                "encoder": encoder,
                "fold": fold,
                "patch_l0": patch_l0,
                "mpp_override": mpp_override,
                "allow_upsampling": allow_upsampling,
                "on_progress": on_progress,
                **look,
            }
            if method is None:
                made = attention_of_run(run_path, slide_path, **on_slide)
            else:
                from histofast.explain import cam

                found = cam.cam_of_slide(
                    run_path,
                    slide_path,
                    method=method,
                    **options.given(**of_method),
                    **on_slide,
                )
                made = found.map
    if method is None:
        made.save(target, overwrite=overwrite)
    else:
        command = options.command_line()
        cam.save_slide(found, target, overwrite=overwrite, command=command)
    _tell(made, target, what="patch" if method is None else "place", as_json=as_json)


def _tell(made: AttentionMap, target: Path, *, what: str, as_json: bool) -> None:
    about = {}
    if made.folds:
        about = {"fold": made.folds[0]} if len(made.folds) == 1 else {"folds": len(made.folds)}
    if as_json:
        said = {
            "slide": made.slide,
            "patches" if what == "patch" else "places": len(made.values),
            "unreadable": made.unreadable,
        }
        say_document(json.dumps({**said, **about, "out": str(target)}, indent=1))
        return
    notes = [count(len(made.values), what), *(f"{key} {value}" for key, value in about.items())]
    if made.unreadable:
        notes.append(count(made.unreadable, "unreadable region"))
    say(f"{one_line(made.slide)}: {', '.join(notes)}: {target / 'overlay.png'}")


def _paths(given: Sequence[Path], values: Path | None) -> tuple[Path | None, Path]:
    """Tell the run from the slide."""
    if values is not None:
        if len(given) != 1:
            raise ValueError(
                f"with --values a slide alone must be named, got {count(len(given), 'path')}"
            )
        return None, given[0]
    if len(given) != 2:
        raise ValueError(
            f"a run and a slide must be named, got {count(len(given), 'path')}: without a run, "
            "give --values"
        )
    if not given[0].is_dir():
        if given[0].exists():
            raise ValueError(f"RUN must be a folder, {given[0]} is a file: it comes before SLIDE")
        raise FileNotFoundError(f"no such folder: {given[0]} (RUN comes before SLIDE)")
    return given[0], given[1]


def _refuse_without_method(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            flag = "class" if name == "class_name" else name
            raise ValueError(f"--{flag} must be given with --method: attention has none")


def _check_values(of_run: Mapping[str, object], *, patch_l0: int | None) -> None:
    for name, value in of_run.items():
        if value is not None:
            raise ValueError(f"--{name} must not be given with --values: no model is run")
    if patch_l0 is None:
        raise ValueError("--patch-l0 must be given with --values: the table does not tell it")


def _of_table(
    values: Path, slide: Path, *, patch_l0: int | None, mpp_override: float | None, **look: Any
) -> AttentionMap:
    from histofast.explain import attention_map, read_values
    from histofast.slides import open_slide

    table = read_values(values)
    assert patch_l0 is not None
    with open_slide(slide, mpp_override=mpp_override) as opened:
        return attention_map(
            opened,
            table.values,
            coords_l0=table.coords_l0,
            patch_l0=patch_l0,
            name=table.name,
            **look,
        )
