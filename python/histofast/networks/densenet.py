"""DenseNet: each layer reads everything before it and adds a few channels.

Reference: Huang, Liu, van der Maaten, Weinberger, 2017, Densely Connected Convolutional Networks.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from histofast.networks import keras_names
from histofast.networks.network import Architecture, Stage, Widths, as_designed

_GROWTH = 32  # channels that a layer adds
_EXPANSION = 4  # times these: channels between its two convolutions
_STEM = 64


class _Layer(nn.Module):
    def __init__(self, channels: int, growth: int, bn_eps: float) -> None:
        super().__init__()
        inner = _EXPANSION * growth
        self.norm1 = nn.BatchNorm2d(channels, eps=bn_eps)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner, eps=bn_eps)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(self.relu1(self.norm1(x)))  # (n, 4 growth, h, w)
        y: torch.Tensor = self.conv2(self.relu2(self.norm2(x)))  # (n, growth, h, w)
        return y


class _Block(nn.ModuleDict):
    def __init__(self, channels: int, layers: int, growth: int, bn_eps: float) -> None:
        super().__init__(
            {
                f"denselayer{i + 1}": _Layer(channels + i * growth, growth, bn_eps)
                for i in range(layers)
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.values():
            x = torch.cat([x, layer(x)], 1)
        return x


def _transition(channels: int, d: int, bn_eps: float) -> nn.Module:
    # Pooling before the 1 x 1 convolution instead of after it: both are linear, so the result is
    # the same and the convolution has a quarter of the work.
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(channels, eps=bn_eps),
            relu=nn.ReLU(),
            pool=nn.AvgPool2d(2, 2),
            conv=nn.Conv2d(channels, d, 1, bias=False),
        )
    )


def _stages(
    layers_per_block: tuple[int, ...], bn_eps: float, width: Widths = as_designed
) -> Iterator[Stage]:
    designed = _STEM  # channels of the network as published
    d = width("conv0", designed)
    yield Stage(name="conv0", module=nn.Conv2d(3, d, 7, stride=2, padding=3, bias=False), d=d)
    yield Stage(name="norm0", module=nn.BatchNorm2d(d, eps=bn_eps), d=d)
    yield Stage(name="relu0", module=nn.ReLU(), d=d)
    yield Stage(name="pool0", module=nn.MaxPool2d(3, stride=2, padding=1), d=d)
    for i, layers in enumerate(layers_per_block, start=1):
        growth = width(f"denseblock{i}", _GROWTH)
        block = _Block(d, layers, growth, bn_eps)
        d += layers * growth
        designed += layers * _GROWTH
        yield Stage(name=f"denseblock{i}", module=block, d=d)
        if i < len(layers_per_block):
            designed //= 2
            out = width(f"transition{i}", designed)
            yield Stage(name=f"transition{i}", module=_transition(d, out, bn_eps), d=out)
            d = out
    yield Stage(name="norm5", module=nn.BatchNorm2d(d, eps=bn_eps), d=d)
    yield Stage(name="relu5", module=nn.ReLU(), d=d)


def _respell(state: keras_names.State) -> keras_names.State:
    return {_own_key(key): value for key, value in state.items()}


def _own_key(key: str) -> str:
    # The files of torchvision still say `denselayer1.norm.1`.
    key = re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)", r"\1", key)
    return keras_names.respelt(key, keras_names.densenet, head="classifier")


def _densenet(name: str, *layers_per_block: int) -> Architecture:
    stages = partial(_stages, layers_per_block)
    return Architecture(
        name=name,
        stages=stages,
        narrow=stages,
        prefix="features.",
        head="classifier",
        respell=_respell,
    )


ARCHITECTURES = (
    _densenet("densenet121", 6, 12, 24, 16),
    _densenet("densenet169", 6, 12, 32, 32),
)
