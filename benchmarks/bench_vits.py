"""Vision transformers: our graphs against torch, the machine's matrix product, int8, a cut at half.

    pytest benchmarks/bench_vits.py -s

ViT-S/16 and ViT-B/16 of timm, 224 px, random weights (their speed does not depend on it; the gate
of int8 then says little of trained ones, and is applied all the same). Torch gets its pixels
standardised, in float32, at the best of its batch sizes; ours are bytes, one patch a thread. All
figures are of one run, in turns.
"""

from __future__ import annotations

import numpy as np
import pytest
from real_data import real_patches

from histofast import encoders, graphs
from histofast._machine import available_cpus
from timm_here import need_timm

torch = pytest.importorskip("torch")
need_timm()

from torch_rival import race_torch, scaled

from histofast import networks

CPUS = available_cpus()
PX, PATCHES, ROUNDS = 224, 16, 5
TORCH_BATCHES = (1, 4, 16)
NETWORKS = {"ViT-S/16": "timm:vit_small_patch16_224", "ViT-B/16": "timm:vit_base_patch16_224"}
HALF = "block6-cls"  # of 12


@pytest.fixture(scope="module")
def patches():
    """64 to calibrate, 64 to measure."""
    return real_patches(128, PX)


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request, tmp_path_factory):
    """A network: its name, the torch module, and its encoder file."""
    network = networks.create(NETWORKS[request.param], seed=0)
    path = tmp_path_factory.mktemp("vit") / "whole.onnx"
    networks.export(network, path)
    return request.param, network, path


def test_float32_against_torch(exported, patches, table, benchmark):
    name, network, path = exported
    pixels = np.ascontiguousarray(patches[:PATCHES])
    with encoders.load(path, device="cpu") as whole:
        race_torch(
            table,
            name,
            lambda: whole.encode(pixels),
            network,
            scaled(torch.from_numpy(pixels), network).contiguous(),
            batches=TORCH_BATCHES,
            threads=CPUS,
            goal=1.2,
            rounds=ROUNDS,
        )
        benchmark.pedantic(lambda: whole.encode(pixels), rounds=1)


def test_int8_against_float32(exported, patches, table, benchmark, tmp_path):
    (name, _, whole), small = exported, tmp_path / "int8.onnx"
    spec = graphs.write_quantized(
        whole, out=small, precision="int8", calibration=patches[:64], held_out=patches[64:]
    )
    pixels = np.ascontiguousarray(patches[:PATCHES])
    with encoders.load(whole, device="cpu") as large, encoders.load(small, device="cpu") as eight:
        table.race(
            f"{name}, int8 (gate passed: {spec.agreement})",
            lambda: eight.encode(pixels),
            {"float32": lambda: large.encode(pixels)},
            goals={"float32": 1.8},
            work=PATCHES,
            unit="patches/s",
            rounds=ROUNDS,
        )
        benchmark.pedantic(lambda: eight.encode(pixels), rounds=1)


def test_share_of_the_machines_product_and_half_the_blocks(exported, table, benchmark, tmp_path):
    name, _, path = exported
    files = {None: path, HALF: tmp_path / "half.onnx"}
    networks.export(networks.create(NETWORKS[name], layer=HALF, seed=0), files[HALF])
    pixels = graphs.stained_noise(PATCHES, PX)
    flops = {layer: graphs.total_flops(file, patch_px=PX) for layer, file in files.items()}
    side = 4096
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((side, side), np.float32) for _ in range(2))
    torch.set_num_threads(CPUS)
    gemm = graphs.Gemm(threads=CPUS)
    products = {
        f"float32 product {side} x {side}, NumPy": lambda: a @ b,
        f"float32 product {side} x {side}, torch": lambda: (
            torch.from_numpy(a) @ torch.from_numpy(b)
        ),
        "float32 product 1024 x 1024 per thread, ONNX Runtime": lambda: [
            gemm.run() for _ in "1234"
        ],
    }
    # The last warms up by as much again, every time.
    operations = dict(zip(products, [2 * side**3, 2 * side**3, 8 * gemm.flops], strict=True))
    with (
        encoders.load(files[None], device="cpu") as whole,
        encoders.load(files[HALF], device="cpu") as half,
    ):
        ratios = table.race(
            f"{name}, {flops[None] / 1e9:.2f} GFLOP",
            lambda: whole.encode(pixels),
            {"cut": lambda: half.encode(pixels), **products},
            goals={},
            work=PATCHES,
            unit="runs/s",
            rounds=ROUNDS,
        )
        benchmark.pedantic(gemm.run, rounds=1)
    del table.rows[-len(ratios) :]
    # Operations per second of ours over those of a product.
    shares = {
        product: ratios[product] * PATCHES * flops[None] / count
        for product, count in operations.items()
    }
    fastest = min(shares, key=lambda product: shares[product])
    for product, share in shares.items():
        table.add(
            what=f"{name}, float32, operations per second",
            ours=f"{flops[None] / 1e9:.2f} GFLOP per patch",
            rival=product + (" (the fastest of three)" if product == fastest else ""),
            theirs="",
            ratio=share,
            goal=0.8 if product == fastest and name == "ViT-B/16" else None,
        )
    table.add(
        what=f"{name} cut at {HALF} ({flops[HALF] / flops[None]:.0%} of the work), per operation",
        ours="",
        rival="the whole network",
        theirs="",
        ratio=flops[HALF] / flops[None] / ratios["cut"],
        goal=0.95,
    )
