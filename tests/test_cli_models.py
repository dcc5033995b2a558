"""`histofast models`: what its commands answer, and what they leave behind."""

from __future__ import annotations

import csv
import json

import pytest

from extras import need
from histofast import encoders
from histofast.slides import write_png
from slide_files import picture
from small_slides import write_slide


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for i in range(2):
        write_slide(folder / f"s{i}.tif", seed=i, mpp=0.4)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Enough patch images to calibrate and to measure."""
    folder = tmp_path_factory.mktemp("patches")
    with (folder / "patches.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "bag"])
        for i in range(90):
            write_png(folder / f"p{i}.png", picture(256, 256, seed=i))
            rows.writerow([f"p{i}.png", f"bag{i % 9}"])
    return folder / "patches.csv"


# --- quantize ----------------------------------------------------------------------------------


def test_quantize(cli, table, tmp_path):
    out = tmp_path / "t2-int8.onnx"
    answer = cli("models", "quantize", "densenet121-t2", "--patches", table, "--out", out)
    assert (answer.code, answer.err) == (0, [])
    assert answer.out.startswith(f"{out}: densenet121-t2-int8, 512 features, 1.5 MB; on ")
    assert "median cosine 0.99" in answer.out or "median cosine 1.0000" in answer.out
    assert encoders.read_spec(out).precision == "int8"
    answer = cli("models", "quantize", "densenet121-t2", "--patches", table, "--out", out)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == [f"histofast: {out} exists: choose another name, or ask to overwrite it"]


def test_quantize_to_half_precision_as_json(cli, table, tmp_path):
    out = tmp_path / "half.onnx"
    arguments = ("--precision", "fp16", "--patches", table, "--out", out, "--json")
    answer = cli("models", "quantize", "densenet121-t2", *arguments)
    said = json.loads(answer.out)
    assert said["name"] == "densenet121-t2-float16"
    assert said["agreement"]["median_cosine"] > 0.999


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--calibrate must name slides (or --patches a table): nothing is guessed"),
        (("--calibrate", "none.tif"), "--out must name the file to write"),
        (("--calibrate", "none.tif", "--out", "q.onnx"), "no such slide: none.tif"),
        (
            ("--calibrate", "none.tif", "--out", "q.onnx", "--n", "20"),
            "--n must be at least 64, half to calibrate and half to measure, got 20",
        ),
        (
            ("--precision", "int4"),
            "invalid value for '--precision': must be one of int8, fp16, float16, got 'int4' (see "
            + "histofast models quantize --help)",
        ),
    ],
)
def test_quantize_refuses(cli, arguments, message):
    answer = cli("models", "quantize", "densenet121-t2", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == [f"histofast: {message}"]


def test_quantize_needs_enough_patches(cli, slides, tmp_path):
    arguments = ("--calibrate", slides, "--out", tmp_path / "q.onnx")
    answer = cli("models", "quantize", "densenet121-t2", *arguments)
    assert answer.code == 2
    assert (
        "--calibrate must give at least 32 patches to calibrate and as many to measure, got"
        in answer.err[0]
    )
    assert list(tmp_path.iterdir()) == []


# --- bench -------------------------------------------------------------------------------------


def test_bench(cli, table, tmp_path, monkeypatch):
    monkeypatch.setattr("histofast.graphs.speed._ROUND_S", 0.01)
    answer = cli("models", "bench", "densenet121-t2", "--patches", table, "--rounds", 1)
    assert (answer.code, answer.err) == (0, [])
    head, names, row = answer.out.splitlines()
    assert head.startswith("CPU, ")
    assert "real patches of 256 px, float32 GEMM" in head
    assert names.split()[:3] == ["encoder", "precision", "d"]
    assert row.split()[:3] == ["densenet121-t2", "float32", "512"]
    assert row.split()[-2:] == ["1.0000", "1.0000"]


def test_bench_plots(cli, tmp_path, monkeypatch):
    need("matplotlib")
    monkeypatch.setattr("histofast.graphs.speed._ROUND_S", 0.01)
    plot = tmp_path / "speeds.png"
    arguments = ("--rounds", 1, "--patch-px", 64, "--plot", plot, "--json")
    answer = cli("models", "bench", "densenet121-t2", *arguments)
    assert json.loads(answer.out)["patches"] == "made up"
    assert plot.read_bytes().startswith(b"\x89PNG")
    for wrong, message in (
        (tmp_path / "none" / "p.png", f"no folder {tmp_path / 'none'} to write p.png in"),
        (tmp_path / "p.txt", f"a figure must end in .png, .pdf, .svg, got {tmp_path / 'p.txt'}"),
    ):
        answer = cli("models", "bench", "densenet121-t2", "--plot", wrong)
        assert (answer.code, answer.err) == (2, [f"histofast: {message}"])
