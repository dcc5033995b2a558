"""`histofast classify`: train a network on labelled images, and predict with it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histofast._machine import TORCH
from histofast._words import count
from histofast.cli import machines, options
from histofast.cli.flags import told
from histofast.cli.mil import number_of, range_of
from histofast.cli.output import bars, counted, say, say_document, watched
from histofast.cli.plan import say_plan
from histofast.cli.thresholds import Thresholds, read_thresholds, say_steps, steps_as_json

if TYPE_CHECKING:
    from histofast.classify import Folds, Progress, Run
    from histofast.datasets import Images


def classify(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="folder with a folder for each class, or CSV: file, label[, patient, split, mpp]",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="PATH", help="folder of the run; CSV of --predict"),
    ],
    network: Annotated[
        str | None,
        typer.Option("--network", metavar="NAME", help="resnet18, densenet121, cbr-small ..."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            metavar="START",
            help="random[:SEED], a weights FILE, run:FOLDER, mean-var:START, transfuse:START:LAYER, "
            "slim:START:LAYER:FACTOR, gabor:SEED, merge:METHOD:A+B [random]",
        ),
    ] = None,
    recipe: options.RecipeName = None,
    epochs: options.RecipeEpochs = None,
    batch_size: options.RecipeBatchSize = None,
    lr: options.RecipeLr = None,
    freeze: options.RecipeFreeze = None,
    px: options.Px = None,
    every: options.RecipeEvery = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="of validation pictures, chooses the weights: loss, auroc, accuracy ...",
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            "--threshold",
            metavar="METRIC=VALUE",
            help="say after how many steps validation pictures got there, such as auroc=0.8; "
            "repeatable",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            parser=options.whole_number,
            metavar="N",
            help="train all of N folds, by group",
        ),
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(
            "--fold",
            parser=options.whole_number,
            metavar="I",
            help="train this one of --folds only [0 of 5]",
        ),
    ] = None,
    labels: options.ImageLabels = None,
    label_column: options.LabelColumn = None,
    group_column: options.GroupColumn = None,
    predict: Annotated[
        Path | None,
        typer.Option(
            "--predict", metavar="RUN", help="predict DATA with this finished run instead"
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", metavar="FOLDER", help="for decoded pictures, kept and shared by runs"
        ),
    ] = None,
    seed: options.Seed = None,
    device: Annotated[str, options.device(TORCH, help="where the network runs")] = "auto",
    jobs: options.Jobs = None,
    gpus: options.Gpus = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            parser=options.whole_number,
            metavar="N",
            help="of torch, in each job [all]",
        ),
    ] = None,
    cluster: machines.Cluster = None,
    cpus_per_worker: machines.CpusPerWorker = None,
    gpus_per_worker: machines.GpusPerWorker = None,
    part: machines.Part = None,
    plan_only: options.PlanOnly = False,
    count_levels: machines.CountLevels = False,
    layer_metrics: Annotated[
        bool,
        typer.Option(
            "--layer-metrics", help="write layers.csv: ranks of every layer after every epoch"
        ),
    ] = False,
    tensorboard: options.Tensorboard = False,
    mlflow: options.Mlflow = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a run of other arguments, or predictions")
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> int | None:
    """Train a network that tells pictures apart: train, validate, test.

    \b
      histofast classify std/ --network resnet18 --start imagenet.safetensors --out run/
      histofast classify std/ --network resnet18 --folds 5 --jobs 2 --out runs/
      histofast classify --predict run/ pictures/ --out predictions.csv

    Patients (else slides, else pictures) are on one side only. Validation pictures choose the weights
    that are kept; test pictures are looked at once, at the end. A run that was interrupted goes on where
    it was when started again.
    """
    if count_levels:
        return int(predict is None and folds is not None and fold is None)
    if predict is not None:
        unused: dict[str, object] = {"network": network, "start": start, "recipe": recipe}
        unused |= {"folds": folds, "fold": fold, "epochs": epochs, "px": px, "threshold": threshold}
        how = {"device": device, "overwrite": overwrite}
        _predict(predict, data, out, unused=unused, how=how, quiet=quiet, as_json=as_json)
        return None
    if network is None:
        raise ValueError("--network must be given, got none: `histofast models list` has them")

    from histofast.classify import as_recipe, train, train_folds
    from histofast.report import check_installed

    check_installed()  # before the hours of training
    images = options.read_images(
        data, labels=labels, label_column=label_column, group_column=group_column
    )
    thresholds = read_thresholds(threshold or (), task=images.task)
    asked = options.given(
        start=start,
        seed=seed,
        threads=threads,
        recipe=as_recipe(recipe or "ours").changed(
            options.given(
                epochs=epochs,
                batch_size=batch_size,
                lr=lr,
                freeze=freeze,
                px=px,
                every=every,
                metric=metric,
            )
        ),
    )
    asked |= {"device": device, "network": network, "out": out}
    elsewhere = machines.cluster_of(cluster, cpus_per_worker, gpus_per_worker)
    alone = folds is None or fold is not None
    if alone:
        _refuse_alone({"--jobs": jobs, "--gpus": gpus, "--cluster": cluster, "--part": part})
    beside = options.given(jobs=jobs, gpus=gpus, cluster=elsewhere)
    if plan_only:
        which = options.given(folds=folds, fold=(fold or 0) if alone else None)
        asked |= {"layer_metrics": layer_metrics}
        _plan(images, asked | which | beside, as_json=as_json)
        return None
    asked |= {"tensorboard": tensorboard, "mlflow": mlflow, "layer_metrics": layer_metrics}
    with _steps(quiet=quiet) as (on_progress, on_note):
        asked |= {"overwrite": overwrite, "cache": cache}
        asked |= {"on_progress": on_progress, "on_note": on_note}
        if folds is not None and fold is None:
            found: Folds | Run = train_folds(images, folds=folds, part=part, **beside, **asked)
        else:
            found = train(images, **options.given(folds=folds, fold=fold), **asked)
    if part is not None:
        machines.say_trained(part, folds or 0)
        return None
    _tell(found, thresholds, as_json=as_json)
    return None


def _refuse_alone(of_folds: Mapping[str, object]) -> None:
    for flag, value in of_folds.items():
        if value is not None:
            raise ValueError(f"{flag} must be left out of a single run: it is for all --folds")


def _plan(images: Images, asked: dict[str, Any], *, as_json: bool) -> None:
    from histofast.classify import look_ahead
    from histofast.jobs import engine_for

    runs, seconds = look_ahead(images, **asked)
    jobs = asked.get("jobs") or len(asked.get("gpus", [0]))
    if cluster := asked.get("cluster"):
        told = {"threads": asked.get("threads"), "cluster": cluster}
        jobs = engine_for(folder=asked["out"], **told).side_by_side
    say_plan(runs, seconds, jobs=jobs, as_json=as_json)


def _predict(
    run: Path,
    data: Path,
    out: Path,
    *,
    unused: Mapping[str, object],
    how: Mapping[str, Any],
    quiet: bool,
    as_json: bool,
) -> None:
    from histofast.classify import predict

    for name, value in unused.items():
        if value is not None:
            raise ValueError(f"--{name} must be left out with --predict: the run has its own")
    with counted("predicting pictures", quiet=quiet) as on_progress:
        found = predict(run, data, out=out, on_progress=on_progress, **how)
    for note in () if quiet else found.notes:
        say(f"note: {told(note)}", err=True)
    for name, reason in () if quiet else found.unreadable:
        say(f"note: {name} is left out: {told(reason)}", err=True)
    if as_json:
        rows = [
            {"file": name, **dict(zip(found.classes, map(_or_none, values), strict=True))}
            for name, values in zip(found.names, found.probabilities.tolist(), strict=True)
        ]
        say_document(json.dumps(rows, indent=1))
        return
    say(f"{count(len(found.names), 'picture')}: {out}")


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


# --- What is said --------------------------------------------------------------------------------


def _tell(found: Folds | Run, thresholds: Thresholds, *, as_json: bool) -> None:
    from histofast.classify import Run

    runs = [found] if isinstance(found, Run) else list(found.runs)
    _draw_curves(found.path, runs)
    metrics = found.metrics()
    if as_json:
        asked = {"steps_to": steps_as_json(found, thresholds)} if thresholds else {}
        say_document(json.dumps(metrics | asked, indent=1))
        return
    first = runs[0]
    minutes = f"{metrics['seconds'] / 60:.1f} min"
    say(f"{first.architecture} from {first.record.about['start']}, {minutes}: {_basis(found)}")
    say(*(_table_of_run(metrics) if isinstance(found, Run) else _table_of_folds(metrics)))
    say(*say_steps(found, thresholds))
    files = {"predictions": "predictions.csv", "curves": "curves.png"}
    if "layers.csv" in metrics:
        files["layers"] = "layers.csv"
    say(", ".join(f"{what}: {found.path / name}" for what, name in files.items()))


def _basis(found: Folds | Run) -> str:
    from histofast.classify import Run

    metrics = found.metrics()
    told_of = metrics["test"] if isinstance(found, Run) else metrics
    kind = metrics["group_kind"]
    what = count(told_of["images"], "test picture")
    if kind == "image":
        return f"{what} (patients are not known: they may be on both sides)"
    return f"{what} of {count(told_of['groups'], kind)}"


def _table_of_run(metrics: Mapping[str, Any]) -> Iterator[str]:
    by = f"95 % by {metrics['group_kind']}s"
    names = [name for name, value in metrics["test"].items() if isinstance(value, dict)]
    width = max(map(len, names))
    yield f"{'':{width}}     test  {by:>18}  validation"
    for name in names:
        value = metrics["test"][name]
        yield (
            f"{name:{width}}  {number_of(value['value']):>7}  "
            f"{range_of(value['low'], value['high']):>18}  "
            f"{number_of(metrics['validation'][name]['value']):>10}"
        )


def _table_of_folds(metrics: Mapping[str, Any]) -> Iterator[str]:
    by = f"95 % by {metrics['group_kind']}s"
    width = max(map(len, metrics["out_of_fold"]))
    yield f"{'':{width}}    value  {by:>18}  95 % by training"
    for name, value in metrics["out_of_fold"].items():
        training = metrics["of_folds"][name]
        yield (
            f"{name:{width}}  {number_of(value['value']):>7}  "
            f"{range_of(value['low'], value['high']):>18}  "
            f"{range_of(training['low'], training['high']):>16}"
        )


def _draw_curves(path: Path, runs: list[Run]) -> None:
    from histofast.learning import LOWER_IS_BETTER
    from histofast.report import curves, save_figure

    logs = []
    for run in runs:
        log = run.log()
        logs.append([dict(zip(log, row, strict=True)) for row in zip(*log.values(), strict=True)])
    first = runs[0]
    figure = curves(
        logs,
        metric=f"validation_{first.metric}",
        losses=("loss", "validation_loss"),
        higher_is_better=first.metric not in LOWER_IS_BETTER,
        title=f"{first.architecture}, {count(len(runs), 'run')}",
    )
    save_figure(figure, path / "curves.png", path / "curves.svg")


@contextmanager
def _steps(
    *, quiet: bool
) -> Iterator[tuple[Callable[[Progress], None] | None, Callable[[str], None] | None]]:
    """Yield what training tells: a line per evaluation and note, on a terminal a bar as well."""
    if quiet:
        yield None, None
        return
    if not watched(quiet=quiet):

        def plain(progress: Progress) -> None:
            if progress.finished is not None:
                say(str(progress), err=True)

        yield plain, lambda text: say(f"note: {told(text)}", err=True)
        return
    with bars() as shown:
        steps = shown.add("steps")

        def update(progress: Progress) -> None:
            if progress.finished is not None:
                shown.say(str(progress))
            fold = "steps" if progress.fold is None else f"fold {progress.fold}"
            steps(description=fold, completed=progress.step, total=progress.steps)

        yield update, lambda text: shown.say(f"note: {told(text)}")
