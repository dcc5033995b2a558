"""`histofast similarity`: what it asks of `compare`, what it answers, what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from extras import need
from histofast.comparison import comparison_text
from histofast.patches import TissueOptions
from histofast.similarity import Comparison

need("matplotlib", "jinja2")

COMPARISON = Comparison(
    label_a="frozen",
    label_b="tuned",
    names_a=("conv1", "layer1"),
    names_b=("conv1", "layer1"),
    matrix=np.array([[0.98, 0.2], [0.3, 0.41]]),
    measure="debiased linear CKA",
    convention={"mode": "flatten"},
    n=64,
    groups=12,
    images_sha256="ab" * 32,
    pairs=np.array([[0, 0], [1, 1]]),
    low=np.array([0.96, 0.35]),
    high=np.array([0.99, 0.47]),
    permuted=np.array([0.02, 0.02]),
)


MOST_CHANGED = (
    "Most changed is layer1 (0.410, 95 % interval 0.350 to 0.470): above what shuffled images "
    "give (0.020)."
)


class Made:
    """Stands for a result; its report is one file."""

    comparison = COMPARISON

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text("report")


@pytest.fixture
def calls(monkeypatch):
    """What the command asked of the room that compares."""
    asked: list[tuple[tuple, dict]] = []
    room = ModuleType("histofast.comparison")
    room.comparison_text = comparison_text

    def compare(*arguments, **options):
        assert callable(options.pop("on_progress"))
        asked.append((arguments, options))
        return Made()

    room.compare = room.compare_features = compare
    monkeypatch.setitem(sys.modules, "histofast.comparison", room)
    return asked


@pytest.fixture
def files(tmp_path):
    """Files that are there; what is in them is not looked at here."""
    for name in ("frozen.onnx", "tuned.onnx", "w.safetensors"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_onnx_files(cli, calls, files):
    a, b, out = files / "frozen.onnx", files / "tuned.onnx", files / "report"
    answer = cli("similarity", "--a", a, "--b", b, "--images", "patches.csv", "--out", out)
    assert (answer.code, answer.err) == (0, [])
    assert answer.out.splitlines() == [
        "frozen and tuned: debiased linear CKA, 64 images of 12 slides or patients",
        "        similarity   95 % interval  shuffled",
        "conv1        0.980  0.960 to 0.990     0.020",
        "layer1       0.410  0.350 to 0.470     0.020",
        "Layer conv1 is nearly the same (debiased linear CKA of at least 0.95).",
        MOST_CHANGED,
        f"report: {out / 'index.html'}",
    ]
    told = {"label_a": "frozen", "label_b": "tuned", "tissue": TissueOptions()}
    assert calls == [((a, b, [Path("patches.csv")]), told)]
    assert (out / "index.html").read_text() == "report"


def test_options_reach_compare(cli, calls, files):
    other = files / "again"
    other.mkdir()
    (other / "frozen.onnx").write_bytes(b"")
    a, b = files / "frozen.onnx", other / "frozen.onnx"
    options = ("--layers", "conv1, layer1", "--layers", "fc", "--mode", "pool", "--measure", "cca")
    options += ("--n", 99, "--patch-px", 128, "--mpp", 0.5, "--seed", 3, "--preset", "published")
    images = ("--images", "s1.svs", "--images", "s2.svs")
    answer = cli(
        "similarity", "--a", a, "--b", b, *images, *options, "--out", files / "r", "--json"
    )
    assert (answer.code, answer.err) == (0, [])
    assert json.loads(answer.out) == json.loads(COMPARISON.to_json())
    ((arguments, given),) = calls
    assert arguments[2] == [Path("s1.svs"), Path("s2.svs")]
    assert given == {
        "label_a": str(a),
        "label_b": str(b),
        "layers_a": ["conv1", "layer1", "fc"],
        "layers_b": ["conv1", "layer1", "fc"],
        "mode": "pool",
        "measure": "cca",
        "preset": "published",
        "n": 99,
        "patch_px": 128,
        "mpp": 0.5,
        "seed": 3,
        "tissue": TissueOptions(),
    }


def test_weights_become_networks(cli, calls, tmp_path):
    torch = need("torch")
    from histofast import networks

    for seed in (0, 1):
        torch.save(networks.create("cbr-tiny", seed=seed).state_dict(), tmp_path / f"{seed}.pt")
    answer = cli(
        *("similarity", "--a", tmp_path / "0.pt", "--b", tmp_path / "1.pt"),
        *("--network", "cbr-tiny", "--images", "p.csv", "--out", tmp_path / "r"),
    )
    assert (answer.code, answer.err) == (0, [])
    (((a, b, _), given),) = calls
    assert isinstance(a, networks.Network)
    assert not torch.equal(next(a.parameters()), next(b.parameters()))
    assert (given["label_a"], given["label_b"]) == ("0", "1")


def test_feature_folders(cli, calls, tmp_path):
    answer = cli("similarity", "--features", "f1", "f2", "f3", "--out", tmp_path / "r")
    assert (answer.code, answer.err) == (0, [])
    arguments = ("similarity", "--features", "f1", "--features", "f2", "--intersect")
    arguments += ("--n", "99", "--seed", "3", "--measure", "rsa")
    assert cli(*arguments, "--out", tmp_path / "q").code == 0
    assert calls == [
        (([Path("f1"), Path("f2"), Path("f3")],), {"intersect": False}),
        (([Path("f1"), Path("f2")],), {"intersect": True, "n": 99, "seed": 3, "measure": "rsa"}),
    ]


def test_a_folder_that_is_not_empty_is_kept(cli, calls, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    arguments = ("similarity", "--features", "f1", "f2", "--out", tmp_path)
    answer = cli(*arguments)
    assert (answer.code, answer.out, calls) == (2, "", [])
    assert answer.err == [
        f"histofast: --out {tmp_path} is not empty: choose another folder, or give --overwrite"
    ]
    assert cli(*arguments, "--overwrite").code == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"


ONNX = ("--a", "frozen.onnx", "--b", "tuned.onnx")
IMAGES = ("--images", "p.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (),
            "--a FILE --b FILE --images PATH must be given, or --features with two or more folders",
        ),
        (("f1", "f2"), "f1 belongs to no option: folders go behind --features"),
        (("--features", "f1"), "--features must name at least 2 folders, got 1"),
        (
            ("--features", "f1", "f2", *ONNX),
            "--a must not be given with --features: that compares what is there",
        ),
        (
            ("--features", "f1", "f2", "--patch-px", "64"),
            "--patch-px must not be given with --features: that compares what is there",
        ),
        (("--features", "f1", "f2"), "--out must name the folder of the report"),
        (("--features", "f1", "f2", "--out", "w.safetensors"), "--out must be a folder, "),
        (("--a", "frozen.onnx", *IMAGES), "--b must be given too: two networks are compared"),
        (("--b", "frozen.onnx", *IMAGES), "--a must be given too: two networks are compared"),
        (ONNX, "--images must name a list of patches, or slides: nothing is guessed"),
        (
            (*ONNX, *IMAGES, "--intersect"),
            "--intersect is for --features: both networks see the same images",
        ),
        (
            ("--a", "w.safetensors", "--b", "tuned.onnx", *IMAGES),
            "--network must name the network that w.safetensors holds weights of",
        ),
        (
            (*ONNX, *IMAGES, "--network", "resnet18"),
            "--network is for weights: frozen.onnx and tuned.onnx are whole networks",
        ),
        (
            (*ONNX, *IMAGES, "--classes", "2"),
            "--classes is for weights: frozen.onnx and tuned.onnx are whole networks",
        ),
        (
            (*ONNX, *IMAGES, "--device", "cpu"),
            "--device is for weights: frozen.onnx and tuned.onnx are whole networks",
        ),
        (("--a", "frozen.onnx", "--b", "none.onnx", *IMAGES), "no such network: none.onnx"),
        (
            (*ONNX, "--mode", "mean"),
            "invalid value for '--mode': must be one of flatten, spatial, pool, got 'mean'",
        ),
        (
            (*ONNX, "--n", "many"),
            "invalid value for '--n': must be a whole number, got 'many'",
        ),
    ],
)
def test_refuses(cli, calls, files, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    before = sorted(files.iterdir())
    answer = cli("similarity", *arguments)
    assert (answer.code, answer.out, calls) == (2, "", [])
    (line,) = answer.err
    assert line.startswith(f"histofast: {message}")
    assert sorted(files.iterdir()) == before


def test_help_shows_both_forms(cli):
    answer = cli("similarity", "--help")
    assert answer.code == 0
    text = " ".join(answer.out.split())
    assert "histofast similarity --a ONE --b OTHER --network NAME --images PATH" in text
    assert "histofast similarity --features FOLDER FOLDER ... --out FOLDER" in text
