"""A trained network in, predictions of validation and test images and what they are worth out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.classify.loop import Lesson, logits_of
from histofast.classify.runs import LAYERS, LOG, WEIGHTS, Run
from histofast.classify.state import TrainingState
from histofast.datasets import Decoded, Images
from histofast.learning import (
    METRICS,
    PREDICTIONS,
    metrics,
    plain,
    sha256_of,
    write_csv,
    write_json,
)


def measure(run: Run, lesson: Lesson, images: Images, state: TrainingState, found: Decoded) -> None:
    """Predict validation and test images; write predictions.csv and metrics.json."""
    told: dict[str, Any] = {}
    rows: list[list[Any]] = []
    for part, places in (("validation", lesson.validation), ("test", lesson.test)):
        logits = logits_of(state.network, lesson.pixels, places, device=lesson.device)
        # As they are written, so that the metrics are those of the table.
        values = lesson.goal.probabilities(logits).astype(np.float32).astype(np.float64)
        shown = images.part(lesson.images[places])
        told[part] = {
            name: plain(metric)
            for name, metric in metrics(
                images.task,
                shown.targets,
                values,
                groups=shown.groups,
                classes=images.classes,
                seed=run.seed,
            ).items()
        } | {"images": len(places), "groups": len(set(shown.groups))}
        rows += rows_of(shown, part, values)
    best = next(e for e in reversed(state.evaluations) if e.is_best)
    write_csv(run.path / PREDICTIONS, [header_of(images), *rows])
    write_json(
        run.path / METRICS,
        {
            **told,
            "group_kind": images.group_kind,
            "best_step": best.step,
            "steps": state.step,
            "metric": run.metric,
            "px": found.px,
            "seconds": round(sum(e.seconds for e in state.evaluations), 3),
            "unreadable": [list(entry) for entry in found.unreadable],
            WEIGHTS: sha256_of(run.path / WEIGHTS),
            PREDICTIONS: sha256_of(run.path / PREDICTIONS),
            LOG: sha256_of(run.path / LOG),
            **({LAYERS: sha256_of(run.path / LAYERS)} if lesson.layer_metrics else {}),
        },
    )


def header_of(images: Images) -> list[str]:
    """Return the names of the columns of predictions.csv."""
    return ["file", images.group_kind, "part", "label", "predicted"] + [
        f"p_{name}" for name in images.classes
    ]


def rows_of(shown: Images, part: str, values: NDArray[np.float64]) -> Iterator[list[Any]]:
    """Yield the rows of predictions.csv."""
    for i, name in enumerate(shown.names):
        yield [
            *(name, shown.groups[i], part),
            *(label_of(shown, i), predicted(shown, values[i])),
            *(float(value) for value in values[i]),
        ]


def label_of(images: Images, i: int) -> str:
    """Return the class of an image, or its labels divided by ;."""
    if images.task == "classification":
        return images.classes[int(images.targets[i])]
    return ";".join(n for n, v in zip(images.classes, images.targets[i], strict=True) if v == 1)


def predicted(images: Images, values: NDArray[np.float64]) -> str:
    """Return the class of the highest probability, or the labels from 0.5 divided by ;."""
    if images.task == "classification":
        return images.classes[int(values.argmax())]
    return ";".join(n for n, v in zip(images.classes, values, strict=True) if v >= 0.5)
