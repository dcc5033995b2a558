"""Folds that are tuned in, what tuning was worth and the new encoder out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histofast._words import counted
from histofast.learning import (
    METRICS,
    NAMED,
    PREDICTIONS,
    Metric,
    differences,
    fold_folder,
    metrics,
    metrics_of_models,
    plain,
    rank,
    read_json,
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
class FineTuned:
    """What fine-tuning came to, on test slides.

    Attributes:
        path: the folder.
        frozen: metrics of the run's models on the same slides, from its own predictions.
        tuned: metrics after tuning.
        gain: `tuned` less `frozen`, on the same resamples of patients: of these models.
        gain_of_folds: the same as the mean over folds with its corrected interval: of tuning.
        encoder: the ONNX file, of the fold whose validation slides did best.
        fold: that fold: the encoder has seen all slides but this fold's test slides.
        weights: of the same network, safetensors; with a BatchNorm's statistics as they were.
        frozen_network, tuned_network: the encoder before and after, as torch modules.
        notes: what to know, one line each.
    """

    path: Path
    frozen: Mapping[str, Metric]
    tuned: Mapping[str, Metric]
    gain: Mapping[str, Metric]
    gain_of_folds: Mapping[str, Metric]
    encoder: Path
    fold: int
    weights: Path
    frozen_network: Network
    tuned_network: Network
    notes: tuple[str, ...]

    def metrics(self) -> dict[str, Any]:
        """Return what metrics.json holds.

        Raises:
            ModelError: it was changed since.
        """
        return read_json(self.path / METRICS, remedy="tune again with the same arguments")


def answer(tuning: Tuning, *, frozen: Network, pixels: Pixels) -> FineTuned:
    """Write encoder.onnx, predictions.csv and, last, metrics.json.

    Args:
        tuning: whose folds are tuned.
        frozen: the network before.
        pixels: of the bags.

    Raises:
        OSError: as `finetune`.
    """
    best, tuned = _export_best(tuning, frozen, pixels)
    found = _measure(tuning)
    notes = _notes(tuning, best)
    parts = {
        part: {name: plain(metric) for name, metric in metrics.items()}
        for part, metrics in found.items()
    }
    more = {"folds": tuning.folds, "fold": best, "notes": notes}
    write_json(tuning.out / METRICS, {**parts, **more})
    return FineTuned(
        **found,
        path=tuning.out,
        encoder=tuning.out / ENCODER,
        fold=best,
        weights=fold_folder(tuning.out, best) / NETWORK,
        frozen_network=frozen,
        tuned_network=tuned,
        notes=notes,
    )


def _export_best(tuning: Tuning, frozen: Network, pixels: Pixels) -> tuple[int, Network]:
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
        licence=source.licence or "that of the weights it was tuned from",
        overwrite=True,
    )
    return best, network


def _measure(tuning: Tuning) -> dict[str, dict[str, Metric]]:
    """Hold tuned against frozen on test slides; write predictions.csv."""
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
    table: list[list[Any]] = [
        ["slide", "patient", "fold", *_columns("frozen", run), *_columns("tuned", run)]
    ]
    for row, fold, *values in zip(rows, of_fold, frozen, tuned, strict=True):
        cells = [float(value) for part in values for value in np.atleast_1d(part)]
        table.append([bags.names[row], bags.patients[row], fold, *cells])
    write_csv(tuning.out / PREDICTIONS, table)
    return {
        "frozen": metrics(run.task, tested.targets, frozen, **options),
        "tuned": metrics(run.task, tested.targets, tuned, **options),
        "gain": differences(run.task, tested.targets, tuned, frozen, **options),
        "gain_of_folds": {
            name: interval_of_folds(run, bags, values - before[name], folds=sorted(told))
            for name, values in after.items()
        },
    }


def _notes(tuning: Tuning, best: int) -> tuple[str, ...]:
    bags, top_k = tuning.bags, tuning.config.top_k
    told = {fold: tuning.told(fold) for fold in tuning.folds}
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
    if tuning.run.left_out:
        left_out = counted(tuning.run.left_out, most=NAMED)
        notes.append(f"slides without a patch are left out, as in the run: {left_out}")
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
