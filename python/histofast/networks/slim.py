"""Networks that are narrower after a layer: their names and what these stand for.

`resnet18-slim-layer2-2` is ResNet18 in which every convolution after layer2 has half as many channels. A network
has one name: the layer in it is the last one before the first convolution that is narrower.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import torch

from histofast._words import did_you_mean
from histofast.errors import ModelError
from histofast.networks.network import Architecture

_NAME = re.compile(r"([^:]+)-slim-([a-z0-9]+)-(\d{1,6})")


def parted(name: str) -> tuple[str, str, int] | None:
    """Return network, layer and factor of a name; None: it is of no slim network.

    Example:
        >>> parted("resnet18-slim-layer2-2"), parted("resnet18")
        (('resnet18', 'layer2', 2), None)
    """
    told = _NAME.fullmatch(name)
    return None if told is None else (told[1], told[2], int(told[3]))


def slim(whole: Architecture, layer: str, factor: int) -> Architecture:
    """Return an architecture with `factor` times fewer channels in every convolution after a layer.

    Raises:
        ModelError: of a network, layer or factor that cannot be.
    """
    narrow = whole.narrow
    if narrow is None:
        raise ModelError(
            f"network must be a whole DenseNet, ResNet or CBR to be made slim, got {whole.name}"
        )
    names, channels = _row(whole)
    last = max(i for i, name in enumerate(names) if channels[name])
    if layer not in names[:last]:
        near = did_you_mean(layer, names[:last])
        raise ModelError(
            f"layer must have convolutions of {whole.name} after it, one of "
            f"{', '.join(names[:last])}, got {layer!r}{near}"
        )
    after = names[names.index(layer) + 1 :]
    common = math.gcd(*(d for name in after for d in channels[name]))
    possible = [n for n in range(2, common + 1) if common % n == 0]
    if factor not in possible:
        raise ModelError(
            f"factor must divide the channels of all stages after {layer} of {whole.name}, one of "
            f"{', '.join(map(str, possible))}, got {factor}"
        )
    first = next(i for i, name in enumerate(names) if name in after and channels[name])
    narrower = frozenset(names[first:])

    def width(stage: str, designed: int) -> int:
        return designed // factor if stage in narrower else designed

    return replace(
        whole,
        name=f"{whole.name}-slim-{names[first - 1]}-{factor}",
        stages=lambda bn_eps: narrow(bn_eps, width),
        narrow=None,
    )


def _row(whole: Architecture) -> tuple[list[str], dict[str, list[int]]]:
    """Return the names of the stages, and the channels of the convolutions of each."""
    found: dict[str, list[int]] = {}

    def width(stage: str, designed: int) -> int:
        found.setdefault(stage, []).append(designed)
        return designed

    assert whole.narrow is not None
    with torch.device("meta"):
        names = [stage.name for stage in whole.narrow(whole.bn_eps, width)]
    return names, {name: found.get(name, []) for name in names}
