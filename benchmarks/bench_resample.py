"""Decoded tiles to patches at another scale, against OpenCV's INTER_AREA on the same job, one thread.

    pytest benchmarks/bench_resample.py -s

The job: 256 px tiles lie decoded in memory, patches of 256 px are wanted at a coarser scale,
anywhere. OpenCV gets the picture in one piece for nothing where "in one piece" is said; otherwise it
first puts the tiles together, as everybody who calls it must.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from histofast.tiling import cut_patches

TILE, PATCH_PX, COUNT = 256, 256, 16


@pytest.mark.parametrize("scale", [257 / 256, 1.6, 2.0, 2.004, 4.0])
def test_resample(scale, table, benchmark):
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    side_l0 = round(PATCH_PX * scale)
    tiles_across = -(-(side_l0 * 3) // TILE) + 1
    side = tiles_across * TILE
    coarse = rng.integers(60, 250, (side // 8, side // 8, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    pool = (
        picture.reshape(tiles_across, TILE, tiles_across, TILE, 3)
        .swapaxes(1, 2)
        .reshape(-1, TILE, TILE, 3)
        .copy()
    )
    slot_of = np.arange(len(pool), dtype=np.int32).reshape(tiles_across, tiles_across)
    corners = rng.integers(0, side - side_l0, (COUNT, 2))
    boxes = np.concatenate([corners, np.full((COUNT, 2), side_l0)], axis=1).astype(np.float64)
    out = np.empty((COUNT, PATCH_PX, PATCH_PX, 3), np.uint8)
    theirs = np.empty_like(out)

    def ours():
        cut_patches(pool, slot_of, boxes, width=side, height=side, out=out)

    def from_one_piece():
        for i, (x, y) in enumerate(corners.tolist()):
            part = picture[y : y + side_l0, x : x + side_l0]
            cv2.resize(part, (PATCH_PX, PATCH_PX), dst=theirs[i], interpolation=cv2.INTER_AREA)

    def from_tiles():
        for i, (x, y) in enumerate(corners.tolist()):
            region = np.empty((side_l0, side_l0, 3), np.uint8)
            for row in range(y // TILE, (y + side_l0 - 1) // TILE + 1):
                for column in range(x // TILE, (x + side_l0 - 1) // TILE + 1):
                    tx, ty = column * TILE, row * TILE
                    xa, xb = max(x, tx), min(x + side_l0, tx + TILE)
                    ya, yb = max(y, ty), min(y + side_l0, ty + TILE)
                    region[ya - y : yb - y, xa - x : xb - x] = pool[slot_of[row, column]][
                        ya - ty : yb - ty, xa - tx : xb - tx
                    ]
            cv2.resize(region, (PATCH_PX, PATCH_PX), dst=theirs[i], interpolation=cv2.INTER_AREA)

    ours()
    from_one_piece()
    assert np.abs(out.astype(int) - theirs).mean() < 0.6
    name = f"OpenCV {cv2.__version__} INTER_AREA"
    table.race(
        f"resampling to 256 px patches, {side_l0} px to 256",
        ours,
        {f"{name}, from tiles": from_tiles, f"{name}, from one piece": from_one_piece},
        goals={f"{name}, from tiles": 1.5},
        work=COUNT,
        unit="patches/s",
        rounds=15,
    )
    benchmark.pedantic(ours, rounds=5)
