"""Folds that are tuned in, what tuning was worth and the new encoder out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histofast.learning import (
    METRICS,
    PREDICTIONS,
    Metric,
    differences,
    fold_folder,
    metrics,
    metrics_of_models,
    plain,
    rank,
    write_csv,
    write_json,
)
from histofast.mil.fold_tuning import NETWORK, Tuning
from histofast.mil.measuring import interval_of_folds
from histofast.mil.pixels import Pixels
from histofast.mil.runs import Run
from histofast.networks import Network, export

ENCODER = "encoder.onnx"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What `FineTuned` says in numbers and words."""

    frozen: Mapping[str, Metric]
    tuned: Mapping[str, Metric]
    gain: Mapping[str, Metric]
    gain_of_folds: Mapping[str, Metric]
    notes: tuple[str, ...]


def export_best(tuning: Tuning, frozen: Network, pixels: Pixels) -> tuple[int, Network]:
    """Write the encoder of the fold that did best on validation slides; return fold and network."""
    told = {fold: tuning.told(fold) for fold in tuning.folds}
    best = max(told, key=lambda fold: _rank(told[fold], tuning.run.metric))
    source = tuning.source
    network = source.with_weights(fold_folder(tuning.out, best) / NETWORK)
    network.mean, network.std = frozen.mean, frozen.std
    made_of = pixels.file(0).attributes
    patch_px, mpp = made_of.get("patch_size"), source.mpp or made_of.get("mpp")
    export(
        network,
        tuning.out / ENCODER,
        name=f"{source.network}-{network.layer}-tuned",
        patch_px=None if patch_px is None else int(patch_px),
        mpp=None if mpp is None else float(mpp),
        provenance=f"{source.path.name}, fine-tuned on {len(tuning.bags)} slides by histofast",
        licence="that of the weights it was tuned from",
        overwrite=True,
    )
    return best, network


def measure_tuned(tuning: Tuning, *, best: int) -> Answer:
    """Hold tuned against frozen on test slides; write predictions.csv and, last, metrics.json."""
    run, bags = tuning.run, tuning.bags
    told = {fold: tuning.told(fold) for fold in tuning.folds}
    rows = np.concatenate([np.array(found["test"], np.int64) for found in told.values()])
    of_fold = [fold for fold, found in told.items() for _ in found["test"]]
    tuned = np.concatenate([np.array(found["values"], np.float64) for found in told.values()])
    frozen_of = run.predictions()
    frozen = np.stack([frozen_of[bags.names[row]] for row in rows])
    tested = bags.part(rows)
    of_models: dict[str, Any] = {"models": of_fold, "classes": run.classes}
    options = {**of_models, "groups": tested.groups, "seed": run.config.seed}
    after, before = (
        metrics_of_models(run.task, tested.targets, outputs, **of_models)
        for outputs in (tuned, frozen)
    )
    found = Answer(
        frozen=metrics(run.task, tested.targets, frozen, **options),
        tuned=metrics(run.task, tested.targets, tuned, **options),
        gain=differences(run.task, tested.targets, tuned, frozen, **options),
        gain_of_folds={
            name: interval_of_folds(run, bags, values - before[name], folds=sorted(told))
            for name, values in after.items()
        },
        notes=_notes(tuning, told, best),
    )
    table: list[list[Any]] = [
        ["slide", "patient", "fold", *_columns("frozen", run), *_columns("tuned", run)]
    ]
    for row, fold, *values in zip(rows, of_fold, frozen, tuned, strict=True):
        cells = [float(value) for part in values for value in np.atleast_1d(part)]
        table.append([bags.names[row], bags.patients[row], fold, *cells])
    write_csv(tuning.out / PREDICTIONS, table)
    parts = ("frozen", "tuned", "gain", "gain_of_folds")
    told_metrics = {
        part: {name: plain(metric) for name, metric in getattr(found, part).items()}
        for part in parts
    }
    more = {"folds": list(told), "fold": best, "notes": found.notes}
    write_json(tuning.out / METRICS, {**told_metrics, **more})
    return found


def _notes(tuning: Tuning, told: Mapping[int, Mapping[str, Any]], best: int) -> tuple[str, ...]:
    bags, top_k = tuning.bags, tuning.config.top_k
    unseen = len(tuning.run.folds[best].test)
    notes = [
        f"encoder.onnx is of fold {best}, the best on validation slides: it has seen all but the "
        + f"{unseen} slides that this fold tests"
    ]
    short = int((bags.sizes < top_k).sum())
    if short:
        notes.append(
            f"{short} of {len(bags)} slides have fewer than {top_k} patches: all are taken"
        )
    kept = [fold for fold, found in told.items() if found["best_epoch"] == 0]
    if kept:
        notes.append(
            f"in {len(kept)} of {len(told)} folds no epoch did better on validation slides than the "
            "frozen encoder, which was kept"
        )
    return tuple(notes)


def _rank(told: Mapping[str, Any], metric: str) -> tuple[float, float]:
    score = told["best_score"]
    return rank(math.nan if score is None else score, told["best_loss"], metric)


def _columns(what: str, run: Run) -> Sequence[str]:
    return [f"{what}_p_{name}" for name in run.classes] if run.classes else [what]
