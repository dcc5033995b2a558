"""What every network here is: named stages in a row, up to a cut, then global average pooling."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, in units of [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """A place where a network can end: the name of its last stage and the width there."""

    name: str
    d: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One named piece of a network; `d` is the number of channels that leave it."""

    name: str
    module: nn.Module
    d: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A family member: how to build its stages, one after the other, so that a cut builds no more.

    `prefix` stands before the stages' names in state dicts, `head` are the keys of what follows
    the last stage there, `rename` maps older spellings of keys to today's.
    """

    name: str
    stages: Callable[[float], Iterator[Stage]] = field(repr=False)  # takes the BatchNorm eps
    prefix: str = ""
    head: tuple[str, ...] = ()
    rename: Callable[[str], str] = field(default=str, repr=False)


class Network(nn.Module):
    """Stages in a row and global average pooling, with state-dict keys as torchvision spells them.

    Input (n, 3, h, w) float32, standardised with `mean` and `std`; output (n, d) float32.
    """

    def __init__(self, architecture: Architecture, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.architecture = architecture.name
        self.layer = stages[-1].name
        self.d = stages[-1].d
        self.mean: tuple[float, float, float] = IMAGENET_MEAN
        self.std: tuple[float, float, float] = IMAGENET_STD
        self.weights_sha256: str | None = None
        self.prefix = architecture.prefix
        self.stage_names = tuple(stage.name for stage in stages)
        home: nn.Module = self
        for part in self.prefix.split(".")[:-1]:
            home.add_module(part, nn.Module())
            home = home.get_submodule(part)
        for stage in stages:
            home.add_module(stage.name, stage.module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.stage_names:
            x = self.get_submodule(self.prefix + name)(x)
        return x.mean((2, 3))  # (n, d)
