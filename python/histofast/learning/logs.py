"""Epochs and evaluations to TensorBoard and MLflow, for those who ask."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from histofast._words import clipped, printable
from histofast.errors import missing_extra

Log = Callable[[Mapping[str, float], int], None]  # values by name, epoch or step
Logger = Callable[[int | None], contextlib.AbstractContextManager[Log]]  # of a fold, or of the run

_LONGEST = 500  # characters of a parameter; what older MLflow takes


def loggers(
    out: Path, *, tensorboard: bool, mlflow: bool, about: Mapping[str, object] | None = None
) -> list[Logger]:
    """Return what logs each fold, or a run of one; libraries are imported now, not hours later.

    Args:
        out: folder of the run.
        tensorboard: log to `out`/tensorboard.
        mlflow: log to MLflow, to `out`/mlflow.db unless MLFLOW_TRACKING_URI is set.
        about: parameters of the run, for people and for searching.

    Raises:
        ModuleNotFoundError: one is not installed.
    """
    found: list[Logger] = []
    if tensorboard:
        found.append(_tensorboard(out, about or {}))
    if mlflow:
        found.append(_mlflow(out, about or {}))
    return found


def _tensorboard(out: Path, about: Mapping[str, object]) -> Logger:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise missing_extra("tensorboard", by="tensorboard=True", extra="tensorboard") from None

    @contextlib.contextmanager
    def start(fold: int | None) -> Iterator[Log]:
        name = "run" if fold is None else f"fold-{fold}"
        writer = SummaryWriter(str(out / "tensorboard" / name))
        for key, value in about.items():
            writer.add_text(key, printable(str(value)))

        def log(values: Mapping[str, float], epoch: int) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, epoch)

        try:
            yield log
        finally:
            writer.close()

    return start


def _mlflow(out: Path, about: Mapping[str, object]) -> Logger:
    try:
        library = importlib.import_module("mlflow")
    except ImportError:
        raise missing_extra("mlflow", by="mlflow=True", extra="mlflow") from None
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out.resolve() / 'mlflow.db'}"

    @contextlib.contextmanager
    def start(fold: int | None) -> Iterator[Log]:
        client = library.MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("histofast")
        number = experiment.experiment_id if experiment else client.create_experiment("histofast")
        name = printable(out.name if fold is None else f"{out.name} fold {fold}")
        run = client.create_run(number, run_name=name).info.run_id
        for key, value in about.items():
            client.log_param(run, key, clipped(printable(str(value)), _LONGEST))

        def log(values: Mapping[str, float], epoch: int) -> None:
            for name, value in values.items():
                if not math.isnan(value):  # SQLite has no such number
                    client.log_metric(run, name, value, step=epoch)

        status = "KILLED"
        try:
            yield log
            status = "FINISHED"
        finally:
            client.set_terminated(run, status=status)

    return start
