"""A trained network on a real slide, by every road from weights to features."""

from __future__ import annotations

import json

import numpy as np
import pytest

from extras import need
from histofast import encoders, graphs
from histofast.patches import sample_patches

torch = need("torch")

from histofast import networks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def halves(data):
    """Patches of the CMU slide, as DenseNet121 was trained on their size."""
    slide = data / "slides" / "CMU-1-Small-Region.svs"
    sample = sample_patches(slide, n=80, patch_px=224, mpp=0.5)
    return [part.pixels for part in sample.split(40)]


@pytest.fixture(scope="module")
def network(data):
    return networks.create("densenet121", weights=data / "weights/densenet121_imagenet.safetensors")


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / "densenet121.onnx"
    return networks.export(network, path, patch_px=224)


@pytest.fixture(scope="module")
def features(network, halves):
    """What torch computes from the same pixels."""
    with torch.inference_mode():
        return networks.PixelsIn(network)(torch.from_numpy(halves[1])).numpy()


def test_onnx_gives_what_torch_gives(exported, halves, features):
    with encoders.load(exported.path, device="cpu") as encoder:
        got = encoder.encode(halves[1])
    errors = np.linalg.norm(got - features, axis=1) / np.linalg.norm(features, axis=1)
    assert errors.max() < 1e-5


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_lower_precision_passes_the_gate(exported, halves, features, precision, tmp_path):
    spec = graphs.write_quantized(
        exported.path,
        out=tmp_path / "small.onnx",
        precision=precision,
        calibration=halves[0] if precision == "int8" else None,
        held_out=halves[1],
    )
    with encoders.load(spec.path, device="cpu") as encoder:
        found = graphs.agreement(features, encoder.encode(halves[1]))  # torch's, not ONNX's
    assert found.shortfalls() == []
    assert json.loads(spec.agreement)["cka"] == pytest.approx(found.cka, abs=1e-4)
    if precision == "float16":
        assert found.p1_cosine > 0.9999


def test_cutting_the_file_is_cutting_the_network(exported, network, halves, data, tmp_path):
    cut = graphs.truncate(exported.path, at="denseblock2", out=tmp_path / "cut.onnx")
    with encoders.load(cut.path, device="cpu") as a, encoders.load("densenet121-t2") as b:
        np.testing.assert_allclose(
            a.encode(halves[1][:8]), b.encode(halves[1][:8]), rtol=1e-4, atol=1e-5
        )
