"""Runs in TensorBoard and in the real MLflow, read back by their own readers."""

from __future__ import annotations

import csv
import math

import pytest

from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors")

from histofast.classify import Recipe, train

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(epochs=2, px=24, batch_size=16, freeze="all")


def rows_of(run):
    with (run.path / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_evaluations_in_tensorboard(tmp_path):
    need("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    table = write_pictures(tmp_path, n=36, groups=12)
    asked = {"network": "resnet18", "recipe": RECIPE, "layer_metrics": True}
    run = train(table, out=tmp_path / "r", tensorboard=True, **asked)
    events = EventAccumulator(str(run.path / "tensorboard" / "run"))
    events.Reload()
    found = {e.step: e.value for e in events.Scalars("validation_auroc")}
    wanted = {int(row["step"]): float(row["validation_auroc"]) for row in rows_of(run)}
    assert found == pytest.approx(wanted)
    gains = {e.step: e.value for e in events.Scalars("layers_knowledge_gain")}
    assert gains == pytest.approx(
        {
            epoch.step: sum(layer.knowledge_gain for layer in epoch.layers) / len(epoch.layers)
            for epoch in run.layers()
        }
    )
    (told,) = events.Scalars("test_auroc")
    assert told.value == pytest.approx(run.metrics()["test"]["auroc"]["value"])


@pytest.mark.filterwarnings("ignore")  # of MLflow's own libraries, among themselves
def test_evaluations_in_mlflow(tmp_path, monkeypatch):
    """MLflow itself and its SQLite."""
    mlflow = need("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    table = write_pictures(tmp_path, n=36, groups=12)
    run = train(table, network="resnet18", recipe=RECIPE, out=tmp_path / "r", mlflow=True)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run.path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("histofast")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("r", "FINISHED")
    assert found.data.params["network"] == "resnet18"
    assert found.data.params["start"] == "random"
    assert found.data.params["recipe.epochs"] == "2"
    assert found.data.params["run"] == run.record.sha256
    history = client.get_metric_history(found.info.run_id, "validation_loss")
    wanted = {int(row["step"]): float(row["validation_loss"]) for row in rows_of(run)}
    assert {m.step: m.value for m in history} == pytest.approx(wanted)
    # The start has no training loss: no row, rather than a NaN.
    losses = client.get_metric_history(found.info.run_id, "loss")
    assert all(math.isfinite(m.value) for m in losses)
    assert found.data.metrics["test_auroc"] == run.metrics()["test"]["auroc"]["value"]
