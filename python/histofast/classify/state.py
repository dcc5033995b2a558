"""Where a run is, in memory and in a file from which it goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from histofast._words import did_you_mean
from histofast.classify.evaluation import Evaluation, is_better
from histofast.classify.layers import EpochOfLayers
from histofast.classify.optimisers import optimiser_of
from histofast.classify.recipe import Recipe
from histofast.errors import ModelError
from histofast.learning import take_state, write_state
from histofast.networks import Network

_WARM = 10  # of the average: it forgets its beginning within some tens of steps

Weights = dict[str, Tensor]


class TrainingState:
    """All that the next step depends on.

    Attributes:
        network: what trains, with a head.
        optimiser: of its parameters.
        step: steps taken.
        evaluations: so far.
        layers: as each epoch left them, where that is measured.
    """

    def __init__(self, network: Network, recipe: Recipe) -> None:
        self.network, self.recipe = network, recipe
        self.first_trained = first_trained_stage(network, recipe.freeze)
        self.optimiser = optimiser_of(recipe, network.parameters())
        self.step = 0
        self.evaluations: list[Evaluation] = []
        self.layers: list[EpochOfLayers] = []
        self._average: Weights = self._weights() if recipe.ema else {}
        self._best: Weights = {}
        self._phase: object = None
        if recipe.dropout:
            network.get_submodule(network.head).register_forward_pre_hook(_dropping(recipe.dropout))

    # --- Steps ---

    def prepare(self, step: int, lr: float, *, steps_per_epoch: int) -> None:
        """Set rates and modes for a step."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        alone = self.recipe.freeze == "head-then-all" and step < (
            self.recipe.head_epochs * steps_per_epoch
        )
        first = len(self.network.stage_names) if alone else self.first_trained
        if self._phase == first and self.network.training:
            return
        self._phase = first
        self.network.train()
        for i, name in enumerate(self.network.stage_names):
            stage = self.network.stage(name)
            stage.requires_grad_(i >= first)
            stage.train(i >= first)
        if self.recipe.batchnorm == "eval":
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def average(self, step: int) -> None:
        """Let the average follow what the step made."""
        self.step = step + 1
        if not self.recipe.ema:
            return
        decay = min(self.recipe.ema, (1 + step) / (_WARM + step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self._average[name].lerp_(value, 1 - decay)
                else:
                    self._average[name].copy_(value)

    @contextmanager
    def averaged(self) -> Iterator[Network]:
        """Give the network the averaged weights meanwhile."""
        if not self.recipe.ema:
            yield self.network
            return
        own = self._weights()
        self.network.load_state_dict(self._average)
        try:
            yield self.network
        finally:
            self.network.load_state_dict(own)

    # --- Evaluations ---

    def add(self, found: Evaluation, metric: str) -> None:
        """Note an evaluation; the weights of the best are kept. A head that learnt nothing is never it."""
        if found.step == 0:
            self.evaluations.append(found)
            return
        found = replace(found, is_best=is_better(found, self.evaluations, metric))
        self.evaluations.append(found)
        if found.is_best:
            with self.averaged():
                self._best = self._weights()

    def take_best(self) -> None:
        """Give the network the weights of the best evaluation."""
        self.network.load_state_dict(self._best)
        self.network.eval()

    # --- Its file ---

    def save(self, path: Path) -> None:
        """Write the state; the file is whole or not there."""
        write_state(
            path,
            {
                "network": self.network.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "average": self._average,
                "best": self._best,
                "step": self.step,
                "evaluations": [asdict(found) for found in self.evaluations],
                "layers": [asdict(epoch) for epoch in self.layers],
            },
        )

    def go_on(self, path: Path, device: torch.device) -> str:
        """Go to the state in a file, if there is one.

        Returns:
            Why not, where the file is not as it was written; "" else.

        Raises:
            ModelError: it is of another network.
        """
        return take_state(path, self._take, device=device, of="run")

    def _take(self, found: dict[str, Any]) -> None:
        self.network.load_state_dict(found["network"])
        self.optimiser.load_state_dict(found["optimiser"])
        self._average, self._best, self.step = found["average"], found["best"], found["step"]
        self.evaluations = [Evaluation(**told) for told in found["evaluations"]]
        self.layers = [EpochOfLayers.of_plain(told) for told in found["layers"]]

    def _weights(self) -> Weights:
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}


def first_trained_stage(network: Network, freeze: str) -> int:
    """Return the place of the first stage that trains at the end of a recipe.

    Raises:
        ModelError: the network has no such layer (a close one is offered).
    """
    names = network.stage_names
    if freeze in ("all", "head-then-all"):
        return 0
    if freeze == "head":
        return len(names)
    layer = freeze.removeprefix("from:")
    if layer not in names:
        raise ModelError(
            f"freeze must be from: and a layer of {network.architecture}, {', '.join(names)}, got "
            f"{layer!r}{did_you_mean(layer, names)}"
        )
    return names.index(layer)


def _dropping(share: float) -> Any:
    def drop(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (nn.functional.dropout(inputs[0], share, training=head.training),)

    return drop
