"""Networks by name: built up to a cut, with weights or without."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from histofast._files import path_of
from histofast._notes import log_of
from histofast._numbers import real_number, whole_number
from histofast._words import text_of
from histofast.encoders import SourceEntry, WeightsEntry, registry, sha256_of
from histofast.errors import ModelError
from histofast.graphs import Standardising
from histofast.networks.foundation import create_foundation, foundation_name
from histofast.networks.keras_names import usual_eps
from histofast.networks.known import ARCHITECTURES, architecture_of, cuts_of, no_such, whole
from histofast.networks.network import IMAGENET_MEAN, Architecture, Cut, Network, Stage
from histofast.networks.reading import read_weights
from histofast.networks.timm import TimmNetwork, create_timm, timm_layers
from histofast.networks.timm_cuts import POOLS, block_name
from histofast.networks.timm_names import PREFIX, timm_name
from histofast.networks.weights import load_weights

_log = log_of(__name__)


def create(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    layer: str | None = None,
    classes: int = 0,
    bn_eps: float | None = None,
    standardising: Standardising | None = None,
    timm_args: Mapping[str, Any] | None = None,
    seed: int = 0,
    partial: bool = False,
) -> Network | TimmNetwork:
    """Build a network up to a cut, in evaluation mode, with nothing of what lies beyond.

    Random convolutions are He normal, whatever the network, and drawn in the order of the stages:
    a cut network has the random weights that the whole one begins with.

    Args:
        name: one of `names()`; one of these made slim, such as `resnet18-slim-layer2-2`, whose
            convolutions after layer2 have half their channels; `timm:` and the name of a model of timm, maybe
            with arguments, `timm:vit_small_patch16_224(img_size=96,reg_tokens=4)`; or that of weights
            in the registry's `sources` or `foundation`, which stands for their network with the layer, the eps,
            the pooling and the standardising that they want, and then `weights` is the file fetched from there.
        weights: a safetensors file, a torch file of plain tensors, maybe within a checkpoint and
            under a prefix, or a Keras file (`.h5`, `.keras`); None: random, from `seed`. `Network.loaded` tells what was taken. For a
            model of timm also "hub": what timm downloads for it.
        layer: the last stage, one of `layers(name)`; None: the last of all, or the source's.
        classes: of a linear head after the pooling, whose weights are those of the file if the
            network is whole and the file has them in this size, else random; 0: no head.
        bn_eps: eps of the BatchNorms, which weights files do not hold. None: the source's, or that
            of the registry if it knows the file by its SHA-256, that of Keras Applications if the
            file has its names, else the network's usual one.
        standardising: what the weights want of pixels. None: what the registry knows of the source or the
            file, else the network's usual, which for most is a guess, see `Network.standardised_by`.
        timm_args: arguments of `timm.create_model`, for a model of timm; classes by their names. They become
            a part of the network's name.
        seed: of the random weights.
        partial: tensors that the file lacks stay random, those it has too many are left out.

    Raises:
        FileNotFoundError: no weights file.
        ModelError: no such network, layer or argument (close names are offered); weights that do not
            fit.
        TypeError: an argument of `timm_args` that is neither number, flag, text nor several of them.
        ValueError: `classes` or `bn_eps` out of range; `timm_args` of another network; no weights for
            a source (it says where to get them).

    Example:
        >>> create("densenet121", layer="denseblock1").d
        256
    """
    classes = whole_number("classes", classes, at_least=0)
    seed = whole_number("seed", seed)
    bn_eps = real_number("bn_eps", bn_eps)
    name = timm_name(text_of("name", name), timm_args)
    if name.startswith(PREFIX) or name in registry().foundation:
        if bn_eps is not None:
            raise ValueError("bn_eps must be left to timm for its models")
        of_timm = _of_timm(
            name, weights=weights, layer=layer, classes=classes, seed=seed, partial=partial
        )
        if standardising is not None:
            _standardise(of_timm, standardising)
        return of_timm
    if bn_eps is not None and not 0 < bn_eps < 1:
        raise ValueError(f"bn_eps must be in 0..1, got {bn_eps}")
    architecture, source = resolved(name)
    layer = _checked_layer(name, architecture, source, layer)
    if source is not None and weights is None:
        raise ValueError(f"weights must be given for {name}: get {source.where}")
    file = (
        None if weights is None else _read(path_of("weights", weights), name, architecture, source)
    )
    told = source or (file.known if file else None)
    bn_eps = _eps_of(architecture, told, file) if bn_eps is None else bn_eps
    network = _empty(architecture, layer, classes=classes, bn_eps=bn_eps)
    _fill_at_random(network, fan=architecture.fan, seed=seed)
    if file is not None:
        network.loaded = load_weights(
            network,
            architecture.respell(file.state),
            whole=whole(architecture.name),
            sha256=file.sha256,
            partial=partial,
            where=str(weights),
        )
        _log.debug("%s takes weights of %s: %s", name, weights, network.loaded)
    if standardising is not None:
        _standardise(network, standardising)
    elif told is not None:
        network.mean, network.std = told.mean, told.std
        network.standardised_by = "registry"
        if source is not None and source.bgr:
            _turn_channels(network)
    elif file is not None and architecture.mean == IMAGENET_MEAN:
        network.standardised_by = "guess"
    network.source = None if source is None else source.name
    network.eval()
    return network


def _of_timm(name: str, **options: Any) -> TimmNetwork:
    published = registry().foundation.get(name)
    if published is None:
        return create_timm(name, **options)
    return create_foundation(published, **options)


def _checked_layer(
    name: str, architecture: Architecture, source: SourceEntry | None, layer: str | None
) -> str:
    """Return where a network is cut: as told, else where the source takes features, or its end."""
    cuts = whole(architecture.name).stage_names
    if layer is None:
        layer = cuts[-1] if source is None or source.layer is None else source.layer
    if layer not in cuts:
        raise ModelError(no_such("layer", layer, cuts, of=f" of {name}"))
    return layer


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """A weights file, read, and what the registry knows of it."""

    state: dict[str, torch.Tensor]
    sha256: str
    known: WeightsEntry | None


def _eps_of(
    architecture: Architecture, told: SourceEntry | WeightsEntry | None, file: _File | None
) -> float:
    known = None if told is None else told.bn_eps
    if known is None and file is not None:
        known = usual_eps(file.state)
    return architecture.bn_eps if known is None else known


def _read(path: Path, name: str, architecture: Architecture, source: SourceEntry | None) -> _File:
    state = read_weights(path)
    sha256 = sha256_of(path)
    known = registry().weights_of(sha256)
    if known is not None and (source is not None or known.network != architecture.name):
        raise ModelError(f"{path} holds weights of {known.network}, not of {name}")
    return _File(state=state, sha256=sha256, known=known)


def _empty(architecture: Architecture, layer: str, *, classes: int, bn_eps: float) -> Network:
    """Return a network up to a layer, its tensors not filled."""
    with torch.device("meta"):
        stages: list[Stage] = []
        for stage in architecture.stages(bn_eps):
            stages.append(stage)
            if stage.name == layer:
                break
        network = Network(architecture, stages, classes=classes)
    network.to_empty(device="cpu")
    return network


def _standardise(network: Network | TimmNetwork, wants: Standardising) -> None:
    network.mean, network.std = wants.of_rgb
    network.standardised_by = "told"
    if wants.channels == "bgr":
        _turn_channels(network)


def _turn_channels(network: Network | TimmNetwork) -> None:
    """Have a network whose weights want BGR take RGB: its first kernel is turned."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        first.weight.copy_(first.weight.flip(1))


def layers(name: str, *, timm_args: Mapping[str, Any] | None = None) -> tuple[Cut, ...]:
    """Return where a network can be cut, from pixels to the end; it is named as for `create`.

    The last cut of a model of timm is the whole, as timm pools it. Its vision transformers are cut
    after a block, at `blockN` (the mean of the patches' tokens behind the model's last norm),
    `blockN-cls` or `blockN-cls+mean`, and each with `-no-norm` before that norm.

    Raises:
        ModelError: no such network, or argument of it.
        TypeError, ValueError: `timm_args`, as for `create`.

    Example:
        >>> last = layers("densenet121")[-1]
        >>> last.name, last.d, last.flops_share
        ('relu5', 1024, 1.0)
    """
    name = timm_name(text_of("name", name), timm_args)
    if name in registry().foundation:
        name = foundation_name(registry().foundation[name])
    return timm_layers(name) if name.startswith(PREFIX) else cuts_of(resolved(name)[0].name)


def pooled_layer(
    name: str, *, pool: str = "mean", layer: str | None = None, norm: bool = True
) -> str:
    """Return the name of the cut of a vision transformer whose features are its tokens pooled in one way.

    Args:
        name: as for `create`.
        pool: `cls`, the class token; `mean`, that of the patches' tokens, without registers; `cls+mean`,
            one after the other.
        layer: `blockN`; None: the last block, so the whole network, whatever its authors take of it.
        norm: tokens go through the network's last norm.

    Raises:
        ModelError: no such network or block, or it has no class token.
        ValueError: no such way of pooling, or no vision transformer of timm.
    """
    if pool not in POOLS:
        raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")
    known = [cut.name for cut in layers(name)]
    blocks = [each for each in known if re.fullmatch(r"block\d+", each)]
    if not blocks:
        raise ValueError(f"{name} is no vision transformer of timm: it has no tokens to pool")
    layer = blocks[-1] if layer is None else layer
    if not re.fullmatch(r"block\d+", layer):
        raise ValueError(f"layer must be blockN where a pool is given, got {layer}")
    if layer not in blocks:
        raise ModelError(no_such("layer", layer, blocks, of=f" of {name}"))
    found = block_name(layer, pool, norm=norm)
    if found not in known:
        raise ModelError(f"{name} has no class token: take the mean with pool=mean")
    return found


def resolved(name: str) -> tuple[Architecture, SourceEntry | None]:
    """Return the architecture that a name stands for, and the source if it is one of weights.

    Raises:
        ModelError: no such network.
    """
    sources = registry().sources
    if name in ARCHITECTURES or name not in sources:
        registry().refuse_elsewhere(name)
        return architecture_of(name, others=[*sources, *registry().foundation]), None
    network = sources[name].network
    if network not in ARCHITECTURES:
        raise ModelError(no_such("network", network, ARCHITECTURES, of=f" of source {name}"))
    return ARCHITECTURES[network], sources[name]


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
