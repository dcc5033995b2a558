"""Patches without an encoder: 256 px at the slide's own scale, on a grid that no tile follows.

    pytest benchmarks/bench_supply.py -s

Every way delivers the same patches of one region of the benchmark slide (tissue and background as
they come), which is checked first. All may use every CPU there is.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import fastslide
import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile

from histofast._machine import available_cpus
from histofast.patches import iter_patches
from histofast.slides import Schedule, open_slide
from histofast.tiling import plan_patches
from histofast.tissue import find_tissue

PATCH_PX = 256
# Off the tiles of 256 px by a third of one.
OFFSET_PX = 85
CPUS = available_cpus()


@pytest.fixture(scope="module")
def scene(big_slide):
    """The slide, and a plan of its patches on a shifted grid, the with tissue."""
    slide = open_slide(big_slide)
    tissue = find_tissue(slide)
    plan = plan_patches(slide, tissue, mpp=slide.mpp, patch_px=PATCH_PX, min_tissue=0.25)
    inside = (plan.coords_l0 + OFFSET_PX + PATCH_PX <= slide.levels[0].width).all(axis=1)
    keep = np.flatnonzero(inside)
    plan = replace(
        plan,
        coords_l0=np.ascontiguousarray(plan.coords_l0[keep] + OFFSET_PX),
        tissue_fraction=plan.tissue_fraction[keep],
    )
    yield slide, plan
    slide.close()


def ours(slide, plan, workers):
    for _ in iter_patches(slide, plan, workers=workers):
        pass


def test_supply(scene, big_slide, table, benchmark):
    slide, plan = scene
    coords = plan.coords_l0.tolist()
    rounds = 5
    with ThreadPoolExecutor(CPUS) as pool:
        reference = openslide.OpenSlide(str(big_slide))
        size = (PATCH_PX, PATCH_PX)

        def by_openslide():
            for x, y in coords:
                np.asarray(reference.read_region((x, y), 0, size))[..., :3]

        fast = fastslide.FastSlide.from_file_path(str(big_slide))

        def patch_of_fastslide(corner):
            return fast.read_region(tuple(corner), 0, size).numpy()

        def by_fastslide():
            for _ in pool.map(patch_of_fastslide, coords, chunksize=16):
                pass

        blocks = blocks_of(plan.coords_l0, 2048)

        def block_of_fastslide(block):
            x, y, width, height, inside = block
            pixels = fast.read_region((x, y), 0, (width, height)).numpy()
            return [
                pixels[v - y : v - y + PATCH_PX, u - x : u - x + PATCH_PX].copy() for u, v in inside
            ]

        def by_blocks():
            for _ in pool.map(block_of_fastslide, blocks):
                pass

        tiles, decode = bare_tiles(big_slide, slide, plan)

        def by_imagecodecs():
            for _ in pool.map(decode, np.array_split(np.arange(len(tiles)), CPUS)):
                pass

        first, _ = next(iter_patches(slide, plan, workers=pool))
        for i in (0, 3, 7):
            x, y = coords[i]
            theirs = np.asarray(reference.read_region((x, y), 0, size))[..., :3].astype(int)
            assert np.abs(first[i] - theirs).mean() < 1
            # Its pixels differ a little from OpenSlide's and ours: it takes libjpeg's quicker ways.
            assert np.abs(first[i] - patch_of_fastslide((x, y)).astype(int)).mean() < 4

        def run():
            ours(slide, plan, pool)

        table.race(
            "patch supply, 256 px off the tile grid, no encoder",
            run,
            {
                "OpenSlide read_region in a loop": by_openslide,
                f"fastslide read_region per patch, {CPUS} threads": by_fastslide,
                f"fastslide in 2048 px blocks, {CPUS} threads": by_blocks,
                f"bare imagecodecs, the needed tiles, {CPUS} threads": by_imagecodecs,
            },
            goals={
                "OpenSlide read_region in a loop": 8,
                f"fastslide read_region per patch, {CPUS} threads": 4,
                f"fastslide in 2048 px blocks, {CPUS} threads": 1.4,
                f"bare imagecodecs, the needed tiles, {CPUS} threads": 0.75,
            },
            work=len(plan),
            unit="patches/s",
            rounds=rounds,
        )
        benchmark.pedantic(run, rounds=2)
        reference.close()


def blocks_of(coords, side):
    """Patches grouped by the block their corner is in, blocks as large as their patches need."""
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for x, y in coords.tolist():
        groups.setdefault((x // side, y // side), []).append((x, y))
    blocks = []
    for inside in groups.values():
        xs, ys = np.array(inside).T
        x, y = int(xs.min()), int(ys.min())
        blocks.append((x, y, int(xs.max()) + PATCH_PX - x, int(ys.max()) + PATCH_PX - y, inside))
    return blocks


def bare_tiles(path, slide, plan):
    """The compressed tiles under the plan, in memory, and a function that decodes some of them."""
    level = slide.levels[plan.level]
    schedule = Schedule(
        plan.boxes_level,
        patch_px=PATCH_PX,
        batch_size=len(plan),
        size=(level.width, level.height),
        tile_size=(level.tile_width, level.tile_height),
    )
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        tables = page.jpegtables
        file = tiff.filehandle
        tiles = []
        for column, row in schedule.tiles[0].tolist():
            index = row * level.columns + column
            file.seek(page.dataoffsets[index])
            tiles.append(file.read(page.databytecounts[index]))

    def decode(some):
        # As lucky an address as ours, see slides/_stream.py.
        raw = np.empty(level.tile_height * level.tile_width * 3 + 32, np.uint8)
        start = (16 - raw.ctypes.data) % 32
        out = raw[start : start + level.tile_height * level.tile_width * 3]
        out = out.reshape(level.tile_height, level.tile_width, 3)
        for i in some:
            imagecodecs.jpeg8_decode(
                tiles[i], tables=tables, colorspace="YCBCR", outcolorspace="RGB", out=out
            )

    return tiles, decode
