"""Networks by name: built up to a cut, with weights or without."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import torch

from histofast.encoders import registry, sha256_of
from histofast.errors import ModelError
from histofast.networks import _densenet
from histofast.networks._network import Architecture, Cut, Network, Stage
from histofast.networks._weights import load_weights, read_weights

_ARCHITECTURES = {a.name: a for a in _densenet.ARCHITECTURES}
_BN_EPS = 1e-5  # torch's default


def names() -> tuple[str, ...]:
    """Return the names of all networks."""
    return tuple(_ARCHITECTURES)


def layers(name: str) -> tuple[Cut, ...]:
    """Return where a network can be cut, from pixels to the end.

    Raises:
        ModelError: no such network.

    Example:
        >>> layers("densenet121")[6]
        Cut(name='denseblock2', d=512)
    """
    return tuple(Cut(name=s.name, d=s.d) for s in _whole(_architecture(name)))


def create(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    layer: str | None = None,
    bn_eps: float | None = None,
    seed: int = 0,
) -> Network:
    """Build a network up to a cut, in evaluation mode, with nothing of what lies beyond.

    Args:
        name: one of `names()`.
        weights: a safetensors file or a torch file of plain tensors; None: random, from `seed`.
        layer: the last stage, one of `layers(name)`; None: the last of all.
        bn_eps: eps of the BatchNorms, which weights files do not hold. None: that of the registry
            if it knows the file by its SHA-256, else 1e-5.
        seed: of the random weights.

    Raises:
        FileNotFoundError: no weights file.
        ModelError: no such network or layer (close names are offered); weights that do not fit.

    Example:
        >>> create("densenet121", layer="denseblock1").d
        256
    """
    architecture = _architecture(name)
    cuts = [cut.name for cut in layers(name)]
    layer = cuts[-1] if layer is None else layer
    if layer not in cuts:
        raise ModelError(_no_such("layer", layer, cuts, of=f" of {name}"))
    sha256 = known = None
    if weights is not None:
        path = Path(weights)
        state = read_weights(path)
        sha256 = sha256_of(path)
        known = registry().weights_of(sha256)
        if known is not None and known.network != name:
            raise ModelError(f"{path} holds weights of {known.network}, not of {name}")
    if bn_eps is None:
        bn_eps = known.bn_eps if known is not None else _BN_EPS
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stages: list[Stage] = []
        for stage in architecture.stages(bn_eps):
            stages.append(stage)
            if stage.name == layer:
                break
        network = Network(architecture, stages)
        network.eval()
    if weights is not None:
        with torch.device("meta"):
            all_keys = set(Network(architecture, _whole(architecture)).state_dict())
        load_weights(
            network, state, architecture=architecture, all_keys=all_keys, where=str(weights)
        )
        network.weights_sha256 = sha256
    if known is not None:
        network.mean, network.std = known.mean, known.std
    return network


def _architecture(name: str) -> Architecture:
    if name not in _ARCHITECTURES:
        raise ModelError(_no_such("network", name, list(_ARCHITECTURES), of=""))
    return _ARCHITECTURES[name]


def _whole(architecture: Architecture) -> list[Stage]:
    with torch.device("meta"):  # shapes only, no memory
        return list(architecture.stages(_BN_EPS))


def _no_such(what: str, got: str, known: list[str], *, of: str) -> str:
    close = difflib.get_close_matches(got, known, n=3)
    hint = f": did you mean {' or '.join(close)}?" if close else ""
    return f"{what}{of} must be one of {', '.join(known)}, got {got!r}{hint}"
