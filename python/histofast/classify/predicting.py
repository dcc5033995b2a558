"""A run and pictures in, probabilities out."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._files import path_of
from histofast.classify.loop import logits_of
from histofast.classify.runs import Run, open_run
from histofast.datasets import Images, decode, open_images
from histofast.learning import write_csv
from histofast.networks import pick_device


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Predictions:
    """What a network says of pictures.

    Attributes:
        names: (n) of all pictures.
        classes: (c) of the columns.
        probabilities: (n, c) float64; NaN of pictures that cannot be read.
        unreadable: name and reason of each of these.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    unreadable: tuple[tuple[str, str], ...]


def predict(
    run: Run | str | Path,
    images: Images | str | Path,
    *,
    out: str | Path | None = None,
    device: str = "auto",
) -> Predictions:
    """Predict pictures with a finished run, at the size that it was trained at.

    Args:
        run: or its folder.
        images: or a folder or table of pictures; labels are not needed.
        out: CSV to write: file, predicted, a probability for each class; empty where there is none.
        device: where the network runs.

    Raises:
        FileNotFoundError: no such run or pictures.
        ModelError: the run is not finished, or was changed since.
        ValueError: no picture can be read.
        OSError: `out` cannot be written.
    """
    run = run if isinstance(run, Run) else open_run(run)
    network = run.network()
    where = pick_device(device)
    shown = images if isinstance(images, Images) else open_images(images, labelled=False)
    with tempfile.TemporaryDirectory(prefix="histofast-") as cache:
        found = decode(shown, cache=cache, px=run.px)
        logits = logits_of(
            network.to(where), found.pixels, np.arange(len(found.rows)), device=where
        )
        is_one = run.task == "classification"
        values = np.full((len(shown), len(run.classes)), np.nan)
        values[found.rows] = (
            logits.double().softmax(1) if is_one else logits.double().sigmoid()
        ).numpy()
        unreadable = found.unreadable
        del found
    predictions = Predictions(
        names=shown.names, classes=run.classes, probabilities=values, unreadable=unreadable
    )
    if out is not None:
        write_csv(path_of("out", out), _table(predictions, is_one=is_one))
    return predictions


def _table(found: Predictions, *, is_one: bool) -> list[list[Any]]:
    rows: list[list[Any]] = [["file", "predicted", *(f"p_{name}" for name in found.classes)]]
    for name, values in zip(found.names, found.probabilities, strict=True):
        if np.isnan(values).any():
            rows.append([name, *[""] * (1 + len(found.classes))])
            continue
        chosen = (
            [found.classes[int(values.argmax())]]
            if is_one
            else [label for label, value in zip(found.classes, values, strict=True) if value >= 0.5]
        )
        rows.append([name, ";".join(chosen), *(float(value) for value in values)])
    return rows
