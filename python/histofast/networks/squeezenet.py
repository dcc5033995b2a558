"""SqueezeNet 1.1: fire modules, which squeeze to few channels and expand by two convolutions.

Its original head is a convolution before the pooling; the head here is linear and after it, so
that of weights files is not loaded.

Reference: Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer, 2016, SqueezeNet.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from histofast.networks.network import Architecture, Stage

_STEM = 64
# (squeezed, expanded) channels of fire2 to fire9; a pooling stands before fire4 and fire6.
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
_POOL_AFTER = (3, 5)


class _Fire(nn.Module):
    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.squeeze_activation = nn.ReLU()
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand1x1_activation = nn.ReLU()
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.expand3x3_activation = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [
                self.expand1x1_activation(self.expand1x1(x)),
                self.expand3x3_activation(self.expand3x3(x)),
            ],
            1,
        )


def _stages(bn_eps: float) -> Iterator[Stage]:
    """Yield the stages; there is no BatchNorm in this network."""
    for i, (name, module, d) in enumerate(_row()):
        yield Stage(name=name, module=module, d=d, key=str(i))


def _row() -> Iterator[tuple[str, nn.Module, int]]:
    d = _STEM
    yield "conv1", nn.Conv2d(3, d, 3, stride=2), d
    yield "relu1", nn.ReLU(), d
    yield "pool1", _pool(), d
    for i, (squeezed, expanded) in enumerate(_FIRES, start=2):
        fire = _Fire(d, squeezed, expanded)
        d = 2 * expanded
        yield f"fire{i}", fire, d
        if i in _POOL_AFTER:
            yield f"pool{i}", _pool(), d


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


ARCHITECTURES = (
    Architecture(name="squeezenet1.1", stages=_stages, prefix="features.", head="classifier"),
)
