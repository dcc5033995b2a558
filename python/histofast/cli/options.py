"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histofast._files import regular_file
from histofast._machine import check_device
from histofast.cli.flags import defaults_from

if TYPE_CHECKING:
    from histofast.datasets import Images
    from histofast.learning import LabelsOfPatients
    from histofast.patches import PatchImages, TissueOptions


def number(text: str | float) -> float:
    """Read a number; typer's own messages leave out what came."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"must be a number, got {text!r}") from None


def whole_number(text: str | int) -> int:
    """Read a whole number."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"must be a whole number, got {text!r}") from None


def one_of(*names: str) -> Callable[[str], str]:
    """Make a reader of one of `names`."""

    def read(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"must be one of {', '.join(names)}, got {text!r}")
        return text

    return read


def choice(flag: str, *names: str, help: str) -> Any:
    """Make an option that takes one of `names`, for `Annotated`."""
    return typer.Option(flag, parser=one_of(*names), metavar="|".join(names), help=help)


def device(gpus: tuple[str, ...], *, help: str) -> Any:
    """Make an option for the device to run on, for `Annotated`."""

    def read(text: str) -> str:
        try:
            check_device(text, gpus)
        except ValueError as error:
            raise typer.BadParameter(str(error).removeprefix("device ")) from None
        return text

    names = ", ".join(f"{gpu}, {gpu}:1" for gpu in gpus)
    return typer.Option(
        "--device", parser=read, metavar="DEVICE", help=f"{help}: auto, cpu, {names}"
    )


def gpu_list(text: str | list[int]) -> list[int]:
    """Read indices of GPUs."""
    if not isinstance(text, str):
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"must be indices such as 0,1, got {text!r}") from None


TASKS = ("classification", "regression", "survival")
MISSING = ("error", "skip")
CAMS = ("gradcam", "gradcam++", "hirescam")

DecodingThreads = Annotated[
    int, typer.Option("--threads", parser=whole_number, metavar="N", help="that decode")
]
Mpp = Annotated[
    float | None,
    typer.Option("--mpp", parser=number, metavar="UM", help="scale of the patches, um per pixel"),
]
Mag = Annotated[
    float | None,
    typer.Option(
        "--mag",
        parser=number,
        metavar="X",
        help="what scanners call it instead: 20 is 0.5 um, or the slide's own where that is within 6 %",
    ),
]
PatchPx = Annotated[
    int | None,
    typer.Option(
        "--patch-px",
        "--patch-size",
        "--patch_size",
        parser=whole_number,
        metavar="PX",
        help="side of a patch",
    ),
]
Overlap = Annotated[
    int,
    typer.Option(
        "--overlap",
        parser=whole_number,
        metavar="PX",
        help="overlap of neighbours, in patch pixels",
    ),
]
MinTissue = Annotated[
    float,
    typer.Option(
        "--min-tissue", parser=number, metavar="SHARE", help="least tissue in a patch, 0..1"
    ),
]
Edge = Annotated[
    str,
    choice(
        "--edge",
        "drop",
        "shift",
        help="patches across the slide's edge: leave out, or move inwards",
    ),
]
BagFrom = Annotated[
    str | None,
    typer.Option(
        "--bag-from",
        metavar="COLUMN|folder|REGEX",
        help="which patch images are one bag: a column, their folder, or a group in their name",
    ),
]
OddPatches = Annotated[
    str | None,
    choice(
        "--odd-patches",
        *("error", "skip", "pad", "resize"),
        help="patch images of other sizes than most of their bag [error]",
    ),
]
MppOverride = Annotated[
    float | None,
    typer.Option(
        "--mpp-override",
        parser=number,
        metavar="UM",
        help="level-0 um per pixel, instead of what the slides say",
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        metavar="PATH",
        help="PNG, TIFF, JPEG or GeoJSON instead of finding tissue; for several slides a folder of them",
    ),
]
Threshold = Annotated[
    int | None,
    typer.Option(
        "--threshold",
        parser=whole_number,
        metavar="N",
        help="tissue threshold 0..255, instead of Otsu's",
    ),
]
Tissue = Annotated[
    Path | None,
    typer.Option(
        "--tissue",
        metavar="ONNX",
        help="network that finds tissue instead, made by models add --tissue",
    ),
]
Ink = Annotated[
    str | None,
    choice(
        "--ink",
        "keep",
        "remove",
        help="pen marks and black: keep them where the stain is blue or green [remove]",
    ),
]
AllowUpsampling = Annotated[
    bool, typer.Option("--allow-upsampling", help="take slides that are coarser than the patches")
]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="look for slides in sub-folders too")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="folder of `histofast train`")]
Labels = Annotated[
    Path, typer.Option("--labels", metavar="CSV", help="slide, label[, patient, split]")
]
SlideTable = Annotated[
    Path | None,
    typer.Option(
        "--slide-table",
        metavar="CSV",
        help="patient, slide: whose each slide is, where the labels are of patients",
    ),
]
ImageLabels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="A,B,...",
        help="columns of 0 and 1, one for each label that a picture may have",
    ),
]
LabelColumn = Annotated[
    str | None, typer.Option("--label-column", metavar="NAME", help="of the labels [label]")
]
GroupColumn = Annotated[
    str | None,
    typer.Option(
        "--group-column",
        metavar="NAME",
        help="of what must stay on one side of a split [group, else patient, else slide]",
    ),
]
Epochs = Annotated[
    int | None, typer.Option("--epochs", parser=whole_number, metavar="N", help="at most [20]")
]
Seed = Annotated[int | None, typer.Option("--seed", parser=whole_number, metavar="N", help="[0]")]
RandomSeeds = Annotated[
    int | None,
    typer.Option(
        "--random-seeds",
        parser=whole_number,
        metavar="N",
        help="networks with random weights, the null [5]",
    ),
]
Concepts = Annotated[
    str | None,
    typer.Option(
        "--concepts",
        metavar="A,B,...",
        help="contrast, eosin ... [all but nuclei_count, nuclei_area]",
    ),
]
NucleiThreshold = Annotated[
    float | None,
    typer.Option(
        "--nuclei-threshold",
        parser=number,
        metavar="X",
        help="optical density of haematoxylin [0.5]",
    ),
]
DrawSeed = Annotated[
    int, typer.Option("--seed", parser=whole_number, metavar="N", help="of the draw")
]
ReplaceOut = Annotated[bool, typer.Option("--overwrite", help="replace OUT")]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        parser=whole_number,
        metavar="N",
        help="folds at a time, side by side in processes [1]",
    ),
]
Gpus = Annotated[
    Any,
    typer.Option(
        "--gpus",
        parser=gpu_list,
        metavar="0,1,...",
        help="run on these GPUs, each in a process of its own, or in several with --jobs",
    ),
]
Px = Annotated[
    int | None,
    typer.Option("--px", parser=whole_number, metavar="PX", help="resample pictures to this side"),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|TOML",
        help="ours, histokt, hidden-representations, transfusion, or a file [ours]",
    ),
]
RecipeEpochs = Annotated[
    int | None,
    typer.Option("--epochs", parser=whole_number, metavar="N", help="[of the recipe]"),
]
RecipeBatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", parser=whole_number, metavar="N", help="[of the recipe]"),
]
RecipeLr = Annotated[
    float | None, typer.Option("--lr", parser=number, metavar="RATE", help="[of the recipe]")
]
RecipeFreeze = Annotated[
    str | None,
    typer.Option(
        "--freeze", metavar="MODE", help="all, head, head-then-all, from:LAYER [of the recipe]"
    ),
]
RecipeEvery = Annotated[
    int | None,
    typer.Option(
        "--every",
        parser=whole_number,
        metavar="STEPS",
        help="between looks at validation pictures [an epoch]",
    ),
]
Tensorboard = Annotated[bool, typer.Option("--tensorboard", help="log to OUT/tensorboard too")]
Mlflow = Annotated[bool, typer.Option("--mlflow", help="log to MLflow too, to OUT/mlflow.db")]
IntoFolder = Annotated[
    bool, typer.Option("--overwrite", help="write into OUT though it is not empty")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")]
PlanOnly = Annotated[
    bool,
    typer.Option(
        "--plan-only",
        help="train nothing: show the runs, what is there, and how long the rest takes",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print the report as JSON")]


def split(text: str) -> list[str]:
    """Read A,B,..."""
    return [part.strip() for part in text.split(",") if part.strip()]


def command_line() -> str:
    """Return the command as it was given, for a page to say how it was made."""
    path, typed = defaults_from.get(), sys.argv[1:]
    config = ["--config", str(path)] if path is not None and "--config" not in typed else []
    return shlex.join(["histofast", *config, *typed])


def given(**options: Any) -> dict[str, Any]:
    """Keep the options that were given: the API knows the defaults of the others."""
    return {name: value for name, value in options.items() if value is not None}


def read_images(
    path: Path,
    *,
    labels: str | None,
    label_column: str | None,
    group_column: str | None,
    labelled: bool = True,
) -> Images:
    """Open labelled images as the options `ImageLabels`, `LabelColumn` and `GroupColumn` say."""
    from histofast.datasets import open_images

    return open_images(
        path,
        labels=None if labels is None else split(labels),
        label_column=label_column,
        group_column=group_column,
        labelled=labelled,
    )


def out_folder(out: Path | None, *, of: str, overwrite: bool) -> Path:
    """Return --out, a folder that may be written into; `of` says what it is for."""
    if out is None:
        raise ValueError(f"--out must name the folder of {of}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, {out} is a file")
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} is not empty: choose another folder, or give --overwrite")
    return out


def patch_images(
    path: Path | None, *, bag_from: str | None, odd_patches: str | None, flag: str = "--patches"
) -> PatchImages | None:
    """Return the patch images that a flag names, with what else is told of them.

    Raises:
        ValueError: something is told of none.
    """
    from histofast.patches import PatchImages

    if path is not None:
        return PatchImages(path, **given(bag_from=bag_from, odd_patches=odd_patches))
    for name, value in (("--bag-from", bag_from), ("--odd-patches", odd_patches)):
        if value is not None:
            raise ValueError(f"{name} is about patch images: name them with {flag}")
    return None


def labels_of(labels: Path, slide_table: Path | None) -> Path | LabelsOfPatients:
    """Return the labels that one table or two tell.

    Raises:
        FileNotFoundError: there is no such table.
    """
    for table in filter(None, (labels, slide_table)):
        regular_file(table, kind="table")
    if slide_table is None:
        return labels
    from histofast.learning import LabelsOfPatients

    return LabelsOfPatients(labels, slide_table)


def tissue_of(
    ink: str | None, *, threshold: int | None = None, network: Path | None = None
) -> TissueOptions:
    """How tissue is found, as the options say."""
    from histofast.patches import TissueOptions

    kept: Any = "keep" if ink == "keep" else "remove"
    return TissueOptions(threshold=threshold, ink=kept, network=network)


TimmArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--timm-arg",
        metavar="KEY=VALUE",
        help="of timm's model, e.g. img_size=96, mlp_layer=SwiGLUPacked; repeatable",
    ),
]


def network_of(name: str, timm_args: list[str] | None) -> str:
    """Return the name of a network with the arguments that --timm-arg gives it.

    Raises:
        ValueError: there are such, and it is not timm's.
    """
    if not timm_args:
        return name

    from histofast.networks import timm_args_of, timm_name

    return timm_name(name, timm_args_of(timm_args))


def network_with(name: str | None, timm_args: list[str] | None) -> str | None:
    """Return the same where a network need not be named.

    Raises:
        ValueError: arguments for none.
    """
    if name is None and timm_args:
        raise ValueError("--timm-arg must come with --network, got none: timm:NAME")
    return None if name is None else network_of(name, timm_args)


def networks_with(networks: dict[str, Path], timm_args: list[str] | None) -> dict[str, Path]:
    """Return networks by their names with the arguments, which are for all of timm among them.

    Raises:
        ValueError: there are none of timm.
    """
    of_timm = {name for name in networks if name.startswith("timm:")}
    if timm_args and not of_timm:
        raise ValueError("--timm-arg must come with a network of timm, timm:NAME=WEIGHTS")
    return {
        network_of(name, timm_args) if name in of_timm else name: weights
        for name, weights in networks.items()
    }


def named_files(flag: str, texts: list[str]) -> dict[str, Path]:
    """Return the weights file of each network, of NAME=WEIGHTS.

    Raises:
        ValueError: no such text, a network twice.
        FileNotFoundError: no such file.
    """
    found: dict[str, Path] = {}
    for text in texts:
        # A name may have arguments of timm's behind it, in parentheses.
        head, closing, rest = text.rpartition(")=")
        name, equals, file = (f"{head})", "=", rest) if closing else text.partition("=")
        if not (name and equals and file):
            raise ValueError(
                f"{flag} must be NAME=WEIGHTS, got {text!r}: densenet121=weights.safetensors"
            )
        if name in found:
            raise ValueError(f"{flag} must name each network once, got {name} twice")
        found[name] = regular_file(file, kind=f"weights file of {name}")
    return found
