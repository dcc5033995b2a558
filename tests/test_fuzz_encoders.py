"""Broken copies of encoder files and of ONNX files of others: used, or refused in one line."""

from __future__ import annotations

import math
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import foreign_models
import fuzzing
import tissue_networks
from histofast import graphs
from histofast.encoders import TissueNetwork, load_all, read_specs, read_tissue_spec
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


def read_tissue(path: Path) -> None:
    """What a network of tissue says, and one tile by it."""
    spec = read_tissue_spec(path)
    if spec.tile_px <= 256:  # more than a tile of a test
        with ThreadPoolExecutor(1) as pool:
            tile = np.full((1, spec.tile_px, spec.tile_px, 3), 100, np.uint8)
            TissueNetwork(spec, device="cpu").run(tile, workers=pool)


def wrap_tissue(path: Path) -> None:
    out = path.with_suffix(".out.onnx")
    graphs.wrap_tissue(path, out=out, mpp=8, tissue=[1], tile_px=32, **CHANNELS, overwrite=True)


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


# --- Graphs that are well written and wrong --------------------------------------------------

NUMBERS = [0, 1, -1, 3, 255, 65536, 2**31 - 1, 2**62, 2**63 - 1, -(2**63)]
OPERATIONS = ["Add", "AveragePool", "Cast", "Concat", "Conv", "ConvTranspose", "DepthToSpace"]
OPERATIONS += [
    "Einsum",
    "Expand",
    "Gather",
    "Gemm",
    "GridSample",
    "LSTM",
    "MatMul",
    "OneHot",
    "Pad",
]
OPERATIONS += ["QLinearConv", "ReduceMean", "Reshape", "Resize", "Slice", "Split", "TopK", "Where"]
VALUES = [0, [1, 2, 3], [2**62] * 4, [-1, -1], 1.5, "SAME_UPPER", "ij,jk->ik"]
ATTRIBUTES = ["axis", "axes", "blocksize", "dilations", "equation", "group", "kernel_shape", "pads"]
ATTRIBUTES += ["auto_pad", "ceil_mode", "keepdims", "num_outputs", "perm", "strides", "to"]


@cache
def whole_encoder() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        plain, out = Path(folder, "plain.onnx"), Path(folder, "out.onnx")
        graphs.wrap(foreign_models.residual(plain), out=out, patch_px=16, **CHANNELS)
        return out.read_bytes()


def rearranged(number: int) -> bytes:
    """Return the encoder with its graph changed: what bytes are changed to is seldom a graph."""
    draw = random.Random(number)
    model = onnx.load_model_from_string(whole_encoder())
    nodes, constants = model.graph.node, model.graph.initializer
    tensors = ["", "pixels", *(c.name for c in constants), *(o for n in nodes for o in n.output)]
    for _ in range(draw.choice([1, 1, 2, 3])):
        node = draw.choice(nodes)
        kind = draw.choice(["operation", "input", "output", "attribute", "number", "dims", "type"])
        if kind == "operation":
            node.op_type = draw.choice(OPERATIONS)
        elif kind == "input":
            node.input[draw.randrange(len(node.input))] = draw.choice(tensors)
        elif kind == "output":
            node.output[0] = draw.choice(tensors)
        elif kind == "attribute":
            value = helper.make_attribute(draw.choice(ATTRIBUTES), draw.choice(VALUES))
            node.attribute.append(value)
        elif kind == "number":
            for attribute in node.attribute:
                attribute.i = draw.choice(NUMBERS)
                if attribute.ints:
                    attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(NUMBERS)
        elif kind == "dims":
            dims = draw.choice(constants).dims
            dims[:] = draw.choice([[math.prod(dims)], [1, math.prod(dims)], [*dims, 1, 1], dims])
        else:
            draw.choice(constants).data_type = draw.randrange(27)
    return bytes(model.SerializeToString())


def read_rearranged(path: Path) -> None:
    """Read not the mutant of that number but the graph of that number; the original as it is."""
    if path.stem.isdigit():
        path.write_bytes(rearranged(int(path.stem)))
    read(path)


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


def test_networks_of_tissue(tmp_path, folder):
    plain = tissue_networks.convolutions(tmp_path / "plain.onnx", halvings=1)
    made = tmp_path / "made.onnx"
    graphs.wrap_tissue(plain, out=made, mpp=8, tissue=[1], tile_px=32, **CHANNELS)
    strays = fuzzing.attack(read_tissue, [made], folder, mutants=fuzzing.MUTANTS // 4)
    assert not strays, fuzzing.told(strays)


def test_networks_of_others_that_find_tissue(tmp_path, folder):
    plain = tissue_networks.convolutions(tmp_path / "plain.onnx", halvings=1)
    strays = fuzzing.attack(wrap_tissue, [plain], folder, mutants=fuzzing.MUTANTS // 8)
    assert not strays, fuzzing.told(strays)


def test_what_is_made_of_encoders(tmp_path, folder):
    path = foreign_models.residual(tmp_path / "plain.onnx")
    graphs.wrap(path, out=tmp_path / "wrapped.onnx", patch_px=16, **CHANNELS)
    wrapped = [tmp_path / "wrapped.onnx"]
    strays = fuzzing.attack(make_others, wrapped, folder, mutants=fuzzing.MUTANTS // 4)
    assert not strays, fuzzing.told(strays)


def test_graphs_that_are_well_written_and_wrong(tmp_path, folder):
    """Neither ONNX Runtime's loading nor its kernels end the process."""
    path = tmp_path / "wrapped.onnx"
    path.write_bytes(whole_encoder())
    strays = fuzzing.attack(read_rearranged, [path], folder)
    assert not strays, fuzzing.told(strays)
