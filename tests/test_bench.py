"""Encoders side by side: what is reported is what was asked, and adds up."""

from __future__ import annotations

import json

import pytest

from histofast import graphs
from histofast.errors import ModelError
from histofast.graphs import bench
from small_slides import write_slide
from tiny_encoder import write_encoder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two encoders of eight features and one of five."""
    folder = tmp_path_factory.mktemp("encoders")
    return [
        write_encoder(folder / "a.onnx", name="a"),
        write_encoder(folder / "b.onnx", name="b", scale=1 / 100),
        write_encoder(folder / "c.onnx", name="c", d=5, side=32),
    ]


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    monkeypatch.setattr("histofast.graphs.speed._ROUND_S", 0.01)


def test_report(files, tmp_path):
    slide = write_slide(tmp_path / "s.tif")
    report = bench(files, slides=slide, rounds=2, threads=2)
    assert (report.patch_px, report.patches, report.threads, report.rounds) == (32, "real", 2, 2)
    assert [entry.name for entry in report.encoders] == ["a", "b", "c"]
    assert [entry.d for entry in report.encoders] == [8, 8, 5]
    first, second, third = report.encoders
    assert (first.median_cosine, first.cka) == (pytest.approx(1), pytest.approx(1))
    assert second.cka == pytest.approx(1)  # the same but for scale
    assert third.median_cosine is None
    assert 0.5 < third.cka < 1  # three colours either way
    for entry in report.encoders:
        assert entry.fastest >= entry.patches_per_s > 0
        assert entry.provider == "CPUExecutionProvider"
    assert first.gflop == 2 * 3 * 8 / 1e9
    assert first.gemm_share == pytest.approx(
        first.gflop * first.patches_per_s / report.gemm_gflops, rel=1e-6
    )
    assert json.loads(report.to_json())["encoders"][2]["name"] == "c"


def test_made_up_patches_are_said_to_be(files):
    report = bench(files[:1], rounds=1)
    assert report.patches == "made up"


def test_bad_arguments(files):
    with pytest.raises(ValueError, match="encoders must name at least one, got none"):
        bench([])
    with pytest.raises(ValueError, match="encoders must be given once each"):
        bench([files[0], str(files[0])])
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        bench(files, rounds=0)
    with pytest.raises(ModelError, match="encoder c takes patches of 32 x 32 px, got 48 x 48 px"):
        bench(files, patch_px=48)
    with pytest.raises(FileNotFoundError, match=r"no such encoder file: none\.onnx"):
        bench(["none.onnx"])


def test_gemm_counts_every_thread():
    one, two = graphs.Gemm(threads=1), graphs.Gemm(threads=2)
    assert two.flops == 2 * one.flops == 4 * 1024**3
    assert one.run() > 0


def test_the_peak_is_measured_once():
    peak = graphs.peak_flops_per_s()
    assert 1e8 < peak < 1e15
    assert graphs.peak_flops_per_s() == peak
