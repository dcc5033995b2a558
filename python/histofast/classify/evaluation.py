"""What the validation images said at a step, which of these is best, and when to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from histofast.classify.recipe import Recipe
from histofast.learning import rank


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What the validation images said at a step.

    Attributes:
        step: taken so far; 0: the start itself.
        epoch: as a fraction.
        loss: mean of the training batches since the last evaluation; NaN at step 0.
        validation_loss: of the validation images.
        metrics: of the validation images, by name; NaN where undefined.
        lr: of the last step.
        is_best: whether these weights are the best so far.
        seconds: of training since the last evaluation, and of this one.
    """

    step: int
    epoch: float
    loss: float
    validation_loss: float
    metrics: dict[str, float]
    lr: float
    is_best: bool = False
    seconds: float = 0.0

    def score(self, metric: str) -> float:
        """Return a metric, or the validation loss."""
        return self.validation_loss if metric == "loss" else self.metrics[metric]


def has_ended(evaluations: Sequence[Evaluation], recipe: Recipe) -> bool:
    """Whether the patience of a recipe is at its end."""
    best = max((i for i, found in enumerate(evaluations) if found.is_best), default=None)
    if recipe.patience is None or best is None:
        return False
    return len(evaluations) - 1 - best >= recipe.patience


def is_better(found: Evaluation, earlier: Sequence[Evaluation], metric: str) -> bool:
    """Whether an evaluation beats all before it; equal scores are told apart by the loss."""
    best = next((e for e in reversed(earlier) if e.is_best), None)
    return best is None or rank(found.score(metric), found.validation_loss, metric) > rank(
        best.score(metric), best.validation_loss, metric
    )
