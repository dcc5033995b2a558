"""A torch module as an encoder file that is kept: written where it is not there yet, proven each time."""

# mypy: allow-subclassing-any
from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from histofast._files import path_of
from histofast._notes import log_of
from histofast.errors import ModelError
from histofast.graphs import checked_patches
from histofast.networks.adopted import AdoptedNetwork, adopt, state_sha256
from histofast.networks.exporting import export
from histofast.networks.network import Network
from histofast.networks.timm import TimmNetwork
from histofast.networks.timm_names import stem_of
from histofast.networks.verifying import verify

_log = log_of(__name__)

AnyNetwork = Network | TimmNetwork | AdoptedNetwork
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_DIGITS = 12  # of a checksum in the name of a file


def encoder_file(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
    name: str | None = None,
) -> Path:
    """Return the encoder file of a torch module in a folder, having written it if it is not there.

    The file is known by the values of the module's tensors, its layers and the arguments. One that
    is there is held against the module anew, for what the module does with its tensors is not in
    them; if it differs, it is written again. The module stays as it is: where it is not on the
    CPU, in float32 and in evaluation mode, a copy that is so is what is written.

    Args:
        model: takes (n, 3, h, w) float32, standardised; see `adopt`. Or a network of `create` or
            `adopt`, which knows its own mean and deviation.
        folder: made where it is missing.
        mean, std: per channel, of pixels in 0..1; to be given for a plain module.
        patch_px: the patch size; to be given for a plain module.
        mpp: um per pixel that it is meant for; None: see `export`.
        name: of the encoder; None: of the module's class, or of the network.

    Raises:
        ModelError: torch cannot export it, ONNX Runtime does not agree with it to 1e-5, or another
            size of patches is wanted (the nearest are told).
        TypeError: no torch module.
        ValueError: `mean`, `std` or `patch_px` missing, out of range, or for a network that knows them.
    """
    folder = path_of("folder", folder)
    network = _network(model, mean=mean, std=std, patch_px=patch_px, name=name)
    side_px = network.input_px if patch_px is None else patch_px
    called = stem_of(network.architecture) if name is None else name
    told = {"patch_px": side_px, "mpp": mpp, "name": called}
    path = folder / f"{stem_of(called)}-{_key(network, told)}.onnx"
    if path.exists():
        try:
            agreed = verify(path, network, checked_patches(None, side_px), shown=path)
        except ModelError:
            _log.info("%s is not what its module computes now: it is written again", path)
        else:
            _log.info("%s is taken as it is: %s", path, agreed)
            return path
    folder.mkdir(parents=True, exist_ok=True)
    export(network, path, name=called, patch_px=side_px, mpp=mpp, overwrite=True)
    return path


def _network(
    model: nn.Module,
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    patch_px: int | None,
    name: str | None,
) -> AnyNetwork:
    given: dict[str, Any] = {"mean": mean, "std": std, "patch_px": patch_px}
    if isinstance(model, Network | TimmNetwork | AdoptedNetwork):
        for key in ("mean", "std"):
            if given[key] is not None:
                raise ValueError(
                    f"{key} must be left to a network of histofast, which knows its own"
                )
        network: AnyNetwork = _plain(model)
        return network
    if not isinstance(model, nn.Module):
        raise TypeError(f"encoder must be a torch module, got {type(model).__name__}")
    for key, value in given.items():
        if value is None:
            raise ValueError(f"{key} must be given with a torch module, which does not tell it")
    assert mean is not None
    assert std is not None
    assert patch_px is not None
    return adopt(_plain(model), mean=mean, std=std, name=name, input_px=patch_px)


def _plain(model: Any) -> Any:
    """Return a module on the CPU, in float32 and in evaluation mode: itself, or a copy."""
    tensors = [*model.parameters(), *model.buffers()]
    is_plain = all(
        t.device.type == "cpu" and (t.dtype == torch.float32 or not t.is_floating_point())
        for t in tensors
    )
    if is_plain and not any(module.training for module in model.modules()):
        return model
    return copy.deepcopy(model).to("cpu", torch.float32).eval()


def _key(network: AnyNetwork, told: dict[str, Any]) -> str:
    """Return a checksum of all that a network's file follows from, as far as can be seen."""
    seen = {
        "weights": state_sha256(network),
        "layers": _ADDRESS.sub("", str(network)),
        "network": network.architecture,
        "layer": network.layer,
        "mean": list(map(float, network.mean)),
        "std": list(map(float, network.std)),
        **told,
    }
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:_DIGITS]
