"""What every model of a bag is: the features of one slide's patches in, a `BagOutput` out.

Letters in the models' formulas: x_i (d,) are the features of patch i of n, c is `outputs`.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class BagOutput:
    """What a model says of one slide of n patches.

    Attributes:
        output: (c,) logits of classes, or the value, or the log risk.
        embedding: (m,) what the output is made from.
        attention: (n,) share of each patch in the embedding, softmax of `scores`; None for mean and
            max pooling.
        scores: (n,) what patches are ranked by, the most telling highest; None for mean pooling.
        patch_outputs: (n, c) what the model says of each patch alone; None for TransMIL.
        auxiliary: scalar, a loss that the model adds of itself, weighted as published against a
            slide loss of weight 1; None where it has none or no target came.
    """

    output: Tensor
    embedding: Tensor
    attention: Tensor | None
    scores: Tensor | None
    patch_outputs: Tensor | None
    auxiliary: Tensor | None


class BagModel(nn.Module):
    """A model of one slide's patches; `create` builds one by its name.

    Attributes:
        name: what `create` knows it by.
        attends: whether it tells the share of each patch, `attention`.
        scores_patches: whether it tells what it says of each patch alone, `patch_outputs`.
        d: width of the features.
        outputs: c, the classes, or 1 for a value or a log risk.
        options: all of its options, also those left at their defaults; plain JSON values with which
            `create(name, d=d, outputs=outputs, **options)` builds the model again.
    """

    name: ClassVar[str]
    attends: ClassVar[bool] = True
    scores_patches: ClassVar[bool] = True
    least_outputs: ClassVar[int] = 1

    def __init__(self, d: int, outputs: int) -> None:
        super().__init__()
        self.d = d
        self.outputs = outputs
        self.options: dict[str, Any] = {}

    def forward(self, bag: Tensor, target: Tensor | None = None) -> BagOutput:
        """Look at one slide.

        Args:
            bag: (n, d) floating point, of the weights' type and device; n >= 1.
            target: the slide's class, one integer in 0..c-1, where the model has a loss of its own
                for it (CLAM, DSMIL with c >= 2); the others do not look at it.

        Raises:
            TypeError: a bag of another type than the weights (unless under autocast), or a target
                that is no integer.
            ValueError: a bag of another shape; a target that is not one class.

        Determinism: bitwise on one device in evaluation mode; dropout in training follows torch's
        generator.
        """
        weights = next(self.parameters())
        if bag.dtype != weights.dtype and not torch.is_autocast_enabled(bag.device.type):
            raise TypeError(f"bag must be {weights.dtype} as the model is, got {bag.dtype}")
        if bag.ndim != 2 or len(bag) < 1 or bag.shape[1] != self.d:
            raise ValueError(
                f"bag must be of shape (n, {self.d}) with n >= 1, got {tuple(bag.shape)}"
            )
        return self.look(bag, target)

    @abstractmethod
    def look(self, bag: Tensor, target: Tensor | None) -> BagOutput:
        """Return what the model says of a checked bag."""

    def class_of(self, target: Tensor) -> int:
        """Return the checked class that a target stands for."""
        if target.is_floating_point() or target.is_complex():
            raise TypeError(f"target must be an integer class, got {target.dtype}")
        if target.numel() != 1 or not 0 <= int(target) < self.outputs:
            raise ValueError(
                f"target must be one class in 0..{self.outputs - 1}, got {target.tolist()}"
            )
        return int(target)


def embedder(d: int, hidden: int, dropout: float) -> nn.Sequential:
    """Return x -> dropout(relu(W x + b)) of width `hidden`, or dropout(x) for 0."""
    if hidden == 0:
        return nn.Sequential(nn.Dropout(dropout))
    return nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Dropout(dropout))
