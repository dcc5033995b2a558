"""The statistics of BatchNorms, measured anew on images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def estimate_batchnorm(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Give each BatchNorm the mean and variance of what reaches it, over all images.

    One pass: in it each normalises by its own batch, as in training, so that what reaches the next is
    settled; sums over batches are exact. Larger batches come nearer to what one of all images would give.

    Args:
        network: in evaluation mode afterwards; nothing but running statistics changes.
        batches: (n, 3, h, w) float32, standardised as the network wants them; more than one value a
            channel in each.

    Returns:
        How many images there were; without BatchNorms or images nothing changes.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    sums = {norm: _Moments() for norm in norms}
    hooks = [norm.register_forward_pre_hook(sums[norm].add) for norm in norms]
    momenta = {norm: norm.momentum for norm in norms}
    network.eval()
    count = 0
    try:
        for norm in norms:
            norm.train()
            norm.momentum = 0.0  # its own are set below
        if norms:
            with torch.no_grad():
                for batch in batches:
                    network(batch)
                    count += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        network.eval()
    for norm in norms if count else ():
        sums[norm].give(norm)
    return count


class _Moments:
    """Sums of values and squares by channel, in float64."""

    def __init__(self) -> None:
        self.n = 0
        self.sum: Any = 0.0
        self.squares: Any = 0.0

    def add(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double()
        self.n += x.numel() // x.shape[1]
        self.sum = self.sum + x.sum((0, 2, 3))
        self.squares = self.squares + (x * x).sum((0, 2, 3))

    def give(self, norm: nn.BatchNorm2d) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean = self.sum / self.n
        variance = (self.squares / self.n - mean**2).clamp(min=0) * self.n / max(1, self.n - 1)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
