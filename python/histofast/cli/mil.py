"""`histofast train` and `histofast predict`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from histofast._machine import TORCH
from histofast._words import count
from histofast.cli import machines, options
from histofast.cli.flags import told
from histofast.cli.output import bars, counted, say, say_document, watched

if TYPE_CHECKING:
    from histofast.learning import Task
    from histofast.mil import Run, TrainProgress

OnProgress = Callable[["TrainProgress"], None]
OnNote = Callable[[str], None]
Features = Annotated[
    list[Path],
    typer.Argument(metavar="FEATURES...", help="folder of feature files, or files and folders"),
]
Device = Annotated[str, options.device(TORCH, help="where the models run")]


def train(
    features: Features,
    labels: options.Labels,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="of the run")],
    slide_table: options.SlideTable = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME",
            help="attention, gated, mean, max, clam, transmil or dsmil",
        ),
    ] = "attention",
    task: Annotated[
        str,
        options.choice(
            "--task",
            *options.TASKS,
            help="what the labels are; survival needs columns time and event",
        ),
    ] = "classification",
    label_column: options.LabelColumn = None,
    missing: Annotated[
        str,
        options.choice(
            "--missing",
            *options.MISSING,
            help="labels without features and features without labels",
        ),
    ] = "error",
    folds: Annotated[
        int | None,
        typer.Option("--folds", parser=options.whole_number, metavar="N", help="by patient [5]"),
    ] = None,
    epochs: options.Epochs = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", parser=options.number, metavar="RATE", help="learning rate [0.001]"),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", parser=options.number, metavar="W", help="[0]")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            parser=options.whole_number,
            metavar="N",
            help="epochs without a better validation metric that end a fold [8]",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="of validation slides, chooses the epoch: loss, auroc, accuracy, ... [by the task "
            "and the number of slides]",
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            "--accumulate", parser=options.whole_number, metavar="N", help="slides per step [1]"
        ),
    ] = None,
    max_patches: Annotated[
        int | None,
        typer.Option(
            "--max-patches",
            parser=options.whole_number,
            metavar="N",
            help="most patches of a slide in training, drawn every epoch [all]",
        ),
    ] = None,
    patch_loss: Annotated[
        float | None,
        typer.Option(
            "--patch-loss",
            parser=options.number,
            metavar="WEIGHT",
            help="of the loss of every patch against its slide's label [0]",
        ),
    ] = None,
    model_option: Annotated[
        list[str] | None,
        typer.Option(
            "--model-option", metavar="NAME=VALUE", help="of the model, dropout=0.25; repeatable"
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            "--init",
            metavar="FILE",
            help="weights that --model gated or clam starts from: a published head of gated attention "
            "(Feather, abmil.base.*, CLAM), or model.safetensors of a fold",
        ),
    ] = None,
    balance: Annotated[
        bool, typer.Option("--balance/--no-balance", help="let all classes count the same")
    ] = True,
    seed: options.Seed = None,
    device: Device = "auto",
    jobs: options.Jobs = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", parser=options.whole_number, metavar="N", help="of torch, in each job [1]"
        ),
    ] = None,
    cluster: machines.Cluster = None,
    cpus_per_worker: machines.CpusPerWorker = None,
    gpus_per_worker: machines.GpusPerWorker = None,
    part: machines.Part = None,
    amp: Annotated[bool, typer.Option("--amp/--no-amp", help="train in bfloat16 on a GPU")] = True,
    tensorboard: options.Tensorboard = False,
    mlflow: options.Mlflow = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a run of other arguments")
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Train a model that tells slides apart by the features of their patches.

    \b
      histofast train features/ --labels labels.csv --out runs/abmil

    Cross-validated: every slide is predicted by a model that has not seen its patient. Writes the
    models, predictions.csv, metrics.json and a log of each fold. A run that was interrupted goes on
    where it was when started again.
    """
    asked = options.given(
        folds=folds,
        epochs=epochs,
        lr=lr,
        weight_decay=weight_decay,
        patience=patience,
        metric=metric,
        accumulate=accumulate,
        max_patches=max_patches,
        patch_loss=patch_loss,
        seed=seed,
    )
    elsewhere = machines.cluster_of(cluster, cpus_per_worker, gpus_per_worker)
    known = options.labels_of(labels, slide_table)

    from histofast.mil import TrainConfig, open_bags
    from histofast.mil import train as run_training
    from histofast.report import check_installed

    config = TrainConfig(
        balance=balance,
        device=device,
        amp="auto" if amp else "off",
        model_options=_model_options(model_option or ()),
        **asked,
    )
    check_installed()  # before the hours of training
    with counted("looking at feature files", quiet=quiet) as on_count:
        bags = open_bags(
            features,
            known,
            task=cast("Task", task),
            missing=cast(Literal["error", "skip"], missing),
            label_column=label_column or "label",
            on_progress=on_count,
        )
    _note(bags.notes, quiet=quiet)
    with _epochs(quiet=quiet) as (on_progress, on_note):
        run = run_training(
            bags,
            out=out,
            model=model,
            config=config,
            init=init,
            overwrite=overwrite,
            tensorboard=tensorboard,
            mlflow=mlflow,
            on_progress=on_progress,
            on_note=on_note,
            **options.given(jobs=jobs, threads=threads, cluster=elsewhere, part=part),
        )
    if part is not None:
        machines.say_trained(part, len(run.folds))
        return
    _tell(run, as_json=as_json)


def _tell(run: Run, *, as_json: bool) -> None:
    """Print what a finished run is worth, and draw its curves."""
    found = run.metrics()
    if as_json:
        say_document(json.dumps(found, indent=1))
    else:
        say(f"{run.model}, {count(len(run.folds), 'fold')}: {_basis(found)}")
        say(*_table(found))
    _draw_curves(run)
    if not as_json:
        say(f"predictions: {run.path / 'predictions.csv'}, curves: {run.path / 'curves.png'}")


def predict(
    run: options.Run,
    features: Features,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="CSV", help="slide, n_patches, prediction, p_<class>"),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", metavar="CSV", help="of some or all slides: what predictions are worth"
        ),
    ] = None,
    slide_table: options.SlideTable = None,
    label_column: options.LabelColumn = None,
    attention: Annotated[
        bool,
        typer.Option(
            "--attention", help="also x, y, attention of each slide's patches, beside the table"
        ),
    ] = False,
    other_encoder: Annotated[
        bool,
        typer.Option("--other-encoder", help="take features of another file of the same network"),
    ] = False,
    other_options: Annotated[
        bool,
        typer.Option(
            "--other-options", help="take features made with other options (mpp, overlap, ...)"
        ),
    ] = False,
    device: Device = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace files that exist")
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Predict slides: the mean of the models of a run's folds."""
    from histofast.mil import predict as run_prediction

    if labels is None and slide_table is not None:
        raise ValueError(
            "--slide-table says whose slides are: name the labels of patients with --labels"
        )
    truth = None if labels is None else options.labels_of(labels, slide_table)
    with counted("predicting slides", quiet=quiet) as on_progress:
        found = run_prediction(
            run,
            features,
            out=out,
            labels=truth,
            attention=attention,
            other_encoder=other_encoder,
            other_options=other_options,
            device=device,
            overwrite=overwrite,
            on_progress=on_progress,
            **options.given(label_column=label_column),
        )
    _note(found.notes, quiet=quiet)
    if as_json:
        header, *rows = found.rows()
        told_rows = [dict(zip(header, row, strict=True)) for row in rows]
        whole = told_rows if labels is None else {"predictions": told_rows, **found.told()}
        say_document(json.dumps(whole, indent=1))
        return
    if labels is not None:
        say(*_worth(found.told()))
    say(f"{count(len(found.names), 'slide')}: {out}")


def _worth(told: Mapping[str, Any]) -> Iterator[str]:
    """What predictions are worth on the slides that have labels."""
    unit = "slide" if told["patients"] is None else "patient"
    of = f" of {count(told['patients'], 'patient')}" if unit == "patient" else ""
    width = max(map(len, told["metrics"]))
    yield f"{count(told['slides'], 'slide')}{of} with labels"
    yield f"{'':{width}}    value  {f'95 % by {unit}s':>16}"
    for name, metric in told["metrics"].items():
        interval = range_of(metric["low"], metric["high"])
        yield f"{name:{width}}  {number_of(metric['value']):>7}  {interval:>16}"


def _draw_curves(run: Run) -> None:
    """Draw what each fold's log.csv holds."""
    from histofast.learning import LOWER_IS_BETTER
    from histofast.report import curves, save_figure

    logs = []
    for fold in range(len(run.folds)):
        with (run.path / f"fold-{fold}" / "log.csv").open(newline="", encoding="utf-8") as file:
            logs.append(list(csv.DictReader(file)))
    figure = curves(
        logs,
        metric=f"validation_{run.metric}",
        losses=("loss", "validation_loss"),
        higher_is_better=run.metric not in LOWER_IS_BETTER,
        title=f"{run.model}, {count(len(run.folds), 'fold')}",
    )
    save_figure(figure, run.path / "curves.png")


def _model_options(texts: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE: numbers, true and false as such, the rest as text."""
    asked: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise ValueError(f"--model-option must be NAME=VALUE, got {text!r}")
        try:
            asked[name] = json.loads(value)
        except (ValueError, RecursionError):
            asked[name] = value
    return asked


def _note(notes: Sequence[str], *, quiet: bool) -> None:
    for note in () if quiet else notes:
        say(f"note: {told(note)}", err=True)


def _basis(found: Mapping[str, Any]) -> str:
    """What was predicted; patients are spoken of where they are known."""
    slides, unseen = count(found["bags"], "slide"), "each predicted by a model that has not seen it"
    if found["left_out"]:
        unseen += f"; {count(len(found['left_out']), 'slide')} without a patch left out"
    if found["unit"] == "slide":
        return f"{slides}, {unseen} (slides count as patients)"
    return f"{slides} of {count(found['patients'], 'patient')}, {unseen}"


def _table(found: Mapping[str, Any]) -> Iterator[str]:
    """The metrics: of these models with an interval over patients, of the training over folds."""
    width = max(map(len, found["out_of_fold"]))
    by_unit = f"95 % by {found['unit']}s"
    yield f"{'':{width}}    value  {by_unit:>16}  95 % by training        folds"
    for name, metric in found["out_of_fold"].items():
        training = found["of_folds"][name]
        of_folds = [fold[name] for fold in found["folds"] if fold[name] is not None]
        line = f"{name:{width}}  {number_of(metric['value']):>7}"
        line += f"  {range_of(metric['low'], metric['high']):>16}"
        line += f"  {range_of(training['low'], training['high']):>16}"
        yield f"{line}  {range_of(min(of_folds), max(of_folds)):>15}" if of_folds else line


def range_of(low: float | None, high: float | None) -> str:
    """Return an interval as tables have it."""
    if low is None or high is None:
        return "undefined"
    return f"{number_of(low).strip()} to {number_of(high).strip()}"


def number_of(value: float | None) -> str:
    """Return a metric as tables have it."""
    if value is None:
        return "undefined"
    return f"{value:7.3f}" if abs(value) < 100 else f"{value:7.4g}"


@contextmanager
def _epochs(*, quiet: bool) -> Iterator[tuple[OnProgress | None, OnNote | None]]:
    """Yield what `train` tells: a line per epoch and note, on a terminal a bar as well."""
    if quiet:
        yield None, None
        return
    if not watched(quiet=quiet):

        def plain(progress: TrainProgress) -> None:
            if progress.finished is not None:
                say(str(progress), err=True)

        yield plain, lambda text: say(told(text), err=True)
        return
    with bars() as shown:
        slides = shown.add("slides")

        def update(progress: TrainProgress) -> None:
            if progress.finished is not None:
                shown.say(str(progress))
            slides(
                description=f"fold {progress.fold}, epoch {progress.epoch}",
                completed=progress.bags_done,
                total=progress.bags_total,
            )

        yield update, lambda text: shown.say(told(text))
