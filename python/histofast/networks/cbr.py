"""The CBR family of Transfusion: convolution, BatchNorm, ReLU, max pooling, four or five times.

Reference: Raghu, Zhang, Kleinberg, Bengio, 2019, Transfusion: Understanding Transfer Learning for
Medical Imaging, appendix. The authors published no code, so this is our reading: convolutions of
stride 1 without padding and without bias (the BatchNorm after each has one), 3 x 3 pooling of
stride 2, after the last convolution of LargeT none.

For Tiny the text of the appendix gives 64 to 512 channels, but the paper's parameter count fits 32
to 256 only. `cbr-tiny` is the latter, `cbr-tiny-w` the former.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn

from histofast.networks.network import Architecture, Stage, Widths, as_designed


def _stages(
    designed: tuple[int, ...],
    kernel_px: int,
    pool_last: bool,
    bn_eps: float,
    width: Widths = as_designed,
) -> Iterator[Stage]:
    channels = 3
    for i, channels_designed in enumerate(designed, start=1):
        d = width(f"conv{i}", channels_designed)
        yield Stage(name=f"conv{i}", module=nn.Conv2d(channels, d, kernel_px, bias=False), d=d)
        yield Stage(name=f"bn{i}", module=nn.BatchNorm2d(d, eps=bn_eps), d=d)
        yield Stage(name=f"relu{i}", module=nn.ReLU(), d=d)
        if pool_last or i < len(designed):
            yield Stage(name=f"pool{i}", module=nn.MaxPool2d(3, stride=2), d=d)
        channels = d


def _cbr(name: str, *widths: int, kernel_px: int = 7, pool_last: bool = True) -> Architecture:
    stages = partial(_stages, widths, kernel_px, pool_last)
    return Architecture(name=name, stages=stages, narrow=stages)


ARCHITECTURES = (
    _cbr("cbr-large-t", 32, 64, 128, 256, 512, pool_last=False),
    _cbr("cbr-large-w", 64, 128, 256, 512),
    _cbr("cbr-small", 32, 64, 128, 256),
    _cbr("cbr-tiny", 32, 64, 128, 256, kernel_px=5),
    _cbr("cbr-tiny-w", 64, 128, 256, 512, kernel_px=5),
)
