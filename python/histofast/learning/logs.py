"""Epochs to TensorBoard and MLflow, for those who ask."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from histofast._words import printable
from histofast.errors import missing_extra

Log = Callable[[Mapping[str, float], int], None]  # values by name, epoch
Logger = Callable[[int], contextlib.AbstractContextManager[Log]]  # of a fold


def loggers(out: Path, *, tensorboard: bool, mlflow: bool) -> list[Logger]:
    """Return what logs each fold; libraries are imported now, not hours later.

    Raises:
        ModuleNotFoundError: one is not installed.
    """
    found: list[Logger] = []
    if tensorboard:
        found.append(_tensorboard(out))
    if mlflow:
        found.append(_mlflow(out))
    return found


def _tensorboard(out: Path) -> Logger:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise missing_extra("tensorboard", by="tensorboard=True", extra="tensorboard") from None

    @contextlib.contextmanager
    def start(fold: int) -> Iterator[Log]:
        writer = SummaryWriter(str(out / "tensorboard" / f"fold-{fold}"))

        def log(values: Mapping[str, float], epoch: int) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, epoch)

        try:
            yield log
        finally:
            writer.close()

    return start


def _mlflow(out: Path) -> Logger:
    try:
        library = importlib.import_module("mlflow")
    except ImportError:
        raise missing_extra("mlflow", by="mlflow=True", extra="mlflow") from None
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out.resolve() / 'mlflow.db'}"

    @contextlib.contextmanager
    def start(fold: int) -> Iterator[Log]:
        client = library.MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("histofast")
        number = experiment.experiment_id if experiment else client.create_experiment("histofast")
        run = client.create_run(number, run_name=printable(f"{out.name} fold {fold}")).info.run_id

        def log(values: Mapping[str, float], epoch: int) -> None:
            for name, value in values.items():
                client.log_metric(run, name, value, step=epoch)

        status = "KILLED"
        try:
            yield log
            status = "FINISHED"
        finally:
            client.set_terminated(run, status=status)

    return start
