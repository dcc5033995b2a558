"""Networks by name: built up to a cut, with weights or without."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from torch import nn

from histofast.encoders import registry, sha256_of
from histofast.errors import ModelError
from histofast.networks._known import architecture_of, no_such, whole
from histofast.networks._network import Network, Stage
from histofast.networks._weights import load_weights, read_weights


def create(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    layer: str | None = None,
    classes: int = 0,
    bn_eps: float | None = None,
    seed: int = 0,
    partial: bool = False,
) -> Network:
    """Build a network up to a cut, in evaluation mode, with nothing of what lies beyond.

    Random convolutions are He normal, whatever the network, and drawn in the order of the stages:
    a cut network has the random weights that the whole one begins with.

    Args:
        name: one of `names()`.
        weights: a safetensors file or a torch file of plain tensors, maybe within a checkpoint and
            under a prefix; None: random, from `seed`. `Network.loaded` tells what was taken.
        layer: the last stage, one of `layers(name)`; None: the last of all.
        classes: of a linear head after the pooling, whose weights are those of the file if the
            network is whole and the file has them in this size, else random; 0: no head.
        bn_eps: eps of the BatchNorms, which weights files do not hold. None: that of the registry
            if it knows the file by its SHA-256, else the network's usual one.
        seed: of the random weights.
        partial: tensors that the file lacks stay random, those it has too many are left out.

    Raises:
        FileNotFoundError: no weights file.
        ModelError: no such network or layer (close names are offered); weights that do not fit.
        ValueError: `classes` or `bn_eps` out of range.

    Example:
        >>> create("densenet121", layer="denseblock1").d
        256
    """
    architecture = architecture_of(name)
    cuts = whole(name).stage_names
    layer = cuts[-1] if layer is None else layer
    if layer not in cuts:
        raise ModelError(no_such("layer", layer, cuts, of=f" of {name}"))
    if classes < 0:
        raise ValueError(f"classes must be at least 0, got {classes}")
    if bn_eps is not None and not 0 < bn_eps < 1:
        raise ValueError(f"bn_eps must be in 0..1, got {bn_eps}")
    known = None
    if weights is not None:
        path = Path(weights)
        state = read_weights(path)
        sha256 = sha256_of(path)
        known = registry().weights_of(sha256)
        if known is not None and known.network != name:
            raise ModelError(f"{path} holds weights of {known.network}, not of {name}")
    if bn_eps is None:
        bn_eps = known.bn_eps if known is not None else architecture.bn_eps
    with torch.device("meta"):
        stages: list[Stage] = []
        for stage in architecture.stages(bn_eps):
            stages.append(stage)
            if stage.name == layer:
                break
        network = Network(architecture, stages, classes=classes)
    network.to_empty(device="cpu")
    _fill_at_random(network, fan=architecture.fan, seed=seed)
    if weights is not None:
        network.loaded = load_weights(
            network, state, sha256=sha256, partial=partial, where=str(weights)
        )
    if known is not None:
        network.mean, network.std = known.mean, known.std
    network.eval()
    return network


def _fill_at_random(network: Network, *, fan: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode=fan, nonlinearity="relu", generator=generator
            )
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        else:
            assert not list(module.parameters(recurse=False)), f"{module} stays unfilled"
            continue
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
