"""Class activation maps are those of their definitions, of any layer, and leave a network as it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_cam as reference
from extras import need

torch = need("torch")

from torch import nn

from histofast.errors import ModelError
from histofast.explain import cam
from histofast.explain.cam import METHODS
from histofast.networks import Recorder, adopt, create, gradients, randomised, twin

pytestmark = pytest.mark.usefixtures("one_thread")

ALL = tuple(METHODS)


class Small(nn.Module):
    """Two convolutions, a ReLU in place after each, a head on the mean; float64."""

    def __init__(self, classes=3):
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.two = nn.Conv2d(4, 5, 2)
        self.last = nn.ReLU(inplace=True)
        self.head = nn.Linear(5, classes)

    def forward(self, x):
        x = self.relu(self.one(x))
        x = self.last(self.two(x))
        return self.head(x.mean((2, 3)))


def small(classes=3, seed=0):
    torch.manual_seed(seed)
    network = Small(classes).double()
    return adopt(network, mean=(0.5,) * 3, std=(0.25,) * 3, name="small", classes=classes)


def pictures(n=5, px=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, px, px, 3), np.uint8)


# --- Definitions -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ALL)
@given(data=st.data())
@settings(max_examples=30)
def test_methods_are_their_definitions(method, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    n, k, h, w = (data.draw(st.integers(1, most)) for most in (3, 4, 4, 5))
    maps = rng.normal(size=(n, k, h, w)) * data.draw(st.sampled_from([0.0, 0.1, 10.0]))
    slopes = rng.normal(size=maps.shape) * rng.integers(0, 2, maps.shape)
    got = METHODS[method](torch.from_numpy(maps), torch.from_numpy(slopes)).numpy()
    wanted = [reference.CAMS[method](a, g) for a, g in zip(maps, slopes, strict=True)]
    np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-10)
    assert (got >= 0).all()


def test_a_denominator_of_zero_is_no_weight():
    maps, slopes = torch.full((1, 1, 1, 2), -1.0), torch.tensor([[[[1.0, 0.0]]]])
    assert METHODS["gradcam++"](maps, slopes).tolist() == [[[0.0, 0.0]]]


def captured(network, layer, pixels, number):
    """The maps of a layer and their gradients, from a copy of the network cut in two by hand."""
    model = network.model
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255
    x = (x - 0.5) / 0.25
    steps = [model.one, nn.ReLU(), model.two, nn.ReLU()]
    at = {"one": 1, "relu": 2, "two": 3, "last": 4}[layer]
    for step in steps[:at]:
        x = step(x)
    maps = x.detach().requires_grad_()
    y = maps
    for step in steps[at:]:
        y = step(y)
    y = model.head(y.mean((2, 3)))
    y[:, number].sum().backward()
    return maps.detach().numpy(), maps.grad.numpy()


@pytest.mark.parametrize("layer", ["one", "relu", "two", "last"])
@pytest.mark.parametrize("number", [0, 2])
def test_maps_of_any_layer_are_those_of_captured_maps_and_gradients(layer, number):
    network, pixels = small(), pictures()
    found = cam.cams(network, pixels, layer=layer, methods=ALL, classes=[number], batch_size=2)
    maps, slopes = captured(network, layer, pixels, number)
    assert found.classes.tolist() == [[number]] * len(pixels)
    for method in ALL:
        wanted = [reference.CAMS[method](a, g) for a, g in zip(maps, slopes, strict=True)]
        np.testing.assert_allclose(found.maps[method][:, 0], wanted, rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.25
        np.testing.assert_allclose(found.output, network(x).numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "layer"), [("resnet18", "layer3"), ("squeezenet1.1", "features.12")]
)
def test_captums_grad_cam_is_the_same(name, layer):
    attr = need("captum.attr")
    network, pixels = create(name, classes=4, seed=0), pictures(n=3, px=64)
    found = cam.cams(network, pixels, layer=layer, methods=["gradcam"], classes=[[0], [3], [1]])
    named = dict(network.named_modules())[layer]
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (network.mean, network.std))
    wanted = attr.LayerGradCam(network, named).attribute(
        (inputs - mean) / std, torch.tensor([0, 3, 1]), relu_attributions=True
    )
    assert wanted.max() > 0
    np.testing.assert_allclose(
        found.maps["gradcam"], wanted.detach().numpy(), rtol=1e-4, atol=1e-6 * wanted.max().item()
    )


def test_several_classes_and_classes_of_each_picture():
    network, pixels = small(), pictures()
    both = cam.cams(network, pixels, layer="two", classes=[2, 0])
    assert both.maps["hirescam"].shape[:2] == (5, 2)
    for place, number in enumerate([2, 0]):
        one = cam.cams(network, pixels, layer="two", classes=[number])
        np.testing.assert_allclose(both.maps["hirescam"][:, place], one.maps["hirescam"][:, 0])
    own = np.array([[0], [2], [1], [0], [2]])
    each = cam.cams(network, pixels, layer="two", classes=own)
    np.testing.assert_allclose(each.maps["hirescam"][0, 0], both.maps["hirescam"][0, 1])
    np.testing.assert_allclose(each.maps["hirescam"][1, 0], both.maps["hirescam"][1, 0])
    likely = cam.cams(network, pixels, layer="two")
    assert likely.classes[:, 0].tolist() == likely.output.argmax(1).tolist()


def test_hires_cam_adds_up_to_the_logit_where_all_that_follows_is_a_mean_and_a_head():
    """Unclipped, over the last layer: sum of g A = logit - bias; every place has its part."""
    network, pixels = small(), pictures()
    found = gradients(
        Recorder(network, ["last"]), pixels, lambda y: [torch.eye(3).double()[[1] * 5]]
    )
    parts = (found.activations["last"] * found.gradients[0]["last"]).sum((1, 2, 3))
    wanted = found.output[:, 1] - network.model.head.bias[1]
    torch.testing.assert_close(parts, wanted.detach())


# --- The network is left as it was -------------------------------------------------------------


def state_of(network):
    return [
        *(
            (m.training, len(m._forward_hooks), len(m._forward_pre_hooks))
            for m in network.modules()
        ),
        *(
            (p.requires_grad, p.grad is None, p.detach().numpy().tobytes())
            for p in network.parameters()
        ),
        *(b.numpy().tobytes() for b in network.buffers()),
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_a_network_is_left_as_it_was(fails):
    network = create("resnet18", classes=2)
    next(network.parameters()).requires_grad_(False)
    before = state_of(network)
    pixels = pictures(2, px=64)
    if fails:
        with pytest.raises(ModelError, match="must give a map"):
            cam.cams(network, pixels, layer="fc")
    else:
        cam.cams(network, pixels, layer="layer2", methods=ALL)
    assert state_of(network) == before


def test_neither_frozen_weights_nor_a_caller_without_gradients_changes_a_map():
    pixels = pictures()
    wanted = cam.cams(small(), pixels, layer="one").maps["hirescam"]
    frozen = small()
    frozen.requires_grad_(False)
    for network, around in (
        (frozen, torch.enable_grad()),
        (small(), torch.no_grad()),
        (small(), torch.inference_mode()),
    ):
        with around:
            got = cam.cams(network, pixels, layer="one").maps["hirescam"]
        np.testing.assert_array_equal(got, wanted)


# --- Refusals ----------------------------------------------------------------------------------


class NoGrad(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(3, 2, 3)
        self.aside = nn.Conv2d(3, 2, 3)
        self.unused = nn.Conv2d(3, 2, 3)

    def forward(self, x):
        self.aside(x)
        with torch.no_grad():
            y = self.inner(x)
        return y.detach().mean((2, 3))


def test_what_cannot_be_explained_is_said_in_one_line():
    pixels = pictures()
    network = small()
    for layer, message in (
        ("tow", r"layer of small must be one of one, .*, got .tow.: did you mean two\?"),
        ("head", r"layer head of small must give a map, got 5 x 3: take one before the pooling"),
    ):
        with pytest.raises(ModelError, match=message):
            cam.cams(network, pixels, layer=layer)
    blind = adopt(NoGrad(), mean=(0.5,) * 3, std=(0.25,) * 3, name="blind", classes=2)
    with pytest.raises(ModelError, match="layer inner of blind must be followed with gradients to"):
        cam.cams(blind, pixels, layer="inner")
    with pytest.raises(ModelError, match="layer unused of blind is not used in a pass"):
        cam.cams(blind, pixels, layer="unused")
    with torch.inference_mode():
        made = small()
    with pytest.raises(
        ValueError, match=r"tensors that gradients can pass, got some of torch.infer"
    ):
        cam.cams(made, pixels, layer="two")
    network.train()
    with pytest.raises(ValueError, match="network must be in evaluation mode"):
        cam.cams(network, pixels, layer="two")


def test_numbers_and_types_are_refused_in_one_line():
    pixels, network = pictures(), small()
    for options, message in (
        ({"classes": [3]}, r"classes must be within 0..2, got 3"),
        ({"classes": [-1]}, r"classes must be within 0..2, got -1"),
        ({"classes": []}, r"classes must be whole numbers \(c,\) or \(n, c\), got float64 \(0,\)"),
        ({"classes": [[0]]}, r"classes must be of each of 5 pictures, got 1"),
        (
            {"methods": ["hires"]},
            r"method must be one of gradcam, gradcam\+\+, hirescam, got 'hires'",
        ),
        (
            {"methods": []},
            r"methods must name at least one of gradcam, gradcam\+\+, hirescam, got none",
        ),
        ({"batch_size": 0}, r"batch_size must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            cam.cams(network, pixels, layer="two", **options)
    with pytest.raises(
        ValueError, match="classes must be 0, for the network has one output, got 1"
    ):
        cam.cams(small(1), pixels, layer="two", classes=[1])
    assert cam.cams(small(1), pixels, layer="two").classes.tolist() == [[0]] * 5
    with pytest.raises(
        ValueError, match=r"must have a head whose outputs are classes, resnet18 giv"
    ):
        cam.cams(create("resnet18"), pixels, layer="layer4")
    with pytest.raises(ValueError, match="pixels must be of at least 1 picture, got none"):
        cam.cams(network, pixels[:0], layer="two")
    several = [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 9, 3), np.uint8)]
    with pytest.raises(TypeError, match="pixels must be "):
        cam.cams(network, several, layer="two")
    with pytest.raises(TypeError, match=r"network must be of histofast.networks.create, got Small"):
        cam.cams(Small(), pixels, layer="two")


# --- Twins -------------------------------------------------------------------------------------


def test_weights_are_drawn_anew_from_the_output_down():
    network = create("resnet18", classes=2, seed=1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fresh = twin(network, seed=5).state_dict()
    names, changed = [], set()
    for name, changing in randomised(network, seed=5):
        names.append(name)
        changed |= {key for key in before if key.startswith(f"{name}.")}
        for key, value in changing.state_dict().items():
            torch.testing.assert_close(value, (fresh if key in changed else before)[key])
    assert names == ["fc", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_module_that_cannot_be_drawn_anew_is_refused():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x.mean((2, 3)) * self.weight

    network = adopt(Own(), mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(
        ValueError, match="network must say how its weights are drawn anew, Own has"
    ):
        next(randomised(network, seed=0))
