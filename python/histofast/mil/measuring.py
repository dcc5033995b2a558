"""Bags and trained models in, predictions and what they are worth out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histofast.learning import (
    METRICS,
    PREDICTIONS,
    Metric,
    corrected_interval,
    metrics,
    metrics_of_models,
    or_none,
    plain,
    sha256_of,
    write_csv,
    write_json,
)
from histofast.mil.bag_model import BagModel
from histofast.mil.bags import Bags
from histofast.mil.reading import bags_on
from histofast.mil.runs import Run, load_model, values_of


def evaluate(
    model: BagModel, bags: Bags, rows: Sequence[int] | NDArray[np.int64], *, device: torch.device
) -> NDArray[np.float32]:
    """Return the outputs (b, o) of bags, all patches taken, in evaluation mode and without a graph.

    The model is left in evaluation mode.

    Raises:
        FeatureError: as `Bags.read`.
    """
    model.eval()
    with torch.inference_mode(), bags_on(device, bags, rows) as found:
        outputs = [model(bag).output.float() for bag in found]
        stacked: NDArray[np.float32] = torch.stack(outputs).cpu().numpy()
    return stacked


def measure(run: Run, bags: Bags, *, device: torch.device) -> None:
    """Predict every test bag with the model of its fold; write predictions.csv and metrics.json."""
    rows: list[tuple[int, int, NDArray[np.float64]]] = []
    for i, fold in enumerate(run.folds):
        model, unit = load_model(run, i)
        outputs = evaluate(model.to(device), bags, fold.test, device=device)
        # As they are written, so that the metrics are those of the table.
        values = values_of(run.task, outputs, unit).astype(np.float32).astype(np.float64)
        rows += [(int(row), i, value) for row, value in zip(fold.test, values, strict=True)]
    rows.sort(key=lambda entry: entry[:2])
    tested = bags.part([row for row, _, _ in rows])
    values = np.stack([value for _, _, value in rows])
    of_fold = [fold for _, fold, _ in rows]
    found = metrics(
        bags.task,
        tested.targets,
        values,
        groups=tested.groups,
        models=of_fold,
        classes=bags.classes,
        seed=run.config.seed,
    )
    alone = metrics_of_models(
        bags.task, tested.targets, values, models=of_fold, classes=bags.classes
    )
    write_csv(run.path / PREDICTIONS, _table(bags, rows))
    write_json(
        run.path / METRICS,
        {
            "out_of_fold": {name: plain(metric) for name, metric in found.items()},
            "of_folds": {
                name: plain(interval_of_folds(run, bags, values, of=name))
                for name, values in alone.items()
            },
            "folds": [
                {name: or_none(float(values[i])) for name, values in alone.items()}
                for i in range(len(run.folds))
            ],
            "bags": len(tested),
            # None where slides count as patients: then nobody knows how many there are.
            "patients": len(set(tested.groups)) if tested.unit == "patient" else None,
            "unit": tested.unit,
            "left_out": list(bags.empty),  # slides without a patch
            PREDICTIONS: sha256_of(run.path / PREDICTIONS),
        },
    )


def interval_of_folds(
    run: Run,
    bags: Bags,
    values: NDArray[np.float64],
    *,
    folds: Sequence[int] | None = None,
    of: str | None = None,
) -> Metric:
    """Return the mean over folds, and the corrected interval of this way of training.

    Args:
        run: whose folds.
        bags: of the run.
        values: (f,) of each fold.
        folds: (f) their numbers; None: all.
        of: the metric, whose range the bounds do not leave; None: a difference.
    """
    chosen = range(len(run.folds)) if folds is None else folds
    groups = np.asarray(bags.groups)
    shares = []
    for fold in (run.folds[i] for i in chosen):
        tests = len(set(groups[fold.test]))
        rest = np.concatenate([fold.train, fold.validation])
        shares.append(tests / (tests + len(set(groups[rest]))))
    return corrected_interval(values, test_share=float(np.mean(shares)), of=of)


def _table(bags: Bags, rows: Sequence[tuple[int, int, NDArray[np.float64]]]) -> Iterator[list[Any]]:
    if bags.task == "classification":
        yield ["slide", "patient", "fold", "target", *(f"p_{name}" for name in bags.classes)]
    elif bags.task == "regression":
        yield ["slide", "patient", "fold", "target", "prediction"]
    else:
        yield ["slide", "patient", "fold", "time", "event", "prediction"]
    for row, fold, value in rows:
        target: list[Any]
        if bags.task == "classification":
            target = [bags.classes[bags.targets[row]]]
        elif bags.task == "regression":
            target = [repr(float(bags.targets[row]))]
        else:
            target = [repr(float(bags.targets[row, 0])), int(bags.targets[row, 1])]
        predicted = [float(v) for v in np.atleast_1d(value)]
        yield [bags.names[row], bags.patients[row], fold, *target, *predicted]
