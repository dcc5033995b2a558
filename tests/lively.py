"""Random networks whose BatchNorms have seen something, so that mixing them up would show."""

from __future__ import annotations

import torch
from torch import nn

from histofast import networks


def lively(name: str, *, seed: int = 0, **options) -> networks.Network:
    network = networks.create(name, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed + 1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.3, 0.3, generator=generator)
            module.running_mean.uniform_(-0.3, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data.uniform_(-0.3, 0.3, generator=generator)
    return network
