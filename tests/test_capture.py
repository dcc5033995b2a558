"""Looking inside a graph: the values are right, and what is not there is named."""

from __future__ import annotations

import numpy as np
import pytest

from histofast import graphs
from histofast.errors import ModelError
from histofast.graphs import capture


@pytest.fixture(scope="module")
def model():
    return graphs.to_bytes(graphs.tiny_encoder())


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("form", ["bytes", "path", "text"])
def test_tensors_from_the_inside(tmp_path, model, pixels, form):
    path = tmp_path / "a.onnx"
    path.write_bytes(model)
    asked = ["pooled", "pixels.planes", "features"]
    got = capture({"bytes": model, "path": path, "text": str(path)}[form], asked, pixels)
    assert list(got) == asked
    planes = pixels.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(got["pixels.planes"], planes)
    mean = planes.mean((2, 3)) / 255
    np.testing.assert_allclose(got["pooled"][:, :, 0, 0], mean, rtol=1e-5)
    np.testing.assert_allclose(got["features"], mean, rtol=1e-5)
    assert path.read_bytes() == model


def test_a_tensor_asked_for_twice(model, pixels):
    assert list(capture(model, ["pooled", "pooled"], pixels)) == ["pooled"]


def test_what_cannot_be_captured(tmp_path, model, pixels):
    with pytest.raises(ModelError, match=r"the model has no tensor 'poled': did you mean pooled"):
        capture(model, ["poled"], pixels)
    with pytest.raises(ModelError, match=r"has no tensor 'xyz'$"):
        capture(model, ["xyz"], pixels)
    with pytest.raises(ModelError, match="the model cannot be run: Unexpected input data type"):
        capture(model, ["pooled"], pixels.astype(np.float32))
    with pytest.raises(FileNotFoundError, match="no such ONNX file: "):
        capture(tmp_path / "none.onnx", ["pooled"], pixels)
    (tmp_path / "a.onnx").write_text("no protobuf")
    with pytest.raises(ModelError, match="is not an ONNX file"):
        capture(tmp_path / "a.onnx", ["pooled"], pixels)
