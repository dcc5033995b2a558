"""`extract` end to end: against the encoder alone on the same patches in memory; many small slides.

    pytest benchmarks/bench_extract.py -s

End to end means all of it: opening, tissue, planning, decoding, encoding, checksums, fsync.
"""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import histofast
from histofast._machine import available_cpus
from histofast.patches import make_slide

CPUS = available_cpus()
BATCHES = (8, 32)


@pytest.fixture(scope="module")
def slide(cache):
    path = cache / "middle-14336-seed1.tif"
    if not path.exists():
        make_slide(path, width_px=14_336, height_px=14_336, seed=1, tissue_fraction=0.4, mpp=0.25)
    return path


def encoded(slides, out):
    report = histofast.extract(slides, out=out)
    assert report.exit_code == 0
    return report


def test_against_the_encoder_alone(slide, table, benchmark, tmp_path):
    with histofast.open_slide(slide) as opened:
        plan = histofast.plan_patches(opened, histofast.find_tissue(opened), mpp=0.5)
        pixels = np.concatenate([p for p, _ in histofast.iter_patches(opened, plan)])
    encoder = histofast.load_encoder("densenet121-t2")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CPUS
    session = onnxruntime.InferenceSession(
        encoder.spec.path, options, providers=["CPUExecutionProvider"]
    )

    def bare(batch):
        for start in range(0, len(pixels), batch):
            session.run(None, {"pixels": pixels[start : start + batch]})

    def resident():
        for start in range(0, len(pixels), encoder.preferred_batch):
            encoder.encode(pixels[start : start + encoder.preferred_batch])

    numbers = itertools.count()

    def ours():
        assert encoded(slide, tmp_path / str(next(numbers))).patches == len(pixels)

    rivals = {
        f"bare ONNX Runtime session, batch {batch}, {CPUS} threads": partial(bare, batch)
        for batch in BATCHES
    }
    table.race(
        "extract end to end, default encoder",
        ours,
        {**rivals, "histofast's Encoder on the patches in memory": resident},
        goals=dict.fromkeys(rivals, 0.92),
        work=len(pixels),
        unit="patches/s",
        rounds=3,
    )
    benchmark.pedantic(resident, rounds=1)


def test_ten_small_slides_against_one(cache, table, benchmark, tmp_path):
    side, columns = 2816, 5
    small = []
    for i in range(10):
        path = cache / f"small-{side}-seed{i}.tif"
        if not path.exists():
            make_slide(path, width_px=side, height_px=side, seed=i, tissue_fraction=0.9, mpp=0.25)
        small.append(path)
    large = cache / f"ten-of-{side}.tif"
    if not large.exists():
        make_slide(
            large,
            width_px=columns * side,
            height_px=2 * side,
            seed=0,
            tissue_fraction=0.9,
            mpp=0.25,
        )
    numbers = itertools.count()
    counts: dict[str, int] = {}

    def run(name: str, slides: list[Path] | Path):
        counts[name] = encoded(slides, tmp_path / str(next(numbers))).patches

    # The two have not quite the same number of patches: compare seconds per patch.
    run("ten", small)
    run("one", large)
    share = counts["ten"] / counts["one"]
    ratios = table.race(
        f"ten small slides ({counts['ten']} patches)",
        lambda: run("ten", small),
        {"one slide": lambda: run("one", large)},
        goals={},
        work=counts["ten"],
        unit="patches/s",
        rounds=3,
    )
    table.rows.pop()
    table.add(
        what="ten small slides in a row, patches/s",
        ours=f"{counts['ten']} patches",
        rival="one slide",
        theirs=f"{counts['one']} patches",
        ratio=ratios["one slide"] * share,
        goal=0.93,
    )
    benchmark.pedantic(run, args=("ten", small), rounds=1)
