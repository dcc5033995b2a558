"""Class activation maps of pictures against the bare forward and backward passes of the same network.

    python benchmarks/bench_explain.py [--pictures 1000] [--network densenet121] [--layer denseblock4] [--px 224]

Both take turns in one run; what counts is the ratio of the medians. The bare passes are a logit per picture and
its gradient by all weights and pixels, as in a step of training. Goal: at least 0.9 of their speed.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch

from histofast.explain import cam
from histofast.networks import create

BATCH, GOAL = 32, 0.9


def bare(network, pixels):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.mean, network.std))
    for first in range(0, len(pixels), BATCH):
        part = torch.from_numpy(pixels[first : first + BATCH]).permute(0, 3, 1, 2)
        output = network((part.float() / 255 - mean) / std)
        output.max(1).values.sum().backward()
        network.zero_grad(set_to_none=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--network", default="densenet121")
    parser.add_argument("--layer", default="denseblock4")
    parser.add_argument("--px", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    network = create(options.network, classes=2)
    shape = (options.pictures, options.px, options.px, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    ways = {
        "bare passes": lambda: bare(network, pixels),
        "maps": lambda: cam.cams(
            network, pixels, layer=options.layer, methods=tuple(cam.METHODS), batch_size=BATCH
        ),
    }
    seconds = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begin)
    for name, each in seconds.items():
        print(f"{name}: {options.pictures / median(each):.1f} pictures/s")
    ratio = median(seconds["bare passes"]) / median(seconds["maps"])
    print(f"maps at {ratio:.2f} of the speed of the bare passes, goal {GOAL}")


if __name__ == "__main__":
    main()
