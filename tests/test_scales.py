"""LayerScale is in the weights of the layer before it, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import reference
from extras import need
from histofast import encoders

torch = need("torch", "onnxscript")

from torch import nn

from histofast import networks

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
PX, D = 32, 96


class Scaled(nn.Module):
    """Tokens of `D` numbers of the picture through a linear layer and a scale, in some way."""

    def __init__(self, forward, *, bias=True):
        super().__init__()
        self.first, self.second = nn.Linear(D, D, bias=bias), nn.Linear(D, D)
        self.gamma = nn.Parameter(torch.randn(D))
        if bias:
            nn.init.ones_(self.first.bias)  # equal constants are written once
            nn.init.ones_(self.second.bias)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x.reshape(len(x), -1, D)).mean(1)


FOLDED = {
    "plain": lambda m, x: m.first(x) * m.gamma,
    "the other way round": lambda m, x: m.gamma * m.first(x),
    "within a sum": lambda m, x: x + m.first(x.relu()) * m.gamma,
    "a bias that another layer has too": lambda m, x: m.second((m.first(x) * m.gamma).relu()),
}
KEPT = {
    "read elsewhere": lambda m, x: (a := m.first(x)) * m.gamma + a.relu(),
    "a weight of two": lambda m, x: m.first((m.first(x) * m.gamma).relu()),
    "not behind it": lambda m, x: m.first(x).relu() * m.gamma,
}


def exported(module, folder):
    """Write a file, which is held against torch, and return whether its scale is a node."""
    half = (0.5,) * 3
    network = networks.adopt(module.eval(), mean=half, std=half, name="scaled", input_px=PX)
    path = networks.export(network, folder / "e.onnx").path
    return path, any("gamma" in name for n in onnx.load(path).graph.node for name in n.input)


@pytest.mark.parametrize("how", FOLDED)
def test_a_scale_is_folded(tmp_path, how):
    torch.manual_seed(0)
    module = Scaled(FOLDED[how])
    before = {key: value.clone() for key, value in module.state_dict().items()}
    _, is_there = exported(module, tmp_path)
    assert not is_there
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("how", KEPT)
def test_what_is_no_scale_of_one_layer_stays(tmp_path, how):
    torch.manual_seed(0)
    _, is_there = exported(Scaled(KEPT[how]), tmp_path)
    assert is_there


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_what_the_definition_says(tmp_path, rng, bias):
    torch.manual_seed(0)
    module = Scaled(FOLDED["plain"], bias=bias)
    path, is_there = exported(module, tmp_path)
    assert not is_there
    pixels = rng.integers(0, 256, (3, PX, PX, 3), dtype=np.uint8)
    x = (pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5
    weight, gamma = module.first.weight.detach().numpy().T, module.gamma.detach().numpy()
    added = module.first.bias.detach().numpy() if bias else np.zeros(D)
    wanted = reference.scaled_linear(x.reshape(3, -1, D), weight, added, gamma).mean(1)
    with encoders.load(path, device="cpu") as encoder:
        got = encoder.encode(pixels)
    assert np.linalg.norm(got - wanted) < 1e-6 * np.linalg.norm(wanted)
