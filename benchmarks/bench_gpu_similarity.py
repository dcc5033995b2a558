"""Similarity on a GPU: all pairs of 60 layers, and what comparing two networks costs beyond them.

    pytest benchmarks/bench_gpu_similarity.py -s      (see gpu_race.py for a dry run without a GPU)

pytorch-cka's row appears where it is installed (pip install --no-deps pytorch-cka==1.1.3 tqdm); its
products are float32 without TF32, as ours.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest
import torch
from compare import by_the_clock
from gpu_race import (
    DEVICE,
    MARKS,
    ROUNDS,
    _place,  # noqa: F401
    _saved,  # noqa: F401
    kernel_array,
    medians,
    sized,
    to_the_end,
)

from histofast import compare, graphs, networks
from histofast._arrays import to_numpy
from histofast.networks import Recorder
from histofast.similarity import gram_products, packed_grams

pytestmark = MARKS

SAMPLES = sized(1024, 24)
# Columns of 60 layers of a network, pooled and as maps.
POOLED = [(64, 256, 512, 1024, 2048)[i // 12] for i in range(60)]
MAPS = [(12_544, 6272, 3136, 1568, 784)[i // 12] for i in range(60)]
NAME = sized("resnet50", "resnet18")
PX, IMAGES, BATCH = sized((224, 2048, 64), (64, 48, 16))


def similarities(layers):
    packed, _ = packed_grams(layers, dtype=np.float32)
    products = to_numpy(gram_products(packed, packed))
    norms = np.sqrt(products.diagonal())
    return products / np.outer(norms, norms)


@pytest.mark.parametrize(("what", "sizes"), [("pooled", POOLED), ("maps", MAPS)])
def test_all_pairs(what, sizes, table):
    sizes = sized(sizes, [40 + i for i in range(3)])
    base = torch.randn(SAMPLES, 200, device=DEVICE)
    layers = [torch.relu(base @ torch.randn(200, p, device=DEVICE)) for p in sizes]
    arrays = [kernel_array(layer) for layer in layers]
    found = similarities(arrays)
    rivals, goals = {}, {}
    try:
        name = f"pytorch-cka {version('pytorch-cka')}"
    except PackageNotFoundError:
        print("\npytorch-cka is not installed: its row is left out")
    else:
        from cka import cka_from_features

        theirs = cka_from_features(layers, layers).cpu().numpy()
        print(f"\nlargest difference to pytorch-cka: {np.abs(theirs - found).max():.1e}")
        np.testing.assert_allclose(found, theirs, atol=5e-3)
        rivals[name] = lambda: cka_from_features(layers, layers).cpu()
        goals[name] = 3.0
    # Both end with numbers on the host, so the clock tells all that a caller waits for.
    table.race(
        f"debiased CKA of all pairs of {len(layers)} layers, {what}, n = {SAMPLES}",
        lambda: similarities(arrays),
        rivals,
        goals=goals,
        work=len(layers) ** 2,
        unit="pairs/s",
        rounds=ROUNDS,
        settle_s=0.0,
    )


def test_two_networks_beyond_their_forward_passes(table):
    """All blocks of two networks, intervals and null: what is not their forward passes."""
    few = graphs.stained_noise(min(IMAGES, 256), PX)
    pixels = np.tile(few, (IMAGES // len(few), 1, 1, 1))
    made = [networks.create(NAME, seed=seed).to(DEVICE) for seed in (0, 1)]
    recorders = [Recorder(network) for network in made]

    def forward():
        for start in range(0, len(pixels), BATCH):
            for recorder in recorders:
                recorder.run(pixels[start : start + BATCH], lambda *_: None)

    for measured, options in (
        ("debiased CKA, intervals and null", {}),
        ("debiased CKA alone", {"resamples": 0, "permutations": 0}),
    ):
        whole = partial(compare, *made, pixels, batch_size=BATCH, random_seeds=0, seed=0, **options)
        seconds = medians(
            {"whole": whole, "forward": forward},
            rounds=sized(3, 1),
            seconds_of=lambda function: by_the_clock(to_the_end(function)),
        )
        share = seconds["whole"] / seconds["forward"] - 1
        table.add(
            what=f"all blocks of two {NAME}, {IMAGES} images of {PX} px, {measured}: time beyond "
            "the forward passes",
            ours=f"{100 * share:.1f} %",
            rival="10 % of them",
            theirs=f"{seconds['forward']:.2f} s",
            ratio=0.1 / max(share, 1e-3),  # less is noise
            goal=None if options else 1.0,
        )
