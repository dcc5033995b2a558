"""One slide's patches through encoder and bag model, forwards and backwards, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from histofast.mil.bag_model import BagModel, BagOutput

Loss = Callable[[BagOutput], Tensor]


def saved_bytes(network: nn.Module, pixels: Tensor) -> int:
    """Return what autograd keeps of one forward pass of (1, h, w, 3) pixels, parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept):
        out = network(pixels)  # held until all is counted: freed storage could be counted twice
    del out
    return sum(seen.values())


def chunk_of(network: nn.Module, pixels: Tensor, *, memory_gb: float) -> int:
    """Return how many patches of the size of `pixels` (1, h, w, 3) fit the memory with a graph."""
    return max(1, int(memory_gb * 1e9 / max(1, saved_bytes(network, pixels))))


def encode(network: nn.Module, pixels: Tensor, *, chunk: int) -> Tensor:
    """Return (n, d) features without a graph, `chunk` patches at a time."""
    with torch.no_grad():
        return torch.cat([network(part) for part in pixels.split(chunk)])


def backward(
    network: nn.Module, head: BagModel, pixels: Tensor, loss: Loss, target: Tensor, *, chunk: int
) -> tuple[Tensor, BagOutput]:
    """Add the gradients of a slide's loss to encoder and bag model; return loss and output.

    More patches than `chunk` are taken through the encoder twice: once without a graph for the loss
    and its gradient by the features, then chunk by chunk with a graph, to which that gradient is
    handed back. The gradients are those of one pass (BatchNorms use their stored statistics), at
    the price of a second forward pass.

    Args:
        network: (n, h, w, 3) uint8 pixels to (n, d) features, in evaluation mode.
        head: of the features.
        pixels: (k, h, w, 3) uint8.
        loss: scalar from the head's output.
        target: the slide's, for losses that the head adds itself.
        chunk: patches with a graph at a time.
    """
    if len(pixels) <= chunk:
        out = head(network(pixels), target)
        value = loss(out)
        value.backward()
        return value.detach(), out
    features = encode(network, pixels, chunk=chunk).requires_grad_()
    out = head(features, target)
    value = loss(out)
    value.backward()
    assert features.grad is not None
    for part, gradient in zip(pixels.split(chunk), features.grad.split(chunk), strict=True):
        found = network(part)
        if found.requires_grad:  # nothing of the encoder trains when all of it is frozen
            found.backward(gradient)
    return value.detach(), out
