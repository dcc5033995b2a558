"""Networks: what they compute, what weights they take, and that their encoder files are equal."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest

from extras import need
from histofast import encoders, graphs
from histofast.errors import ModelError

torch = need("torch")
safetensors = need("safetensors.torch")

from torch import nn
from torch.nn import functional as F

from histofast import networks
from lively import lively

CUTS = [cut.name for cut in networks.layers("densenet121")]


@pytest.fixture(scope="module")
def weights(data):
    return data / "weights" / "densenet121_imagenet.safetensors"


@pytest.fixture(scope="module")
def state():
    """A state dict of the first blocks with BatchNorms that have seen something."""
    network = networks.create("densenet121", layer="denseblock2")
    generator = torch.Generator().manual_seed(1)
    made = {}
    for key, value in network.state_dict().items():
        noise = torch.rand(value.shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            continue
        made[key] = value if value.ndim == 4 else noise + (0.5 if "var" in key else -0.2)
    return made


@pytest.fixture
def file(tmp_path, state):
    path = tmp_path / "weights.safetensors"
    safetensors.save_file(state, path)
    return path


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)


def densenet(state, pixels, *, blocks, eps):
    """DenseNet in float64, as the paper and torchvision's state dict have it."""

    def norm(x, key):
        values = [state[f"{key}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values, eps=eps)

    state = {key.removeprefix("features."): value.double() for key, value in state.items()}
    x = torch.from_numpy(pixels).double().permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).double()
    x = (x - mean[:, None, None]) / std[:, None, None]
    x = F.relu(norm(F.conv2d(x, state["conv0.weight"], stride=2, padding=3), "norm0"))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for b, layers in enumerate(blocks, start=1):
        if b > 1:
            t = f"transition{b - 1}"
            x = F.conv2d(F.relu(norm(x, f"{t}.norm")), state[f"{t}.conv.weight"])
            x = F.avg_pool2d(x, 2)
        for i in range(1, layers + 1):
            at = f"denseblock{b}.denselayer{i}"
            y = F.conv2d(F.relu(norm(x, f"{at}.norm1")), state[f"{at}.conv1.weight"])
            y = F.conv2d(F.relu(norm(y, f"{at}.norm2")), state[f"{at}.conv2.weight"], padding=1)
            x = torch.cat([x, y], 1)
    return x.mean((2, 3)).numpy()


def standardised(pixels, mean, std):
    x = torch.from_numpy(pixels).double().permute(0, 3, 1, 2) / 255
    return (x - torch.tensor(mean).double()[:, None, None]) / torch.tensor(std)[:, None, None]


def resnet(state, pixels, *, blocks, convs, eps):
    """ResNet in float64: two or three convolutions a block, the 3 x 3 one of stride 2 first."""

    def conv(x, key, stride):
        weight = state[key]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(x, key):
        values = [state[f"{key}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values, eps=eps)

    x = standardised(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    x = F.max_pool2d(F.relu(norm(conv(x, "conv1.weight", 2), "bn1")), 3, stride=2, padding=1)
    strided = convs - 1  # of three the middle one, of two the first
    for i, n in enumerate(blocks, start=1):
        for j in range(n):
            at, y = f"layer{i}.{j}", x
            stride = 2 if i > 1 and j == 0 else 1
            for k in range(1, convs + 1):
                y = conv(y, f"{at}.conv{k}.weight", stride if k == strided else 1)
                y = norm(y, f"{at}.bn{k}")
                y = F.relu(y) if k < convs else y
            if f"{at}.downsample.0.weight" in state:
                x = norm(conv(x, f"{at}.downsample.0.weight", stride), f"{at}.downsample.1")
            x = F.relu(x + y)
    return x.mean((2, 3)).numpy()


def squeezenet(state, pixels):
    """SqueezeNet 1.1 in float64, by the indices of torchvision's `features`."""

    def conv(x, key, **options):
        return F.relu(F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], **options))

    x = standardised(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    x = conv(x, "features.0", stride=2)
    for i in range(2, 13):
        if i in (2, 5, 8):
            x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
            continue
        x = conv(x, f"features.{i}.squeeze")
        ones = conv(x, f"features.{i}.expand1x1")
        x = torch.cat([ones, conv(x, f"features.{i}.expand3x3", padding=1)], 1)
    return x.mean((2, 3)).numpy()


def inception(state, pixels):
    """Inception v3 in float64: a block is branches, a branch is a row of convolutions."""

    def conv(x, key, stride=1):
        values = [state[f"{key}.bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        weight = state[f"{key}.conv.weight"]
        # Within blocks all is padded to the same size, but for strides.
        same = key.startswith(("Mixed", "Conv2d_2b")) and stride == 1
        padding = [k // 2 for k in weight.shape[2:]] if same else 0
        x = F.conv2d(x, weight, stride=stride, padding=padding)
        return F.relu(F.batch_norm(x, *values, eps=1e-3))

    def row(x, block, *names, stride=1):
        for name in names:
            x = conv(x, f"{block}.branch{name}", stride if name == names[-1] else 1)
        return x

    def pooled(x):
        return F.avg_pool2d(x, 3, stride=1, padding=1)

    def join(*branches):
        return torch.cat(branches, 1)

    x = standardised(pixels, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    x = conv(conv(conv(x, "Conv2d_1a_3x3", 2), "Conv2d_2a_3x3"), "Conv2d_2b_3x3")
    x = F.max_pool2d(x, 3, stride=2)
    x = F.max_pool2d(conv(conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 3, stride=2)
    threes = ("3x3dbl_1", "3x3dbl_2", "3x3dbl_3")
    for b in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = join(
            row(x, b, "1x1"),
            row(x, b, "5x5_1", "5x5_2"),
            row(x, b, *threes),
            row(pooled(x), b, "_pool"),
        )
    b = "Mixed_6a"
    x = join(row(x, b, "3x3", stride=2), row(x, b, *threes, stride=2), F.max_pool2d(x, 3, stride=2))
    for b in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = join(
            row(x, b, "1x1"),
            row(x, b, "7x7_1", "7x7_2", "7x7_3"),
            row(x, b, *(f"7x7dbl_{i}" for i in range(1, 6))),
            row(pooled(x), b, "_pool"),
        )
    b = "Mixed_7a"
    x = join(
        row(x, b, "3x3_1", "3x3_2", stride=2),
        row(x, b, *(f"7x7x3_{i}" for i in range(1, 5)), stride=2),
        F.max_pool2d(x, 3, stride=2),
    )
    for b in ("Mixed_7b", "Mixed_7c"):
        y, z = row(x, b, "3x3_1"), row(x, b, "3x3dbl_1", "3x3dbl_2")
        x = join(
            row(x, b, "1x1"),
            *(row(y, b, "3x3_2a"), row(y, b, "3x3_2b")),
            *(row(z, b, "3x3dbl_3a"), row(z, b, "3x3dbl_3b")),
            row(pooled(x), b, "_pool"),
        )
    return x.mean((2, 3)).numpy()


def relative(got, wanted):
    return (np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max()


# --- What they compute -------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [1e-5, 1.001e-5, 1e-3])
def test_densenet_matches_definition(file, state, pixels, eps):
    network = networks.create("densenet121", weights=file, layer="denseblock2", bn_eps=eps)
    with torch.inference_mode():
        got = networks.PixelsIn(network)(torch.from_numpy(pixels)).numpy()
    assert relative(got, densenet(state, pixels, blocks=(6, 12), eps=eps)) < 2e-6


@pytest.mark.parametrize(
    ("name", "definition", "side_px"),
    [
        ("resnet18", partial(resnet, blocks=(2, 2, 2, 2), convs=2, eps=1e-5), 64),
        ("resnet34", partial(resnet, blocks=(3, 4, 6, 3), convs=2, eps=1e-5), 49),
        ("resnet50", partial(resnet, blocks=(3, 4, 6, 3), convs=3, eps=1e-5), 64),
        ("squeezenet1.1", squeezenet, 70),
        ("inception-v3", inception, 96),
    ],
)
def test_other_networks_match_their_definitions(rng, name, definition, side_px):
    network = lively(name)
    pixels = rng.integers(0, 256, (2, side_px, side_px + 6, 3), dtype=np.uint8)
    with torch.inference_mode():
        got = networks.PixelsIn(network)(torch.from_numpy(pixels)).numpy()
    state = {key: value.double() for key, value in network.state_dict().items()}
    assert relative(got, definition(state, pixels)) < 1e-5


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("densenet121", 6_953_856),
        ("densenet169", 12_484_480),
        ("resnet18", 11_176_512),
        ("resnet34", 21_284_672),
        ("resnet50", 23_508_032),
        ("squeezenet1.1", 722_496),
        ("inception-v3", 21_785_568),
    ],
)
def test_parameters_are_those_of_torchvision_without_heads(name, parameters):
    assert sum(p.numel() for p in networks.create(name).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cbr-large-t", 8_532_480),
        ("cbr-large-w", 8_432_128),
        ("cbr-small", 2_108_672),
        ("cbr-tiny", 1_076_480),
    ],
)
def test_parameters_of_cbr_are_those_of_the_paper(name, parameters):
    """Counted as there: the convolutions but the first one, and the weights of a head of five."""
    counted = {
        key: value.numel()
        for key, value in networks.create(name, classes=5).named_parameters()
        if key.startswith(("conv", "fc")) and key.endswith("weight") and key != "conv1.weight"
    }
    assert sum(counted.values()) == parameters


def test_the_other_reading_of_cbr_tiny():
    widths = {
        name: [cut.d for cut in networks.layers(name) if cut.name.startswith("conv")]
        for name in ("cbr-tiny", "cbr-tiny-w")
    }
    assert widths == {"cbr-tiny": [32, 64, 128, 256], "cbr-tiny-w": [64, 128, 256, 512]}


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "resnet50",
            {
                "conv1.weight": (64, 3, 7, 7),
                "bn1.running_var": (64,),
                "layer1.0.downsample.1.bias": (256,),
                "layer4.2.conv3.weight": (2048, 512, 1, 1),
            },
        ),
        ("resnet34", {"layer3.5.bn2.num_batches_tracked": ()}),
        (
            "squeezenet1.1",
            {
                "features.0.bias": (64,),
                "features.3.squeeze.weight": (16, 64, 1, 1),
                "features.12.expand3x3.weight": (256, 64, 3, 3),
            },
        ),
        (
            "inception-v3",
            {
                "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
                "Conv2d_4a_3x3.bn.running_mean": (192,),
                "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
                "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
                "Mixed_6c.branch7x7dbl_2.conv.weight": (160, 160, 7, 1),
                "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
                "Mixed_7c.branch3x3dbl_3b.bn.weight": (384,),
            },
        ),
        ("densenet121", {"classifier.weight": (3, 1024), "classifier.bias": (3,)}),
        ("resnet18", {"fc.weight": (3, 512), "fc.bias": (3,)}),
        ("cbr-tiny", {"conv1.weight": (32, 3, 5, 5), "bn4.weight": (256,), "fc.bias": (3,)}),
    ],
)
def test_keys_are_those_of_torchvision(name, keys):
    state = networks.create(name, classes=3).state_dict()
    assert {key: tuple(state[key].shape) for key in keys} == keys


@pytest.mark.parametrize("name", networks.names())
def test_cuts_tell_width_and_share_of_the_work(name):
    cuts = networks.layers(name)
    shares = [cut.flops_share for cut in cuts]
    assert 0 < shares[0] < 1
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    middle = cuts[len(cuts) // 2]
    assert networks.create(name, layer=middle.name).d == middle.d
    assert networks.create(name).d == cuts[-1].d


def test_share_of_the_work_by_hand():
    cuts = {cut.name: cut.flops_share for cut in networks.layers("cbr-small")}
    # Sides of what the convolutions give at 224 px: 218, 102, 44, 15.
    work = [
        7 * 7 * d_in * d_out * side**2
        for d_in, d_out, side in ((3, 32, 218), (32, 64, 102), (64, 128, 44), (128, 256, 15))
    ]
    assert cuts["conv1"] == cuts["pool1"] == pytest.approx(work[0] / sum(work))
    assert cuts["relu3"] == pytest.approx(sum(work[:3]) / sum(work))


def test_names_of_cuts():
    assert [cut.name for cut in networks.layers("resnet18")] == [
        *("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    ]
    assert [cut.name for cut in networks.layers("squeezenet1.1")] == [
        *("conv1", "relu1", "pool1", "fire2", "fire3", "pool3", "fire4", "fire5", "pool5"),
        *("fire6", "fire7", "fire8", "fire9"),
    ]
    assert [cut.name for cut in networks.layers("cbr-large-t")][-4:] == [
        *("pool4", "conv5", "bn5", "relu5")
    ]
    assert [cut.d for cut in networks.layers("resnet50")] == [64] * 4 + [256, 512, 1024, 2048]


def test_cuts_have_the_widths_they_say():
    widths = {cut.name: cut.d for cut in networks.layers("densenet121")}
    assert list(widths)[4:] == [
        *("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3"),
        *("transition3", "denseblock4", "norm5", "relu5"),
    ]
    assert list(widths.values())[4:] == [256, 128, 512, 256, 1024, 512, 1024, 1024, 1024]
    assert networks.layers("densenet169")[-1].d == 1664
    assert networks.names()[:2] == ("densenet121", "densenet169")


def test_a_cut_holds_nothing_beyond_it():
    sizes = {
        layer: sum(p.numel() for p in networks.create("densenet121", layer=layer).parameters())
        for layer in ("denseblock2", None)
    }
    assert sizes == {"denseblock2": 1_297_536, None: 6_953_856}


def test_no_relu_works_in_place():
    for name in networks.names():
        modules = networks.create(name, layer=networks.layers(name)[7].name).modules()
        assert all(not module.inplace for module in modules if isinstance(module, nn.ReLU))


def test_random_weights_come_from_the_seed():
    def first(seed):
        network = networks.create("densenet121", layer="conv0", seed=seed)
        return network.state_dict()["features.conv0.weight"]

    before = torch.random.get_rng_state()
    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("scale", [1.0, 255.0])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_weights_are_given_what_they_want_of_pixels(pixels, tmp_path, channels, scale):
    path = tmp_path / "w.safetensors"
    safetensors.save_file(networks.create("resnet18", seed=3).state_dict(), path)
    mean, std = np.array([0.4, 0.5, 0.6]) * scale, np.array([0.1, 0.2, 0.3]) * scale
    wants = graphs.Standardising(mean=mean, std=std, channels=channels, scale=scale)
    network = networks.create("resnet18", weights=path, layer="layer1", standardising=wants)
    plain = networks.create("resnet18", weights=path, layer="layer1")
    assert (plain.standardised_by, network.standardised_by) == ("guess", "told")
    order = slice(None, None, -1 if channels == "bgr" else 1)
    x = (pixels[..., order] * (scale / 255) - mean) / std
    y = (pixels / 255 - network.mean) / network.std
    with torch.inference_mode():
        wanted, got = (
            of(torch.from_numpy(z.transpose(0, 3, 1, 2).astype(np.float32).copy()))
            for of, z in ((plain, x), (network, y))
        )
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sorted(network.mean), [0.4, 0.5, 0.6])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mean": (1, 2)}, ValueError, "mean must be three finite numbers, got (1, 2)"),
        ({"mean": "abc"}, TypeError, "mean must be three finite numbers, got 'abc'"),
        ({"std": (1, 0, 1)}, ValueError, "std must be positive, got (1.0, 0.0, 1.0)"),
        ({"channels": "gbr"}, ValueError, "channels must be rgb or bgr, got 'gbr'"),
        ({"scale": 2}, ValueError, "scale must be 1 or 255, got 2"),
        ({"mean": (104, 117, 124)}, ValueError, "mean must be within 0..1 as pixels are, got (104"),
    ],
)
def test_standardising_is_refused(changes, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        graphs.Standardising(**{"mean": (0, 0, 0), "std": (1, 1, 1)} | changes)


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        ("squeezenet1_1", "squeezenet1.1"),
        ("inception_v3", "inception-v3"),
        ("Inception3", "inception-v3"),
        ("ResNet50", "resnet50"),
        ("densenet-121", "densenet121"),
    ],
)
def test_names_as_others_spell_them(spelt, name):
    assert networks.layers(spelt) == networks.layers(name)
    assert networks.create(spelt, layer=networks.layers(name)[0].name).architecture == name


def test_a_cut_network_has_the_random_weights_of_the_whole_one():
    whole = networks.create("resnet18", classes=2).state_dict()
    cut = networks.create("resnet18", layer="layer2", classes=2).state_dict()
    assert all(torch.equal(value, whole[key]) for key, value in cut.items() if "fc." not in key)
    for key in ("layer4.1.conv2.weight", "layer1.0.conv1.weight"):  # He normal, fan out
        fan_out = 9 * whole[key].shape[0]
        assert whole[key].std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.01)
    assert torch.equal(whole["bn1.weight"], torch.ones(64))
    assert whole["fc.weight"].abs().max() <= 512**-0.5


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "squeezenet1.1"])
def test_a_head_is_linear_and_comes_after_the_pooling(name):
    layer = networks.layers(name)[6].name
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = networks.create(name, layer=layer)
    logits = networks.create(name, layer=layer, classes=5)
    assert (features.classes, logits.classes, logits.d) == (0, 5, 5)
    with torch.inference_mode():
        head = logits.get_submodule(logits.head)
        torch.testing.assert_close(logits(x), head(features(x)))
        assert logits(x).shape == (2, 5)


def test_pixels_are_standardised_as_the_network_wants():
    assert networks.create("inception-v3", layer="maxpool1").mean == (0.5, 0.5, 0.5)
    assert networks.create("inception-v3", layer="maxpool1").std == (0.5, 0.5, 0.5)
    assert networks.create("resnet18", layer="relu").mean == (0.485, 0.456, 0.406)
    norms = networks.create("inception-v3", layer="Conv2d_1a_3x3").Conv2d_1a_3x3.bn
    assert norms.eps == 1e-3


def test_keys_are_those_of_the_real_file(weights):
    network = networks.create("densenet121", layer="norm5")
    keys = {k for k in network.state_dict() if not k.endswith("num_batches_tracked")}
    with safetensors.safe_open(weights, "pt") as file:
        assert keys == set(file.keys())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "densenet12"}, r"network must be one of densenet121, .*'densenet12': did you"),
        ({"name": "densenet121", "layer": "denseblock5"}, r"layer of densenet121 .* denseblock4"),
        ({"name": "densenet121", "layer": "xyz"}, r"got 'xyz'$"),
        ({"name": "inceptionv4"}, r"'inceptionv4': did you mean inception-v3"),
        ({"name": "resnet18", "layer": "layer5"}, r"layer of resnet18 .* did you mean layer4"),
    ],
)
def test_unknown_names_offer_close_ones(arguments, message):
    with pytest.raises(ModelError, match=message):
        networks.create(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": -1}, "classes must be at least 0, got -1"),
        ({"bn_eps": 0.0}, "bn_eps must be in 0..1, got 0.0"),
    ],
)
def test_numbers_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        networks.create("resnet18", **arguments)


# --- Weights -----------------------------------------------------------------------------------


def test_weights_are_recorded_and_known(weights, file):
    known = networks.create("densenet121", weights=weights, layer="conv0")
    entry = encoders.registry().weights["densenet121-imagenet"]
    assert known.weights_sha256 == encoders.sha256_of(weights) == entry.sha256
    norm = networks.create("densenet121", weights=weights, layer="norm0").features.norm0
    assert norm.eps == entry.bn_eps == 1.001e-5
    unknown = networks.create("densenet121", weights=file, layer="norm0")
    assert unknown.features.norm0.eps == 1e-5
    with pytest.raises(ModelError, match="holds weights of densenet121, not of densenet169"):
        networks.create("densenet169", weights=weights)


@pytest.mark.parametrize("form", ["half", "torch", "old spelling", "with head"])
def test_other_forms_of_the_same_weights(tmp_path, state, form):
    path = tmp_path / "w.pth"
    wanted = dict(state)
    if form == "half":
        wanted = {key: value.half() for key, value in state.items()}
    if form == "with head":
        wanted |= {"classifier.weight": torch.zeros(9, 1024), "classifier.bias": torch.zeros(9)}
    old = {".norm1.": ".norm.1.", ".norm2.": ".norm.2.", ".conv1.": ".conv.1."}
    if form == "old spelling":
        for new, spelt in old.items():
            wanted = {key.replace(new, spelt): value for key, value in wanted.items()}
    torch.save(wanted, path)
    got = networks.create("densenet121", weights=path, layer="denseblock1").state_dict()
    for key, value in got.items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, state[key], atol=1e-3, rtol=1e-3)
            assert value.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("features.denseblock1.denselayer2.norm1.bias"),
            r"lacks 1 tensors of densenet121 \(features.denseblock1.denselayer2.norm1.bias\)",
        ),
        (
            lambda s: s.update({f"layer1.{i}.weight": torch.zeros(1) for i in range(6)}),
            r"has 6 tensors that densenet121 has not \(layer1.0.weight, .* and 3 more\)",
        ),
        (
            lambda s: s.update({"features.conv0.weight": torch.zeros(64, 1, 7, 7)}),
            r"conv0.weight must be of shape \(64, 3, 7, 7\) .*, got \(64, 1, 7, 7\)",
        ),
    ],
)
def test_weights_that_do_not_fit(tmp_path, state, change, message):
    changed = dict(state)
    change(changed)
    path = tmp_path / "w.safetensors"
    safetensors.save_file(changed, path)
    with pytest.raises(ModelError, match=message):
        networks.create("densenet121", weights=path, layer="denseblock1")


def test_weights_cut_shorter_than_asked(file):
    with pytest.raises(ModelError, match=r"lacks .* tensors of densenet121 .* cut shorter"):
        networks.create("densenet121", weights=file, layer="denseblock3")


def test_no_weights_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such weights file: "):
        networks.create("densenet121", weights=tmp_path / "none.pth")


# --- Export ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", CUTS)
def test_every_cut_exports_and_agrees(tmp_path, pixels, layer):
    network = networks.create("densenet121", layer=layer)
    path = tmp_path / "cut.onnx"
    spec = networks.export(network, path, patch_px=64, mpp=0.25, patches=pixels)
    assert (spec.layer, spec.d, spec.patch_px, spec.mpp) == (layer, network.d, 64, 0.25)
    assert (spec.network, spec.weights_sha256) == ("densenet121", "random")
    with encoders.load(path, device="cpu") as encoder, torch.inference_mode():
        wanted = networks.PixelsIn(network)(torch.from_numpy(pixels)).numpy()
        assert relative(encoder.encode(pixels), wanted) < 1e-5


def test_exported_file_matches_definition(tmp_path, file, state, pixels):
    path = tmp_path / "a.onnx"
    networks.export_encoder("densenet121", weights=file, layer="denseblock2", out=path, patch_px=64)
    with encoders.load(path, device="cpu") as encoder:
        got = encoder.encode(pixels)
    assert relative(got, densenet(state, pixels, blocks=(6, 12), eps=1e-5)) < 1e-5


def test_stages_keep_their_names_in_the_file(tmp_path):
    import onnx

    path = tmp_path / "a.onnx"
    networks.export(networks.create("densenet121", layer="transition1"), path, patch_px=64)
    names = [node.name for node in onnx.load(path).graph.node]
    assert {"relu0", "pool0", "denseblock1", "transition1", "transition1.norm"} <= set(names)
    assert "norm0" not in names  # folded into conv0
    assert "denseblock1.denselayer6.conv2" in names


def test_same_weights_same_bytes(tmp_path, file):
    for name in ("a", "b"):
        networks.export_encoder(
            "densenet121",
            weights=file,
            layer="denseblock1",
            out=tmp_path / f"{name}.onnx",
            name="same",
            patch_px=32,
        )
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_default_encoder_is_what_the_command_makes(tmp_path, weights):
    out = tmp_path / "densenet121-t2.onnx"
    spec = networks.export_encoder("densenet121", weights=weights, layer="denseblock2", out=out)
    shipped = encoders.registry().encoders[encoders.DEFAULT]
    assert spec.sha256 == shipped.sha256
    assert out.read_bytes() == shipped.path.read_bytes()


def test_default_encoder_agrees_with_torch_on_real_patches(data, weights):
    import imagecodecs

    files = sorted((data / "idc_dense").rglob("*.png"))[:48]
    images = [imagecodecs.imread(f) for f in files]
    patches = np.stack([i for i in images if i.shape == (50, 50, 3)][:28])
    # Two real patches a side: 100 px.
    patches = np.ascontiguousarray(
        patches.reshape(7, 2, 2, 50, 50, 3).transpose(0, 1, 3, 2, 4, 5).reshape(7, 100, 100, 3)
    )
    network = networks.create("densenet121", weights=weights, layer="denseblock2")
    with encoders.load(encoders.DEFAULT, device="cpu") as encoder, torch.inference_mode():
        module = networks.PixelsIn(network)
        for n in (1, 2, 7):
            wanted = module(torch.from_numpy(patches[:n])).numpy()
            assert relative(encoder.encode(patches[:n]), wanted) < 1e-5
            assert relative(encoder.encode_together(patches[:n]), wanted) < 1e-5


@pytest.fixture
def small():
    return networks.create("densenet121", layer="pool0")


def test_differing_results_are_refused(tmp_path, small, monkeypatch):
    monkeypatch.setattr("histofast.networks.verifying.MAX_RELATIVE_ERROR", 0.0)
    with pytest.raises(ModelError, match=r"is not written: ONNX Runtime and torch differ by .*e-0"):
        networks.export(small, tmp_path / "a.onnx", patch_px=64)
    assert list(tmp_path.iterdir()) == []


def test_nan_is_refused(tmp_path, small):
    small.features.conv0.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ModelError, match="differ by nan"):
        networks.export(small, tmp_path / "a.onnx", patch_px=64)


def test_existing_files_are_kept(tmp_path, small):
    path = tmp_path / "a.onnx"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="exists: choose another name"):
        networks.export(small, path, patch_px=32)
    assert path.read_text() == "precious"
    networks.export(small, path, patch_px=32, overwrite=True)
    assert path.stat().st_size > 30_000
    with pytest.raises(FileNotFoundError, match="no folder"):
        networks.export(small, tmp_path / "none" / "a.onnx", patch_px=32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out": "a.bin"}, "out must end in .onnx, got a.bin"),
        ({"patches": np.zeros((3, 32, 32, 3), np.uint8)}, "patches must be at least 7, got 3"),
        ({"patches": np.zeros((7, 16, 16, 3), np.uint8)}, "patches must be .*32, 32, 3"),
        ({"mpp": 0.0}, "mpp must be within"),
        ({"name": "a b"}, "name must be"),
    ],
)
def test_wrong_arguments(small, arguments, message):
    with pytest.raises(ValueError, match=message):
        networks.export(small, **({"out": "a.onnx", "patch_px": 32} | arguments))


def test_training_mode_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="network must be in evaluation mode"):
        networks.export(small.train(), tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sigmoid(), "densenet121: Sigmoid at relu0 has no ONNX form here"),
        (nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"), "relu0: padding"),
    ],
)
def test_unknown_operations_are_named(small, tmp_path, module, message):
    small.features.relu0 = module
    with pytest.raises(ModelError, match=message):
        networks.export(small.eval(), tmp_path / "a.onnx", patch_px=32)


def test_convolution_with_bias_and_norm_after_it(tmp_path, small):
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, padding=1, groups=4)
    norm = nn.BatchNorm2d(64)
    norm.running_mean.normal_(generator=generator)
    norm.running_var.uniform_(0.5, 2, generator=generator)
    small.features.relu0 = nn.Sequential(nn.ReLU(), conv, norm)
    spec = networks.export(small.eval(), tmp_path / "a.onnx", patch_px=64)
    assert spec.d == 64


def test_provenance_and_licence_are_told(tmp_path, small, weights):
    told = networks.export(
        small, tmp_path / "a.onnx", patch_px=32, provenance="from a friend", licence="CC0"
    )
    assert (told.provenance, told.licence) == ("from a friend", "CC0")
    assert told.exporter == "histofast.networks 1"
    untold = networks.export(small, tmp_path / "b.onnx", patch_px=32)
    assert (untold.provenance, untold.licence) == ("random weights", "random weights")
