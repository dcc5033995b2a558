"""Similarity on features in memory and on disk: all pairs of layers, streaming CKA, SVCCA, PWCCA.

    pytest benchmarks/bench_similarity.py -s
    peers/arrays/bin/python -m pytest benchmarks/bench_similarity.py -s     # as in peers/README.md

Rivals that are not installed are left out, with a line that says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest

from histofast import similarity
from histofast._machine import available_cpus

CPUS = available_cpus()
LAYERS, N, P = 60, 256, 2048

# VmHWM: what getrusage tells of a child includes the parent it was made from.
PEAK_MB = """
from pathlib import Path
def peak_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
"""

STREAM = (
    PEAK_MB
    + """
import json, sys, time
import numpy as np
from histofast import similarity
n, p, rows = 100_000, 512, 4096
similarity.CkaAccumulator()
began = time.perf_counter()
found = similarity.CkaAccumulator()
files = [open(path, "rb", buffering=0) for path in sys.argv[1:]]
blocks = [np.empty((rows, p), np.float32) for _ in files]
for start in range(0, n, rows):  # read, not mapped: mapped pages count as memory
    x, y = (block[: min(rows, n - start)] for block in blocks)
    for file, block in zip(files, (x, y)):
        file.readinto(block)
    found.update(x, y)
value = found.value()
seconds = time.perf_counter() - began
print(json.dumps([value, seconds, peak_mb()]))
"""
)


@pytest.fixture(scope="module")
def layers():
    """Features of 60 layers that drift, float32."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, P), np.float32)
    made = []
    for _ in range(LAYERS):
        x = (0.9 * x + 0.45 * rng.standard_normal((N, P), np.float32)).astype(np.float32)
        made.append(x)
    return made


def pairwise(features):
    """As torch_cka does it: both Gram matrices again for every pair."""
    n = len(features[0])
    ones = np.ones(n, np.float32)

    def hsic(k, m):
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        cross = ones @ k @ m @ ones
        total = np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * cross
        return total / (n * (n - 3))

    out = np.empty((len(features), len(features)))
    for i, x in enumerate(features):
        for j, y in enumerate(features):
            k, m = x @ x.T, y @ y.T
            out[i, j] = hsic(k, m) / np.sqrt(hsic(k.copy(), k.copy()) * hsic(m.copy(), m.copy()))
    return out


def test_all_pairs(layers, table, benchmark):
    rivals = {"both Grams again per pair, as torch_cka (NumPy)": lambda: pairwise(layers)}
    goals = {"both Grams again per pair, as torch_cka (NumPy)": 200.0}
    ours = similarity.cka_pairs(layers)
    np.testing.assert_allclose(pairwise(layers[:4]), ours[:4, :4], atol=2e-3)
    try:
        name = f"pytorch-cka {version('pytorch-cka')}"
    except PackageNotFoundError:
        print("\npytorch-cka is not installed: left out")
    else:
        import torch
        from cka import cka_from_features

        torch.set_num_threads(CPUS)
        tensors = [torch.from_numpy(x) for x in layers]
        theirs = cka_from_features(tensors, tensors).numpy()
        print(f"\nlargest difference to pytorch-cka: {np.abs(theirs - ours).max():.1e}")
        rivals[name] = lambda: cka_from_features(tensors, tensors)
        goals[name] = 3.0
    table.race(
        f"debiased CKA of all pairs of {LAYERS} layers, n = {N}, p = {P}",
        lambda: similarity.cka_pairs(layers),
        rivals,
        goals=goals,
        work=LAYERS**2,
        unit="pairs/s",
        rounds=3,
    )
    benchmark.pedantic(similarity.cka_pairs, args=(layers,), rounds=1)


def test_streaming_from_files(table, benchmark, tmp_path):
    n, p = 100_000, 512
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, p), np.float32)
    x.tofile(tmp_path / "x.raw")
    (x + rng.standard_normal((n, p), np.float32)).tofile(tmp_path / "y.raw")
    command = [sys.executable, "-c", STREAM, tmp_path / "x.raw", tmp_path / "y.raw"]
    runs = []
    products = []
    side = 4096
    a, b = (rng.standard_normal((side, side), np.float32) for _ in range(2))
    for _ in range(4):
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append(json.loads(answer.stdout))
        began = time.perf_counter()
        a @ b
        products.append(2 * side**3 / (time.perf_counter() - began))
    seconds = float(np.median([run[1] for run in runs[1:]]))
    memory_mb = max(run[2] for run in runs)
    peak = float(np.median(products[1:]))
    # The symmetric product of (x, y) is all that debiased CKA needs: half of a full product.
    least = n * (2 * p) ** 2
    table.add(
        what=f"debiased CKA of two files of {n:,} x {p}, share of the peak of a float32 product",
        ours=f"{seconds:.2f} s, {least / seconds / 1e9:.0f} GFLOP/s",
        rival=f"NumPy's product {side} x {side}",
        theirs=f"{peak / 1e9:.0f} GFLOP/s",
        ratio=least / seconds / peak,
        goal=0.8,
    )
    table.add(
        what="the same, limit of memory over what it took",
        ours=f"{memory_mb:.0f} MB",
        rival="300 MB",
        theirs="",
        ratio=300 / memory_mb,
        goal=1.0,
    )
    benchmark.pedantic(lambda: a @ b, rounds=1)


def test_cca_against_repsim(table, benchmark):
    repsim = pytest.importorskip("repsim")
    rival = f"repsim {version('repsim')}"
    rng = np.random.default_rng(0)
    n, p = 2000, 96
    x = rng.normal(size=(n, p))
    y = x @ rng.normal(size=(p, p)) * 0.3 + rng.normal(size=(n, p))
    both = similarity.pwcca(x, y)
    assert repsim.pwcca([x, y])[0, 1] == pytest.approx((both.x_to_y + both.y_to_x) / 2, abs=1e-6)
    for name, ours, theirs in (
        ("SVCCA", lambda: similarity.svcca(x, y), lambda: repsim.svcca([x, y])),
        ("PWCCA", lambda: similarity.pwcca(x, y), lambda: repsim.pwcca([x, y])),
    ):
        table.race(
            f"{name}, {n} x {p} float64",
            ours,
            {rival: theirs},
            goals={rival: 10.0},
            work=1,
            unit="pairs/s",
            rounds=2,
        )
    benchmark.pedantic(similarity.svcca, args=(x, y), rounds=1)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_two_networks_beyond_their_forward_passes(table, benchmark, monkeypatch, name):
    """All blocks of two networks: what capturing, Grams, intervals and nulls cost.

    Forward passes and the rest are timed within one call: two calls of half a minute each differ by
    more than the rest takes on a shared machine.
    """
    from histofast import compare, networks
    from histofast.networks import Recorder

    n = 512
    pixels = np.random.default_rng(0).integers(0, 256, (n, 224, 224, 3), np.uint8)
    a, b = (networks.create(name, seed=seed) for seed in (0, 1))
    forward_s = 0.0
    plain_run = Recorder.run

    def run(self, batch, consume):
        nonlocal forward_s
        consuming_s = 0.0

        def timed(*given):
            nonlocal consuming_s
            began = time.perf_counter()
            consume(*given)
            consuming_s += time.perf_counter() - began

        began = time.perf_counter()
        out = plain_run(self, batch, timed)
        forward_s += time.perf_counter() - began - consuming_s
        return out

    monkeypatch.setattr(Recorder, "run", run)
    shares = []
    for turn in range(3):
        forward_s, began = 0.0, time.perf_counter()
        compare(a, b, pixels, random_seeds=0)
        whole_s = time.perf_counter() - began
        if turn:
            shares.append((whole_s - forward_s) / forward_s)
    share = float(np.median(shares))
    table.add(
        what=f"all blocks of two {name}, {n} images of 224 px, intervals and null: time beyond the "
        "forward passes",
        ours=f"{100 * share:.1f} %",
        rival="10 % of them",
        theirs=f"{forward_s:.1f} s",
        ratio=0.1 / share,
        goal=1.0,
    )
    benchmark.pedantic(lambda: None, rounds=1)


def test_memory_of_60_layers(table, benchmark):
    """Of the whole process, less the images that the caller holds."""
    pytest.importorskip("torch")
    few, many = (
        float(
            subprocess.run(
                [sys.executable, "-c", MEMORY, str(n), str(LAYERS)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for n in (500, 5000)
    )
    table.add(
        what=f"peak memory of comparing {LAYERS} layers, 500 images over 5,000 images",
        ours=f"{many:.0f} MB",
        rival="500 images",
        theirs=f"{few:.0f} MB",
        ratio=few / many,
        goal=0.9,
    )
    benchmark.pedantic(lambda: None, rounds=1)


MEMORY = (
    PEAK_MB
    + """
import sys
import numpy as np
from histofast import compare, networks
n, layers = int(sys.argv[1]), int(sys.argv[2])
made = [networks.create("densenet121", seed=seed) for seed in (0, 1)]
pixels = np.random.default_rng(0).integers(0, 256, (n, 64, 64, 3), np.uint8)
names = [name for name, _ in made[0].named_modules() if name.endswith(("conv2", "transition1", "transition2"))][:layers]
result = compare(*made, pixels, layers_a=names, layers_b=names, random_seeds=0)
assert result.comparison.matrix.shape == (layers, layers)
print(peak_mb() - pixels.nbytes / 2**20)
"""
)
