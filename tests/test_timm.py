"""Models of timm: the same road from name to encoder file as the networks of our own."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from extras import need
from histofast import encoders, graphs
from histofast.errors import ModelError
from histofast.graphs import int8

torch = need("torch", "onnxscript")
try:
    import torchvision  # noqa: F401
except RuntimeError:
    # The registry's torchvision beside a torch without CUDA lacks the two operators that it asks
    # for when it is imported; nothing here calls them.
    for half in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[half]
    _OPERATORS = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        _OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
except ModuleNotFoundError:
    pass  # the next line says so
need("timm", "torchvision")

from histofast import networks

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

VIT, CNN = "timm:test_vit", "timm:test_resnet"


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of the CNN as training scripts leave it."""
    model = networks.create(CNN, seed=5).model
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": state | {"module.fc.weight": torch.ones(9, 4)}}, path)
    return path


@pytest.mark.parametrize("name", [VIT, CNN])
def test_layers_are_in_order_with_widths(name):
    cuts = networks.layers(name)
    shares = [cut.flops_share for cut in cuts]
    assert shares == sorted(shares)
    assert (cuts[-1].name, shares[-1]) == ("features", 1.0)
    for cut in cuts:
        network = networks.create(name, layer=cut.name)
        x = torch.zeros(1, 3, network.input_px, network.input_px)
        with torch.inference_mode():
            assert network(x).shape == (1, cut.d) == (1, network.d)


def test_a_cut_is_what_the_whole_computes_there(rng):
    whole, cut = networks.create(CNN), networks.create(CNN, layer="layer2")
    seen = {}
    whole.model.layer2.register_forward_hook(lambda m, i, out: seen.update(out=out))
    x = torch.from_numpy(rng.normal(size=(2, 3, 160, 160)).astype("f4"))
    with torch.inference_mode():
        whole(x)
        torch.testing.assert_close(cut(x), seen["out"].mean((2, 3)))
    assert not any(key.startswith("model.layer3") for key in cut.state_dict())


@pytest.mark.parametrize(("name", "layer"), [(VIT, None), (VIT, "blocks.2"), (CNN, "layer3")])
def test_export(tmp_path, rng, name, layer):
    network = networks.create(name, layer=layer)
    spec = networks.export(network, tmp_path / "e.onnx", licence="Apache-2.0")
    assert (spec.network, spec.layer) == (name, layer or "features")
    assert spec.height_px == spec.width_px == spec.patch_px == network.input_px
    assert (spec.weights_sha256, spec.provenance) == ("random", "random weights")
    assert (spec.licence, spec.made_from) == ("Apache-2.0", None)
    px = spec.patch_px
    pixels = rng.integers(0, 256, (3, px, px, 3), dtype=np.uint8)
    with encoders.load(spec.path, device="cpu") as encoder, torch.inference_mode():
        got = encoder.encode(pixels)
        x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).float()
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.mean, network.std))
        wanted = network((x - mean) / std).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_weights_from_a_checkpoint(weights):
    network = networks.create(CNN, weights=weights, layer="layer2", seed=1)
    wanted = networks.create(CNN, layer="layer2", seed=5)
    for key, value in wanted.state_dict().items():
        assert torch.equal(network.state_dict()[key], value)
    assert network.loaded.prefix == "state_dict.module."
    assert "state_dict.module.fc.weight" in network.loaded.dropped
    assert network.weights_sha256 == encoders.sha256_of(weights)


def test_bad_arguments(weights, tmp_path):
    with pytest.raises(
        ModelError, match=r"timm .* has no model 'test_vti': did you mean .*test_vit"
    ):
        networks.create("timm:test_vti")
    with pytest.raises(ModelError, match="got 'layer9': did you mean layer"):
        networks.create(CNN, layer="layer9")
    with pytest.raises(ValueError, match="classes must be 0 for a cut of timm:test_resnet, got 3"):
        networks.create(CNN, layer="layer2", classes=3)
    with pytest.raises(ValueError, match="bn_eps must be left to timm"):
        networks.create(CNN, bn_eps=1e-3)
    with pytest.raises(ModelError, match=r"checkpoint\.pth lacks .* tensors of timm:test_vit"):
        networks.create(VIT, weights=weights)
    network = networks.create(VIT)
    with pytest.raises(
        ModelError, match=r"timm:test_vit takes patches of .* 16 px, got 90 px: .* 80 or 96"
    ):
        networks.export(network, tmp_path / "e.onnx", patch_px=90)
    assert not (tmp_path / "e.onnx").exists()


def test_vision_transformers_are_quantised_in_their_products(tmp_path):
    """Random weights tell patches apart too little for the gate; the graph is the same."""
    patches = graphs.stained_noise(8, 160)
    out = networks.export(networks.create(VIT), tmp_path / "vit.onnx").path
    writer = int8.Int8Writer(graphs.read_model(out), patches)
    assert len(writer.layers) > 6 * 4  # four products in each block
    data = graphs.to_bytes(writer.write())
    assert len(data) < 0.5 * out.stat().st_size
    with encoders.load(out, device="cpu") as whole, whole.sibling(data) as small:
        a, b = whole.encode(patches), small.encode(patches)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosines.min() > 0.97
