"""`histofast study`: experiments, each one command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from histofast.cli import flags
from histofast.cli import options as o

if TYPE_CHECKING:
    from histofast.studies import StudyProgress, StudyResult

app = typer.Typer(
    cls=flags.Group,
    help="Answer a question about pretrained networks, with a page that shows how.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="of the study")]
Slides = Annotated[
    list[Path] | None, typer.Option("--slides", metavar="PATH", help="to cut; repeatable")
]
Patches = Annotated[
    Path | None, typer.Option("--patches", metavar="CSV", help="patch images instead of slides")
]
Model = Annotated[
    str, typer.Option("--model", metavar="NAME", help="of bags: attention, gated, mean ...")
]
Task = Annotated[str, o.choice("--task", *o.TASKS, help="what the labels are")]
Missing = Annotated[
    str,
    o.choice("--missing", *o.MISSING, help="labels without slides, and slides without labels"),
]
Folds = Annotated[
    int | None, typer.Option("--folds", parser=o.whole_number, metavar="N", help="[5]")
]
Lr = Annotated[float | None, typer.Option("--lr", parser=o.number, metavar="RATE", help="[1e-3]")]
Speed = Annotated[bool, typer.Option("--speed/--no-speed", help="time the encoders")]


@app.command(short_help="How much of a network is needed: every cut, measured.")
def truncation(
    network: Annotated[
        list[str],
        typer.Option("--network", metavar="NAME=WEIGHTS", help="repeatable"),
    ],
    labels: o.Labels,
    out: Out,
    slides: Slides = None,
    patches: Patches = None,
    cuts: Annotated[
        str | None, typer.Option("--cuts", metavar="A,B,...", help="layers [all blocks]")
    ] = None,
    patch_px: o.PatchPx = None,
    mpp: o.Mpp = None,
    min_tissue: o.MinTissue = 0.25,
    model: Model = "attention",
    task: Task = "classification",
    missing: Missing = "error",
    folds: Folds = None,
    epochs: o.Epochs = None,
    lr: Lr = None,
    seed: o.Seed = None,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights/--no-random-weights", help="the network never trained, too"),
    ] = True,
    speed: Speed = True,
    quiet: o.Quiet = False,
    as_json: o.AsJson = False,
) -> None:
    """Train a model of slides on the features of every cut of networks; name the knee.

    histofast study truncation --network densenet121=w.safetensors --slides slides/
    --labels labels.csv --out study/
    """
    from histofast.studies import truncation as study

    result = study(
        _pairs(network),
        labels=labels,
        out=out,
        slides=slides,
        patches=patches,
        cuts=None if cuts is None else o.split(cuts),
        patch_px=patch_px,
        mpp=mpp,
        model=model,
        task=cast(Literal["classification", "regression", "survival"], task),
        config=_config(folds, epochs, lr, seed),
        missing=cast(Literal["error", "skip"], missing),
        random_weights=random_weights,
        measure_speed=speed,
        min_tissue=min_tissue,
        command=_command(),
        on_progress=None if quiet else _tell(),
    )
    _print(result, as_json=as_json)


@app.command(short_help="Which of several encoders tells most.")
def networks(
    encoder: Annotated[
        list[str], typer.Option("--encoder", metavar="NAME|FILE", help="repeat for each")
    ],
    labels: o.Labels,
    out: Out,
    slides: Slides = None,
    patches: Patches = None,
    patch_px: o.PatchPx = None,
    mpp: o.Mpp = None,
    min_tissue: o.MinTissue = 0.25,
    model: Model = "attention",
    task: Task = "classification",
    missing: Missing = "error",
    folds: Folds = None,
    epochs: o.Epochs = None,
    lr: Lr = None,
    seed: o.Seed = None,
    speed: Speed = True,
    quiet: o.Quiet = False,
    as_json: o.AsJson = False,
) -> None:
    """Train a model of slides on the features of each encoder; compare worth, speed, likeness.

    histofast study networks --encoder a.onnx --encoder b.onnx --slides slides/
    --labels labels.csv --out study/
    """
    from histofast.studies import compare_networks

    result = compare_networks(
        encoder,
        labels=labels,
        out=out,
        slides=slides,
        patches=patches,
        patch_px=patch_px,
        mpp=mpp,
        model=model,
        task=cast(Literal["classification", "regression", "survival"], task),
        config=_config(folds, epochs, lr, seed),
        missing=cast(Literal["error", "skip"], missing),
        measure_speed=speed,
        min_tissue=min_tissue,
        command=_command(),
        on_progress=None if quiet else _tell(),
    )
    _print(result, as_json=as_json)


def _pairs(texts: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise ValueError(
                f"--network must be NAME=WEIGHTS, got {text!r}: densenet121=weights.safetensors"
            )
        if name in found:
            raise ValueError(f"--network must name each network once, got {name} twice")
        if not Path(file).is_file():
            raise FileNotFoundError(f"no such file: {file} (--network {name})")
        found[name] = Path(file)
    return found


def _config(folds: int | None, epochs: int | None, lr: float | None, seed: int | None) -> Any:
    from histofast.mil import TrainConfig

    return TrainConfig(**o.given(folds=folds, epochs=epochs, lr=lr, seed=seed))


def _command() -> str:
    return shlex.join(["histofast", *sys.argv[1:]])


def _tell() -> Callable[[StudyProgress], None]:
    def tell(progress: StudyProgress) -> None:
        count = f" ({progress.done + 1} of {progress.total})" if progress.total > 1 else ""
        typer.echo(f"{progress.doing}{count}", err=True)

    return tell


def _print(result: StudyResult, *, as_json: bool) -> None:
    from histofast.studies import answer_of, describe_study

    study = result.study
    if as_json:
        typer.echo(answer_of(study).to_json(), nl=False)
        return
    width = max(len(row.name) for row in study.rows)
    typer.echo(f"{'':{width}}   {study.metric}   95 % interval    patches/s")
    for row in study.rows:
        speed = "" if row.patches_per_s is None else f"{row.patches_per_s:10.1f}"
        mark = " *" if row.chosen else ""
        typer.echo(
            f"{row.name:{width}}  {row.value:6.3f}  {row.low:6.3f} to {row.high:.3f} {speed}{mark}"
        )
    for line in describe_study(study):
        typer.echo(line)
    typer.echo(f"report: {result.path / 'index.html'}")
