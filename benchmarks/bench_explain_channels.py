"""A step of the search for a channel's picture against the bare forward and backward pass at that size.

    pytest benchmarks/bench_explain_channels.py -s

DenseNet121 up to its third dense block, random weights. Ours makes the picture of phases or of a spectrum, transforms
it, runs the network, goes back to the parameter and takes a step of Adam. The bare passes are those of the same network
cut at the layer, on pictures of the same sides, back to their pixels; weights ask for no gradients in both.
HISTOFAST_BENCH_STEPS for another number of steps in a round.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from histofast import networks
from histofast.explain import channels

STEPS = int(os.environ.get("HISTOFAST_BENCH_STEPS", "20"))
NETWORK, LAYER, CHANNEL, PX, ROUNDS, GOAL = "densenet121", "denseblock3", 5, 128, 5, 0.85
CPU = torch.device("cpu")


def sides():
    """Sides that a network sees in the steps of a round; ours draws the same."""
    rng, blank = np.random.default_rng(0), torch.zeros(1, 3, PX, PX)
    windows = [channels.drawn(channels.STANDARD, rng) for _ in range(STEPS)]
    return [channels.seen(blank, window, wraps=True).shape[-1] for window in windows]


@pytest.mark.parametrize("prior", ["own", "published"])
def test_step_against_bare_passes(table, benchmark, prior):
    network = networks.create(NETWORK).requires_grad_(False)
    bare = networks.create(NETWORK, layer=LAYER).requires_grad_(False)
    inner = [bare.stage(name) for name in bare.stage_names]
    pixels = np.random.default_rng(0).integers(0, 256, (16, PX, PX, 3), np.uint8)
    (stage,) = channels.schedule_of("own", STEPS)
    made = (
        channels.Phases(channels.looks_of(pixels), seed=0, device=CPU)
        if prior == "own"
        else channels.Spectrum(PX, seed=0, device=CPU)
    )
    excitation = channels.Excitation(network, LAYER, CHANNEL)
    optimiser = torch.optim.Adam([made.parameter], lr=stage.lr)
    shown = [torch.rand(1, 3, side, side, requires_grad=True) for side in sides()]

    def ours():
        rng = np.random.default_rng(0)
        for _ in range(STEPS):
            channels.step(made, excitation, stage, optimiser, rng)

    def passes():
        for x in shown:
            x.grad = None
            y = x
            for module in inner:
                y = module(y)
            y[:, CHANNEL].mean().backward()

    rival = "bare forward and backward pass"
    table.race(
        f"{STEPS} steps, {NETWORK} to {LAYER}, pictures of {PX} px, prior {prior}",
        ours,
        {rival: passes},
        goals={rival: GOAL},
        work=STEPS,
        unit="steps/s",
        rounds=ROUNDS,
    )
    benchmark.pedantic(lambda: None, rounds=1)
