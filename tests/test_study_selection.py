"""`study selection`: patches that tell are known, so is what choosing them must give; no leak; resumed, refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from extras import need
from toy_bags import write_features

need("torch", "sklearn", "matplotlib", "jinja2", "histofast.studies")

from histofast import studies
from histofast.errors import ModelError
from histofast.learning import Difference, Metric
from histofast.mil import TrainConfig, attention_by, open_bags, open_run
from histofast.pipeline import selected_rows, selected_sizes
from histofast.studies import Conditions, Done, SelectionStudy, conduct, look_ahead_of
from histofast.studies.selection import (
    Compared,
    Row,
    SelectionFound,
    describe_selection,
    found_of,
)
from tiny_encoder import write_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

B, N, TELLING, D = 24, 20, 2, 6
CHEAP = {"name": "cheap", "sha256": "c" * 64}
COSTLY = {"name": "costly", "sha256": "d" * 64}


def write_stage(folder):
    """Slides of 20 patches, of which 2 tell the label in both encoders' features; the others are noise."""
    rng = np.random.default_rng(0)
    lines = ["slide,label,patient"]
    telling = {}
    for i in range(B):
        name, sign = f"s{i:02}", 1 if i % 2 else -1
        rows = np.sort(rng.permutation(N)[:TELLING])
        telling[name] = rows
        for encoder in (CHEAP, COSTLY):
            features = rng.normal(size=(N, D)).astype(np.float32)
            features[rows, 0] += 8 * sign
            features[rows, 1] += 8
            path = folder / encoder["name"] / f"{name}.h5"
            path.parent.mkdir(exist_ok=True)
            write_features(path, features, encoder=encoder)
        lines.append(f"{name},{'yes' if sign > 0 else 'no'},p{i:02}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return telling


CONFIG = TrainConfig(folds=2, epochs=8, lr=5e-3)


def study_of(folder, out, **more):
    told = {"keep": [0.1], "keep_random": 0.0, "model": "gated", "config": CONFIG, "repeats": 1}
    setting = Conditions(out=out, device="cpu", progress=False, **more.pop("setting", {}))
    return SelectionStudy(
        setting=setting,
        cheap=folder / "cheap",
        costly=folder / "costly",
        labels=folder / "labels.csv",
        **(told | more),
    )


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study-selection")
    return folder, write_stage(folder)


@pytest.fixture(scope="module")
def done(stage, tmp_path_factory):
    """The study and its folder, done once."""
    out = tmp_path_factory.mktemp("selection-out")
    study = study_of(stage[0], out)
    found = conduct(study)
    return study, out, found


def again(study):
    """What was found, measured anew from what lies in the folder."""
    from histofast.classify import Runs

    runs = Runs(study.setting.folder, device="cpu", threads=1)
    study.plan(runs)
    assert not runs.plan.left()
    return found_of(study, Done(runs=runs)), runs


def test_attention_at_a_tenth_is_as_good_as_all_patches_and_chance_is_not(done):
    found, _ = again(done[0])
    values = {str(row.arm): row.method.value for row in found.rows}
    assert values["all patches"] == 1
    assert values["attention, 0.1"] == 1
    assert values["random, 0.1"] < 0.9
    (against_all, against_chance) = found.compared
    assert against_all.difference.value == 0
    assert against_chance.difference.value == pytest.approx(1 - values["random, 0.1"])
    assert against_chance.patients.low > 0
    assert {str(row.arm): row.patches for row in found.rows} == {
        "cheap encoder, all patches": B * N,
        "attention, 0.1": B * TELLING,
        "random, 0.1": B * TELLING,
        "all patches": B * N,
    }
    assert found.row(found.compared[0].one).share == 0.1


def test_what_is_kept_is_what_tells(stage, done):
    """A tested slide is asked of models that have not seen it, and they find its telling patches."""
    study, telling = done[0], stage[1]
    _, runs = again(study)
    selectors = [job for job in runs.plan if job.name.startswith("what chooses")]
    assert len(selectors) == 2
    cheap = study.bags["cheap"]
    hits = []
    for part, job in zip(study.parts, selectors, strict=True):
        run = open_run(job.folder / "run")
        tested = {cheap.names[row] for row in part.fold.test}
        assert not tested & set(run.names)  # no label of a tested slide
        assert tested | set(run.names) == set(cheap.names)
        for row, attention in enumerate(attention_by(run, cheap)):
            rows, _ = selected_rows(attention, keep=0.1, keep_random=0)
            # The class that is told by what is there, not by what is lacking.
            if cheap.classes[cheap.targets[row]] == "yes":
                hits.append(len(set(rows) & set(telling[cheap.names[row]])) / TELLING)
    assert np.mean(hits) > 0.8  # 0.1 by chance


def test_arms_are_on_the_same_folds_and_seeds(done):
    study = done[0]
    _, runs = again(study)
    for arm, work in study.jobs(runs).items():
        for part, job in zip(study.parts, work, strict=True):
            run = open_run(job.folder / "run")
            assert len(run.folds) == 1, arm
            for name in ("train", "validation", "test"):
                np.testing.assert_array_equal(getattr(run.folds[0], name), getattr(part.fold, name))
            assert run.config.seed == study.config.seed + part.repeat
        kept = selected_sizes(N, keep=arm.keep, keep_random=0.0)
        if arm.way in ("attention", "random"):
            told = json.loads((work[0].folder / "kept.json").read_text())
            assert set(told["kept"].values()) == {sum(kept)}


def test_the_page_and_its_files_say_the_same(done):
    study, out, conducted = done
    found, _ = again(study)
    assert conducted.answer.findings == describe_selection(found)
    page = (out / "index.html").read_text()
    assert "as good as" not in conducted.answer.findings[0]
    for sentence in conducted.answer.findings:
        assert sentence.split(":")[0][:40] in page
    with (out / "selection.csv").open() as file:
        rows = {row["way"]: row for row in csv.DictReader(file)}
    assert float(rows["attention, 0.1"]["value"]) == 1
    assert rows["attention, 0.1"]["hours"] == ""
    assert (out / "differences.csv").exists()
    assert "no label of a tested slide takes part" in page
    assert "hours are not told" in " ".join(conducted.answer.findings)


def test_a_study_that_is_there_is_only_looked_at(done, tmp_path):
    study, out, _ = done
    planned, seconds = look_ahead_of(study)
    assert all(one.is_done for one in planned)
    assert seconds == 0
    before = {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("model.safetensors")}
    conduct(study)
    assert {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("model.safetensors")} == before


def test_another_share_adds_its_own_parts_only(stage, done):
    planned, seconds = look_ahead_of(study_of(stage[0], done[1], keep=[0.1, 0.3]))
    left = sorted(one.name.split(",")[0] for one in planned if not one.is_done)
    assert left == ["attention"] * 2 + ["random"] * 2
    assert seconds > 0


@pytest.mark.slow
def test_a_stopped_study_goes_on_to_the_same_numbers(stage, done, tmp_path, monkeypatch):
    """Interrupted in the middle of its parts, then done side by side in two processes."""
    real, calls = studies.selection.parts.train_one, []

    def stop_at_the_fifth(**told):
        calls.append(told["out"])
        if len(calls) == 5:
            raise KeyboardInterrupt
        real(**told)

    monkeypatch.setattr("histofast.studies.selection.parts.train_one", stop_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        conduct(study_of(stage[0], tmp_path))
    monkeypatch.undo()
    conduct(study_of(stage[0], tmp_path, setting={"jobs": 2}))
    assert (tmp_path / "selection.csv").read_bytes() == (done[1] / "selection.csv").read_bytes()
    assert (tmp_path / "differences.csv").read_bytes() == (done[1] / "differences.csv").read_bytes()


def test_encoders_are_timed_for_hours(stage, tmp_path, monkeypatch):
    folder = stage[0]
    files = {}
    for name in ("cheap", "costly"):
        files[name] = write_encoder(tmp_path / f"{name}.onnx", name=name, d=D)
    with pytest.raises(ModelError, match=r"cheap_encoder must be cheap \(sha256 cccccccccccc\)"):
        study_of(
            folder,
            tmp_path / "out",
            cheap_encoder=files["cheap"],
            costly_encoder=files["costly"],
        )
    from histofast.encoders import read_spec

    told = tmp_path / "feats"
    told.mkdir()
    write_stage(told)
    rng = np.random.default_rng(1)
    for name, file in files.items():
        encoder = {"name": name, "sha256": read_spec(file).sha256}
        for path in (told / name).iterdir():
            write_features(path, rng.normal(size=(N, D)).astype(np.float32), encoder=encoder)
    config = replace(CONFIG, epochs=1)
    study = study_of(
        told,
        tmp_path / "out",
        config=config,
        cheap_encoder=files["cheap"],
        costly_encoder=files["costly"],
    )
    monkeypatch.setattr(
        "histofast.studies.selection.parts.bench",
        lambda files, **_: SimpleNamespace(
            encoders=[
                SimpleNamespace(
                    patches_per_s=100.0 if "cheap" in files[0] else 5.0,
                    provider="CPUExecutionProvider",
                )
            ]
        ),
    )
    conduct(study)
    found, _ = again(study)
    assert found.speeds == {"cheap": 100.0, "whole": 5.0}
    hours = {str(row.arm): row.hours * 3600 for row in found.rows}
    all_s = {name: B * N / speed for name, speed in found.speeds.items()}
    assert hours["all patches"] == pytest.approx(all_s["whole"])
    assert hours["cheap encoder, all patches"] == pytest.approx(all_s["cheap"])
    assert hours["attention, 0.1"] == pytest.approx(all_s["cheap"] + 0.1 * all_s["whole"])
    assert hours["random, 0.1"] == pytest.approx(0.1 * all_s["whole"])
    assert any("patches/s here" in line for line in describe_selection(found))


# --- Bags of some patches ---------------------------------------------------------------------------


def test_bags_of_some_patches_are_rows_of_the_whole(stage):
    bags = open_bags(stage[0] / "costly", stage[0] / "labels.csv")
    rows = [np.arange(1 + i % 5, dtype=np.int64) * 2 for i in range(B)]
    some = bags.chosen(rows)
    assert some.sizes.tolist() == [len(each) for each in rows]
    assert len(set(some.contents()) & set(bags.contents())) == 0
    np.testing.assert_array_equal(some.read(3), bags.read(3)[rows[3]])
    part = some.part([7, 3])
    np.testing.assert_array_equal(part.read(1), bags.read(3)[rows[3]])
    fewer = part.chosen([np.array([1]), np.array([0, 3])])
    np.testing.assert_array_equal(fewer.read(1), bags.read(3)[[0, 6]])
    assert (
        fewer.contents() == bags.part([7, 3]).chosen([np.array([2]), np.array([0, 6])]).contents()
    )


@pytest.mark.parametrize("kept", [[], [1, 1], [2, 1], [-1, 0], [19, 20]], ids=str)
def test_rows_that_a_bag_does_not_have_are_refused(stage, kept):
    bags = open_bags(stage[0] / "costly", stage[0] / "labels.csv").part([0])
    with pytest.raises(ValueError, match=r"rows of s00 must be some of 0\.\.19, rising, each once"):
        bags.chosen([np.array(kept, np.int64)])
    with pytest.raises(ValueError, match="rows must be of 1 bags, got 2"):
        bags.chosen([np.array([0]), np.array([0])])


# --- What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": [1.0]}, "keep must have at least one share below 1, got none"),
        ({"keep": [0.0]}, "keep must be above 0 and at most 1, got 0"),
        ({"keep_random": 2}, "keep_random must be within 0..1, got 2"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"tolerance": 0}, "tolerance must be above 0, got 0"),
        ({"select_model": "mean"}, "model of the run that chooses must attend to patches"),
        ({"costly_encoder": "a.onnx"}, "must be given together"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_meant_is_refused(stage, tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        study_of(stage[0], tmp_path, **options)


def test_features_of_other_slides_are_refused(stage, tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    write_stage(folder)
    (folder / "cheap" / "s03.h5").unlink()
    with pytest.raises(ValueError, match="same slides, got 1 in one only, first s03"):
        study_of(folder, tmp_path / "out", missing="skip")


def test_features_of_other_patches_without_places_fail_their_parts_alone(stage, tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    write_stage(folder)
    rng = np.random.default_rng(0)
    for other in (folder / "cheap").iterdir():
        other.unlink()
    for i in range(B):
        np.save(folder / "cheap" / f"s{i:02}.npy", rng.normal(size=(30, D)).astype(np.float32))
    study = study_of(folder, tmp_path / "out", config=replace(CONFIG, epochs=1))
    found = conduct(study)
    failed = next(table for table in found.answer.tables if table.name == "failed")
    assert {row[0].split(",")[0] for row in failed.rows} == {"attention"}
    assert "extract both with the same patch size" in failed.rows[0][1]


# --- The command ------------------------------------------------------------------------------------


def test_the_command(cli, stage, done):
    folder, out = stage[0], done[1]
    argv = ("study", "selection", "--cheap", folder / "cheap", "--costly", folder / "costly")
    argv += ("--labels", folder / "labels.csv", "--out", out, "--keep", 0.1, "--keep-random", 0)
    argv += ("--model", "gated", "--folds", 2, "--repeats", 1, "--epochs", 8, "--lr", 5e-3)
    argv += ("--device", "cpu")
    planned = cli(*argv, "--plan-only")
    assert (planned.code, planned.out.splitlines()[-1]) == (0, "10 runs, 10 done")
    answer = cli(*argv)
    assert answer.code == 0
    assert "With all patches AUROC is 1.000" in answer.out
    assert f"report: {out / 'index.html'}" in answer.out
    told = json.loads(cli(*argv, "--json").out)
    assert [row["way"] for row in told["selection"]][-1] == "all patches"
    refused = cli(*argv, "--select-model", "max")
    assert refused.code != 0
    assert "must attend to patches" in refused.err[-1]


# --- Words on planted numbers -----------------------------------------------------------------------


def planted(*, against_all=(-0.01, -0.03, 0.01), against_chance=(0.1, 0.05, 0.15), **more):
    """What a study of one share has found: the difference to all patches, and to random ones."""

    def metric(value, half=0.05):
        return Metric(value=value, low=value - half, high=value + half)

    def difference(value, low, high):
        return Difference(
            value=value,
            low=low,
            high=high,
            p=0.5,
            p_adjusted=0.5,
            low_adjusted=low,
            high_adjusted=high,
            confidence=0.95,
            n=15,
        )

    Arm = studies.selection.study.Arm
    arms = [Arm(way="cheap"), Arm(way="attention", keep=0.2), Arm(way="random", keep=0.2)]
    arms.append(Arm(way="whole"))
    rows = tuple(
        Row(
            arm=arm,
            method=metric(value),
            patients=metric(value, 0.02),
            patches=1000 * share,
            share=share,
            hours=hours,
            parts=15,
        )
        for arm, value, share, hours in zip(
            arms,
            (0.7, 0.84, 0.75, 0.85),
            (1, 0.28, 0.28, 1),
            (0.1, 0.66, 0.56, 2.0),
            strict=True,
        )
    )
    compared = tuple(
        Compared(
            one=arms[1],
            other=other,
            difference=difference(*told),
            patients=metric(told[0]),
        )
        for other, told in ((arms[3], against_all), (arms[2], against_chance))
    )
    told = {
        "rows": rows,
        "compared": compared,
        "metric": "AUROC",
        "chance": 0.5,
        "slides": 120,
        "patients": 110,
        "unit": "patient",
        "patches": (1000, 1000),
        "speeds": {"cheap": 100.0, "whole": 5.0},
        "tolerance": 0.05,
        "failed": {},
    }
    return SelectionFound(**(told | more))


def test_words_of_a_share_that_is_enough_and_better_than_chance():
    assert "\n".join(describe_selection(planted())) == (
        "With all patches AUROC is 0.850 (0.800 to 0.900).\n"
        "The smallest share that is shown to lose less than 0.050 to all patches is 0.2 by attention, 28 % of the "
        "patches with the random ones: 0.840 (0.790 to 0.890), difference -0.010 (-0.030 to +0.010).\n"
        "Attention is better than as many random patches at 0.2, by +0.100, +0.050 to +0.150 after Holm at 0.2.\n"
        "The cheap encoder alone, all patches, has 0.700 (0.650 to 0.750).\n"
        "The two encoders take 100 and 5.00 patches/s here.\n"
        "At 0.2 both encoders together take 39.6 min for these slides, all patches by the expensive one 2.0 h: 3.0 "
        "times as fast as that."
    )


def test_words_of_a_share_that_is_worse_and_of_what_is_not_there():
    found = planted(
        against_all=(-0.2, -0.3, -0.1),
        against_chance=(0.01, -0.05, 0.07),
        speeds={},
        patients=20,
        failed={"attention, 0.2, repeat 0, fold 1": "why"},
    )
    told = " ".join(describe_selection(found))
    assert "No share is shown to lose less than 0.050" in told
    assert "Shown to be worse than all patches: 0.2." in told
    assert "Attention is not told from as many random patches at 0.2" in told
    assert "hours are not told" in told
    assert "rest on only 20 patients" in told
    assert "1 part failed, and is left out." in told


@pytest.mark.parametrize(
    ("against_all", "is_enough"),
    [
        ((-0.01, -0.049, 0.03), True),
        ((-0.01, -0.051, 0.03), False),  # may lose more
        ((-0.03, -0.04, -0.02), False),  # shown to be worse, though by little
        ((0.02, 0.01, 0.03), True),
    ],
)
def test_enough_is_the_knee_of_the_other_studies(against_all, is_enough):
    assert (planted(against_all=against_all).enough is not None) == is_enough
