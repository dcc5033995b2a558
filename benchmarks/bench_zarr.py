"""OME-Zarr against OME-TIFF: the same pixels, patches of 256 px off the tile grid, no encoder.

    pytest benchmarks/bench_zarr.py -s          # HISTOFAST_BENCH_PX=1024 for a quick look

What is written the same way (256 px tiles, deflate or zstd) must come at the same speed; zarr's own reading of
the chunks under the same patches is the rival.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numcodecs
import numpy as np
import pytest
import zarr

import slide_files
from histofast._machine import available_cpus
from histofast.patches import iter_patches, make_slide
from histofast.slides import open_slide
from histofast.tiling import plan_patches
from histofast.tissue import find_tissue
from zarr_files import write_zarr

SIDE_PX = int(os.environ.get("HISTOFAST_BENCH_PX", "8192"))
PATCH_PX = 200
CPUS = available_cpus()
ZARR = {
    "0.4, zstd, one chunk a tile": {"compressors": numcodecs.Zstd(level=1)},
    "0.4, blosc, as zarr 2 wrote": {"compressors": numcodecs.Blosc(cname="lz4")},
    "0.4, blosc, channels apart": {
        "compressors": numcodecs.Blosc(cname="lz4"),
        "channels": 1,
    },
    "0.5, zstd, shards of 64 tiles": {
        "version": "0.5",
        "shard": 8,
        "compressors": zarr.codecs.ZstdCodec(level=1),
    },
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The slides by name, each of the same pixels."""
    folder = tmp_path_factory.mktemp("zarr")
    make_slide(
        folder / "made.tif", width_px=SIDE_PX, height_px=SIDE_PX, tissue_fraction=0.6, mpp=0.5
    )
    with open_slide(folder / "made.tif") as slide:
        image = slide.read_region((0, 0), 0, (SIDE_PX, SIDE_PX))
    levels = [image, slide_files.half(image, 4)]
    found = {"OME-TIFF, zstd": folder / "a.ome.tif"}
    slide_files.write_tiff(
        found["OME-TIFF, zstd"], levels, ome=True, subifds=True, tile_px=256,
        compression="zstd", compressionargs={"level": 1},
        metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
    )  # fmt: skip
    for i, (name, options) in enumerate(ZARR.items()):
        found[name] = write_zarr(folder / f"{i}.zarr", levels, tile_px=256, **options)
    return found


def test_zarr_against_tiff(written, table, benchmark):
    slides = {name: open_slide(path) for name, path in written.items()}
    tiff = slides["OME-TIFF, zstd"]
    tissue = find_tissue(tiff)
    plan = plan_patches(tiff, tissue, mpp=0.5, patch_px=PATCH_PX, min_tissue=0.25)
    assert plan.level == 0
    with ThreadPoolExecutor(CPUS) as pool:

        def ours(slide):
            for _ in iter_patches(slide, plan, workers=pool):
                pass

        expected, _ = next(iter_patches(tiff, plan, workers=pool))
        for slide in slides.values():
            pixels, _ = next(iter_patches(slide, plan, workers=pool))
            np.testing.assert_array_equal(pixels, expected)

        under = sorted(
            {
                (row, column)
                for x, y in plan.coords_l0.tolist()
                for row in range(y // 256, (y + PATCH_PX - 1) // 256 + 1)
                for column in range(x // 256, (x + PATCH_PX - 1) // 256 + 1)
            }
        )

        def by_zarr(name):
            array = zarr.open_array(written[name] / "0", mode="r")

            def tile(place):
                y, x = place[0] * 256, place[1] * 256
                return array[0, :, 0, y : y + 256, x : x + 256]

            def run():
                for _ in pool.map(tile, under):
                    pass

            return run

        for name in ZARR:
            table.race(
                f"patch supply from OME-Zarr {name}",
                lambda slide=slides[name]: ours(slide),
                {"OME-TIFF, zstd": lambda: ours(tiff), "zarr, tiles only": by_zarr(name)},
                goals={"OME-TIFF, zstd": 0.75, "zarr, tiles only": 1},
                work=len(plan),
                unit="patches/s",
                rounds=5,
            )
        benchmark.pedantic(lambda: ours(slides[next(iter(ZARR))]), rounds=2)
    for slide in slides.values():
        slide.close()
