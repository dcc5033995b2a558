"""`study truncation` on a published vision transformer, cut down, from a checkpoint in its publisher's naming."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from extras import need
from histofast import encoders
from histofast.cli import _run
from histofast.errors import ModelError
from histofast.features import read_features
from histofast.slides import write_png
from timm_here import need_timm

torch = need("torch", "onnxscript", "sklearn", "matplotlib", "jinja2")
timm = need_timm()

from histofast import mil, networks

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

PX, BAGS, EACH = 56, 12, 3
BLOCKS, WIDTH, PREFIX = 3, 48, 9
SMALLER = {
    "img_size = 224": f"img_size = {PX}",
    "depth = 24": f"depth = {BLOCKS}",
    "num_heads = 24": "num_heads = 3",
    "embed_dim = 1536": f"embed_dim = {WIDTH}",
    "\nd = 1536": f"\nd = {WIDTH}",
    "patch_px = 224": f"patch_px = {PX}",
    "tensors = 343": f"tensors = {7 + 14 * BLOCKS}",
}


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """UNI2-h with three narrow blocks in the registry, its file, and bags that differ in stripes."""
    text = (Path(__file__).parent.parent / "models" / "registry.toml").read_text()
    start = text.index("[foundation.uni2-h]")
    end = text.index("[foundation.", start + 1)
    entry = re.sub(r"sha256 = .*\n", "", text[start:end])
    for old, new in SMALLER.items():
        assert old in entry
        entry = entry.replace(old, new)
    (tmp_path / "registry.toml").write_text(text[:start] + entry + text[end:])
    monkeypatch.setattr("histofast.encoders.catalogue.models_folder", lambda: tmp_path)
    encoders.registry.cache_clear()
    published = networks.create(networks.foundation_name(encoders.registry().foundation["uni2-h"]))
    torch.save(published.model.state_dict(), tmp_path / "pytorch_model.bin")
    rng = np.random.default_rng(0)
    lines, labels = ["file,bag"], ["slide,label"]
    for b in range(BAGS):
        for i in range(EACH):
            picture = rng.integers(120, 200, (PX, PX, 3), dtype=np.uint8)
            if b % 2 and i < 2:
                picture[::4] //= 3
            write_png(tmp_path / f"b{b:02}-{i}.png", picture)
            lines.append(f"b{b:02}-{i}.png,b{b:02}")
        labels.append(f"b{b:02},{'yes' if b % 2 else 'no'}")
    (tmp_path / "patches.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "labels.csv").write_text("\n".join(labels) + "\n")
    yield tmp_path, published.model
    encoders.registry.cache_clear()


def tokens(model, paths, number):
    """What the checkpoint has behind a block, from timm itself: class tokens, patches' tokens."""
    from PIL import Image

    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        ((patches, prefix),) = model.forward_intermediates(
            x, indices=[number - 1], norm=True, output_fmt="NLC",
            return_prefix_tokens=True, intermediates_only=True,
        )  # fmt: skip
    assert prefix.shape[1] == PREFIX
    return prefix[:, 0].numpy(), patches.mean(1).numpy()


def test_a_published_transformer_is_cut_and_pooled(stage, capsys):
    folder, model = stage
    out = folder / "study"
    made = [
        *("study", "truncation", "--network", f"uni2-h={folder / 'pytorch_model.bin'}"),
        *("--cuts", "block1,block3", "--pool", "cls,mean", "--random-seeds", "1", "--no-speed"),
        *("--patches", str(folder / "patches.csv"), "--labels", str(folder / "labels.csv")),
        *("--folds", "2", "--repeats", "1", "--epochs", "2", "--quiet", "--out", str(out)),
    ]
    assert _run(made) == 0
    study = json.loads((out / "study.json").read_text())
    rows = {row["name"]: row for row in study["rows"] if not row["baseline"]}
    assert [(name, row["pool"], row["d"]) for name, row in rows.items()] == [
        ("uni2-h block1-cls", "cls", WIDTH),
        ("uni2-h block1", "mean", WIDTH),
        ("uni2-h block3-cls", "cls", WIDTH),
        ("uni2-h block3", "mean", WIDTH),
    ]
    assert rows["uni2-h block1"]["depth"] == rows["uni2-h block1-cls"]["depth"] < 0.5
    _differences_are_of_the_same_folds(study, out)
    _features_are_the_checkpoints(model, folder)
    page = (out / "index.html").read_text()
    assert "The class token (cls) against the mean of the patches" in page
    assert "that of an early block has seen little" in page
    alone = encoders.read_spec(out / "encoders" / "uni2-h-block1-cls.onnx")
    assert alone.licence.startswith("CC-BY-NC-ND-4.0")
    assert "uni2-h: pytorch_model.bin" in alone.provenance
    random = encoders.read_spec(out / "encoders" / "uni2-h-block3-random-0.onnx")
    assert (random.weights_sha256, random.patch_px, random.mpp) == ("random", PX, alone.mpp)
    before = {path: path.stat().st_mtime_ns for path in (out / "encoders").iterdir()}
    assert len(before) == 4 + 1 + 1
    assert _run([*made, "--json"]) == 0
    assert "block3-cls" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (out / "encoders").iterdir()}


def _differences_are_of_the_same_folds(study, out):
    assert [(p["row"], p["other"]) for p in study["pools"]] == [
        ("uni2-h block1-cls", "uni2-h block1"),
        ("uni2-h block3-cls", "uni2-h block3"),
    ]

    def folds(layer):
        run = out / "runs" / f"uni2-h-{layer}" / "repeat-0"
        assert mil.open_run(run).config.seed == 0
        return np.array(
            [fold["auroc"] for fold in json.loads((run / "metrics.json").read_text())["folds"]]
        )

    for pair, block in zip(study["pools"], ("block1", "block3"), strict=True):
        wanted = (folds(f"{block}-cls") - folds(block)).mean()
        assert pair["difference"]["value"] == pytest.approx(wanted)


def _features_are_the_checkpoints(model, folder):
    paths = [folder / f"b03-{i}.png" for i in range(EACH)]
    for number in (1, 3):
        for name, wanted in zip(
            (f"block{number}-cls", f"block{number}"), tokens(model, paths, number), strict=True
        ):
            (file,) = (folder / "study" / "features").rglob(f"features_uni2-h-{name}/b03.h5")
            got = read_features(file).features
            error = np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
            assert error.max() < 2e-5, name


def test_what_cannot_be_pooled_is_refused(stage):
    """Before anything is written."""
    folder, _ = stage
    given = [
        *("study", "truncation", "--network", f"uni2-h={folder / 'pytorch_model.bin'}"),
        *("--patches", str(folder / "patches.csv"), "--labels", str(folder / "labels.csv")),
        *("--out", str(folder / "study")),
    ]
    for more, message in (
        (["--pool", "max"], "pool must be one of cls, cls\\+mean, mean, got 'max'"),
        (
            ["--cuts", "block4"],
            "cuts of uni2-h must be of block1, block2, block3, features, got 'block4'",
        ),
        (["--pool", ","], "pool must name at least one, got none: leave it out"),
    ):
        with pytest.raises((ValueError, ModelError), match=message):
            _run([*given, *more])
    assert not (folder / "study").exists()
