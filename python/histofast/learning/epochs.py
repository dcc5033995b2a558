"""What the epochs of a fold came to: which one is best, when they end, their table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from histofast.learning.files import write_csv
from histofast.learning.scores import LOWER_IS_BETTER, METRICS_OF


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochReport:
    """What an epoch of a fold came to.

    Attributes:
        epoch: from 1.
        loss: mean over the training bags (risk sets in survival), before the last steps.
        validation_loss: of the validation bags.
        metrics: of the validation bags; NaN where undefined.
        is_best: whether the model is the fold's best so far.
        seconds: that it took.
    """

    epoch: int
    loss: float
    validation_loss: float
    metrics: Mapping[str, float]
    is_best: bool
    seconds: float

    def score(self, metric: str) -> float:
        """Return the value of a metric or of the validation loss."""
        return self.validation_loss if metric == "loss" else self.metrics[metric]


def rank(score: float, loss: float, metric: str) -> tuple[float, float]:
    """Return what is higher the better the validation bags do; equal scores are told by the loss."""
    signed = -score if metric in LOWER_IS_BETTER else score
    return (-math.inf if math.isnan(signed) else signed, -loss)


def best_of(epochs: Sequence[EpochReport]) -> EpochReport | None:
    """Return the best epoch, None if there was none yet."""
    return next((epoch for epoch in reversed(epochs) if epoch.is_best), None)


def is_better(epoch: EpochReport, earlier: Sequence[EpochReport], metric: str) -> bool:
    """Whether an epoch is better than the best of those before it."""
    best = best_of(earlier)
    return best is None or _rank(epoch, metric) > _rank(best, metric)


def _rank(epoch: EpochReport, metric: str) -> tuple[float, float]:
    return rank(epoch.score(metric), epoch.validation_loss, metric)


def has_ended(epochs: Sequence[EpochReport], *, most: int, patience: int) -> bool:
    """Whether a fold is at its last epoch, or had `patience` epochs since its best."""
    best = best_of(epochs)
    if best is None:
        return False
    last = epochs[-1].epoch
    return last >= most or last - best.epoch >= patience


def write_log(path: Path, task: str, epochs: Sequence[EpochReport], *, timed: bool = True) -> None:
    """Write the table of epochs, with their seconds if `timed`."""
    known = METRICS_OF[task]
    header = ["epoch", "loss", "validation_loss", *(f"validation_{name}" for name in known)]
    rows = [
        [
            e.epoch,
            e.loss,
            e.validation_loss,
            *(e.metrics[name] for name in known),
            int(e.is_best),
            *([round(e.seconds, 3)] if timed else []),
        ]
        for e in epochs
    ]
    write_csv(path, [[*header, "is_best", *(["seconds"] if timed else [])], *rows])
