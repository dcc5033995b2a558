"""`models export --run`: a run of `classify` becomes an encoder that `extract` runs."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest

from extras import need
from histofast import encoders
from histofast.features import feature_files, read_features
from histofast.slides import read_image, write_png

torch = need("torch", "safetensors")

from safetensors import torch as safetensors

from histofast import classify, graphs, networks

PX = 32


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on small pictures, dark ones and bright ones of one scale."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", "slide", "mpp"])
        for i in range(20):
            pixels = rng.integers(0, 256, (PX, PX, 3), dtype=np.uint8) // (1 + i % 2)
            write_png(folder / f"{i}.png", pixels)
            rows.writerow([f"{i}.png", "dark" if i % 2 else "bright", f"s{i // 2}", 0.7])
    recipe = classify.Recipe(epochs=1, batch_size=8, freeze="all")
    return classify.train(
        folder / "labels.csv", network="resnet18", out=folder / "run", recipe=recipe, threads=1
    )


def of_torch(network, pixels):
    x = (pixels / 255 - np.array(network.mean)) / np.array(network.std)
    with torch.inference_mode():
        return network(torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))).numpy()


def pixels_of(run, names):
    return np.stack([read_image(run.path.parent / name) for name in names])


def test_features_of_an_exported_run_are_those_of_torch(cli, run, tmp_path):
    out = tmp_path / "e.onnx"
    answer = cli("models", "export", "--run", run.path, "--out", out)
    assert (answer.code, answer.err) == (0, [])
    assert answer.out.startswith(
        f"{out}: e, 512 features, 44.7 MB, verified against torch, sha256 "
    )
    spec = encoders.read_spec(out)
    assert (spec.network, spec.layer, spec.patch_px, spec.mpp) == ("resnet18", "layer4", PX, 0.7)
    assert spec.provenance == f'run {run.record.sha256} of classify: resnet18, {{"kind": "random"}}'
    table = run.path.parent / "labels.csv"
    answer = cli("extract", "--patches", table, "--encoder", out, "--out", tmp_path / "f")
    assert answer.code == 0, answer.err
    found = {path.stem: read_features(path).features for path in feature_files(tmp_path / "f")}
    assert sorted(found) == sorted({f"s{i // 2}" for i in range(20)})
    network = run.network(head=False)
    for i in range(10):
        wanted = of_torch(network, pixels_of(run, [f"{2 * i}.png", f"{2 * i + 1}.png"]))
        np.testing.assert_allclose(found[f"s{i}"], wanted, rtol=1e-4, atol=1e-5)


def test_a_head_gives_the_logits_of_the_predictions(cli, run, tmp_path):
    out = tmp_path / "head.onnx"
    answer = cli("models", "export", "--run", run.path, "--out", out, "--head")
    assert answer.out.splitlines()[0] == "logits, in this order: bright, dark"
    told = run.predictions()
    with encoders.load(out, device="cpu", threads=1) as encoder:
        logits = encoder.encode(pixels_of(run, told))
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(exp / exp.sum(axis=1, keepdims=True), list(told.values()), atol=1e-4)


def test_cuts_of_a_run(cli, run, tmp_path):
    out = tmp_path / "c.onnx"
    answer = cli("models", "export", "--run", run.path, "--out", out, "--layers", "layer1,conv1")
    lines = answer.out.splitlines()
    assert lines[0].startswith("c-conv1: 64 features from conv1, 0.118 GMAC (7 % of the whole)")
    assert lines[1].startswith("c-layer1: 64 features from layer1, ")
    out = tmp_path / "one.onnx"
    options = ("--layer", "layer2", "--mpp", "1", "--patch-px", "64", "--licence", "ours")
    assert cli("models", "export", "--run", run.path, "--out", out, *options).code == 0
    spec = encoders.read_spec(out)
    assert (spec.d, spec.mpp, spec.patch_px, spec.licence) == (128, 1.0, 64, "ours")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet18",), "--run brings its own network: leave out NETWORK"),
        (("--weights", "w.h5"), "--run brings its own network: leave out --weights"),
        (("--random", "0"), "--run brings its own network: leave out --random"),
        (("--classes", "2"), "--run brings its own network: leave out --classes"),
        (("--bn-eps", "0.1"), "--run brings its own network: leave out --bn-eps"),
        (("--partial",), "--run brings its own network: leave out --partial"),
        (
            ("--head", "--layer", "layer1"),
            "--head must be of the whole network: leave out --layer and --layers, or --head",
        ),
        (
            ("--layer", "layer9"),
            "layer of resnet18 must be one of conv1, bn1, relu, maxpool, layer1, ",
        ),
    ],
)
def test_what_does_not_go_with_a_run(cli, run, tmp_path, arguments, message):
    answer = cli("models", "export", "--run", run.path, "--out", tmp_path / "e.onnx", *arguments)
    assert answer.code in (1, 2)
    assert answer.out == ""
    assert answer.err[0].startswith(f"histofast: {message}")
    assert len(answer.err) == 1
    assert not (tmp_path / "e.onnx").exists()


def test_runs_that_cannot_be_exported(cli, run, tmp_path):
    def err(folder):
        return cli("models", "export", "--run", folder, "--out", tmp_path / "e.onnx").err

    assert err(tmp_path / "none") == [f"histofast: no such folder: {tmp_path / 'none'}"]
    folder = tmp_path / "run"
    shutil.copytree(run.path, folder)
    with (folder / "weights.safetensors").open("ab") as file:
        file.write(b"\0")
    (line,) = err(folder)
    assert "weights.safetensors must be as it was written, got one changed or removed" in line
    (folder / "metrics.json").unlink()
    (line,) = err(folder)
    assert "must be a finished run, got no metrics.json: run classify again" in line
    (line,) = cli("models", "export", "--out", tmp_path / "e.onnx").err
    assert line == "histofast: NETWORK must be given, or --run RUN instead"
    (line,) = cli("models", "export", "resnet18", "--head", "--out", tmp_path / "e.onnx").err
    assert line == "histofast: --head must come with --run: without one, --classes N keeps a head"


def test_in_python_a_head_is_of_the_whole_network(run):
    with pytest.raises(ValueError, match=r"^head must be of the whole resnet18, .*: leave out one"):
        run.network(layer="layer1")
    assert run.network(layer="layer1", head=False).d == 64


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A weights file of ResNet18 with a head of three classes, of nobody knows where."""
    path = tmp_path_factory.mktemp("plain") / "w.safetensors"
    safetensors.save_file(networks.create("resnet18", classes=3, seed=4).state_dict(), path)
    return path


def test_what_the_weights_want_is_a_guess_or_told(cli, plain, tmp_path):
    out = tmp_path / "e.onnx"
    asked = ("models", "export", "resnet18", "--weights", plain, "--layer", "layer1", "--out", out)
    guess = f"{plain}: nobody knows what these weights want of pixels, ImageNet's mean and deviation are taken"
    answer = cli(*asked)
    assert (answer.code, answer.err) == (0, [])
    assert f"{guess}: say --mean and --std" in answer.out
    told = ("--mean", "104,117,124", "--std", "58", "--channels", "bgr", "--scale", "255")
    answer = cli(*asked, *told, "--overwrite")
    assert (answer.code, answer.err) == (0, [])
    assert "nobody knows" not in answer.out
    pixels = graphs.stained_noise(2, PX)
    wants = graphs.Standardising(mean=(104, 117, 124), std=(58,) * 3, channels="bgr", scale=255)
    network = networks.create("resnet18", weights=plain, layer="layer1", standardising=wants)
    with encoders.load(out, device="cpu") as encoder:
        np.testing.assert_allclose(
            encoder.encode(pixels), of_torch(network, pixels), rtol=1e-3, atol=1e-5
        )


def test_no_random_head_is_written(cli, plain, tmp_path):
    out = tmp_path / "e.onnx"
    asked = ("models", "export", "resnet18", "--weights", plain, "--out", out)
    answer = cli(*asked, "--classes", "2")
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err
    assert line.startswith(
        f"histofast: --classes must be those of a linear head in {plain}, got 2,"
    )
    assert not out.exists()
    assert cli(*asked, "--classes", "3").code == 0
    conv = {"classifier.1.weight": torch.ones(3, 512, 1, 1), "classifier.1.bias": torch.ones(3)}
    path = tmp_path / "squeeze.safetensors"
    safetensors.save_file(networks.create("squeezenet1.1").state_dict() | conv, path)
    answer = cli(
        *("models", "export", "squeezenet1_1", "--weights", path, "--classes", "3"),
        *("--out", tmp_path / "s.onnx"),
    )
    assert answer.code == 2
    assert not (tmp_path / "s.onnx").exists()


def test_random_tensors_are_spoken_of_where_it_says_verified(cli, plain, tmp_path):
    state = safetensors.load_file(plain)
    lacking = {key: value for key, value in state.items() if not key.startswith("layer1.1.conv")}
    path = tmp_path / "part.safetensors"
    safetensors.save_file(lacking, path)
    out = tmp_path / "e.onnx"
    answer = cli(
        *("models", "export", "resnet18", "--weights", path, "--layer", "layer1", "--partial"),
        *("--out", out),
    )
    assert (answer.code, answer.err) == (0, [])
    assert "2 tensors missing: layer1.1.conv1.weight, layer1.1.conv2.weight" in answer.out
    assert "verified against torch with 2 random tensors, sha256" in answer.out
    assert encoders.read_spec(out).provenance == "not stated; 2 tensors random"
