"""Encoder files back into networks."""

from __future__ import annotations

import numpy as np
import pytest

from extras import need
from histofast import encoders, graphs
from histofast.errors import ModelError

torch = need("torch")

from histofast import networks


def outputs(network, pixels):
    with torch.inference_mode():
        return networks.PixelsIn(network).eval()(torch.from_numpy(pixels)).numpy()


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer2"),
        ("resnet50", "layer1"),
        ("densenet121", "transition1"),
        ("densenet121", None),
        ("squeezenet1.1", None),
        ("cbr-tiny", None),
    ],
)
def test_restored_network_gives_what_the_file_gives(name, layer, tmp_path):
    network = networks.create(name, layer=layer, seed=3)
    with torch.no_grad():  # statistics that are not those of a new network
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
    network.mean, network.std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    px = 96
    path = tmp_path / "e.onnx"
    networks.export(network, path, patch_px=px)
    again = networks.restore(path)
    assert (again.architecture, again.layer) == (network.architecture, network.layer)
    np.testing.assert_allclose(again.mean, network.mean, rtol=1e-6)
    np.testing.assert_allclose(again.std, network.std, rtol=1e-6)
    pixels = graphs.stained_noise(4, px)
    wanted = outputs(network, pixels)
    error = np.linalg.norm(outputs(again, pixels) - wanted) / np.linalg.norm(wanted)
    assert error < 1e-5


def test_the_default_encoder_can_be_restored():
    network = networks.restore("densenet121-t2")
    pixels = graphs.stained_noise(4, 96)
    with encoders.load("densenet121-t2", device="cpu") as encoder:
        wanted = encoder.encode(pixels)
    error = np.linalg.norm(outputs(network, pixels) - wanted) / np.linalg.norm(wanted)
    assert error < 1e-4


def test_files_that_are_not_as_exported():
    with pytest.raises(ModelError, match="must be an encoder as exported from its network"):
        networks.restore("densenet121-t2-int8")
