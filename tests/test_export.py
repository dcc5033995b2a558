"""Every network at every cut as an encoder file; and what verification finds out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from extras import need
from histofast import encoders, graphs
from histofast.errors import ModelError

torch = need("torch")
import onnx

from histofast import networks
from histofast.graphs import capture
from lively import lively

# The smallest patches, or a bit more.
PATCH_PX = {
    "cbr-large-t": 217,
    "cbr-large-w": 122,
    "cbr-small": 121,
    "cbr-tiny": 92,
    "cbr-tiny-w": 91,
    "inception-v3": 75,
    "inception-v3-keras": 75,
}


def relative(got, wanted):
    got, wanted = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (got, wanted))
    return (np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max()


def outputs_of_stages(network, pixels):
    outputs = {}
    hooks = [
        network.stage(name).register_forward_hook(
            lambda module, inputs, output, name=name: outputs.update({name: output.numpy()})
        )
        for name in network.stage_names
    ]
    with torch.inference_mode():
        networks.PixelsIn(network)(torch.from_numpy(pixels))
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize("name", networks.names())
def test_every_cut_of_every_network_agrees_with_torch(tmp_path, rng, name):
    """The whole graph holds the tensors of all cuts but those that a BatchNorm was folded into.

    These, a cut in the middle and the whole are exported by themselves, and verified on the way.
    """
    patch_px = PATCH_PX.get(name, 64)
    network = lively(name)
    path = tmp_path / "whole.onnx"
    spec = networks.export(network, path, patch_px=patch_px)
    assert (spec.network, spec.layer, spec.d) == (name, network.layer, network.d)
    cuts = [cut.name for cut in networks.layers(name)]
    assert list(network.stage_names) == cuts
    held = {output for node in onnx.load(path).graph.node for output in node.output}
    folded = {cut for cut, after in pairwise(cuts) if after not in held}
    by_itself = folded | {cuts[len(cuts) // 2]}
    for cut in sorted(by_itself, key=cuts.index):
        shorter = networks.create(name, layer=cut)
        shorter.load_state_dict({k: network.state_dict()[k] for k in shorter.state_dict()})
        spec = networks.export(shorter, tmp_path / "cut.onnx", patch_px=patch_px, overwrite=True)
        assert (spec.layer, spec.d) == (cut, shorter.d)
    # A convolution that a BatchNorm is folded into has the values of the BatchNorm.
    tensor_of = {cut: cut for cut in cuts if cut in held and cut not in folded}
    tensor_of |= {after: cut for cut, after in pairwise(cuts) if cut in folded}
    assert tensor_of.keys() | folded == set(cuts)
    pixels = rng.integers(0, 256, (2, patch_px + 3, patch_px, 3), dtype=np.uint8)
    wanted = outputs_of_stages(network, pixels)
    got = capture(path, list(tensor_of.values()), pixels)
    errors = {cut: relative(got[tensor], wanted[cut]) for cut, tensor in tensor_of.items()}
    assert max(errors.values()) < 1e-5, errors


def test_names_in_the_file_are_those_of_the_cuts(tmp_path):
    path = tmp_path / "a.onnx"
    networks.export(networks.create("squeezenet1.1", layer="fire3"), path, patch_px=32)
    names = [node.name for node in onnx.load(path).graph.node]
    assert [n for n in names if "." not in n] == [
        *("conv1", "relu1", "pool1", "fire2", "fire3", "pooled", "features")
    ]
    assert {"fire2.squeeze", "fire2.expand3x3_activation"} <= set(names)
    networks.export(networks.create("resnet18", layer="layer1"), path, patch_px=32, overwrite=True)
    names = [node.name for node in onnx.load(path).graph.node]
    assert {"conv1", "layer1.0.conv1", "layer1.1.add", "layer1"} <= set(names)
    assert not {"bn1", "layer1.0.bn1", "layer1.1.relu2"} & set(names)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "squeezenet1.1"])
def test_a_head_gives_logits(tmp_path, rng, name):
    layer = networks.layers(name)[6].name
    network = networks.create(name, layer=layer, classes=4)
    path = tmp_path / "a.onnx"
    spec = networks.export(network, path, patch_px=64)
    assert (spec.d, spec.layer) == (4, f"{layer}+head")
    nodes = {node.name: node for node in onnx.load(path).graph.node}
    assert nodes["head"].op_type == "Gemm"
    assert list(nodes["head"].input)[1:] == ["head.weight", "head.bias"]
    pixels = rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    with encoders.load(path, device="cpu") as encoder, torch.inference_mode():
        wanted = networks.PixelsIn(network)(torch.from_numpy(pixels)).numpy()
        assert relative(encoder.encode(pixels), wanted) < 1e-5


def test_patches_are_meant_to_be_of_the_networks_size(tmp_path):
    for name, layer, patch_px in (
        ("inception-v3", "Conv2d_1a_3x3", 299),
        ("resnet18", "relu", 256),
    ):
        spec = networks.export(networks.create(name, layer=layer), tmp_path / f"{name}.onnx")
        assert (spec.patch_px, spec.name) == (patch_px, name)


@pytest.mark.parametrize(
    ("name", "layer", "patch_px", "smallest_px"),
    [("inception-v3", None, 64, 75), ("cbr-tiny", None, 64, 91), ("cbr-large-t", "conv2", 16, 21)],
)
def test_patches_smaller_than_the_network(tmp_path, name, layer, patch_px, smallest_px):
    network = networks.create(name, layer=layer)
    message = rf"{network.layer} needs patches of at least {smallest_px} px, got {patch_px} px"
    with pytest.raises(ModelError, match=message):
        networks.export(network, tmp_path / "a.onnx", patch_px=patch_px)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_does_not_run(tmp_path):
    network = networks.create("resnet18", layer="bn1")
    network.bn1 = torch.nn.BatchNorm2d(7).eval()
    with pytest.raises(ModelError, match=r"resnet18 cannot be run: .*7$"):
        networks.export(network, tmp_path / "a.onnx", patch_px=32)


@pytest.mark.parametrize(
    ("constant", "message"),
    [
        (
            "layer2.0.conv2.weight",
            r"differ by .*: layer2 is the first stage to do so, by 3.8e[+]01",
        ),
        ("conv1.bias", r": bn1 is the first stage to do so, by"),
        ("head.bias", r": all stages agree, it is what follows them"),
    ],
)
def test_a_wrong_layer_is_named(tmp_path, monkeypatch, constant, message):
    right = graphs.PixelGraph.constant

    def wrong(self, array, *, name):
        return right(self, array + 0.1 if name == constant else array, name=name)

    monkeypatch.setattr(graphs.PixelGraph, "constant", wrong)
    network = networks.create("resnet18", layer="layer3", classes=2)
    with pytest.raises(ModelError, match=message):
        networks.export(network, tmp_path / "a.onnx", patch_px=32)
    assert list(tmp_path.iterdir()) == []


# --- Modules of one's own ------------------------------------------------------------------------


class Odd(torch.nn.Module):
    """Nothing that networks of histofast's own are made of: GroupNorm, GELU, a tuple at the end."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 5, stride=2)
        self.norm = torch.nn.GroupNorm(2, 8)
        self.last = torch.nn.Conv2d(8, 16, 3)

    def forward(self, x):
        x = torch.nn.functional.gelu(self.norm(self.first(x)))
        return self.last(x), x


@pytest.fixture
def odd():
    torch.manual_seed(0)
    return networks.adopt(Odd(), mean=(0.5, 0.4, 0.3), std=(0.2,) * 3, input_px=32)


def test_a_module_of_ones_own_becomes_an_encoder(tmp_path, odd):
    need("onnxscript")
    spec = networks.export(odd, tmp_path / "odd.onnx", licence="mine")
    assert (spec.name, spec.network, spec.d, spec.height_px) == ("odd", "Odd", 16, 32)
    assert (spec.licence, spec.provenance) == ("mine", "the torch module Odd")
    assert spec.weights_sha256 == odd.weights_sha256
    pixels = graphs.stained_noise(5, 32)
    x = (pixels / 255 - np.array(odd.mean)) / np.array(odd.std)
    with torch.inference_mode():
        maps, _ = odd.model(torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32)))
    with encoders.load(tmp_path / "odd.onnx", device="cpu") as encoder:
        assert relative(encoder.encode(pixels), maps.mean((2, 3)).numpy()) < 1e-5


def test_a_module_s_file_is_proven_once(tmp_path, odd, monkeypatch):
    """One session, and one pass of torch over the seven patches beside the exporter's own."""
    need("onnxscript")
    import onnxruntime

    made, seen = [], []
    make = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *a, **k: made.append(a) or make(*a, **k)
    )
    odd.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[0]))
    networks.export(odd, tmp_path / "odd.onnx")
    assert len(made) == 1
    assert seen.count(7) == 1
    assert 1 not in seen


def test_a_module_whose_rows_hang_on_the_batch_is_refused(tmp_path):
    class Together(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) - x.mean((0, 2, 3))

    network = networks.adopt(Together(), mean=(0.5,) * 3, std=(0.2,) * 3, input_px=32)
    with pytest.raises(ModelError, match=r"is not written: .* \(batch of 1, 32 x 32 px\)"):
        networks.export(network, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_checksum_of_weights_is_of_all_of_them(odd):
    before = odd.weights_sha256
    assert before == odd.weights_sha256
    with torch.no_grad():
        odd.model.norm.bias[3] += 1e-6
    assert odd.weights_sha256 != before


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (5, 7),
            r"Given must give features \(n, d\) or maps .*, got \(n, 5, 7\): let a module around",
        ),
        ((), r"Given must give features .*, got \(n\): let"),
        ((6, 6, 5), r"Given must give maps .*, got \(n, 6, 6, 5\), whose channels are last"),
    ],
)
def test_a_module_that_gives_no_features_is_refused(tmp_path, shape, message):
    class Given(torch.nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3)).reshape(-1, *(1 for _ in shape)).expand(-1, *shape) * 2

    network = networks.adopt(Given(), mean=(0.5,) * 3, std=(0.2,) * 3, input_px=32)
    with pytest.raises(ModelError, match=message):
        networks.export(network, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_gives_no_tensor_is_refused(tmp_path):
    class Alone(torch.nn.Module):
        def forward(self, x):
            return {"features": x}

    network = networks.adopt(Alone(), mean=(0.5,) * 3, std=(0.2,) * 3, input_px=32)
    with pytest.raises(ModelError, match=r"^Alone must give a tensor, got dict$"):
        networks.export(network, tmp_path / "a.onnx")


def test_a_module_with_a_number_among_its_tensors_is_exported(tmp_path):
    """BatchNorms count their batches in one."""
    need("onnxscript")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    network = networks.adopt(model, mean=(0.5,) * 3, std=(0.2,) * 3, input_px=32)
    before = network.weights_sha256
    assert networks.export(network, tmp_path / "a.onnx").weights_sha256 == before
    model[1].num_batches_tracked += 1
    assert network.weights_sha256 != before


def test_a_module_that_was_not_adopted_is_refused(tmp_path):
    with pytest.raises(
        TypeError, match=r"^network must be of .*create, got Odd: give a module .*adopt"
    ):
        networks.export(Odd(), tmp_path / "odd.onnx")
    assert list(tmp_path.iterdir()) == []
