"""Encoders: our graphs against torch, the machine's matrix product, int8, cuts, bare graphs.

    pytest benchmarks/bench_encoders.py -s

224 px patches. DenseNet121 has its ImageNet weights where HISTOFAST_DATA has them; the ResNets are
random (their speed does not depend on it; the gate of int8 then says little, and is applied all the
same). Torch gets its pixels standardised, in float32 and channels last; ours are bytes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from real_data import DATA, real_patches

from histofast import encoders, graphs, networks
from histofast._machine import available_cpus
from histofast.encoders import runtime

torch = pytest.importorskip("torch")

from torch_rival import race_torch, scaled

CPUS = available_cpus()
PX, PATCHES = 224, 32
NETWORKS = ("resnet18", "resnet50", "densenet121")
TORCH_BATCHES = (1, 8, 32)


@pytest.fixture(scope="module")
def patches():
    """64 to calibrate, 64 to measure."""
    return real_patches(128, PX)


def half_of(name):
    """The cut nearest to half of the work."""
    cuts = networks.layers(name)
    return min(cuts, key=lambda cut: abs(cut.flops_share - 0.5)).name


@pytest.fixture(
    scope="module", params=[(n, half) for n in NETWORKS for half in (False, True)], ids=str
)
def exported(request, tmp_path_factory):
    """A network or its first half, as torch module and as encoder file."""
    name, half = request.param
    weights = DATA / "weights" / f"{name}_imagenet.safetensors"
    layer = half_of(name) if half else None
    network = networks.create(name, weights=weights if weights.exists() else None, layer=layer)
    path = tmp_path_factory.mktemp(name) / f"{name}-{network.layer}.onnx"
    networks.export(network, path, patch_px=PX)
    return network, path


def test_against_torch_and_int8(exported, patches, table, benchmark, tmp_path):
    network, path = exported
    small = tmp_path / "int8.onnx"
    spec = graphs.write_quantized(
        path, out=small, precision="int8", calibration=patches[:64], held_out=patches[64:]
    )
    print(f"\n{path.stem}: int8 agreement {spec.agreement}")
    pixels = np.ascontiguousarray(patches[:PATCHES])
    x = scaled(torch.from_numpy(pixels), network)
    x = x.contiguous(memory_format=torch.channels_last)
    module = network.to(memory_format=torch.channels_last)
    with encoders.load(path, device="cpu") as whole, encoders.load(small, device="cpu") as eight:
        goal = 2 if network.architecture == "densenet121" else 1.5
        race_torch(
            table,
            path.stem,
            lambda: whole.encode(pixels),
            module,
            x,
            batches=TORCH_BATCHES,
            threads=CPUS,
            layout="channels_last",
            goal=goal,
        )
        table.race(
            f"{path.stem}, int8 (gate passed: {spec.agreement})",
            lambda: eight.encode(pixels),
            {"float32": lambda: whole.encode(pixels)},
            goals={"float32": 2.5},
            work=PATCHES,
            unit="patches/s",
            rounds=5,
        )
        benchmark.pedantic(lambda: eight.encode(pixels), rounds=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_share_of_the_machines_product_and_cut_per_operation(name, table, benchmark, tmp_path):
    files = {}
    for layer in (None, half_of(name)):
        network = networks.create(name, layer=layer)
        files[layer] = tmp_path / f"{network.layer}.onnx"
        networks.export(network, files[layer], patch_px=PX)
    pixels = graphs.stained_noise(PATCHES, PX)
    flops = {layer: graphs.total_flops(file, patch_px=PX) for layer, file in files.items()}
    rng = np.random.default_rng(0)
    side = 4096
    a, b = (rng.standard_normal((side, side), np.float32) for _ in range(2))
    torch.set_num_threads(CPUS)
    gemm = graphs.Gemm(threads=CPUS)
    products = {
        f"float32 product {side} x {side}, NumPy": lambda: a @ b,
        f"float32 product {side} x {side}, torch": lambda: (
            torch.from_numpy(a) @ torch.from_numpy(b)
        ),
        "float32 product 1024 x 1024 per thread, ONNX Runtime": gemm.run,
    }
    operations = [2 * side**3, 2 * side**3, 2 * gemm.flops]  # the last warms up by as much again
    loaded = {layer: encoders.load(file, device="cpu") for layer, file in files.items()}
    half = half_of(name)
    ratios = table.race(
        f"{name}, {flops[None] / 1e9:.2f} GFLOP",
        lambda: loaded[None].encode(pixels),
        {"cut": lambda: loaded[half].encode(pixels), **products},
        goals={},
        work=PATCHES,
        unit="runs/s",
        rounds=5,
    )
    del table.rows[-len(ratios) :]
    # Operations per second of ours over those of a product.
    shares = {
        product: ratios[product] * PATCHES * flops[None] / count
        for product, count in zip(products, operations, strict=True)
    }
    fastest = min(shares, key=lambda product: shares[product])
    table.add(
        what=f"{name}, float32, operations per second",
        ours=f"{flops[None] / 1e9:.2f} GFLOP per patch",
        rival=f"{fastest} (the fastest of three)",
        theirs="",
        ratio=shares[fastest],
        goal=0.85 if name.startswith("resnet") else None,
    )
    table.add(
        what=f"{name} cut at {half} ({flops[half] / flops[None]:.0%} of the work), per operation",
        ours="",
        rival="the whole network",
        theirs="",
        ratio=flops[half] / flops[None] / ratios["cut"],
        goal=0.9,
    )
    for encoder in loaded.values():
        encoder.close()
    benchmark.pedantic(gemm.run, rounds=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_pixels_in_costs(name, table, benchmark, tmp_path):
    path = tmp_path / f"{name}.onnx"
    networks.export(networks.create(name), path, patch_px=PX)
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    bare = onnx.utils.Extractor(model).extract_model(["pixels.standardised"], ["features"])
    session = runtime.make_session(bare.SerializeToString())
    pixels = graphs.stained_noise(PATCHES, PX)
    planes = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255

    with encoders.load(path, device="cpu") as encoder, ThreadPoolExecutor(CPUS) as pool:

        def of_planes():
            one = range(PATCHES)
            list(
                pool.map(
                    lambda i: session.run(None, {"pixels.standardised": planes[i : i + 1]}), one
                )
            )

        table.race(
            f"{name}, pixels in",
            lambda: encoder.encode(pixels),
            {"the same graph on float32 planes, standardised before": of_planes},
            goals={"the same graph on float32 planes, standardised before": 0.97},
            work=PATCHES,
            unit="patches/s",
            rounds=7,
        )
        benchmark.pedantic(of_planes, rounds=1)
