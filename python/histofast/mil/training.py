"""Bags with targets in, cross-validated models out."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from histofast._files import path_of
from histofast._notes import log_of, note
from histofast._progress import shows
from histofast.jobs import Cluster, Part, engine_for
from histofast.learning import (
    Fold,
    LabelsOfPatients,
    Missing,
    OnNote,
    RunRecord,
    Task,
    check_metric,
    folds,
    folds_of,
    is_finished,
    loggers,
    parts_of_config,
    run_folder,
    work_on_folds,
)
from histofast.mil.bags import Bags, Paths, open_bags
from histofast.mil.fold_training import OnProgress, is_trained, train_fold
from histofast.mil.goals import RISK_SET, scores_of
from histofast.mil.measuring import measure
from histofast.mil.models import create, names
from histofast.mil.reading import threads_of_torch
from histofast.mil.runs import FILES, KIND, Run, TrainConfig, outputs_of, slides_of
from histofast.mil.starting import Start, keep_start, read_start
from histofast.networks import pick_device

_log = log_of(__name__)

# Raised whenever the same input would give other numbers than before; part of every run's identity.
REVISION = 1

_FEW = 30  # validation bags; a metric of ranks takes few values on fewer


@shows()
def train(
    features: Bags | Paths,
    labels: str | Path | LabelsOfPatients | None = None,
    *,
    out: str | Path,
    model: str = "attention",
    task: Task | None = None,
    config: TrainConfig | None = None,
    init: str | Path | None = None,
    missing: Missing = "error",
    label_column: str = "label",
    overwrite: bool = False,
    tensorboard: bool = False,
    mlflow: bool = False,
    jobs: int | None = None,
    threads: int | None = 1,
    cluster: Cluster | str | None = None,
    part: str | None = None,
    progress: bool | None = None,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
) -> Run:
    """Train a model of bags for each fold, and measure it on the fold's test bags.

    Training bags train, validation bags choose the epoch, test bags are looked at once, at the end.
    A run that was stopped goes on where it was when called again with the same arguments; a finished
    one is only opened.

    Args:
        features: bags, or a folder of feature files, or files and folders.
        labels: table of labels, as `open_bags` reads it; None for bags, which have theirs.
        out: folder of the run.
        model: its name.
        task: None: that of the bags, else classification.
        config: how to train.
        init: file of weights that every fold's model, "gated" or "clam", starts from: a published head of
            gated attention (Feather, `abmil.base.*` of MIL-Lab, CLAM), or `model.safetensors` of a fold of
            ours. Its widths are those of the model; its classifier is left out.
        missing: what to do about labels without features and features without labels.
        label_column: where the labels are.
        overwrite: replace a run of another identity, or write into a folder that is not empty.
        tensorboard: log epochs to `out`/tensorboard as well.
        mlflow: log epochs to MLflow as well, to `out`/mlflow.db unless MLFLOW_TRACKING_URI is set.
        jobs: folds at a time, side by side in processes; the numbers are the same. None: 1.
        threads: of torch, in each. One is about twice as fast as two on bags of some hundred patches,
            and gives the same bits however many CPUs there are; more may pay for bags of thousands.
            None: as many as torch has.
        cluster: train the folds on the machines of a Ray cluster, as `extract` encodes slides there; test
            slides are predicted here. The files are the same.
        part: "i/n": train only some of the folds, those of part i of n, as other processes or machines train the
            others; the run is finished by a call without it.
        progress: show it as lines of text: True, False; None: in a notebook, unless somebody hears it.
        on_progress: called after every epoch, and within one now and then.
        on_note: called with a line on what is done besides epochs, or had to be begun anew.

    Returns:
        The finished run; with `part` one that may lack its predictions and metrics.

    Raises:
        ValueError: options or labels that do not fit (see `open_bags`, `folds`, `TrainConfig`); a
            training part without a class; a metric that is unknown, or undefined on validation bags;
            a folder of something else or of other arguments.
        FeatureError: feature files that do not fit, are broken, or hold NaN.
        FileNotFoundError: no such file or folder.
        ModelError: `init` holds no such weights, or for other features; the loss is not finite; another process trains in this folder; files of the run
            that were changed since.
        JobError: a worker was lost twice with a fold, or the cluster gives none, or others.
        ModuleNotFoundError: tensorboard or mlflow is asked for and not installed.
        OSError: the folder cannot be written, or the disk is full; what is there stays whole.

    Determinism: bitwise on one CPU with one number of threads, interrupted or not, whatever `jobs`;
    torch's sums depend on the number of threads. Not guaranteed on CUDA, where it sums in any order.

    Example:
        run = train("features", "labels.csv", out="runs/abmil")
    """
    config = config or TrainConfig()
    out, mine = path_of("out", out), Part.told(part)
    bags = _bags(features, labels, task=task, missing=missing, label_column=label_column)
    engine = engine_for(
        folder=out, jobs=jobs, threads=threads, cluster=cluster, sees=bags.paths[:1]
    )
    device = pick_device(config.device)
    start = None
    if init is not None:
        start = read_start(init, model=model, d=bags.d, options=config.model_options)
        config = replace(config, model_options={**config.model_options, **start.options})
    record = record_of(bags, model, config, start=start)
    loggers(out, tensorboard=tensorboard, mlflow=mlflow)  # refused now, not hours later
    if is_finished(out, record):
        return Run.of(out, record)
    with (
        run_folder(out, record, files=FILES, overwrite=overwrite, part=mine),
        threads_of_torch(threads),
    ):
        run = Run.of(out, record)
        if start is not None:
            keep_start(out, start)
            note(_log, str(start), to=on_note)
        work_on_folds(
            partial(train_fold, run, bags, threads=threads, tensorboard=tensorboard, mlflow=mlflow),
            [fold for fold in folds_of(mine, len(run.folds)) if not is_trained(run, fold)],
            engine=engine,
            on_progress=on_progress,
            on_note=on_note,
        )
        if mine is not None:
            return run
        doing = "predicting test slides, and their metrics with intervals"
        note(_log, doing, to=on_note, level=logging.INFO)
        measure(run, bags, device=device)
    return run


# --- What is asked -----------------------------------------------------------------------------


def _bags(
    features: Bags | Paths,
    labels: str | Path | LabelsOfPatients | None,
    *,
    task: Task | None,
    missing: Missing,
    label_column: str,
) -> Bags:
    if not isinstance(features, Bags):
        if labels is None:
            raise ValueError("labels must name a table of labels, got None")
        return open_bags(
            features,
            labels,
            task=task or "classification",
            missing=missing,
            label_column=label_column,
        )
    if labels is not None:
        raise ValueError("labels must be None for bags, which have theirs")
    if task is not None and task != features.task:
        raise ValueError(f"task must be that of the bags, {features.task}, got {task}")
    return features


def record_of(
    bags: Bags, model: str, config: TrainConfig, *, start: Start | None = None
) -> RunRecord:
    """Return what run.json holds; refuse what cannot be trained.

    Raises:
        ValueError, FeatureError: as `train`.
    """
    from histofast import __version__

    if model not in names():
        raise ValueError(f"model must be one of {', '.join(names())}, got {model!r}")
    if bags.task == "multilabel":
        raise ValueError(
            "task must be one of classification, regression, survival, got 'multilabel'"
        )
    if bags.task == "survival" and (config.accumulate or RISK_SET) < RISK_SET:
        raise ValueError(
            f"accumulate must be at least {RISK_SET} in survival, where it is the size of a risk "
            f"set, got {config.accumulate}"
        )
    if config.patch_loss and bags.task == "survival":
        raise ValueError("patch_loss must be 0 in survival: a patch has no time of its own")
    divided = folds(bags, n=config.folds, seed=config.seed)
    _check_classes(bags, divided)
    # A typing mistake in the options must not cost the reading of the first bags.
    create(model, d=bags.d, outputs=outputs_of(bags.task, bags.classes), **config.model_options)
    numbers, aside = parts_of_config(config)
    return RunRecord(
        kind=KIND,
        identity={
            "revision": REVISION,
            "model": model,
            "task": bags.task,
            "classes": bags.classes,
            "encoder": bags.encoder.get("sha256", bags.encoder.get("name")),
            "d": bags.d,
            "config": numbers,
            "metric": _choose_metric(bags, divided, config.metric),
            **({} if start is None else {"init": start.identity}),
            "slides": slides_of(bags),
            "folds": {
                str(i): {part.name: getattr(fold, part.name).tolist() for part in fields(Fold)}
                for i, fold in enumerate(divided)
            },
        },
        about={
            "versions": {"histofast": __version__, "torch": torch.__version__},
            "encoder": dict(bags.encoder),
            "options": dict(bags.options),
            "left_out": list(bags.empty),
            "config": aside,
            **({} if start is None else {"init": str(start.path.resolve())}),
            "paths": [str(path.resolve()) for path in bags.paths],
        },
    )


def _check_classes(bags: Bags, divided: Sequence[Fold]) -> None:
    for i, fold in enumerate(divided):
        if bags.task == "classification":
            counts = np.bincount(bags.targets[fold.train], minlength=len(bags.classes))
            if not counts.all():
                lacking = bags.classes[int(counts.argmin())]
                raise ValueError(
                    f"training bags of fold {i} must be of every class, got none of {lacking}: "
                    "more patients are needed, or another split"
                )
        elif bags.task == "survival" and not bags.targets[fold.train, 1].any():
            raise ValueError(f"training bags of fold {i} must have an event, got none")


def _choose_metric(bags: Bags, divided: Sequence[Fold], asked: str | None) -> str:
    chosen = _usual_metric(bags) if asked is None else check_metric("metric", asked, task=bags.task)
    if chosen == "loss":
        return chosen
    undefined = [i for i, fold in enumerate(divided) if not _is_defined(bags, fold, chosen)]
    if asked is not None and undefined:
        raise ValueError(
            f"metric {asked} must be defined on the validation bags, got too few, or one class "
            f"only, in fold {undefined[0]}: choose loss"
        )
    few = min(len(fold.validation) for fold in divided) < _FEW
    return "loss" if asked is None and (few or undefined) else chosen


def _usual_metric(bags: Bags) -> str:
    if bags.task == "classification":
        return "auroc" if len(bags.classes) == 2 else "balanced_accuracy"
    return "mae" if bags.task == "regression" else "c_index"


def _is_defined(bags: Bags, fold: Fold, metric: str) -> bool:
    """Whether some outputs, of which no two are equal, have this metric."""
    b = len(fold.validation)
    ramp = np.linspace(0.1, 0.2, b)
    outputs = ramp
    if bags.task == "classification":
        outputs = np.tile(ramp[:, None] / len(bags.classes), len(bags.classes))
        outputs[:, -1] = 1 - outputs[:, :-1].sum(axis=1)
    return math.isfinite(scores_of(bags, fold.validation, outputs)[metric])
