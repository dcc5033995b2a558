"""Where a fold is after an epoch, in a file from which it goes on as if it had never stopped."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from histofast._words import clipped, one_line
from histofast.errors import ModelError
from histofast.learning import EpochReport, write_bytes

_SUM_BYTES = 32  # the file begins with the sha256 of the rest
_SHOWN = 200  # characters of what torch says

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
        buffer = io.BytesIO()  # torch reports a full disk as another error
        torch.save(
            {
                "modules": self._weights(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "epochs": [asdict(epoch) for epoch in self.epochs],
                "more": self.more,
            },
            buffer,
        )
        content = buffer.getvalue()
        write_bytes(path, hashlib.sha256(content).digest() + content)

    def go_on(self, path: Path, device: torch.device) -> str:
        """Go to the state in a file, if there is one.

        Returns:
            Why not, where the file is not as it was written; "" else.

        Raises:
            ModelError: it is of other modules.
        """
        if not path.is_file():
            return ""
        try:
            content = path.read_bytes()
        except OSError as error:
            return f"{path} cannot be read ({one_line(error)})"
        if hashlib.sha256(content[_SUM_BYTES:]).digest() != content[:_SUM_BYTES]:
            return f"{path} is not as it was written"
        try:
            buffer = io.BytesIO(content[_SUM_BYTES:])
            found = torch.load(buffer, map_location=device, weights_only=True)
            for name, module in self.modules.items():
                module.load_state_dict(found["modules"][name])
            self.optimizer.load_state_dict(found["optimizer"])
            self.best, self.more = found["best"], found["more"]
            self.epochs = [EpochReport(**epoch) for epoch in found["epochs"]]
        except (
            *(RuntimeError, EOFError, pickle.UnpicklingError),
            *(KeyError, TypeError, ValueError),
        ) as error:
            raise ModelError(
                f"{path} must be the state of this fold, got {type(error).__name__} "
                f"({clipped(one_line(error), _SHOWN)}): remove it to begin the fold anew"
            ) from error
        return ""

    def _weights(self) -> Weights:
        return {name: module.state_dict() for name, module in self.modules.items()}
