"""Inception v3 without its auxiliary head: branches of small convolutions, joined by channel.

Keras Applications' differs in one thing, so it is a network of its own, `inception-v3-keras`: what lies outside
a map does not count in its average pooling.

Its published weights were made for pixels in -1..1, hence mean = std = 0.5 (torchvision does the
same by `transform_input`), and for a BatchNorm eps of 1e-3.

Reference: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, 2016, Rethinking the Inception Architecture.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import torch
from torch import nn

from histofast.networks import keras_names
from histofast.networks.network import Architecture, Stage


class _Conv(nn.Module):
    def __init__(
        self,
        channels: int,
        d: int,
        kernel_px: int | tuple[int, int],
        bn_eps: float,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, d, kernel_px, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(d, eps=bn_eps)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.bn(self.conv(x)))
        return y


class _A(nn.Module):
    """35 x 35 at 299 px: 1 x 1, 5 x 5, twice 3 x 3, pooled."""

    def __init__(self, channels: int, pooled: int, bn_eps: float, *, counts_outside: bool) -> None:
        super().__init__()
        self.branch1x1 = _Conv(channels, 64, 1, bn_eps)
        self.branch5x5_1 = _Conv(channels, 48, 1, bn_eps)
        self.branch5x5_2 = _Conv(48, 64, 5, bn_eps, padding=2)
        self.branch3x3dbl_1 = _Conv(channels, 64, 1, bn_eps)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, bn_eps, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, bn_eps, padding=1)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=counts_outside)
        self.branch_pool = _Conv(channels, pooled, 1, bn_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y5 = self.branch5x5_2(self.branch5x5_1(x))
        y3 = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), y5, y3, self.branch_pool(self.pool(x))], 1)


class _B(nn.Module):
    """To 17 x 17: 3 x 3, twice 3 x 3, and pooling, all of stride 2."""

    def __init__(self, channels: int, bn_eps: float) -> None:
        super().__init__()
        self.branch3x3 = _Conv(channels, 384, 3, bn_eps, stride=2)
        self.branch3x3dbl_1 = _Conv(channels, 64, 1, bn_eps)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, bn_eps, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, bn_eps, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), y, self.pool(x)], 1)


class _C(nn.Module):
    """17 x 17: 7 x 7 as 1 x 7 and 7 x 1, once and twice."""

    def __init__(self, channels: int, width: int, bn_eps: float, *, counts_outside: bool) -> None:
        super().__init__()
        self.branch1x1 = _Conv(channels, 192, 1, bn_eps)
        self.branch7x7_1 = _Conv(channels, width, 1, bn_eps)
        self.branch7x7_2 = _Conv(width, width, (1, 7), bn_eps, padding=(0, 3))
        self.branch7x7_3 = _Conv(width, 192, (7, 1), bn_eps, padding=(3, 0))
        self.branch7x7dbl_1 = _Conv(channels, width, 1, bn_eps)
        self.branch7x7dbl_2 = _Conv(width, width, (7, 1), bn_eps, padding=(3, 0))
        self.branch7x7dbl_3 = _Conv(width, width, (1, 7), bn_eps, padding=(0, 3))
        self.branch7x7dbl_4 = _Conv(width, width, (7, 1), bn_eps, padding=(3, 0))
        self.branch7x7dbl_5 = _Conv(width, 192, (1, 7), bn_eps, padding=(0, 3))
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=counts_outside)
        self.branch_pool = _Conv(channels, 192, 1, bn_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        z = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        z = self.branch7x7dbl_5(self.branch7x7dbl_4(z))
        return torch.cat([self.branch1x1(x), y, z, self.branch_pool(self.pool(x))], 1)


class _D(nn.Module):
    """To 8 x 8: 3 x 3, 7 x 7 and pooling, all of stride 2."""

    def __init__(self, channels: int, bn_eps: float) -> None:
        super().__init__()
        self.branch3x3_1 = _Conv(channels, 192, 1, bn_eps)
        self.branch3x3_2 = _Conv(192, 320, 3, bn_eps, stride=2)
        self.branch7x7x3_1 = _Conv(channels, 192, 1, bn_eps)
        self.branch7x7x3_2 = _Conv(192, 192, (1, 7), bn_eps, padding=(0, 3))
        self.branch7x7x3_3 = _Conv(192, 192, (7, 1), bn_eps, padding=(3, 0))
        self.branch7x7x3_4 = _Conv(192, 192, 3, bn_eps, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat(
            [self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(y), self.pool(x)], 1
        )


class _E(nn.Module):
    """8 x 8: 3 x 3 as 1 x 3 beside 3 x 1, once and after another 3 x 3."""

    def __init__(self, channels: int, bn_eps: float, *, counts_outside: bool) -> None:
        super().__init__()
        self.branch1x1 = _Conv(channels, 320, 1, bn_eps)
        self.branch3x3_1 = _Conv(channels, 384, 1, bn_eps)
        self.branch3x3_2a = _Conv(384, 384, (1, 3), bn_eps, padding=(0, 1))
        self.branch3x3_2b = _Conv(384, 384, (3, 1), bn_eps, padding=(1, 0))
        self.branch3x3dbl_1 = _Conv(channels, 448, 1, bn_eps)
        self.branch3x3dbl_2 = _Conv(448, 384, 3, bn_eps, padding=1)
        self.branch3x3dbl_3a = _Conv(384, 384, (1, 3), bn_eps, padding=(0, 1))
        self.branch3x3dbl_3b = _Conv(384, 384, (3, 1), bn_eps, padding=(1, 0))
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=counts_outside)
        self.branch_pool = _Conv(channels, 192, 1, bn_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.branch3x3_1(x)
        z = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(y),
            self.branch3x3_2b(y),
            self.branch3x3dbl_3a(z),
            self.branch3x3dbl_3b(z),
            self.branch_pool(self.pool(x)),
        ]
        return torch.cat(branches, 1)


def _stages(bn_eps: float, *, counts_outside: bool) -> Iterator[Stage]:
    a = partial(_A, counts_outside=counts_outside)
    c = partial(_C, counts_outside=counts_outside)
    e = partial(_E, counts_outside=counts_outside)
    yield Stage(name="Conv2d_1a_3x3", module=_Conv(3, 32, 3, bn_eps, stride=2), d=32)
    yield Stage(name="Conv2d_2a_3x3", module=_Conv(32, 32, 3, bn_eps), d=32)
    yield Stage(name="Conv2d_2b_3x3", module=_Conv(32, 64, 3, bn_eps, padding=1), d=64)
    yield Stage(name="maxpool1", module=nn.MaxPool2d(3, stride=2), d=64)
    yield Stage(name="Conv2d_3b_1x1", module=_Conv(64, 80, 1, bn_eps), d=80)
    yield Stage(name="Conv2d_4a_3x3", module=_Conv(80, 192, 3, bn_eps), d=192)
    yield Stage(name="maxpool2", module=nn.MaxPool2d(3, stride=2), d=192)
    yield Stage(name="Mixed_5b", module=a(192, 32, bn_eps), d=256)
    yield Stage(name="Mixed_5c", module=a(256, 64, bn_eps), d=288)
    yield Stage(name="Mixed_5d", module=a(288, 64, bn_eps), d=288)
    yield Stage(name="Mixed_6a", module=_B(288, bn_eps), d=768)
    for letter, width in zip("bcde", (128, 160, 160, 192), strict=True):
        yield Stage(name=f"Mixed_6{letter}", module=c(768, width, bn_eps), d=768)
    yield Stage(name="Mixed_7a", module=_D(768, bn_eps), d=1280)
    yield Stage(name="Mixed_7b", module=e(1280, bn_eps), d=2048)
    yield Stage(name="Mixed_7c", module=e(2048, bn_eps), d=2048)


def _respell(state: keras_names.State) -> keras_names.State:
    naming = keras_names.by_counting(_convolutions())
    return {keras_names.respelt(key, naming, head="fc"): value for key, value in state.items()}


@cache
def _convolutions() -> tuple[str, ...]:
    """Return where the convolutions are, in the order in which Keras builds them: ours."""
    with torch.device("meta"):
        return tuple(
            f"{stage.name}.{name}".removesuffix(".")
            for stage in _stages(1e-3, counts_outside=False)
            for name, module in stage.module.named_modules()
            if isinstance(module, _Conv)
        )


def _inception(name: str, *, counts_outside: bool) -> Architecture:
    return Architecture(
        name=name,
        stages=partial(_stages, counts_outside=counts_outside),
        respell=dict if counts_outside else _respell,
        bn_eps=1e-3,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        input_px=299,
    )


ARCHITECTURES = (
    _inception("inception-v3", counts_outside=True),
    _inception("inception-v3-keras", counts_outside=False),
)
