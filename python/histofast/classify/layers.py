"""Ranks of the layers of a network in training, epoch by epoch, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self, get_type_hints

import numpy as np

from histofast._tables import read_csv
from histofast.learning import write_csv
from histofast.networks import Network
from histofast.similarity import LayerMetrics, layer_metrics

_NAMES = tuple(part.name for part in fields(LayerMetrics))  # columns; the first is the layer's
_TYPES = get_type_hints(LayerMetrics)


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochOfLayers:
    """The layers as an epoch left them.

    Attributes:
        epoch: ended; 0: the start.
        step: taken so far.
        layers: of convolutions and linear layers, in the order of the network.
    """

    epoch: int
    step: int
    layers: tuple[LayerMetrics, ...]

    @classmethod
    def of(cls, network: Network, *, epoch: int, step: int) -> Self:
        """Measure the weights that train; the average of an `ema` lags behind them."""
        state = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
        return cls(epoch=epoch, step=step, layers=layer_metrics(state))

    @classmethod
    def of_plain(cls, values: Mapping[str, Any]) -> Self:
        """Return what `asdict` made these values of."""
        return cls(
            **{**values, "layers": tuple(LayerMetrics(**layer) for layer in values["layers"])}
        )

    def means(self) -> dict[str, float]:
        """Return the mean over layers of each metric, by the name that it is logged under."""
        plain = [asdict(layer) for layer in self.layers]
        return {
            f"layers_{name}": float(np.mean([layer[name] for layer in plain]))
            for name in _NAMES[1:]
        }


def write_layers(path: Path, epochs: Sequence[EpochOfLayers]) -> None:
    """Write the table: a row for each epoch and layer."""
    rows = [
        [epoch.epoch, epoch.step, *asdict(layer).values()]
        for epoch in epochs
        for layer in epoch.layers
    ]
    write_csv(path, [["epoch", "step", *_NAMES], *rows])


def read_layers(path: Path) -> tuple[EpochOfLayers, ...]:
    """Return what `write_layers` wrote."""
    _, *rows = read_csv(path)
    found: dict[tuple[int, int], list[LayerMetrics]] = {}
    for epoch, step, *cells in rows:
        values = {name: _TYPES[name](cell) for name, cell in zip(_NAMES, cells, strict=True)}
        found.setdefault((int(epoch), int(step)), []).append(LayerMetrics(**values))
    return tuple(
        EpochOfLayers(epoch=epoch, step=step, layers=tuple(layers))
        for (epoch, step), layers in found.items()
    )
