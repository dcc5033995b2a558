"""An encoder file of our own back into the network that it was exported from, to train it further."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from histofast.encoders import find, read_spec
from histofast.errors import ModelError
from histofast.graphs import PixelGraph, read_constants
from histofast.networks.creation import create
from histofast.networks.network import Network
from histofast.networks.writing import Writer

Tensors = Mapping[str, NDArray[Any]]


def restore(encoder: str | os.PathLike[str]) -> Network:
    """Build the network of an encoder file that `export` wrote, with the weights in it.

    In the file BatchNorms are folded into convolutions or are a scale and a shift; here they are
    BatchNorms of mean 0 and variance 1 that do the same, so what comes out equals the file to 1e-5.

    Args:
        encoder: name or path.

    Returns:
        The network, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ModelError: an encoder that was made by something else, is cut or quantised from another
            file, or is of another version's network.
    """
    path = find(encoder)
    spec = read_spec(path)
    if spec.precision != "float32" or spec.made_from is not None:
        raise ModelError(
            f"{path} must be an encoder as exported from its network, got one made from another "
            "file: name its weights file instead"
        )
    try:
        network = create(spec.network, layer=spec.layer)
    except ModelError:
        network = None
    if not isinstance(network, Network):
        raise ModelError(f"{path} must be of a network of histofast, got {spec.network}")
    found = read_constants(path)
    try:
        network.mean = tuple((found["pixels.mean"].ravel() / 255).tolist())
        network.std = tuple((1 / (255 * found["pixels.scale"].ravel())).tolist())
        with torch.no_grad():
            for name, module, norm in Writer(
                network, PixelGraph(mean=network.mean, std=network.std)
            ).parts():
                _fill(module, norm, name, found)
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            f"{path} must hold the tensors of {spec.network} up to {spec.layer}, got none that fits "
            f"{error}: export it again"
        ) from error
    network.eval()
    return network


def _fill(module: nn.Module, norm: nn.BatchNorm2d | None, name: str, found: Tensors) -> None:
    def tensor(key: str) -> torch.Tensor:
        return torch.from_numpy(np.array(found[f"{name}.{key}"]))

    if isinstance(module, nn.BatchNorm2d):
        _plain(module, tensor("scale"), tensor("shift"))
        return
    assert isinstance(module, nn.Conv2d | nn.Linear)
    module.weight.copy_(tensor("weight"))
    if norm is not None:
        _plain(norm, torch.ones_like(norm.weight), tensor("bias"))
        if module.bias is not None:
            module.bias.zero_()
    elif module.bias is not None:
        module.bias.copy_(tensor("bias"))


def _plain(norm: nn.BatchNorm2d, scale: torch.Tensor, shift: torch.Tensor) -> None:
    """Make a BatchNorm a scale and a shift."""
    norm.weight.copy_(scale)
    norm.bias.copy_(shift)
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
