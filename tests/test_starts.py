"""Starts: their grammar, and each against its definition."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extras import need
from labelled_pictures import write_pictures
from reference import gabor_filter

torch = need("torch", "safetensors")

from safetensors.torch import save_file

from histofast import classify
from histofast.errors import ModelError
from histofast.networks import create, starts
from histofast.slides import read_image

ROOT = Path(__file__).resolve().parent.parent
NETWORK = "cbr-tiny"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights that no seed gives, statistics too."""
    state = create(NETWORK, seed=5).state_dict()
    generator = torch.Generator().manual_seed(1)
    for key, value in state.items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            state[key] = (value * 1.5 + noise / 4).contiguous()
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(state, path)
    return path


def state_of(start, **options):
    return starts.begin(NETWORK, start, **options).state_dict()


TEXTS = [
    *("random", "w.safetensors", "./random", "run:runs/a", "mean-var:w.pth", "mean-var:run:a:b"),
    *("transfuse:w.pth:pool2", "transfuse:mean-var:w.pth:pool2:mean-var", "gabor:7"),
    *("random:0", "mean-var:random:12", "transfuse:random:3:pool2"),
    *("C:\\weights\\w.pth", "transfuse:C:\\w.pth:bn1", "mean-var:C:/w.pth"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_come_back(text):
    assert str(starts.parse(text)) == text
    assert starts.parse(str(starts.parse(text))) == starts.parse(text)


WORDS = [
    *(
        "random",
        "run",
        "mean-var",
        "transfuse",
        "slim",
        "gabor",
        "merge",
        "mean",
        "svd-pre",
        "ties",
    ),
    *("evbmf", "2", "02", "0", "layer2", "w.pth", "./a", "C", ":", ":", ":", "+", "+", " ", ""),
]


@settings(max_examples=500)
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=12).map("".join))
def test_any_text_is_a_start_that_comes_back_or_is_refused(text):
    try:
        start = starts.parse(text)
    except ValueError as error:
        said = str(error)
    else:
        assert str(start) == text
        assert starts.parse(str(start)) == start
        return
    assert said.startswith("start must ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meanvar:w.pth", "start must be a file, or begin with one of random:, run:.*mean-var"),
        ("run:", "must have a folder: run:FOLDER"),
        ("transfuse:w.pth", "must have a start and a layer: transfuse:START:LAYER"),
        ("gabor:x", "must have a seed, gabor:SEED"),
        ("gabor:07", "must have a seed, gabor:SEED"),
        ("random:", "must have a seed, random:SEED"),
        ("mean-var:", "must have a start: mean-var:START"),
    ],
)
def test_bad_texts(text, message):
    with pytest.raises(ValueError, match=message):
        starts.parse(text)


def test_a_start_is_a_text_a_path_or_a_start(file):
    assert starts.parse(file) == starts.parse(str(file)) == starts.File(str(file))
    assert starts.parse(starts.Random()) == starts.Random()
    assert starts.identity(file) == starts.identity(str(file))
    with pytest.raises(TypeError, match="start must be a text, got 3"):
        starts.begin(NETWORK, 3)


def test_a_file_is_taken_as_it_is(file):
    found, wanted = state_of(str(file)), create(NETWORK, weights=file).state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_random_weights_may_have_a_seed_of_their_own():
    own = state_of("random:3", seed=1)
    assert all(torch.equal(own[key], value) for key, value in state_of("random", seed=3).items())
    assert all(torch.equal(own[key], value) for key, value in state_of("random:3").items())
    assert not torch.equal(own["conv1.weight"], state_of("random", seed=1)["conv1.weight"])
    told = [starts.identity(text) for text in ("random", "random:3", "random:4")]
    assert told == [{"kind": "random"}, *({"kind": "random", "seed": s} for s in (3, 4))]
    heads = [state_of("random:3", classes=2, seed=seed)["fc.weight"] for seed in (1, 2)]
    assert not torch.equal(*heads)


def test_the_head_is_new_and_random(file):
    found = state_of(str(file), classes=3, seed=2)
    wanted = create(NETWORK, classes=3, seed=2).state_dict()
    assert torch.equal(found["fc.weight"], wanted["fc.weight"])
    assert not torch.equal(found["fc.weight"], state_of(str(file), classes=3, seed=3)["fc.weight"])


def test_mean_var_keeps_mean_and_variance_of_every_tensor_and_nothing_else(file):
    found, base = state_of(f"mean-var:{file}", seed=3), state_of(str(file))
    for key, value in base.items():
        if "running" in key or "num_batches" in key:
            assert torch.equal(found[key], create(NETWORK).state_dict()[key]), key
            continue
        n = value.numel()
        mean, deviation = float(value.mean()), float(value.std(correction=0))
        drawn = found[key].double()
        # Five deviations of a mean, and of a deviation, of n normal numbers.
        assert abs(float(drawn.mean()) - mean) <= 5 * deviation / math.sqrt(n) + 1e-7, key
        error = abs(float(drawn.std(correction=0)) - deviation)
        assert error <= 5 * deviation / math.sqrt(2 * n) + deviation / n + 1e-7, key
        if deviation > 0:
            assert not torch.equal(found[key], value), key
            if n > 1000:
                both = np.corrcoef(drawn.numpy().ravel(), value.double().numpy().ravel())[0, 1]
                assert abs(both) < 5 / math.sqrt(n), key


def test_a_constant_tensor_stays(tmp_path):
    state = create(NETWORK, seed=5).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    found = state_of(f"mean-var:{tmp_path / 'w.safetensors'}")
    assert torch.equal(found["bn1.weight"], state["bn1.weight"])


@pytest.mark.parametrize("beyond", ["", ":mean-var"])
def test_transfuse_takes_up_to_a_layer_and_no_more(file, beyond):
    found = state_of(f"transfuse:{file}:bn2{beyond}", seed=4)
    base = state_of(str(file))
    rest = state_of(f"mean-var:{file}", seed=4) if beyond else state_of("random", seed=4)
    for key in base:
        taken = key.split(".")[0] in {"conv1", "bn1", "conv2", "bn2"}
        assert torch.equal(found[key], (base if taken else rest)[key]), key


def test_transfuse_to_the_last_layer_is_the_start(file):
    found, base = state_of(f"transfuse:{file}:pool4"), state_of(str(file))
    assert all(torch.equal(found[key], base[key]) for key in base)


def test_gabor_is_of_its_formula_and_of_the_scale_of_he(file):
    network = starts.begin("resnet18", "gabor:3", seed=6)
    random = create("resnet18", seed=6)
    filters = network.conv1.weight.detach().double().numpy()
    assert filters.std() == pytest.approx(
        float(random.conv1.weight.detach().std(correction=0)), rel=1e-6
    )
    assert torch.equal(network.layer1[0].conv1.weight, random.layer1[0].conv1.weight)
    other = starts.begin("resnet18", "gabor:4", seed=6).conv1.weight
    assert not torch.equal(other, network.conv1.weight)
    again = starts.begin("resnet18", "gabor:3", seed=7).conv1.weight  # of the run's scale only
    np.testing.assert_allclose(
        again.detach().numpy() / again.detach().numpy().std(), filters / filters.std(), atol=1e-5
    )


def test_every_gabor_filter_is_in_the_bank():
    bank = [
        np.array(colour)[:, None, None]
        * gabor_filter(7, angle=math.pi * turn / 8, wave_px=wave, phase=phase)
        for turn in range(8)
        for wave in (2.5, 3.5, 5.0, 7.0)
        for phase in (0.0, math.pi / 2)
        for colour in ((1, 1, 1), (1, -1, 0), (-0.5, -0.5, 1))
    ]
    bank = np.array([f.ravel() / np.linalg.norm(f) for f in bank])
    made = starts.begin("resnet18", "gabor:0").conv1.weight.detach().double().numpy()
    made = made.reshape(64, -1) / np.linalg.norm(made.reshape(64, -1), axis=1, keepdims=True)
    nearest = made @ bank.T
    assert nearest.max(axis=1) == pytest.approx(np.ones(64), abs=1e-6)
    assert len(set(nearest.argmax(axis=1))) == 64


def test_the_bank_is_all_angles_waves_phases_and_colours():
    bank = starts.gabor_bank(7)
    assert (
        len({(f.angle, f.wave_px, f.phase, f.colour) for f in bank}) == len(bank) == 8 * 4 * 2 * 3
    )
    for one in bank:
        plane = gabor_filter(7, angle=one.angle, wave_px=one.wave_px, phase=one.phase)
        wanted = np.array(one.colour)[:, None, None] * plane
        np.testing.assert_allclose(one.weights, wanted / np.linalg.norm(wanted), atol=1e-12)


def test_the_picture_of_the_bank_is_what_its_example_draws(tmp_path):
    need("matplotlib")
    for name in ("a.png", "b.png"):
        code = [sys.executable, ROOT / "examples" / "gabor_bank.py", tmp_path / name]
        ran = subprocess.run(code, capture_output=True, text=True, check=True)
        assert ran.stdout.endswith(f"{name}: 192 filters\n")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    drawn = read_image(tmp_path / "a.png").astype(int)
    kept = read_image(ROOT / "docs" / "gabor-bank.png").astype(int)
    assert drawn.shape == kept.shape
    # Letters may be drawn otherwise by another version of matplotlib, filters not.
    assert np.mean(np.abs(drawn - kept).max(2) > 8) < 0.02


def test_starts_of_the_page_are_starts():
    page = (ROOT / "docs" / "starts.md").read_text()
    found = re.findall(r"--network (\S+) --start (\S+)", page)
    assert {starts.parse(text).__class__ for _, text in found} >= set(get_args(starts.Start)) - {
        starts.Random
    }
    for network, text in found:
        assert starts.network_of(network, text)


def test_identity_is_of_content_not_of_paths(file, tmp_path):
    copy = tmp_path / "other.safetensors"
    copy.write_bytes(file.read_bytes())
    assert starts.identity(str(copy)) == starts.identity(str(file))
    changed = bytearray(copy.read_bytes())
    changed[-1] ^= 1
    copy.write_bytes(changed)
    assert starts.identity(f"mean-var:{copy}") != starts.identity(f"mean-var:{file}")
    json.dumps(starts.identity(f"transfuse:{file}:bn1"))


def test_a_run_starts_another(tmp_path):
    table = write_pictures(tmp_path, n=36, groups=12)
    recipe = classify.Recipe(epochs=1, px=24, batch_size=8, freeze="all")
    done = classify.train(table, network="resnet18", recipe=recipe, out=tmp_path / "a")
    begun = starts.begin("resnet18", f"run:{done.path}", classes=5).state_dict()
    own = done.network().state_dict()
    assert all(torch.equal(begun[k], own[k]) for k in own if not k.startswith("fc."))
    assert begun["fc.weight"].shape == (5, 512)
    with pytest.raises(
        ModelError, match="must be a run of resnet34, got one of resnet18: name that"
    ):
        starts.begin("resnet34", f"run:{done.path}")
    refuses_what_was_changed(done.path, tmp_path)
    (done.path / "metrics.json").unlink()
    with pytest.raises(ModelError, match="must be a finished run"):
        starts.begin("resnet18", f"run:{done.path}")


def refuses_what_was_changed(run, folder):
    """Whatever takes the weights of a run takes them as the run left them, or not at all."""
    takers = [
        *(lambda text=text: starts.begin("resnet18", text) for text in run_starts(run)),
        *(lambda text=text: starts.identity(text) for text in run_starts(run)),
        lambda: classify.merge([run, run], out=folder / "m.safetensors", method="mean"),
        lambda: classify.export(classify.open_run(run), folder / "e.onnx"),
        lambda: classify.predict(run, folder / "img"),
    ]
    for name in ("weights.safetensors", "metrics.json"):
        written = (run / name).read_bytes()
        # The last digit of a number, or of a weight of the head, which no start takes.
        at = written.rindex(b"0") if name == "metrics.json" else len(written) - 2
        (run / name).write_bytes(written[:at] + bytes([written[at] ^ 1]) + written[at + 1 :])
        for take in takers:
            with pytest.raises(
                ModelError, match=f"{name} must be as it was written.*: remove"
            ) as e:
                take()
            assert "\n" not in str(e.value)
        (run / name).write_bytes(written)
    assert not (folder / "m.safetensors").exists()


def run_starts(run):
    whole = f"run:{run}"
    return [
        whole,
        f"mean-var:{whole}",
        f"transfuse:{whole}:layer1",
        f"merge:mean:{whole}+{whole}",
    ]


@pytest.mark.parametrize(
    ("network", "start", "error", "message"),
    [
        ("resnet18", "{file}", ModelError, "cbr-tiny"),
        (NETWORK, "transfuse:{file}:bn9", ModelError, "layer of cbr-tiny must be one of .*'bn9'"),
        (NETWORK, "absent.pth", FileNotFoundError, "absent.pth"),
        (
            NETWORK,
            ".",
            ModelError,
            r"start . must be a file, got a folder: a run is told as run:\.",
        ),
        (
            "timm:resnet50.a1_in1k",
            "absent.pth",
            ModelError,
            "own to be trained, .* did you mean resnet50",
        ),
        ("timm:vit_small", "random", ModelError, "network must be one of .*, got 'timm:vit_small'"),
        (
            NETWORK,
            "merge:mean:absent.pth+slim:absent.pth:bn1:2",
            ModelError,
            "be of one network, got",
        ),
        (NETWORK, "imagenet", FileNotFoundError, "start imagenet must be given by its file"),
        (NETWORK, "run:absent", FileNotFoundError, "no run of classify in absent"),
    ],
)
def test_starts_that_do_not_fit(file, network, start, error, message):
    with pytest.raises(error, match=message) as raised:
        starts.begin(network, start.format(file=file))
    assert "\n" not in str(raised.value)
