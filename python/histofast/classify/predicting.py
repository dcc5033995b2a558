"""A run and pictures in, probabilities out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._files import check_target, path_of
from histofast._notes import noted
from histofast._numbers import whole_number
from histofast.classify.loop import EVALUATED, logits_of
from histofast.classify.runs import Run, open_run
from histofast.classify.task import probabilities_of
from histofast.datasets import Images, none_readable, open_images, read_in_batches
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
        notes: what else was left out, a line each.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


@noted
def predict(
    run: Run | str | Path,
    images: Images | str | Path,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    threads: int = 2,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Predict pictures with a finished run, at the size that it was trained at.

    Each is decoded once and forgotten with its batch: memory does not grow with them, but for names
    and numbers, and nothing is on the disk before the table is.

    Args:
        run: or its folder.
        images: or a folder or table of pictures; labels are not needed.
        out: CSV to write: file, predicted, a probability for each class; empty where there is none.
        device: where the network runs.
        threads: that decode.
        overwrite: replace `out` where it exists.
        on_progress: called with the number of images that are done, and of all.

    Raises:
        FileNotFoundError: no such run or pictures, or no folder for `out`.
        FileExistsError: `out` exists.
        ModelError: the run is not finished, or was changed since.
        ValueError: no picture can be read.
        WriteError: `out` cannot be written, or its disk is full.
        Interrupted: asked to stop; nothing is written.

    Determinism: a prediction may differ in the last bits with what is in its batch of 256.
    """
    threads = whole_number("threads", threads, at_least=1)
    target = None if out is None else path_of("out", out)
    run = run if isinstance(run, Run) else open_run(run)
    if target is not None:
        check_target(target, overwrite=overwrite)  # before the work
    where = pick_device(device)
    network = run.network().to(where)
    shown = images if isinstance(images, Images) else open_images(images, labelled=False)
    values = np.full((len(shown), len(run.classes)), np.nan)
    unreadable: list[tuple[str, str]] = []
    for places, pixels in read_in_batches(
        shown,
        px=run.px,
        size=EVALUATED,
        threads=threads,
        on_unreadable=lambda *told: unreadable.append(told),
        on_progress=on_progress,
    ):
        logits = logits_of(network, pixels, np.arange(len(places)), device=where)
        values[places] = probabilities_of(logits, task=run.task)
    if len(unreadable) == len(shown):
        raise none_readable(shown, [reason for _, reason in unreadable])
    predictions = Predictions(
        names=shown.names,
        classes=run.classes,
        probabilities=values,
        unreadable=tuple(unreadable),
        notes=shown.notes,
    )
    if target is not None:
        write_csv(target, _table(predictions, is_one=run.task == "classification"))
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
