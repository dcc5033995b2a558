"""Kernels on a GPU: Grams, patches out of tiles, tissue masks, against cuBLAS and the ceilings.

    pytest benchmarks/bench_gpu_kernels.py -s          (see gpu_race.py for a dry run without a GPU)

Shares of bandwidth are those of a device-to-device copy of as many bytes, shares of arithmetic those
of a large square product of random matrices, each timed in turns with the kernel.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gpu_race import (
    DEVICE,
    MARKS,
    ROUNDS,
    _place,  # noqa: F401
    _saved,  # noqa: F401
    copy_of,
    fetched,
    kernel_array,
    medians,
    product,
    race,
    sized,
    to_the_end,
)

import tissue_pictures
from histofast.similarity import grams
from histofast.tiling import cut_patches
from histofast.tissue import tissue_mask

pytestmark = MARKS

N, P = sized((1024, 200_704), (24, 700))  # a batch of images and a map of 256 channels of 28 x 28
TILE, PATCH_PX = sized((256, 256), (16, 16))
TILES = sized((64, 128), (3, 4))  # rows, columns: 1.6 GB, far beyond the L2
CHECKED = 8  # patches that are compared with the CPU's


# --- Grams ----------------------------------------------------------------------------------------


def centred(x):
    """The definition in float64: U-centred Gram, by torch."""
    n = len(x)
    x = x.double() - x.double().mean(0)
    gram = (x @ x.T).fill_diagonal_(0)
    means = gram.sum(1) / (n - 2)
    means -= means.sum() / (2 * (n - 1))
    return (gram - means[:, None] - means).fill_diagonal_(0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_gram(dtype, table):
    torch_dtype = getattr(torch, dtype)
    x = (torch.randn(N, P, device=DEVICE) / 4 + 0.1).to(torch_dtype)
    array = kernel_array(x)

    def enqueue():
        return grams.start_grams([array], dtype=np.float32)

    def of_centred():
        centred_before = x - x.mean(0)
        return centred_before @ centred_before.T

    packed, _, _ = enqueue()
    below = np.tri(N, k=-1, dtype=bool)
    wanted = centred(x).cpu().numpy()[below]
    error = np.linalg.norm(fetched(packed)[0] - wanted) / np.linalg.norm(wanted)
    print(f"\nGram of {N} x {P}, {dtype}: relative error {error:.1e}")
    assert error < (2e-4 if dtype == "float32" else 5e-3)
    name = f"cuBLAS (torch {torch.__version__})"
    what = f"Gram of {N} x {P}, {dtype}"
    operations = N * (N + 1) * P
    race(
        table,
        f"{what}, centred, U-centred and packed",
        enqueue,
        {
            f"{name}, X @ X.T": lambda: x @ x.T,
            f"{name}, X centred before": of_centred,
        },
        goals={f"{name}, X @ X.T": 0.9},
        work=operations / 1e12,
        unit="TFLOP/s",
    )
    multiply, of_product = product(torch_dtype)
    read = x.numel() * x.element_size()
    # The product first: it is what the clocks are to have settled on.
    seconds = medians({"product": multiply, "copy": copy_of(read), "ours": enqueue})
    shares = {
        "arithmetic": operations / seconds["ours"] / (of_product / seconds["product"]),
        "bandwidth": seconds["copy"] / seconds["ours"],
    }
    bound = max(shares, key=lambda share: shares[share])
    for share, value in shares.items():
        table.add(
            what=f"{what}, share of {share}",
            ours=f"{seconds['ours'] * 1e3:.3f} ms",
            rival={
                "arithmetic": f"{dtype} product {of_product / seconds['product'] / 1e12:.1f} TFLOP/s",
                "bandwidth": f"copy {read / seconds['copy'] / 1e9:,.0f} GB/s",
            }[share],
            theirs="",
            ratio=value,
            goal=0.7 if share == bound else None,
        )
    # What a caller of the public function waits for: checks, launches, problems looked at.
    whole = medians(
        {"ours": to_the_end(lambda: grams.packed_grams([array], dtype=np.float32))}, rounds=ROUNDS
    )
    print(f"  packed_grams with its wait: {whole['ours'] * 1e3:.3f} ms")


# --- Patches out of tiles -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "scale", "offset_px", "dtype"),
    [
        ("copied", 1.0, 0, torch.uint8),
        ("copied, off the tiles", 1.0, TILE // 3, torch.uint8),
        ("2 to 1", 2.0, 0, torch.uint8),
        ("1.6 to 1", 1.6, 0, torch.uint8),
        ("2 to 1, as float32", 2.0, 0, torch.float32),
    ],
)
def test_cut_patches(what, scale, offset_px, dtype, table):
    rows, columns = TILES
    height, width = rows * TILE, columns * TILE
    pool = torch.randint(0, 256, (rows * columns, TILE, TILE, 3), dtype=torch.uint8, device=DEVICE)
    slots = np.random.default_rng(0).permutation(rows * columns)
    slot_of = slots.reshape(rows, columns).astype(np.int32)
    side = scale * PATCH_PX
    xs, ys = (np.arange(offset_px, size - side + 1e-6, side) for size in (width, height))
    boxes = np.stack([np.tile(xs, len(ys)), np.repeat(ys, len(xs))], axis=1)
    boxes = np.concatenate([boxes, np.full_like(boxes, side)], axis=1)
    out = torch.zeros((len(boxes), PATCH_PX, PATCH_PX, 3), dtype=dtype, device=DEVICE)
    given = [kernel_array(torch.from_numpy(a).to(DEVICE)) for a in (slot_of, boxes)]
    tiles, target = kernel_array(pool), kernel_array(out)

    def ours():
        cut_patches(tiles, *given, width=width, height=height, out=target)

    ours()
    few = np.linspace(0, len(boxes) - 1, CHECKED).astype(int)
    found = fetched(target)[few]
    wanted = np.empty_like(found)
    cut_patches(pool.cpu().numpy(), slot_of, boxes[few], width=width, height=height, out=wanted)
    np.testing.assert_array_equal(found, wanted)
    moved = 3.0 * len(boxes) * (side**2 + dtype.itemsize * PATCH_PX**2)
    name = "device-to-device copy of as many bytes"
    race(
        table,
        f"{len(boxes)} patches of {PATCH_PX} px out of tiles of {TILE} px, {what}",
        ours,
        {name: copy_of(moved)},
        goals={name: 0.7},
        work=moved / 1e9,
        unit="GB/s",
    )


# --- Tissue ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeats", [1, 3])
def test_tissue_mask(repeats, table):
    side = sized(2500, 48)
    image = tissue_pictures.overview(stain="he", shape=(side, side), noise=3).image
    image = np.ascontiguousarray(np.tile(image, (repeats, repeats, 1)))
    array = kernel_array(torch.from_numpy(image).to(DEVICE))
    np.testing.assert_array_equal(fetched(tissue_mask(array)), tissue_mask(image))
    table.race(
        f"tissue mask, {repeats * side} px square",
        to_the_end(lambda: tissue_mask(array)),
        {"our kernel on one core": lambda: tissue_mask(image)},
        goals={},
        work=image.size / 3e6,
        unit="megapixels/s",
        rounds=sized(7, 1),
    )
