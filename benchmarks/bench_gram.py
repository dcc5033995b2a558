"""Grams of captured features, and all pairs of layers, against NumPy, torch and pytorch-cka.

    pytest benchmarks/bench_gram.py -s                          # pytorch-cka's row where it is installed
    peers/arrays/bin/python -m pytest benchmarks/bench_gram.py -s       # as in peers/README.md

NumPy and torch only multiply; histofast's time has centring, U-centring and packing in it.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest
import torch

from histofast._machine import available_cpus
from histofast.similarity import gram_products, packed_grams

N, P = 512, 50_176  # a batch of images and a map of 16 channels of 56 x 56
SAMPLES = 256
# Columns of 60 layers of a network, pooled and as maps.
POOLED = [(64, 256, 512, 1024, 2048)[i // 12] for i in range(60)]
MAPS = [(12_544, 6272, 3136, 1568, 784)[i // 12] for i in range(60)]


def similarities(layers):
    packed, _ = packed_grams(layers)
    products = gram_products(packed, packed)
    norms = np.sqrt(products.diagonal())
    return products / np.outer(norms, norms)


def pairwise(layers):
    """As torch_cka does it: the Grams of both layers anew for every pair."""
    return np.array([[debiased_cka(a, b) for b in layers] for a in layers])


def debiased_cka(x, y):
    k, gram_y = (centred(a) for a in (x, y))
    return np.vdot(k, gram_y) / np.sqrt(np.vdot(k, k) * np.vdot(gram_y, gram_y))


def centred(x):
    n = len(x)
    x = x - x.mean(axis=0)
    gram = x @ x.T
    np.fill_diagonal(gram, 0)
    means = gram.sum(axis=1) / (n - 2)
    means -= means.sum() / (2 * (n - 1))
    gram -= means[:, None] + means
    np.fill_diagonal(gram, 0)
    return gram


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(available_cpus())
    yield available_cpus()
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gram(table, threads, dtype):
    x = np.random.default_rng(0).normal(size=(N, P)).astype(dtype)
    wide = x.astype(np.float32)
    tensor = torch.from_numpy(wide)
    rivals = {
        f"NumPy {np.__version__} X @ X.T, float32": (1.0, lambda: wide @ wide.T),
        f"torch {torch.__version__} X @ X.T, float32": (1.3, lambda: tensor @ tensor.T),
    }
    # One race each: the threads of one rival spin for a while and would slow the next one down.
    for name, (goal, function) in rivals.items():
        table.race(
            f"Gram of {N} x {P}, {dtype}",
            lambda: packed_grams([x]),
            {name: function},
            goals={name: goal},
            work=N * (N + 1) * P / 1e9,
            unit="GFLOP/s",
            rounds=15,
        )


@pytest.mark.parametrize(("what", "sizes"), [("pooled", POOLED), ("maps", MAPS)])
def test_all_pairs(table, threads, what, sizes):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(SAMPLES, 200)).astype(np.float32)
    layers = [np.maximum(base @ rng.normal(size=(200, p)).astype(np.float32), 0) for p in sizes]
    few = layers[::12]
    ours = similarities(layers)
    np.testing.assert_allclose(ours[::12, ::12], pairwise(few), atol=1e-5)
    rivals, goals = {}, {}
    try:
        name = f"pytorch-cka {version('pytorch-cka')}"
    except PackageNotFoundError:
        print("pytorch-cka is not installed: its row is left out")
    else:
        from cka import cka_from_features

        tensors = [torch.from_numpy(x) for x in layers]
        theirs = cka_from_features(tensors, tensors).numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
        rivals[name] = lambda: cka_from_features(tensors, tensors)
        goals[name] = 3
    table.race(
        f"all pairs of 60 layers, {what}, n = {SAMPLES}",
        lambda: similarities(layers),
        rivals,
        goals=goals,
        work=3600,
        unit="pairs/s",
        rounds=9,
    )
    # All 3,600 pairs would take minutes; the ratio grows with the number of layers.
    table.race(
        f"all pairs of 5 of these layers, {what}, n = {SAMPLES}",
        lambda: similarities(few),
        {"NumPy, both Grams anew for every pair": lambda: pairwise(few)},
        goals={},
        work=25,
        unit="pairs/s",
        rounds=5,
    )
