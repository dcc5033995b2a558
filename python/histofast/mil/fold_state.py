"""Where a fold is after an epoch, in a file from which it goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from histofast.learning import EpochReport, take_state, write_state

Weights = dict[str, dict[str, Tensor]]  # by the name of the module


@dataclass(kw_only=True, slots=True)
class FoldState:
    """All that the next epoch of a fold depends on.

    Attributes:
        modules: what trains, by name.
        optimizer: of their parameters.
        best: their weights after the best epoch.
        epochs: so far.
        more: numbers and tensors besides.
    """

    modules: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    best: Weights = field(default_factory=dict)
    epochs: list[EpochReport] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def add(self, epoch: EpochReport) -> None:
        """Note what an epoch came to; the weights of the best are kept."""
        self.epochs.append(epoch)
        if epoch.is_best:
            self.best = deepcopy(self._weights())

    def take_best(self) -> None:
        """Give the modules the weights of the best epoch."""
        for name, module in self.modules.items():
            module.load_state_dict(self.best[name])

    def save(self, path: Path) -> None:
        """Write the state; the file is whole or not there."""
        write_state(
            path,
            {
                "modules": self._weights(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "epochs": [asdict(epoch) for epoch in self.epochs],
                "more": self.more,
            },
        )

    def go_on(self, path: Path, device: torch.device) -> str:
        """Go to the state in a file, if there is one.

        Returns:
            Why not, where the file is not as it was written; "" else.

        Raises:
            ModelError: it is of other modules.
        """
        return take_state(path, self._take, device=device, of="fold")

    def _take(self, found: dict[str, Any]) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(found["modules"][name])
        self.optimizer.load_state_dict(found["optimizer"])
        self.best, self.more = found["best"], found["more"]
        self.epochs = [EpochReport(**epoch) for epoch in found["epochs"]]

    def _weights(self) -> Weights:
        return {name: module.state_dict() for name, module in self.modules.items()}
