"""What is learnt: a loss of logits against targets, and probabilities of logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from histofast.classify.recipe import Recipe
from histofast.datasets import Images, ImageTask


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Goal:
    """The loss of a task with the weights of its classes.

    Attributes:
        task: "classification" or "multilabel".
        targets: (n,) int64, or (n, c) float32 with NaN where not known; of all images.
        weights: (c,) float32 of the classes.
        smoothing: of labels.
    """

    task: ImageTask
    targets: Tensor
    weights: Tensor
    smoothing: float

    @classmethod
    def of(
        cls, images: Images, train: NDArray[np.int64], recipe: Recipe, device: torch.device
    ) -> Goal:
        """Return the goal of a training part."""
        targets = images.targets[train]
        if images.task == "classification":
            counts = np.bincount(targets, minlength=len(images.classes)).astype(np.float64)
            balanced = len(train) / (len(counts) * np.maximum(counts, 1))
            kept = torch.from_numpy(images.targets)
        else:
            share = np.nanmean(targets, axis=0)
            balanced = 1 / np.maximum(share, 1 / len(train))
            kept = torch.from_numpy(images.targets.astype(np.float32))
        weighed = ("all",) if images.task == "classification" else ("all", "labels")
        weights = balanced if recipe.class_weights in weighed else np.ones(len(images.classes))
        return cls(
            task=images.task,
            targets=kept.to(device),
            weights=torch.from_numpy(weights.astype(np.float32)).to(device),
            smoothing=recipe.label_smoothing,
        )

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of (b, c) logits, weighted by class.

        Of classes, the mean over images of their class's weight times the cross entropy. Of several
        labels, the mean over those that are known.
        """
        if self.task == "classification":
            each = functional.cross_entropy(
                logits,
                targets,
                weight=self.weights,
                label_smoothing=self.smoothing,
                reduction="none",
            )
            return each.mean()
        known = ~targets.isnan()
        smooth = targets.nan_to_num() * (1 - self.smoothing) + self.smoothing / 2
        each = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
        return (each * self.weights * known).sum() / known.sum().clamp(min=1)

    def probabilities(self, logits: Tensor) -> NDArray[np.float64]:
        """Return (b, c) probabilities; of classes, they sum to 1."""
        return probabilities_of(logits, task=self.task)


def probabilities_of(logits: Tensor, *, task: ImageTask) -> NDArray[np.float64]:
    """Return (b, c) probabilities of logits; of classes, they sum to 1."""
    wide = logits.double()
    found = wide.softmax(1) if task == "classification" else wide.sigmoid()
    values: NDArray[np.float64] = found.cpu().numpy()
    return values
