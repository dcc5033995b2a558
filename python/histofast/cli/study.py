"""`histofast study`: experiments, each one command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from histofast.cli import (
    colours,
    flags,
    machines,
    options,
    study_drift,
    study_reuse,
    study_selection,
    study_transfer,
    study_transfusion,
)
from histofast.cli.output import say, say_document
from histofast.cli.study_command import Instead, Jobs, Threads, study_command, telling

if TYPE_CHECKING:
    from histofast.slides import Icc
    from histofast.studies import StudyResult

app = typer.Typer(
    cls=flags.Group,
    help="Answer a question about pretrained networks, with a page that shows how.",
    rich_markup_mode=None,
)

study_drift.add_to(app)
study_reuse.add_to(app)
study_selection.add_to(app)
study_transfer.add_to(app)
study_transfusion.add_to(app)

Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="of the study")]
Slides = Annotated[
    list[Path] | None, typer.Option("--slides", metavar="PATH", help="to cut; repeatable")
]
Patches = Annotated[
    Path | None,
    typer.Option("--patches", metavar="CSV|FOLDER", help="patch images instead of slides"),
]
Model = Annotated[
    str, typer.Option("--model", metavar="NAME", help="of bags: attention, gated, mean ...")
]
Task = Annotated[str, options.choice("--task", *options.TASKS, help="what the labels are")]
Missing = Annotated[
    str,
    options.choice(
        "--missing", *options.MISSING, help="labels without slides, and slides without labels"
    ),
]
Folds = Annotated[
    int | None, typer.Option("--folds", parser=options.whole_number, metavar="N", help="[5]")
]
Lr = Annotated[
    float | None, typer.Option("--lr", parser=options.number, metavar="RATE", help="[1e-3]")
]
Repeats = Annotated[
    int | None,
    typer.Option(
        "--repeats", parser=options.whole_number, metavar="N", help="of the cross-validation [3]"
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance", parser=options.number, metavar="X", help="a loss that counts as none [0.05]"
    ),
]
Robustness = Annotated[
    str | None,
    typer.Option(
        "--robustness",
        metavar="COLUMN",
        help="of the labels, e.g. centre or scanner: how much features depend on it",
    ),
]
Speed = Annotated[bool, typer.Option("--speed/--no-speed", help="time the encoders")]


def _setting(
    labels: options.Labels,
    out: Out,
    slide_table: options.SlideTable = None,
    slides: Slides = None,
    patches: Patches = None,
    bag_from: options.BagFrom = None,
    odd_patches: options.OddPatches = None,
    patch_px: options.PatchPx = None,
    mpp: options.Mpp = None,
    min_tissue: options.MinTissue = 0.25,
    ink: options.Ink = None,
    tissue: options.Tissue = None,
    stain: colours.Stain = None,
    stain_target: colours.StainTarget = None,
    icc: colours.Icc = None,
    model: Model = "attention",
    task: Task = "classification",
    missing: Missing = "error",
    folds: Folds = None,
    repeats: Repeats = None,
    epochs: options.Epochs = None,
    lr: Lr = None,
    seed: options.Seed = None,
    tolerance: Tolerance = None,
    robustness: Robustness = None,
    speed: Speed = True,
    jobs: Jobs = None,
    threads: Threads = None,
    cluster: machines.Cluster = None,
    cpus_per_worker: machines.CpusPerWorker = None,
    gpus_per_worker: machines.GpusPerWorker = None,
    part: machines.Part = None,
    count_levels: machines.CountLevels = False,
    quiet: options.Quiet = False,
) -> tuple[Any, Instead]:
    """Options that every study has; what to do instead stands beside the setting."""
    from histofast.mil import TrainConfig
    from histofast.studies import Setting

    setting = Setting(
        labels=options.labels_of(labels, slide_table),
        out=out,
        slides=slides,
        patches=options.patch_images(patches, bag_from=bag_from, odd_patches=odd_patches),
        patch_px=patch_px,
        mpp=mpp,
        min_tissue=min_tissue,
        tissue=options.tissue_of(ink, network=tissue),
        stain=colours.stain_of(stain, stain_target, icc),
        icc=cast("Icc | None", icc),
        model=model,
        task=cast(Literal["classification", "regression", "survival"], task),
        config=TrainConfig(**options.given(folds=folds, epochs=epochs, lr=lr, seed=seed)),
        missing=cast(Literal["error", "skip"], missing),
        robustness=robustness,
        measure_speed=speed,
        command=options.command_line(),
        cluster=machines.cluster_of(cluster, cpus_per_worker, gpus_per_worker),
        on_progress=None if quiet else telling(),
        **options.given(repeats=repeats, tolerance=tolerance, jobs=jobs, threads=threads),
    )
    return setting, Instead(part=part, counts_levels=count_levels)


def _study(short_help: str) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a command of a function that takes a setting and options of its own, and returns a study."""

    def answered(study: Any, _: Instead, *, as_json: bool) -> None:
        from histofast.studies import conduct

        _print(conduct(study), as_json=as_json)

    return study_command(app, short_help, setting=_setting, run=answered)


@_study("How much of a network is needed: every cut, measured.")
def truncation(
    setting: Any,
    network: Annotated[
        list[str],
        typer.Option(
            "--network", metavar="NAME=FILE", help="weights, or an encoder (.onnx); repeatable"
        ),
    ],
    timm_args: options.TimmArgs = None,
    cuts: Annotated[
        str | None,
        typer.Option("--cuts", metavar="A,B,...", help="layers, modules of encoders [all blocks]"),
    ] = None,
    pool: Annotated[
        str,
        typer.Option(
            "--pool",
            metavar="A,B,...",
            help="of encoders: auto, nchw, nhwc, cls or mean; of vision transformers cls, mean, cls+mean or "
            "several, held against each other [mean]",
        ),
    ] = "auto",
    random_seeds: Annotated[
        int,
        typer.Option(
            "--random-seeds",
            parser=options.whole_number,
            metavar="N",
            help="the network never trained, so many times; 0: not",
        ),
    ] = 5,
) -> Any:
    """Train models of slides on the features of every cut of networks; name the knee.

    histofast study truncation --network densenet121=w.safetensors --slides slides/
    --labels labels.csv --out study/
    """
    from histofast.studies import Truncation

    return Truncation(
        networks=options.networks_with(options.named_files("--network", network), timm_args),
        setting=setting,
        cuts=None if cuts is None else options.split(cuts),
        pool=options.split(pool),
        random_seeds=random_seeds,
    )


@_study("Which of several encoders tells most.")
def networks(
    setting: Any,
    encoder: Annotated[
        list[str], typer.Option("--encoder", metavar="NAME|FILE", help="repeat for each")
    ],
) -> Any:
    """Train models of slides on the features of each encoder; compare worth, speed, likeness.

    histofast study networks --encoder a.onnx --encoder b.onnx --slides slides/
    --labels labels.csv --out study/
    """
    from histofast.studies import NetworkStudy

    return NetworkStudy(encoders=encoder, setting=setting)


def _print(result: StudyResult, *, as_json: bool) -> None:
    from histofast.report import number, round_number
    from histofast.studies import answer_of, describe_study

    study = result.study
    if as_json:
        say_document(answer_of(study).to_json())
        return
    width = max(len(row.name) for row in study.rows)
    say(f"{'':{width}}   {study.metric}   95 % interval    patches/s")
    for row in study.rows:
        low, high = row.spread or (row.interval.low, row.interval.high)
        speed = "" if row.patches_per_s is None else f"{round_number(row.patches_per_s):>10}"
        bounds = f"{number(low):>6} to {number(high)}"
        mark = " *" if row.chosen else ""
        say(f"{row.name:{width}}  {number(row.value):>6}  {bounds} {speed}{mark}")
    for line in describe_study(study):
        say(line)
    say(f"report: {result.path / 'index.html'}")
