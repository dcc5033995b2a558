"""ResNet50 as Keras Applications has it: the first 1 x 1 strides, convolutions have biases.

Its weights want BGR pixels in 0..255 minus the mean of ImageNet, as Caffe had them. Here that is a mean and
a deviation of 1/255 on RGB: the channels of the first kernel are turned when a file of Keras is
loaded. Our reading: the max pooling is padded, as in Keras since 2018; earlier it was not.

Reference: He, Zhang, Ren, Sun, 2016, Deep Residual Learning for Image Recognition.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from histofast.networks import keras_names
from histofast.networks.network import Architecture, Stage, Widths, as_designed

_STEM = 64
_EXPANSION = 4
_BLOCKS = (3, 4, 6, 3)
_WIDTHS = (64, 128, 256, 512)
_MEAN = (123.68, 116.779, 103.939)  # RGB, of 0..255


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, bn_eps: float) -> None:
        super().__init__()
        d = _EXPANSION * width
        self.conv1 = nn.Conv2d(channels, width, 1, stride=stride)
        self.bn1 = nn.BatchNorm2d(width, eps=bn_eps)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width, eps=bn_eps)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, d, 1)
        self.bn3 = nn.BatchNorm2d(d, eps=bn_eps)
        self.relu3 = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride > 1 or channels != d:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, d, 1, stride=stride), nn.BatchNorm2d(d, eps=bn_eps)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        x = x if self.downsample is None else self.downsample(x)
        z: torch.Tensor = self.relu3(y + x)
        return z


def _stages(bn_eps: float, width: Widths = as_designed) -> Iterator[Stage]:
    d = width("conv1", _STEM)
    yield Stage(name="conv1", module=nn.Conv2d(3, d, 7, stride=2, padding=3), d=d)
    yield Stage(name="bn1", module=nn.BatchNorm2d(d, eps=bn_eps), d=d)
    yield Stage(name="relu", module=nn.ReLU(), d=d)
    yield Stage(name="maxpool", module=nn.MaxPool2d(3, stride=2, padding=1), d=d)
    for i, (blocks, designed) in enumerate(zip(_BLOCKS, _WIDTHS, strict=True), start=1):
        inner = width(f"layer{i}", designed)
        row = []
        for j in range(blocks):
            row.append(_Block(d, inner, 2 if i > 1 and j == 0 else 1, bn_eps))
            d = _EXPANSION * inner
        yield Stage(name=f"layer{i}", module=nn.Sequential(*row), d=d)


def _respell(state: keras_names.State) -> keras_names.State:
    """Return a state with our keys; where they were Keras', with the first kernel for RGB."""
    if keras_names.usual_eps(state) is None:
        return state
    own = {}
    for key, value in state.items():
        spelt = keras_names.respelt(key, keras_names.resnet, head="fc")
        is_first = spelt.endswith("conv1.weight") and value.ndim == 4 and value.shape[1] == 3
        own[spelt] = value.flip(1) if is_first else value
    return own


ARCHITECTURES = (
    Architecture(
        name="resnet50-keras",
        stages=_stages,
        narrow=_stages,
        respell=_respell,
        bn_eps=1.001e-5,
        mean=(_MEAN[0] / 255, _MEAN[1] / 255, _MEAN[2] / 255),
        std=(1 / 255, 1 / 255, 1 / 255),
        fan="fan_out",
    ),
)
