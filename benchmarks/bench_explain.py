"""Class activation maps of pictures against the bare forward and backward passes of the same network.

    pytest benchmarks/bench_explain.py -s

DenseNet121, its last dense block, random weights, all methods. The bare passes are a logit per picture and its gradient
by all weights and pixels, as in a step of training. HISTOFAST_BENCH_PICTURES for another number of pictures.
"""

from __future__ import annotations

import os

import numpy as np
import torch

from histofast.explain import cam
from histofast.networks import create

PICTURES = int(os.environ.get("HISTOFAST_BENCH_PICTURES", "1000"))
NETWORK, LAYER, PX, BATCH, ROUNDS, GOAL = "densenet121", "denseblock4", 224, 32, 5, 0.9


def bare(network, pixels):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.mean, network.std))
    for first in range(0, len(pixels), BATCH):
        part = torch.from_numpy(pixels[first : first + BATCH]).permute(0, 3, 1, 2)
        output = network((part.float() / 255 - mean) / std)
        output.max(1).values.sum().backward()
        network.zero_grad(set_to_none=True)


def test_maps_against_bare_passes(table):
    network = create(NETWORK, classes=2)
    pixels = np.random.default_rng(0).integers(0, 256, (PICTURES, PX, PX, 3), np.uint8)
    rival = "bare forward and backward pass"
    table.race(
        f"maps of {PICTURES:,} pictures of {PX} px, {LAYER} of {NETWORK}",
        lambda: cam.cams(
            network, pixels, layer=LAYER, methods=tuple(cam.METHODS), batch_size=BATCH
        ),
        {rival: lambda: bare(network, pixels)},
        goals={rival: GOAL},
        work=PICTURES,
        unit="pictures/s",
        rounds=ROUNDS,
    )
