"""How much the early layers of a network would have to move for new pictures.

Reference: Juodelyte, Ferrante, Lu, Singh, Vanschoren, Cheplygina, 2024, On dataset transferability in
medical image classification (arXiv 2412.20172). How triplets are drawn is our reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from histofast._numbers import real_number, whole_number
from histofast.errors import ModelError
from histofast.networks.exporting import check_size
from histofast.networks.kinds import AnyNetwork
from histofast.networks.network import Network
from histofast.networks.recorder import check_network

MARGIN = 1.0
_TINY = 1e-6  # added to differences, as torch's distance does, so that it has a slope at 0


def feature_reuse(
    network: AnyNetwork,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    *,
    batch_size: int = 64,
    margin: float = MARGIN,
    seed: int = 0,
) -> float:
    """Return the gradient ratio FU: mean ||dL/dW2|| over mean ||dL/dW1||, over batches of pictures.

    W1 and W2 are the weights of the first two convolutions that a picture meets. L is the triplet margin
    loss of a batch, the mean of max(0, |a - p| - |a - q| + margin) over features a of each picture that has
    another of its class, p, and one of another class, q, in the batch; both are drawn. Nothing is
    updated, BatchNorms use their running statistics, and the network is left as it was. It is high where the
    first layer needs little change compared with the next.

    Args:
        network: of `create`, `adopt` or timm without a head, in evaluation mode; it runs where it is.
        pixels: (n, h, w, 3) uint8.
        labels: (n,) integer classes.
        batch_size: pictures of a batch; a batch without a triplet is left out.
        margin: of the loss, > 0.
        seed: of the order of the pictures and of the triplets.

    Returns:
        The higher, the more of the early features can stay.

    Raises:
        TypeError: another network, pixels or labels of another type.
        ValueError: training mode, a network with a head, other shapes, options out of range, no batch with a
            triplet, a gradient of the first convolution that is 0.
        ModelError: a network with fewer than two convolutions, pictures smaller than it takes.

    Determinism: by the seed, on one machine.
    """
    _check(network, pixels, labels)
    batch_size = whole_number("batch_size", batch_size, at_least=3)
    margin = real_number("margin", margin, above=0)
    weights = [layer.weight for layer in _first_two(network, pixels[:1])]
    were = [weight.requires_grad for weight in weights]
    norms = []
    try:
        for weight in weights:
            weight.requires_grad_(True)
        for rows, triplets in _batches(labels, batch_size, np.random.default_rng(seed)):
            with torch.enable_grad():
                loss = _triplet_loss(network(inputs_of(network, pixels[rows])), triplets, margin)
                gradients = torch.autograd.grad(loss, weights)
            norms.append([float(gradient.double().norm()) for gradient in gradients])
    finally:
        for weight, was in zip(weights, were, strict=True):
            weight.requires_grad_(was)
    if not norms:
        raise ValueError(
            f"labels must have two of a class and one of another in some batch of {batch_size}, got "
            "none: raise batch_size"
        )
    first, second = np.mean(norms, axis=0)
    if first == 0:
        raise ValueError(
            "network must have a gradient in its first convolution, got 0: raise margin, for all "
            "triplets keep it, or look at the features, for they may be constant"
        )
    return float(second / first)


def _check(network: Any, pixels: Any, labels: Any) -> None:
    check_network(network)
    if network.classes:
        raise ValueError(
            f"network must give features, got a head of {network.classes} classes: make it without one"
        )
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        got = pixels.dtype.name if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise TypeError(f"pixels must be uint8 of shape (n, h, w, 3), got {got}")
    if pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(f"pixels must be of shape (n, h, w, 3), got {pixels.shape}")
    if isinstance(network, Network):
        check_size(network, min(pixels.shape[1:3]), remedy="give larger pictures")
    if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
        got = labels.dtype.name if isinstance(labels, np.ndarray) else type(labels).__name__
        raise TypeError(f"labels must be an array of integer classes (n,), got {got}")
    if labels.shape != pixels.shape[:1]:
        raise ValueError(f"labels must be {len(pixels)}, one for each picture, got {labels.shape}")


def _first_two(network: Any, pixels: NDArray[np.uint8]) -> list[nn.Conv2d]:
    """Return the convolutions that a picture meets first, in the order of their calls."""
    met: list[nn.Conv2d] = []
    handles = [
        module.register_forward_pre_hook(lambda layer, _: met.append(layer))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        if handles and len(pixels):
            with torch.inference_mode():
                network(inputs_of(network, pixels))
    finally:
        for handle in handles:
            handle.remove()
    found = list(dict.fromkeys(met))[:2]
    if len(found) < 2 and len(pixels):
        raise ModelError(
            f"network {network.architecture} must have two convolutions, got {len(found)}"
        )
    return found


def inputs_of(network: Any, pixels: NDArray[np.uint8]) -> Tensor:
    """Return (n, 3, h, w) standardised pixels, in the network's own precision and place."""
    like = next(network.parameters())
    x = torch.from_numpy(np.ascontiguousarray(pixels)).to(like.device).permute(0, 3, 1, 2)
    mean, std = (like.new_tensor(values).view(1, 3, 1, 1) for values in (network.mean, network.std))
    inputs: Tensor = (x.to(like.dtype) / 255 - mean) / std
    return inputs


def _batches(
    labels: NDArray[Any], batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the rows of each batch and its (t, 3) triplets as places in it: anchor, like, unlike."""
    order = rng.permutation(len(labels))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        same = labels[rows][:, None] == labels[rows]
        triplets = []
        for i in range(len(rows)):
            others = np.flatnonzero(~same[i])
            likes = np.flatnonzero(same[i])
            likes = likes[likes != i]
            if len(likes) and len(others):
                triplets.append((i, rng.choice(likes), rng.choice(others)))
        if triplets:
            yield rows, np.array(triplets, np.int64)


def _triplet_loss(features: Tensor, triplets: NDArray[np.int64], margin: float) -> Tensor:
    anchor, like, unlike = (features[torch.from_numpy(column)] for column in triplets.T)
    near, far = (torch.linalg.vector_norm(anchor - x + _TINY, dim=1) for x in (like, unlike))
    loss: Tensor = (near - far + margin).clamp(min=0).mean()
    return loss
