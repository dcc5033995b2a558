"""What a model of bags is to be fitted to, and how far it is from that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from histofast.learning import Task, metrics
from histofast.mil.bag_model import BagOutput
from histofast.mil.bags import Bags
from histofast.mil.runs import Run, TrainConfig, Unit
from histofast.mil.survival import cox_loss

RISK_SET = 16  # least bags of a step in survival


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What the bags of a training part are to be fitted to.

    Attributes:
        task: of the run.
        config: of the run.
        rows: the training bags.
        targets: (b,) classes, (b,) values in units of `unit`, or (b, 2) time and event, of all bags.
        weights: (b,) of their losses; the training bags' mean is 1.
        class_weights: (c,) the same by class; None where all are 1.
        unit: of the targets.
    """

    task: Task
    config: TrainConfig
    rows: NDArray[np.int64]
    targets: Tensor
    weights: Tensor
    class_weights: Tensor | None
    unit: Unit

    @classmethod
    def of(cls, bags: Bags, run: Run, rows: NDArray[np.int64]) -> Goal:
        """Take weights and units from the training bags alone."""
        class_weights, unit = None, Unit()
        weights = torch.ones(len(bags))
        targets = torch.from_numpy(bags.targets)
        if run.task == "classification":
            if run.config.balance:
                counts = torch.bincount(targets[rows], minlength=len(run.classes))
                class_weights = len(rows) / (len(run.classes) * counts.float())
                weights = class_weights[targets]
        elif run.task == "regression":
            values = bags.targets[rows]
            unit = Unit(offset=float(values.mean()), scale=float(values.std()) or 1.0)
            targets = ((targets - unit.offset) / unit.scale).float()
        return cls(
            task=run.task,
            config=run.config,
            rows=rows,
            targets=targets,
            weights=weights,
            class_weights=class_weights,
            unit=unit,
        )

    def known(self, row: int) -> Tensor | None:
        """The class, on the CPU, for a model that adds a loss of its own."""
        return (
            self.targets[row] if self.task == "classification" and self.config.auxiliary else None
        )

    def loss(self, out: BagOutput, target: Tensor) -> Tensor:
        """The loss of one bag, not weighted by its class."""
        loss = self._fit(out.output[None], target[None])
        if self.config.patch_loss:
            if out.patch_outputs is None:
                raise ValueError("patch_loss must be 0 for a model without outputs of patches")
            patches = out.patch_outputs
            loss = loss + self.config.patch_loss * self._fit(patches, target.expand(len(patches)))
        if out.auxiliary is not None:
            loss = loss + self.config.auxiliary * out.auxiliary.float()
        return loss

    def _fit(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.task == "classification":
            return functional.cross_entropy(outputs.float(), targets)
        return functional.mse_loss(outputs[:, 0].float(), targets)

    def loss_of(self, outputs: NDArray[np.float32], rows: NDArray[np.int64]) -> float:
        """The loss of many bags, their slides' labels alone."""
        found, targets = torch.from_numpy(outputs).double(), self.targets[rows]
        if self.task == "classification":
            weight = None if self.class_weights is None else self.class_weights.double()
            return float(functional.cross_entropy(found, targets, weight=weight))
        if self.task == "regression":
            return float(functional.mse_loss(found[:, 0], targets.double()))
        time_, event = targets.T
        return float(cox_loss(found[:, 0], time_, event))


def scores_of(bags: Bags, rows: NDArray[np.int64], values: NDArray[np.float64]) -> dict[str, float]:
    """Return all metrics of predicted values of some bags, without intervals."""
    chosen = bags.part(rows)
    found = metrics(
        bags.task, chosen.targets, values, groups=chosen.groups, classes=bags.classes, resamples=0
    )
    return {name: metric.value for name, metric in found.items()}
