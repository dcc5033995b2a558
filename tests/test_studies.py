"""Studies as a user runs them, on patches that differ in what a cut network can see."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import foreign_models
import histofast
import tissue_networks
from extras import need
from histofast import graphs
from histofast.cli import _run
from histofast.errors import FeatureError, ModelError
from histofast.features import read_features
from histofast.slides import write_png
from histofast.viewer import list_catalogue
from slide_files import write_tiff
from small_slides import write_slide
from tiny_encoder import write_encoder

torch = need("torch", "sklearn", "matplotlib", "jinja2")

from safetensors.torch import save_file

from histofast import mil, networks, studies
from histofast.learning import Fold, Metric
from histofast.studies import Setting, StudyRow, cuts, measures
from histofast.studies.cuts import blocks_of

pytestmark = pytest.mark.usefixtures("one_thread")

PX, BAGS = 32, 20
QUICK = ["--folds", "2", "--epochs", "3", "--quiet"]
REPEATED = [*QUICK, "--repeats", "2"]


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
        *("--patch-px", str(PX), "--out", str(out), *REPEATED),
    ]


@pytest.fixture(scope="module")
def truncated(stage, tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("study") / "s"
    network = f"resnet18={stage / 'w.safetensors'}"
    made = arguments(stage, out, "study", "truncation", "--network", network)
    assert _run([*made, "--cuts", "maxpool,layer1", "--random-seeds", "2"]) == 0
    torch.set_num_threads(before)
    return out, made


def test_truncation_answers(truncated):
    out, _ = truncated
    study = json.loads((out / "study.json").read_text())
    rows = {row["name"]: row for row in study["rows"]}
    assert list(rows) == [
        "resnet18 maxpool",
        "resnet18 layer1",
        "mean pooling and logistic regression",
        "resnet18, random weights",
    ]
    assert [row["baseline"] for row in study["rows"]] == [False, False, True, True]
    for name in ("resnet18 maxpool", "resnet18 layer1"):
        of_patients = rows[name]["patients"]
        assert 0 <= of_patients["low"] <= of_patients["value"] <= of_patients["high"] <= 1
        assert rows[name]["patches_per_s"] > 0
        assert "AUROC, mean pooling" in rows[name]["extra"]
    assert rows["resnet18 maxpool"]["depth"] < rows["resnet18 layer1"]["depth"]
    null = rows["resnet18, random weights"]
    assert null["patches_per_s"] is None
    assert null["spread"][0] <= null["method"]["value"] <= null["spread"][1]
    # The value is the mean over the folds of all repeats.
    runs = [
        json.loads((out / "runs" / "resnet18-layer1" / f"repeat-{r}" / "metrics.json").read_text())
        for r in range(2)
    ]
    folds = [fold["auroc"] for run in runs for fold in run["folds"]]
    assert len(folds) == 4
    assert rows["resnet18 layer1"]["method"]["value"] == pytest.approx(np.mean(folds))
    assert (study["folds"], study["repeats"], study["unit"]) == (2, 2, "slide")
    page = (out / "index.html").read_text()
    assert "histofast extract slides/ --encoder" in page or study["knee"]["name"] is None
    assert "No column of patients: slides count as patients." in page
    assert (out / "study.png").is_file()
    with (out / "study.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4


def test_repeats_have_folds_and_seeds_of_their_own_the_same_for_all(truncated):
    out, _ = truncated

    def run(name, repeat):
        return mil.open_run(out / "runs" / name / f"repeat-{repeat}")

    def tested(run):
        return [fold.test.tolist() for fold in run.folds]

    one, other = run("resnet18-layer1", 0), run("resnet18-layer1", 1)
    assert tested(one) != tested(other)
    assert (one.config.seed, other.config.seed) == (0, 1)
    for repeat, of_layer1 in enumerate((one, other)):
        assert tested(run("resnet18-maxpool", repeat)) == tested(of_layer1)
    # A random network is a seed already.
    assert [p.name for p in (out / "runs" / "resnet18-layer1-random-1").iterdir()] == ["repeat-0"]


def test_two_runs_at_a_time_give_the_same_numbers(stage, truncated, tmp_path):
    made = arguments(stage, tmp_path / "s", "study", "truncation", "--no-speed", "--jobs", "2")
    made += ["--network", f"resnet18={stage / 'w.safetensors'}"]
    assert _run([*made, "--cuts", "maxpool,layer1", "--random-seeds", "2"]) == 0
    one, other = (
        json.loads((folder / "study.json").read_text())["rows"]
        for folder in (truncated[0], tmp_path / "s")
    )
    for row in (*one, *other):
        row.pop("patches_per_s")
        row.pop("chosen")  # by speed there, by depth here
    assert one == other


def test_a_study_goes_on_where_it_was(truncated, capsys):
    out, made = truncated
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.h5")}
    runs = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/*/metrics.json")}
    assert _run([*made, "--cuts", "maxpool,layer1", "--random-seeds", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_slides"] == BAGS
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*.h5")}
    assert runs == {p: p.stat().st_mtime_ns for p in out.glob("runs/*/*/metrics.json")}


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


def test_dependence_on_a_centre_is_a_column(stage, truncated, tmp_path, capsys):
    table = tmp_path / "labels.csv"
    lines = [f"b{b:02},{'yes' if b % 2 else 'no'},{'XY'[b // 2 % 2]}" for b in range(BAGS)]
    table.write_text("\n".join(["slide,label,centre", *lines]) + "\n")
    encoders = truncated[0] / "encoders"
    made = arguments(stage, tmp_path / "s", "study", "networks", "--no-speed")
    for layer in ("maxpool", "layer1"):
        made += ["--encoder", str(encoders / f"resnet18-{layer}.onnx")]
    made[made.index("--labels") + 1] = str(table)
    assert _run([*made, "--robustness", "centre"]) == 0
    assert "robustness" in capsys.readouterr().out.lower()
    study = json.loads((tmp_path / "s" / "study.json").read_text())
    own = json.loads((tmp_path / "s" / "robustness" / "robustness.json").read_text())
    for row in study["rows"]:
        if row["baseline"]:
            assert "robustness index, centre" not in row["extra"]
        else:
            value = own["encoders"][row["name"]]["index"]["value"]
            assert row["extra"]["robustness index, centre"] == value
    assert "robustness/index.html" in (tmp_path / "s" / "index.html").read_text()
    with pytest.raises(
        ValueError, match="must have the column scanner that robustness is asked of"
    ):
        _run([*made, "--robustness", "scanner"])
    with pytest.raises(
        ValueError, match="robustness must be asked with task classification, got re"
    ):
        _run([*made, "--robustness", "centre", "--task", "regression"])


def test_dependence_of_every_cut_is_measured_after_the_study_too(stage, truncated, tmp_path):
    """Asked for later, it costs no training; random networks are left out."""
    out = tmp_path / "s"
    shutil.copytree(truncated[0], out)
    table = tmp_path / "labels.csv"
    lines = [f"b{b:02},{'yes' if b % 2 else 'no'},{'XY'[b // 2 % 2]}" for b in range(BAGS)]
    table.write_text("\n".join(["slide,label,centre", *lines]) + "\n")
    network = f"resnet18={stage / 'w.safetensors'}"
    made = arguments(stage, out, "study", "truncation", "--network", network, "--no-speed")
    made[made.index("--labels") + 1] = str(table)
    cuts = ["--cuts", "maxpool,layer1", "--random-seeds", "2"]
    trained = {p: p.stat().st_mtime_ns for p in out.rglob("weights*")}
    assert _run([*made, *cuts, "--robustness", "centre"]) == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("weights*")} == trained
    own = json.loads((out / "robustness" / "robustness.json").read_text())
    assert list(own["encoders"]) == ["resnet18 maxpool", "resnet18 layer1"]
    assert own["unit"] == "slide"
    study = json.loads((out / "study.json").read_text())
    told = ["robustness index, centre" in row["extra"] for row in study["rows"]]
    assert told == [True, True, False, False]


def test_finetune_follows(stage, truncated, tmp_path, capsys):
    run = truncated[0] / "runs" / "resnet18-layer1" / "repeat-0"
    encoder = truncated[0] / "encoders" / "resnet18-layer1.onnx"
    options = ["--patches", str(stage / "patches.csv"), "--encoder", str(encoder)]
    options += ["--epochs", "1", "--folds", "0"]
    assert _run(["finetune", str(run), "--out", str(tmp_path / "t"), "--quiet", *options]) == 0
    text = capsys.readouterr().out
    assert "95 % by patients" in text
    assert (tmp_path / "t" / "encoder.onnx").is_file()
    assert (tmp_path / "t" / "similarity" / "index.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--network", "resnet18"], ValueError, "--network must be NAME=WEIGHTS, got 'resnet18'"),
        (
            ["--network", "resnet18=none.pth"],
            FileNotFoundError,
            "no such weights file of resnet18: none.pth",
        ),
    ],
)
def test_bad_commands(stage, tmp_path, arguments, error, message):
    given = ["study", "truncation", *arguments, "--labels", str(stage / "labels.csv")]
    with pytest.raises(error, match=message):
        _run([*given, "--patches", str(stage / "patches.csv"), "--out", str(tmp_path / "s")])


def test_bad_studies(stage, tmp_path):
    given = {"labels": stage / "labels.csv", "out": tmp_path / "s"}
    setting = Setting(patches=stage / "patches.csv", **given)
    with pytest.raises(ValueError, match="networks must name at least one network"):
        studies.Truncation(networks={}, setting=setting)
    with pytest.raises(ModelError, match="got 'resnet8': did you mean resnet18"):
        studies.Truncation(networks={"resnet8": "w"}, setting=setting)
    assert not (tmp_path / "s").exists()
    with pytest.raises(ModelError, match=r"cuts of resnet18 must be of .* got 'layr1'"):
        studies.Truncation(networks={"resnet18": "w"}, setting=setting, cuts=["layr1"])
    with pytest.raises(ValueError, match="random_seeds must be at least 0, got -1"):
        studies.Truncation(networks={"resnet18": "w"}, setting=setting, random_seeds=-1)
    with pytest.raises(ValueError, match="encoders must be at least 2, got 1"):
        studies.NetworkStudy(encoders=["a"], setting=setting)
    twice = ["densenet121-t2", "densenet121-t2"]
    with pytest.raises(ValueError, match="must have different names, got 'densenet121-t2' twice"):
        studies.NetworkStudy(encoders=twice, setting=setting)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"slides": "s"}, ValueError, "slides or patches must be given, and not both"),
        ({"patches": None}, ValueError, "slides or patches must be given, and not both"),
        ({"repeats": 0}, ValueError, "repeats must be at least 1, got 0"),
        ({"jobs": "two"}, TypeError, "jobs must be a whole number, got 'two'"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be above 0, got 0"),
    ],
)
def test_bad_settings(more, error, message):
    with pytest.raises(error, match=message):
        Setting(**({"labels": "l.csv", "out": "o", "patches": "p.csv"} | more))


def test_settings_take_numpys_numbers():
    setting = Setting(
        labels="l", out="o", patches="p", repeats=np.int64(2), tolerance=np.float32(1)
    )
    assert (setting.repeats, type(setting.repeats)) == (2, int)
    assert (setting.tolerance, type(setting.tolerance)) == (1.0, float)


def test_blocks_are_the_cuts_that_cost_something():
    assert blocks_of("resnet18") == ["maxpool", "layer1", "layer2", "layer3", "layer4"]
    blocks = blocks_of("densenet121")
    assert blocks[0] == "pool0"
    assert {f"denseblock{i}" for i in (1, 2, 3)} <= set(blocks)
    assert len(blocks) == 8


def measured(name, values, **more):
    values = np.array(values)
    row = StudyRow(
        name=name,
        network="n",
        layer=name,
        method=Metric(value=float(values.mean()), low=0.1, high=0.9),
        **({"depth": 0.5} | more),
    )
    return measures.Measured(row=row, values=values)


FOLDS = np.array([0.80, 0.71, 0.90, 0.79, 0.85, 0.70])


def compared(setting, *rows):
    class Bags:
        groups = tuple(map(str, range(60)))

    return measures._compared(rows, Bags(), setting, 1 / 3)


SETTING = Setting(labels="l", out="o", patches="p")


def test_the_cheapest_that_is_shown_to_lose_little_is_chosen():
    noise = np.array([0.01, -0.01, 0.0, 0.01, -0.01, 0.0])
    rows, knee = compared(
        SETTING,
        measured("worse", FOLDS - 0.25 + noise, depth=0.1),
        measured("level", FOLDS - 0.01 + noise, depth=0.3),
        measured("highest", FOLDS, depth=0.9),
    )
    assert [row.chosen for row in rows] == [False, True, False]
    assert knee.name == "level"
    assert rows[2].versus is None
    assert rows[0].versus.value == pytest.approx(-0.25)
    assert rows[0].versus.is_shown
    assert not rows[1].versus.is_shown


def test_without_enough_patients_there_is_no_knee():
    """Not being told from the highest is no proof of being as good."""
    wild = np.array([0.2, -0.2, 0.15, -0.15, 0.1, -0.13])
    rows, knee = compared(
        SETTING,
        measured("cheap", FOLDS + wild, depth=0.1),
        measured("highest", FOLDS + 0.01, depth=0.9),
    )
    assert not any(row.chosen for row in rows)
    assert knee.name is None
    assert knee.closest == "cheap"
    assert knee.patients_needed > 60


def test_cheapest_is_the_shallowest_of_one_network_else_by_speed_depth_or_size():
    def order(*rows):
        return [m.row.name for m in measures._by_cost(rows)]

    def some(name, **more):
        return replace(measured(name, FOLDS), row=replace(measured(name, FOLDS).row, **more))

    # A clock may err; a deeper cut of one network is never cheaper.
    shallow = some("shallow", patches_per_s=1.0, depth=0.1)
    assert order(some("deep", patches_per_s=1.1, depth=0.2), shallow) == ["shallow", "deep"]
    a = some("a", patches_per_s=1.0, depth=0.1, size_bytes=3, network="other")
    b = some("b", patches_per_s=2.0, depth=0.2, size_bytes=2)
    c = some("c", patches_per_s=None, depth=0.15, size_bytes=1)
    d = some("d", patches_per_s=None, depth=None, size_bytes=4)
    assert order(a, b) == ["b", "a"]
    assert order(a, b, c) == ["a", "c", "b"]
    assert order(a, b, c, d) == ["c", "b", "a", "d"]


def test_pools_of_a_block_are_held_against_its_mean_on_the_same_folds():
    """Holm over all blocks: two comparisons; a third way of one block alone is one more."""

    def way(block, pool, values):
        return measured(f"{block} {pool}", values, block=block, pool=pool)

    noise = np.array([0.01, -0.01, 0.0, 0.01, -0.01, 0.0])
    rows = [
        way("b1", "cls", FOLDS - 0.1 + noise),
        way("b1", "mean", FOLDS),
        way("b2", "cls", FOLDS + noise),
        way("b2", "cls+mean", FOLDS + 0.1),
        measured("features", FOLDS),
    ]
    found = measures.pools_compared(rows, 1 / 3)
    # Without a mean the first one tried is what others are held against.
    assert [(p.row, p.other) for p in found] == [("b1 cls", "b1 mean"), ("b2 cls+mean", "b2 cls")]
    assert found[0].difference.value == pytest.approx(-0.1)
    assert found[1].difference.value == pytest.approx(0.1)
    assert found[0].difference.is_shown
    assert found[0].difference.p_adjusted == pytest.approx(
        min(1, found[0].difference.p * (2 if found[0].difference.p <= found[1].difference.p else 1))
    )
    assert measures.pools_compared([rows[0], rows[4]], 1 / 3) == ()


def test_random_networks_are_a_range_of_seeds():
    rows = measures._range_of([measured("null", [v]) for v in (0.5, 0.6, 0.46)])
    assert len(rows) == 1
    assert rows[0].spread == (0.46, 0.6)
    assert rows[0].value == pytest.approx(0.52)
    assert "3 seeds" in rows[0].notes


def test_the_share_that_a_fold_tests():
    class Bags:
        groups = ("a", "a", "b", "c", "d")

    whole = np.arange(5)

    class Split:
        folds = (Fold(train=whole[:2], validation=whole[2:3], test=whole[3:]),)

    class Five:
        folds = (None,) * 5

    assert measures.test_share_of(Bags(), Five()) == 0.2
    assert measures.test_share_of(Bags(), Split()) == 0.5


def test_an_encoder_file_is_cut_in_its_graph(stage, tmp_path):
    """A U-Net: cuts that others go beside, cut once, and taken from the folder the second time."""
    file = tmp_path / "net.onnx"
    graphs.wrap(
        foreign_models.unet(tmp_path / "unet.onnx", levels=2),
        out=file,
        mean=foreign_models.MEAN,
        std=foreign_models.STD,
        patch_px=PX,
    )
    setting = Setting(
        patches=stage / "patches.csv",
        labels=stage / "labels.csv",
        out=tmp_path / "s",
        config=mil.TrainConfig(folds=2, epochs=2),
        repeats=1,
        measure_speed=False,
    )
    asked = studies.Truncation(
        networks={"net": file}, setting=replace(setting, out=tmp_path / "all")
    )
    rows = studies.conduct(asked).study.rows
    layers = [row.layer for row in rows if not row.baseline]
    assert layers == [
        *("down_layers.0.relu", "down_layers.1.relu", "bottom.relu"),
        *("up_layers.0.relu", "up_layers.1.relu", "last"),
    ]
    asked = replace(asked, setting=setting, cuts=["bottom", "down_layers.1", "last"])
    found = studies.conduct(asked).study
    rows = {row.name: row for row in found.rows if not row.baseline}
    assert list(rows) == ["net down_layers.1", "net bottom", "net last"]
    assert [row.d for row in rows.values()] == [5, 12, 2]
    assert rows["net bottom"].depth < rows["net last"].depth == 1
    assert "beside" in rows["net bottom"].notes
    assert rows["net last"].notes == ""
    assert any("none with random weights" in remark for remark in found.remarks)
    made = next((tmp_path / "s" / "features").rglob("features_net-bottom"))
    alone = graphs.truncate(file, at="bottom", out=tmp_path / "b.onnx")
    wanted = histofast.extract(
        patches=stage / "patches.csv",
        out=tmp_path / "f",
        encoder=alone.path,
        patch_px=PX,
        allow_upsampling=True,
    )
    assert wanted.exit_code == 0
    of_study = read_features(made / "b03.h5").features
    np.testing.assert_allclose(
        of_study,
        read_features(next((tmp_path / "f").rglob("b03.h5"))).features,
        rtol=0,
        atol=1e-5 * np.abs(of_study).max(),
    )
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "s" / "encoders").iterdir()}
    again = studies.conduct(asked).study
    assert str(again.rows) == str(found.rows)  # not a number is not itself
    assert written == {p: p.stat().st_mtime_ns for p in (tmp_path / "s" / "encoders").iterdir()}
    with pytest.raises(ModelError, match="has no tensor 'botom': did you mean bottom"):
        replace(asked, cuts=["botom"])
    with pytest.raises(
        ValueError, match="resnet18 is no vision transformer of timm: it has no tok"
    ):
        replace(asked, networks={"resnet18": stage / "w.safetensors"}, pool="cls", cuts=None)


def test_the_chosen_cut_alone_serves_the_studys_models(stage, truncated, tmp_path, capsys):
    out = truncated[0]
    alone = out / "encoders" / "resnet18-layer1.onnx"
    features = ["--patches", str(stage / "patches.csv"), "--patch-px", str(PX)]
    made = ["extract", *features, "--encoder", str(alone), "--out", str(tmp_path / "f"), "--quiet"]
    assert _run(made) == 0
    predict = [
        "predict",
        str(out / "runs" / "resnet18-layer1" / "repeat-0"),
        str(tmp_path / "f"),
        "--out",
    ]
    with pytest.raises(FeatureError, match="say so with other_encoder"):
        _run([*predict, str(tmp_path / "p.csv")])
    assert _run([*predict, str(tmp_path / "p.csv"), "--other-encoder"]) == 0
    assert "note: features are of resnet18-layer1" in capsys.readouterr().err
    whole = out / "features"
    folder = next(whole.rglob("features_resnet18-layer1"))
    assert _run(["predict", predict[1], str(folder), "--out", str(tmp_path / "q.csv")]) == 0
    one, other = (
        [list(map(float, row.split(",")[3:])) for row in (tmp_path / name).read_text().split()[1:]]
        for name in ("p.csv", "q.csv")
    )
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_labels_are_looked_at_before_the_work(stage, tmp_path):
    few = tmp_path / "few.csv"
    few.write_text("slide,label\nb00,no\nb01,yes\nnobody,yes\n")
    setting = Setting(patches=stage / "patches.csv", labels=few, out=tmp_path / "s")
    networks = {"resnet18": stage / "w.safetensors"}
    with pytest.raises(
        ValueError, match=r"labels without features: 1 \(nobody\); features without labels: 18"
    ):
        studies.conduct(studies.Truncation(networks=networks, setting=setting))
    setting = replace(setting, missing="skip")
    encoders = ["densenet121-t2", "densenet121-t2-int8"]
    with pytest.raises(ValueError, match="n must be at most the number of patients, 2, got 5"):
        studies.conduct(studies.NetworkStudy(encoders=encoders, setting=setting))
    assert not (tmp_path / "s").exists()


def test_patches_of_a_study_are_in_the_colours_and_on_the_tissue_asked_for(tmp_path):
    (tmp_path / "slides").mkdir()
    lines = ["slide,label"]
    for i in range(6):
        write_slide(tmp_path / "slides" / f"s{i}.tif", seed=i, size=(512 + 128 * (i % 2), 512))
        lines.append(f"s{i},{'large' if i % 2 else 'small'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    encoders = [
        write_encoder(tmp_path / f"e{d}.onnx", name=f"e{d}", d=d, patch_px=PX, mpp=2.0)
        for d in (4, 6)
    ]
    tissue_networks.brightness(tmp_path / "n.onnx")
    network = graphs.wrap_tissue(
        *(tmp_path / "n.onnx",),
        out=tmp_path / "t.onnx",
        mpp=4.0,
        tissue=[1],
        tile_px=64,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        scale=255,
    )
    asked = ["--tissue", network.path, "--icc", "srgb", "--stain", "reinhard"]
    given = ["--slides", tmp_path / "slides", "--labels", tmp_path / "labels.csv", *QUICK]
    made = ["study", "networks", "--out", tmp_path / "s", *given, *asked, "--no-speed"]
    made += ["--repeats", "1", "--encoder", encoders[0], "--encoder", encoders[1]]
    assert _run([str(a) for a in made]) == 0
    for file in map(read_features, (tmp_path / "s" / "features").rglob("*.h5")):
        assert file.identity["icc"] == "srgb"
        assert file.identity["stain"]["method"] == "reinhard"
        assert file.identity["tissue"]["sha256"] == network.sha256
    page = (tmp_path / "s" / "index.html").read_text()
    assert "in sRGB by the slides&#39; ICC profiles, stains by reinhard" in page
    (look,) = (
        shlex.split(command)
        for title, command in json.loads((tmp_path / "s" / "study.json").read_text())["commands"]
        if title.startswith("Look at the slides with ")
    )
    shown = list_catalogue(look[2], features=look[look.index("--features") + 1]).catalogue
    looker = mil.Looker(mil.open_run(look[look.index("--run") + 1]))
    assert [looker.misfit(shown.features(entry.index)) for entry in shown.entries] == [""] * 6


def test_the_loop_on_slides(tmp_path, capsys):
    """Slides to features to a model to a map to a tuned encoder to features."""
    (tmp_path / "slides").mkdir()
    lines = ["slide,label"]
    for i in range(8):
        write_slide(tmp_path / "slides" / f"s{i}.tif", seed=i, size=(512 + 128 * (i % 2), 512))
        lines.append(f"s{i},{'large' if i % 2 else 'small'}")
    glass = np.full((512, 512, 3), 245, np.uint8)
    write_tiff(tmp_path / "slides" / "glass.tif", [glass], compression="jpeg", mpp=1.0)
    (tmp_path / "labels.csv").write_text("\n".join([*lines, "glass,large"]) + "\n")
    network = networks.create("resnet18", layer="layer1", seed=3)
    networks.export(network, tmp_path / "r18.onnx", patch_px=PX, mpp=2.0)

    def run(*arguments):
        assert _run([str(a) for a in arguments]) == 0
        return capsys.readouterr().out

    slides, encoder = tmp_path / "slides", tmp_path / "r18.onnx"
    features, out = tmp_path / "f", tmp_path / "run"
    run("extract", slides, "--encoder", encoder, "--out", features, "--quiet")
    said = run("train", features, "--labels", tmp_path / "labels.csv", "--out", out, *QUICK)
    assert "1 slide without a patch left out" in said
    run("predict", out, features, "--out", tmp_path / "p.csv", "--quiet")
    assert "glass,0,,,\n" in (tmp_path / "p.csv").read_text()
    found = next(features.rglob("s1.h5"))
    heat = ["heatmap", out, slides / "s1.tif", "--features", found, "--out", tmp_path / "heat"]
    run(*heat)
    alone = ["--features", next(features.rglob("glass.h5")), "--out", tmp_path / "glass"]
    with pytest.raises(FeatureError, match=r"glass\.tif must have patches to look at, got none"):
        run("heatmap", out, slides / "glass.tif", *alone)
    with (tmp_path / "heat" / "attention.csv").open(newline="") as file:
        shares = [float(row["value"]) for row in csv.DictReader(file)]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    tuned = ["--top-k", 3, "--epochs", 1, "--folds", 0, "--no-similarity", "--quiet"]
    made = ["finetune", out, "--slides", slides, "--encoder", encoder, "--out", tmp_path / "t"]
    said = run(*made, *tuned)
    assert "95 % by patients" in said
    assert "note: slides without a patch are left out, as in the run: 1 (glass)" in said
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
    assert "study/runs/timm-resnet10t-layer1/repeat-0 " in predict
    assert "export timm:resnet10t --layer layer1" in export
    assert export.endswith(" --out timm-resnet10t-layer1.onnx")
