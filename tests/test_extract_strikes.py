"""`extract`, struck down at random moments: what it leaves in the end is what an undisturbed run does.

HISTOFAST_KILLS=200 pytest tests/test_extract_strikes.py is the whole of it.
"""

from __future__ import annotations

import json

import pytest

import strikes
from slide_files import overwrite, tile_extent
from small_slides import write_slide
from tiny_encoder import write_encoder

PRELOAD = (
    "histofast.cli",
    "histofast.pipeline",
    "histofast.patches",
    "histofast.encoders",
    "histofast.features",
    "onnxruntime",
    "h5py",
    "imagecodecs",
    "tifffile",
)


def told(out):
    """All but the report, whose seconds differ; it must say that nothing is left to do."""
    found = strikes.contents(out)
    report = json.loads(found.pop("run.json"))
    assert not report["interrupted"]
    assert {slide["status"] for slide in report["slides"]} <= {"done", "skipped"}
    assert len(report["slides"]) == 4
    return found


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["trident", "clam"])
def test_extract_struck_down_leaves_what_an_undisturbed_run_does(tmp_path, layout):
    (tmp_path / "slides").mkdir()
    for i in range(4):
        write_slide(tmp_path / "slides" / f"s{i}.tif", seed=i, size=(640, 512))
    hurt = tmp_path / "slides" / "s2.tif"  # its file remembers what the slide looked like
    offset, size = tile_extent(hurt, 28)
    overwrite(hurt, offset, b"\xff\xd8" + bytes(size - 2))
    encoders = [
        write_encoder(tmp_path / f"{name}.onnx", name=name, d=d) for name, d in (("a", 8), ("b", 5))
    ]
    found = strikes.strike(
        ["extract", tmp_path / "slides", "-o", tmp_path / "out", "-e", encoders[0], "-e", encoders[1],
         "--min-tissue", "0.1", "--batch-size", "4", "--threads", "1", "--workers", "2",
         "--layout", layout],
        tmp_path / "out",
        preload=PRELOAD,
        kills=-(-strikes.KILLS // 2),
        told=told,
    )  # fmt: skip
    assert sum(found.by.values()) >= strikes.KILLS // 2
