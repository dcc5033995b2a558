"""ResNet: blocks that add to what comes in; the bottlenecks stride in the 3 x 3 convolution.

Reference: He, Zhang, Ren, Sun, 2016, Deep Residual Learning for Image Recognition.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from histofast.networks.network import Architecture, Stage, Widths, as_designed

_STEM = 64
_WIDTHS = (64, 128, 256, 512)


class _Basic(nn.Module):
    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, bn_eps: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, eps=bn_eps)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, eps=bn_eps)
        self.relu2 = nn.ReLU()
        self.downsample = _downsample(channels, width, stride, bn_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        x = x if self.downsample is None else self.downsample(x)
        z: torch.Tensor = self.relu2(y + x)
        return z


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, bn_eps: float) -> None:
        super().__init__()
        d = self.expansion * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, eps=bn_eps)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, eps=bn_eps)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, d, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(d, eps=bn_eps)
        self.relu3 = nn.ReLU()
        self.downsample = _downsample(channels, d, stride, bn_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        x = x if self.downsample is None else self.downsample(x)
        z: torch.Tensor = self.relu3(y + x)
        return z


def _downsample(channels: int, d: int, stride: int, bn_eps: float) -> nn.Module | None:
    if stride == 1 and channels == d:
        return None
    return nn.Sequential(
        nn.Conv2d(channels, d, 1, stride=stride, bias=False), nn.BatchNorm2d(d, eps=bn_eps)
    )


def _stages(
    block: type[_Basic | _Bottleneck],
    blocks_per_layer: tuple[int, ...],
    bn_eps: float,
    width: Widths = as_designed,
) -> Iterator[Stage]:
    d = width("conv1", _STEM)
    yield Stage(name="conv1", module=nn.Conv2d(3, d, 7, stride=2, padding=3, bias=False), d=d)
    yield Stage(name="bn1", module=nn.BatchNorm2d(d, eps=bn_eps), d=d)
    yield Stage(name="relu", module=nn.ReLU(), d=d)
    yield Stage(name="maxpool", module=nn.MaxPool2d(3, stride=2, padding=1), d=d)
    for i, (blocks, designed) in enumerate(zip(blocks_per_layer, _WIDTHS, strict=True), start=1):
        inner = width(f"layer{i}", designed)
        row = []
        for j in range(blocks):
            row.append(block(d, inner, 2 if i > 1 and j == 0 else 1, bn_eps))
            d = block.expansion * inner
        yield Stage(name=f"layer{i}", module=nn.Sequential(*row), d=d)


def _resnet(name: str, block: type[_Basic | _Bottleneck], *blocks_per_layer: int) -> Architecture:
    stages = partial(_stages, block, blocks_per_layer)
    return Architecture(name=name, stages=stages, narrow=stages, fan="fan_out")


ARCHITECTURES = (
    _resnet("resnet18", _Basic, 2, 2, 2, 2),
    _resnet("resnet34", _Basic, 3, 4, 6, 3),
    _resnet("resnet50", _Bottleneck, 3, 4, 6, 3),
)
