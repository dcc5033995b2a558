"""`histofast study transfer` and its like: studies of labelled pictures, each one command."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from histofast._machine import TORCH
from histofast.cli import machines, options
from histofast.cli.output import say, say_document
from histofast.cli.plan import say_plan
from histofast.cli.study_command import (
    Instead,
    Jobs,
    Threads,
    study_command,
    telling,
    with_options_of,
)

Data = Annotated[
    list[Path],
    typer.Option("--data", metavar="SET ...", help="folders or tables of labelled pictures"),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="of the study")]
RunsFolder = Annotated[
    Path | None,
    typer.Option(
        "--runs", metavar="FOLDER", help="of the runs, which studies may share [OUT/runs]"
    ),
]
Folds = Annotated[
    int | None,
    typer.Option(
        "--folds",
        parser=options.whole_number,
        metavar="N",
        help="train all of N folds in each repeat [one of 5]",
    ),
]
Repeats = Annotated[
    int | None,
    typer.Option(
        "--repeats",
        parser=options.whole_number,
        metavar="N",
        help="divisions of each set, with seeds of their own [3; 1 with --folds]",
    ),
]


def _told(
    out: Out,
    runs: RunsFolder = None,
    device: Annotated[str, options.device(TORCH, help="where networks run")] = "auto",
    jobs: Jobs = None,
    gpus: options.Gpus = None,
    threads: Threads = None,
    cluster: machines.Cluster = None,
    cpus_per_worker: machines.CpusPerWorker = None,
    gpus_per_worker: machines.GpusPerWorker = None,
    part: machines.Part = None,
    plan_only: options.PlanOnly = False,
    count_levels: machines.CountLevels = False,
    quiet: options.Quiet = False,
) -> tuple[dict[str, Any], Instead]:
    """Return what every study of pictures is told, and what is to be done instead of all of it."""
    told = {
        "out": out,
        "device": device,
        "command": options.command_line(),
        "cluster": machines.cluster_of(cluster, cpus_per_worker, gpus_per_worker),
        "on_progress": None if quiet else telling(),
        **options.given(runs=runs, jobs=jobs, gpus=gpus, threads=threads),
    }
    return told, Instead(part=part, counts_levels=count_levels, plans_only=plan_only)


@with_options_of(_told)
def _setting(
    told: tuple[dict[str, Any], Instead],
    data: Data,
    recipe: options.RecipeName = None,
    epochs: options.RecipeEpochs = None,
    batch_size: options.RecipeBatchSize = None,
    lr: options.RecipeLr = None,
    px: options.Px = None,
    every: options.RecipeEvery = None,
    folds: Folds = None,
    repeats: Repeats = None,
    seed: options.Seed = None,
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="NAME", help="of test pictures [auroc]")
    ] = None,
    group_column: options.GroupColumn = None,
) -> Any:
    """Options that every study of runs has; what to do instead stands beside the setting."""
    from histofast.classify import as_recipe
    from histofast.studies import PictureSetting

    conditions, instead = told
    if repeats is None and folds is not None:
        repeats = 1  # all folds are several splits already
    setting = PictureSetting(
        data=data,
        recipe=as_recipe(recipe or "ours").changed(
            options.given(epochs=epochs, batch_size=batch_size, lr=lr, px=px, every=every)
        ),
        group_column=group_column,
        **conditions,
        **options.given(folds=folds, repeats=repeats, seed=seed, metric=metric),
    )
    return setting, instead


@with_options_of(_told)
def _conditions(told: tuple[dict[str, Any], Instead]) -> Any:
    """Options of a study that trains nothing; what to do instead stands beside the conditions."""
    from histofast.studies import Conditions

    conditions, instead = told
    return Conditions(**conditions), instead


def _run(study: Any, instead: Instead, *, as_json: bool) -> None:
    from histofast.studies import conduct, look_ahead_of

    if instead.plans_only:
        runs, seconds = look_ahead_of(study)
        say_plan(runs, seconds, jobs=study.setting.engine.side_by_side, as_json=as_json)
        return
    found = conduct(study)
    if as_json:
        say_document(found.answer.to_json())
        return
    say(*found.answer.findings)
    say(f"report: {found.path / 'index.html'}")


def picture_study(
    app: typer.Typer, short_help: str, *, recipe: str = "ours"
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a command of a function that takes a setting and options of its own, and returns a study.

    Args:
        app: that gets the command.
        short_help: of it.
        recipe: where none is asked for.
    """

    @functools.wraps(_setting)
    def setting(**given: Any) -> Any:
        return _setting(**{**given, "recipe": given["recipe"] or recipe})

    return study_command(app, short_help, setting=setting, run=_run)


def parts_study(
    app: typer.Typer, short_help: str
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a command of a function as `picture_study` does, of a study that trains nothing."""
    return study_command(app, short_help, setting=_conditions, run=_run)
