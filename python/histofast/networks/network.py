"""What every network here is: named stages in a row, up to a cut, then global average pooling."""

# mypy: allow-subclassing-any
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from histofast._words import listed
from histofast.graphs import IMAGENET

IMAGENET_MEAN, IMAGENET_STD = IMAGENET.of_rgb
_DIGITS = 6  # of what is written into files


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """A place where a network can end: the name of its last stage and the width there.

    `gmac` is what is done up to there of a picture of the size that the network is designed for, in
    billions of multiply-adds (convolutions counted; of timm's models also linear layers and the products
    of attention), `flops_share` its share of the whole network's, in 0..1. `parameters` are the numbers in
    weights up to there, `parameters_share` likewise.
    """

    name: str
    d: int
    gmac: float
    flops_share: float
    parameters: int
    parameters_share: float

    @property
    def work(self) -> str:
        """What it takes, as `encoders.EncoderMetadata` keeps it."""
        told = {
            "gmac": round(self.gmac, _DIGITS),
            "gmac_share": round(self.flops_share, _DIGITS),
            "parameters": self.parameters,
            "parameters_share": round(self.parameters_share, _DIGITS),
        }
        return json.dumps(told)

    def __str__(self) -> str:
        """What it takes, in words: `4.61 GMAC (50 % of the whole), 10.9 M parameters (50 %)`."""
        return (
            f"{self.gmac:.3g} GMAC ({100 * self.flops_share:.0f} % of the whole), "
            f"{self.parameters / 1e6:.3g} M parameters ({100 * self.parameters_share:.0f} %)"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One named piece of a network; `d` is the number of channels that leave it.

    `key` is its name in state dicts; None: the same.
    """

    name: str
    module: nn.Module
    d: int
    key: str | None = None


Widths = Callable[[str, int], int]  # of a stage and the channels designed: how many there are


def as_designed(stage: str, channels: int) -> int:
    """The widths of a network as published."""
    return channels


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A family member: how to build its stages, one after the other, so that a cut builds no more.

    In state dicts `prefix` stands before the stages' names, `head` is the name of the linear layer
    after pooling, and `respell` turns a state of older or foreign keys into one of today's.
    `input_px` is the patch side it was designed for, `fan` the side that its random convolutions
    keep the variance of. `narrow` are the stages with as many channels in their convolutions as told;
    None: there are only those of the published widths.
    """

    name: str
    stages: Callable[[float], Iterator[Stage]] = field(repr=False)  # takes the BatchNorm eps
    prefix: str = ""
    head: str = "fc"
    respell: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = field(
        default=dict, repr=False
    )
    bn_eps: float = 1e-5  # torch's default
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    input_px: int = 224
    fan: str = "fan_in"
    narrow: Callable[[float, Widths], Iterator[Stage]] | None = field(default=None, repr=False)


StandardisedBy = Literal["told", "registry", "network", "guess"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """What was taken from a weights file, and what was not; keys as the file spells them.

    `prefix` stands before the network's keys in the file (names of nested dicts included).
    `dropped` are other parts of the file: heads, second copies, other modules. `missing` (spelt as
    the network does) and `unexpected` are empty unless a partial load was asked for. `head` is
    "none", "loaded", or "new" where a head was asked for that the file has not. `positions_of` is
    the side of the file's grid of patches where its position embeddings were resampled. `notes` are
    what else there is to say of the file.
    """

    sha256: str
    prefix: str
    head: str
    dropped: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    positions_of: int | None = None
    notes: tuple[str, ...] = ()

    def remarks(self) -> list[str]:
        """Return what somebody who loads the file should hear, a line each."""
        lines = [f"taken from under {self.prefix!r}"] if self.prefix else []
        kinds = {"left out": self.dropped, "missing": self.missing, "strange": self.unexpected}
        for kind, keys in kinds.items():
            if keys:
                lines.append(f"{len(keys)} tensors {kind}: {listed(keys)}")
        lines += self.notes
        if self.head == "new":
            lines.append("the head is new, with random weights")
        if self.positions_of is not None:
            grid = f"{self.positions_of} x {self.positions_of}"
            lines.append(f"position embeddings of {grid} patches are resampled")
        return lines


class Network(nn.Module):
    """Stages in a row and global average pooling, with state-dict keys as torchvision spells them.

    Input (n, 3, h, w) float32, standardised with `mean` and `std`; output (n, d) float32: the
    features of the last stage or, with `classes` > 0, the logits of a linear head on them.
    `standardised_by` says where mean and std are from: "told", "registry" (it knows the weights),
    "network" (random weights, or all weights of this network want the same), or "guess": ImageNet's,
    for weights that nobody knows.
    """

    def __init__(
        self, architecture: Architecture, stages: Sequence[Stage], *, classes: int = 0
    ) -> None:
        super().__init__()
        self.architecture = architecture.name
        self.layer = stages[-1].name
        self.classes = classes
        self.d = classes or stages[-1].d
        self.mean = architecture.mean
        self.std = architecture.std
        self.standardised_by: StandardisedBy = "network"
        self.input_px = architecture.input_px
        self.loaded: LoadReport | None = None
        self.source: str | None = None  # the registry's name of the weights, if asked for by it
        self.prefix = architecture.prefix
        self.head = architecture.head
        self.stage_names = tuple(stage.name for stage in stages)
        self.stage_keys = tuple(stage.key or stage.name for stage in stages)
        home: nn.Module = self
        for part in self.prefix.split(".")[:-1]:
            home.add_module(part, nn.Module())
            home = home.get_submodule(part)
        for stage, key in zip(stages, self.stage_keys, strict=True):
            home.add_module(key, stage.module)
        if classes:
            self.add_module(self.head, nn.Linear(stages[-1].d, classes))

    @property
    def weights_sha256(self) -> str | None:
        """The SHA-256 of the weights file, or None for random weights."""
        return None if self.loaded is None else self.loaded.sha256

    def stage(self, name: str) -> nn.Module:
        """Return the module of a stage by the name of its cut."""
        key = self.stage_keys[self.stage_names.index(name)]
        module: nn.Module = self.get_submodule(self.prefix + key)
        return module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for key in self.stage_keys:
            x = self.get_submodule(self.prefix + key)(x)
        x = x.mean((2, 3))  # (n, d)
        return self.get_submodule(self.head)(x) if self.classes else x
