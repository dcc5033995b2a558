"""`histofast heatmap`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from histofast._words import count, one_line
from histofast.cli import options as o
from histofast.cli.progress import show_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from histofast.explain import PatchValues
    from histofast.features import FeatureFile
    from histofast.slides import Slide


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
            parser=o.whole_number,
            metavar="PX",
            help="side of a patch in level-0 pixels, where no feature file tells it",
        ),
    ] = None,
    scale: Annotated[
        str,
        o.choice(
            "--scale",
            *("rank", "minmax", "raw"),
            help="what is coloured: percentile ranks, lowest to highest, or 0 to 1",
        ),
    ] = "rank",
    alpha: Annotated[
        float,
        typer.Option(
            "--alpha", parser=o.number, metavar="SHARE", help="opacity of the colours, 0..1"
        ),
    ] = 0.5,
    fold: Annotated[
        int | None,
        typer.Option(
            "--fold",
            parser=o.whole_number,
            metavar="N",
            help="whose model to take, from 0 [the one that tested the slide, else all]",
        ),
    ] = None,
    mpp_override: o.MppOverride = None,
    overwrite: o.IntoFolder = False,
    as_json: o.AsJson = False,
) -> None:
    """Show on a slide what a model looks at.

    histofast heatmap RUN SLIDE --out FOLDER

    histofast heatmap SLIDE --values CSV --patch-l0 PX --out FOLDER

    Writes overlay.png, attention.geojson (patches for QuPath), attention.ome.tif (a pyramid with its
    scale) and attention.csv (x, y, value).
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"--alpha must be within 0..1, got {alpha:g}")
    if patch_l0 is not None and patch_l0 < 1:
        raise ValueError(f"--patch-l0 must be at least 1, got {patch_l0}")
    run_path, slide_path = _paths(run_and_slide, values)
    if values is not None:
        _check_values(features=features, patch_l0=patch_l0, fold=fold)
    target = o.out_folder(out, of="the maps", overwrite=overwrite)

    from histofast.explain import attention_map, read_values
    from histofast.report import check_installed
    from histofast.slides import open_slide

    check_installed()  # before the minutes of encoding

    about: dict[str, Any] = {}
    with open_slide(slide_path, mpp=mpp_override) as slide:
        if values is not None:
            found, side_l0 = read_values(values), patch_l0
        else:
            assert run_path is not None
            found, side_l0, about = _attend(
                run_path, slide, features, fold=fold, patch_l0=patch_l0, mpp_override=mpp_override
            )
        assert side_l0 is not None
        made = attention_map(
            slide,
            found.values,
            coords_l0=found.coords_l0,
            patch_l0=side_l0,
            name=found.name,
            scale=cast(Literal["rank", "minmax", "raw"], scale),
            alpha=alpha,
        )
    made.save(target, overwrite=overwrite)
    if as_json:
        said = {"slide": made.slide, "patches": len(made.values), "unreadable": made.unreadable}
        typer.echo(json.dumps({**said, **about, "out": str(target)}, indent=1))
        return
    notes = [count(len(made.values), "patch"), *(f"{key} {value}" for key, value in about.items())]
    if made.unreadable:
        notes.append(count(made.unreadable, "unreadable region"))
    typer.echo(f"{one_line(made.slide)}: {', '.join(notes)}: {target / 'overlay.png'}")


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
        raise FileNotFoundError(f"no such folder: {given[0]} (RUN comes before SLIDE)")
    return given[0], given[1]


def _check_values(*, features: Path | None, patch_l0: int | None, fold: int | None) -> None:
    for name, value in (("features", features), ("fold", fold)):
        if value is not None:
            raise ValueError(f"--{name} must not be given with --values: no model is run")
    if patch_l0 is None:
        raise ValueError("--patch-l0 must be given with --values: the table does not tell it")


def _attend(
    run_path: Path,
    slide: Slide,
    features: Path | None,
    *,
    fold: int | None,
    patch_l0: int | None,
    mpp_override: float | None,
) -> tuple[PatchValues, int, dict[str, Any]]:
    """Return what the run's models look at, the side of a patch, and which models these are."""
    from histofast.explain import PatchValues
    from histofast.features import read_features
    from histofast.mil import attention_of, open_run

    run = open_run(run_path)
    folds, about = _folds(run, slide.name, fold)
    with ExitStack() as stack:
        if features is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="histofast-"))
            features = _extract(run_path, run, slide, Path(folder), mpp_override=mpp_override)
        file = read_features(features)
    coords_l0, side_l0 = _checked(file, run, slide, patch_l0)
    values = attention_of(run, file.features, folds=folds)
    return PatchValues(name="attention", coords_l0=coords_l0, values=values), side_l0, about


def _folds(run: Any, slide: str, fold: int | None) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Choose the models: those that did not see the slide, where there are any."""
    n = len(run.folds)
    if fold is not None:
        if not 0 <= fold < n:
            raise ValueError(f"--fold must be within 0..{n - 1}, the folds of the run, got {fold}")
        return (fold,), {"fold": fold}
    names = list(run.names)
    unseen = [i for i in range(n) if slide in names and names.index(slide) in run.folds[i].test]
    if unseen:
        return tuple(unseen), {"fold": unseen[0]} if len(unseen) == 1 else {"folds": len(unseen)}
    return tuple(range(n)), {"folds": n}


def _checked(
    file: FeatureFile, run: Any, slide: Slide, patch_l0: int | None
) -> tuple[NDArray[np.int64], int]:
    """Return coordinates and side of the patches, if they are of the slide and the run's encoder."""
    from histofast.errors import FeatureError

    identity: Mapping[str, Any] = file.identity or {}
    made_by, wanted = identity.get("encoder", {}), run.encoder
    if made_by and wanted and made_by["sha256"] != wanted["sha256"]:
        raise FeatureError(
            f"{file.path} must hold features of {_named(wanted)}, which the run was trained on, "
            f"got {_named(made_by)}"
        )
    size = tuple(file.attributes.get(f"level0_{side}") for side in ("width", "height"))
    base = slide.levels[0]
    is_other = "slide" in identity and identity["slide"] != slide.identity
    if is_other or (None not in size and size != (base.width, base.height)):
        raise FeatureError(
            f"{file.path} must be of {slide.path}, got features of another slide "
            f"({file.attributes.get('name', 'unknown')})"
        )
    if file.coords is None or not file.attributes.get("coords_known", True):
        raise FeatureError(f"{file.path} must tell where its patches lie, got no coordinates")
    if len(file.coords) == 0:
        raise FeatureError(f"{file.path} must hold patches, got none: was no tissue found?")
    told: int | None = file.attributes.get("patch_size_level0")
    if told is None and patch_l0 is None:
        raise ValueError(f"--patch-l0 must be given: {file.path} does not tell the side of a patch")
    if told is not None and patch_l0 not in (None, int(told)):
        raise ValueError(f"--patch-l0 must be {told}, as {file.path} says, got {patch_l0}")
    side_l0 = patch_l0 if told is None else int(told)
    assert side_l0 is not None
    return file.coords, side_l0


def _extract(
    run_path: Path, run: Any, slide: Slide, out: Path, *, mpp_override: float | None
) -> Path:
    """Encode the slide as those were that the run was trained on."""
    from histofast.encoders import load
    from histofast.errors import ModelError, SlideError
    from histofast.features import read_identity
    from histofast.patches import TissueOptions
    from histofast.pipeline import extract

    identities = (read_identity(path) for path in run.paths if Path(path).is_file())
    made = next(
        (each for each in identities if each and isinstance(each.get("tissue"), dict)), None
    )
    if made is None:
        raise ValueError(
            f"{run_path} does not tell how its features were made, for their files are gone or of "
            "another making: encode the slide with the same encoder, mpp and patch size, and give "
            "--features FILE"
        )
    name = made["encoder"]["name"]
    remedy = (
        f"encode the slide with `histofast extract {slide.path} --encoder FILE "
        f"--mpp {made['mpp']:g} --patch-px {made['patch_px']}`, and give --features FILE"
    )
    try:
        found = load(name).spec.sha256
    except (ModelError, FileNotFoundError, ValueError) as error:
        raise ModelError(
            f"{name}, the run's encoder, is none of the known ones: {remedy}"
        ) from error
    if found != made["encoder"]["sha256"]:
        raise ModelError(
            f"{name} must be {_named(made['encoder'])}, the run's encoder, got one of sha256 "
            f"{found[:12]}: {remedy}"
        )
    tissue = {key: value for key, value in made["tissue"].items() if key != "revision"}
    with show_progress(quiet=False) as on_progress:
        report = extract(
            [slide.path],
            out=out,
            encoder=name,
            mpp=made["mpp"],
            patch_px=made["patch_px"],
            overlap_px=made["overlap"],
            min_tissue=made["min_tissue"],
            edge=made["edge"],
            tissue=TissueOptions(mpp=tissue.pop("overview_mpp"), **tissue),
            mpp_override=mpp_override,
            on_progress=on_progress,
        )
    if report.interrupted:
        raise KeyboardInterrupt
    for each in report.slides:
        if each.error:
            raise SlideError(each.error)
    if report.error:
        raise SlideError(report.error)
    return Path(report.slides[0].outputs[0])


def _named(encoder: Mapping[str, Any]) -> str:
    return f"{encoder['name']} (sha256 {encoder['sha256'][:12]})"
