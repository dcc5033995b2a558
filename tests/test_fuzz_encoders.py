"""Broken copies of encoder files and of ONNX files of others: used, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import foreign_models
import fuzzing
from histofast import graphs
from histofast.encoders import load_all, read_specs
from histofast.errors import ModelError
from tiny_encoder import write_encoder

pytestmark = pytest.mark.slow
CHANNELS = {"mean": foreign_models.MEAN, "std": foreign_models.STD}


def read(path: Path) -> None:
    """All that is done with an encoder: what it says, and one patch encoded by it."""
    (spec, *_) = read_specs(path)
    with load_all(path, device="cpu", threads=1) as encoders:
        h, w = spec.height_px or 16, spec.width_px or 16
        if h * w <= 1 << 16:  # more than a patch of a test
            encoders.encode(np.full((1, h, w, 3), 100, np.uint8))


def read_foreign(path: Path) -> None:
    out = path.with_suffix(".out.onnx")
    graphs.wrap(path, out=out, patch_px=16, **CHANNELS, overwrite=True)


def make_others(path: Path) -> None:
    """What is made of encoders, but for its speed and precision."""
    out = path.with_suffix(".out.onnx")
    refusals = []
    for make in (
        lambda: graphs.truncate(path, at="layer1", out=out, overwrite=True),
        lambda: graphs.cuts(path),
        lambda: graphs.flops(path, patch_px=16),
    ):
        try:
            make()
        except ModelError as error:
            refusals.append(error)
    if refusals:
        raise max(refusals, key=lambda error: len(str(error)))


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "attacked").mkdir()
    return tmp_path / "attacked"


def test_encoders(tmp_path, folder):
    plain = foreign_models.residual(tmp_path / "plain.onnx")
    tiny = write_encoder(tmp_path / "tiny.onnx")
    wrapped, cuts = tmp_path / "wrapped.onnx", tmp_path / "cuts.onnx"
    graphs.wrap(plain, out=wrapped, patch_px=16, **CHANNELS)
    graphs.join_cuts(wrapped, out=cuts)
    strays = fuzzing.attack(read, [tiny, wrapped, cuts], folder)
    assert not strays, fuzzing.told(strays)


def test_onnx_files_of_others(tmp_path, folder):
    path = foreign_models.residual(tmp_path / "plain.onnx")
    strays = fuzzing.attack(read_foreign, [path], folder, mutants=fuzzing.MUTANTS // 4)
    assert not strays, fuzzing.told(strays)


def test_what_is_made_of_encoders(tmp_path, folder):
    path = foreign_models.residual(tmp_path / "plain.onnx")
    graphs.wrap(path, out=tmp_path / "wrapped.onnx", patch_px=16, **CHANNELS)
    wrapped = [tmp_path / "wrapped.onnx"]
    strays = fuzzing.attack(make_others, wrapped, folder, mutants=fuzzing.MUTANTS // 4)
    assert not strays, fuzzing.told(strays)
