"""Studies as a user runs them, on patches that differ in what a cut network can see."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from extras import need
from histofast.cli import _run
from histofast.errors import FeatureError, ModelError
from histofast.features import read_features
from histofast.slides import write_png
from small_slides import write_slide

torch = need("torch", "sklearn", "matplotlib", "jinja2")

from safetensors.torch import save_file

from histofast import networks, studies
from histofast.studies import Difference, StudyRow, cuts
from histofast.studies.cuts import _blocks

pytestmark = pytest.mark.usefixtures("one_thread")

PX, BAGS = 32, 20
QUICK = ["--folds", "2", "--epochs", "3", "--quiet"]


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage")
    rng = np.random.default_rng(0)
    lines, labels = ["file,bag"], ["slide,label"]
    for b in range(BAGS):
        for i in range(4):
            picture = rng.integers(120, 200, (PX, PX, 3), dtype=np.uint8)
            if b % 2 and i < 2:
                picture[::4] //= 3
            write_png(folder / f"b{b:02}-{i}.png", picture)
            lines.append(f"b{b:02}-{i}.png,b{b:02}")
        labels.append(f"b{b:02},{'yes' if b % 2 else 'no'}")
    (folder / "patches.csv").write_text("\n".join(lines) + "\n")
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    network = networks.create("resnet18", layer="layer1", seed=3)
    save_file(network.state_dict(), folder / "w.safetensors")
    return folder


def arguments(stage, out, *more):
    return [
        *more,
        *("--patches", str(stage / "patches.csv"), "--labels", str(stage / "labels.csv")),
        *("--patch-px", str(PX), "--out", str(out), *QUICK),
    ]


@pytest.fixture(scope="module")
def truncated(stage, tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("study") / "s"
    network = f"resnet18={stage / 'w.safetensors'}"
    made = arguments(stage, out, "study", "truncation", "--network", network)
    assert _run([*made, "--cuts", "maxpool,layer1"]) == 0
    torch.set_num_threads(before)
    return out, made


def test_truncation_answers(truncated):
    out, _ = truncated
    study = json.loads((out / "study.json").read_text())
    rows = {row["name"]: row for row in study["rows"]}
    assert list(rows) == [
        "resnet18 maxpool",
        "resnet18 layer1",
        "resnet18, random weights",
        "mean pooling and logistic regression",
    ]
    assert [row["baseline"] for row in study["rows"]] == [False, False, True, True]
    assert sum(row["chosen"] for row in study["rows"]) == 1
    for name in ("resnet18 maxpool", "resnet18 layer1"):
        assert 0 <= rows[name]["low"] <= rows[name]["value"] <= rows[name]["high"] <= 1
        assert rows[name]["patches_per_s"] > 0
        assert "AUROC, mean pooling" in rows[name]["extra"]
    assert rows["resnet18 maxpool"]["depth"] < rows["resnet18 layer1"]["depth"]
    assert rows["resnet18, random weights"]["patches_per_s"] is None
    # The value is the run's own.
    run = json.loads((out / "runs" / "resnet18-layer1" / "metrics.json").read_text())
    assert rows["resnet18 layer1"]["value"] == pytest.approx(run["out_of_fold"]["auroc"]["value"])
    page = (out / "index.html").read_text()
    assert "histofast extract slides/ --encoder" in page
    assert (out / "study.png").is_file()
    with (out / "study.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4


def test_a_study_goes_on_where_it_was(truncated, capsys):
    out, made = truncated
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.h5")}
    runs = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/metrics.json")}
    assert _run([*made, "--cuts", "maxpool,layer1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_slides"] == BAGS
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*.h5")}
    assert runs == {p: p.stat().st_mtime_ns for p in out.glob("runs/*/metrics.json")}


def test_networks_answers(stage, truncated, tmp_path, capsys):
    encoders = truncated[0] / "encoders"
    made = arguments(stage, tmp_path / "s", "study", "networks", "--no-speed")
    for layer in ("maxpool", "layer1"):
        made += ["--encoder", str(encoders / f"resnet18-{layer}.onnx")]
    assert _run(made) == 0
    text = capsys.readouterr().out
    assert "resnet18-layer1" in text
    assert "report: " in text
    assert (tmp_path / "s" / "similarity" / "index.html").is_file()
    assert "similarity/index.html" in (tmp_path / "s" / "index.html").read_text()


def test_finetune_follows(stage, truncated, tmp_path, capsys):
    run = truncated[0] / "runs" / "resnet18-layer1"
    encoder = truncated[0] / "encoders" / "resnet18-layer1.onnx"
    options = ["--patches", str(stage / "patches.csv"), "--encoder", str(encoder)]
    options += ["--epochs", "1", "--folds", "0"]
    assert _run(["finetune", str(run), "--out", str(tmp_path / "t"), "--quiet", *options]) == 0
    text = capsys.readouterr().out
    assert "95 % by patients  95 % by training" in text
    assert (tmp_path / "t" / "encoder.onnx").is_file()
    assert (tmp_path / "t" / "similarity" / "index.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--network", "resnet18"], ValueError, "--network must be NAME=WEIGHTS, got 'resnet18'"),
        (["--network", "resnet18=none.pth"], FileNotFoundError, "no such file: none.pth"),
    ],
)
def test_bad_commands(stage, tmp_path, arguments, error, message):
    given = ["study", "truncation", *arguments, "--labels", str(stage / "labels.csv")]
    with pytest.raises(error, match=message):
        _run([*given, "--patches", str(stage / "patches.csv"), "--out", str(tmp_path / "s")])


def test_bad_studies(stage, tmp_path):
    given = {"labels": stage / "labels.csv", "out": tmp_path / "s"}
    with pytest.raises(ValueError, match="networks must name at least one network"):
        studies.truncation({}, patches=stage / "patches.csv", **given)
    with pytest.raises(ModelError, match="got 'resnet8': did you mean resnet18"):
        studies.truncation({"resnet8": "w"}, patches=stage / "patches.csv", **given)
    assert not (tmp_path / "s").exists()
    with pytest.raises(ValueError, match="either slides or patches must be given"):
        studies.truncation({"resnet18": "w"}, **given)
    with pytest.raises(ModelError, match=r"cuts of resnet18 must be of .* got 'layr1'"):
        studies.truncation(
            {"resnet18": "w"}, patches=stage / "patches.csv", cuts=["layr1"], **given
        )
    with pytest.raises(ValueError, match="encoders must be at least 2, got 1"):
        studies.compare_networks(["a"], patches=stage / "patches.csv", **given)
    with pytest.raises(ValueError, match="must have different names, got 'densenet121-t2' twice"):
        studies.compare_networks(
            ["densenet121-t2", "densenet121-t2"], patches=stage / "patches.csv", **given
        )


def test_blocks_are_the_cuts_that_cost_something():
    assert _blocks("resnet18") == ["maxpool", "layer1", "layer2", "layer3", "layer4"]
    blocks = _blocks("densenet121")
    assert blocks[0] == "pool0"
    assert {f"denseblock{i}" for i in (1, 2, 3)} <= set(blocks)
    assert len(blocks) == 8


def row(name, value, *, speed=None, depth=0.5, versus=None):
    return StudyRow(
        name=name,
        network="n",
        layer=name,
        depth=depth,
        d=4,
        value=value,
        low=value - 0.1,
        high=value + 0.1,
        patches_per_s=speed,
        size_bytes=None,
        versus_best=versus,
    )


def test_the_cheapest_of_those_level_with_the_best_is_chosen(monkeypatch):
    from histofast.learning import Metric
    from histofast.studies import judging

    class Bags:
        task, targets, groups, classes = "classification", None, None, ()

        def part(self, rows):
            return self

    low = {"best": 0.0, "level": -0.05, "worse": -0.25}

    def differences(task, targets, outputs, others, **options):
        name = outputs
        high = 0.02 if name == "level" else -0.0625
        return {"auroc": Metric(value=low[name], low=low[name] - 0.125, high=high)}

    monkeypatch.setattr(judging, "differences", differences)
    verdict = judging.Verdict(
        bags=Bags(),
        judged=(),
        pooled={},
        metric="auroc",
        folds=2,
        tested=np.arange(3),
        models=(0, 0, 1),
    )
    judged = [
        judging.Judged(row=row("worse", 0.6, speed=900), outputs="worse"),
        judging.Judged(row=row("level", 0.8, speed=300), outputs="level"),
        judging.Judged(row=row("best", 0.85, speed=100), outputs="best"),
    ]
    rows = judging.against_best(verdict, judged, seed=0)
    assert [r.chosen for r in rows] == [False, True, False]
    assert rows[2].versus_best is None
    assert rows[0].versus_best == Difference(difference=-0.25, low=-0.375, high=-0.0625)


def test_the_chosen_cut_alone_serves_the_studys_models(stage, truncated, tmp_path, capsys):
    out = truncated[0]
    alone = out / "encoders" / "resnet18-layer1.onnx"
    features = ["--patches", str(stage / "patches.csv"), "--patch-px", str(PX)]
    made = ["extract", *features, "--encoder", str(alone), "--out", str(tmp_path / "f"), "--quiet"]
    assert _run(made) == 0
    predict = ["predict", str(out / "runs" / "resnet18-layer1"), str(tmp_path / "f"), "--out"]
    with pytest.raises(FeatureError, match="say so with other_encoder"):
        _run([*predict, str(tmp_path / "p.csv")])
    assert _run([*predict, str(tmp_path / "p.csv"), "--other-encoder"]) == 0
    assert "note: features are of resnet18-layer1" in capsys.readouterr().err
    whole = out / "features"
    folder = next(whole.rglob("features_resnet18-layer1"))
    assert _run(["predict", predict[1], str(folder), "--out", str(tmp_path / "q.csv")]) == 0
    one, other = (
        [list(map(float, row.split(",")[2:])) for row in (tmp_path / name).read_text().split()[1:]]
        for name in ("p.csv", "q.csv")
    )
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_labels_are_looked_at_before_the_work(stage, tmp_path):
    few = tmp_path / "few.csv"
    few.write_text("slide,label\nb00,no\nb01,yes\nnobody,yes\n")
    given = {"patches": stage / "patches.csv", "labels": few, "out": tmp_path / "s"}
    with pytest.raises(
        ValueError, match=r"labels without features: 1 \(nobody\); features without labels: 18"
    ):
        studies.truncation({"resnet18": stage / "w.safetensors"}, **given)
    with pytest.raises(ValueError, match="n must be at most the number of patients, 2, got 5"):
        studies.compare_networks(["densenet121-t2", "densenet121-t2-int8"], missing="skip", **given)
    assert not (tmp_path / "s").exists()


def test_the_loop_on_slides(tmp_path, capsys):
    """Slides to features to a model to a map to a tuned encoder to features."""
    (tmp_path / "slides").mkdir()
    lines = ["slide,label"]
    for i in range(8):
        write_slide(tmp_path / "slides" / f"s{i}.tif", seed=i, size=(512 + 128 * (i % 2), 512))
        lines.append(f"s{i},{'large' if i % 2 else 'small'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    network = networks.create("resnet18", layer="layer1", seed=3)
    networks.export(network, tmp_path / "r18.onnx", patch_px=PX, mpp=2.0)

    def run(*arguments):
        assert _run([str(a) for a in arguments]) == 0
        return capsys.readouterr().out

    slides, encoder = tmp_path / "slides", tmp_path / "r18.onnx"
    features, out = tmp_path / "f", tmp_path / "run"
    run("extract", slides, "--encoder", encoder, "--out", features, "--quiet")
    run("train", features, "--labels", tmp_path / "labels.csv", "--out", out, *QUICK)
    found = next(features.rglob("s1.h5"))
    heat = ["heatmap", out, slides / "s1.tif", "--features", found, "--out", tmp_path / "heat"]
    run(*heat)
    with (tmp_path / "heat" / "attention.csv").open(newline="") as file:
        shares = [float(row["value"]) for row in csv.DictReader(file)]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    tuned = ["--top-k", 3, "--epochs", 1, "--folds", 0, "--no-similarity", "--quiet"]
    made = ["finetune", out, "--slides", slides, "--encoder", encoder, "--out", tmp_path / "t"]
    assert "95 % by patients  95 % by training" in run(*made, *tuned)
    again = ["--encoder", tmp_path / "t" / "encoder.onnx", "--out", tmp_path / "f2", "--quiet"]
    run("extract", slides, *again)
    old, new = (sorted(folder.rglob("*.h5")) for folder in (features, tmp_path / "f2"))
    assert [path.name for path in old] == [path.name for path in new]
    for one, other in zip(old, new, strict=True):
        np.testing.assert_array_equal(read_features(one).coords, read_features(other).coords)


def test_commands_of_a_timm_network_name_its_files():
    file = Path("study/encoders/timm-resnet10t-layer1.onnx")
    commands = cuts._commands("timm:resnet10t", "layer1", "w.pt", file, Path("study"))
    encode, predict, export = (command for _, command in commands)
    assert "study/encoders/timm-resnet10t-layer1.onnx" in encode
    assert "study/runs/timm-resnet10t-layer1 " in predict
    assert "export timm:resnet10t --layer layer1" in export
    assert export.endswith(" --out timm-resnet10t-layer1.onnx")
