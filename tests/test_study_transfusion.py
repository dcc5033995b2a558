"""A study of transfusion as a user runs it: what it plans, what it measures, what it refuses."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors", "matplotlib", "jinja2")

from safetensors.torch import save_file

from histofast import networks
from histofast.classify import Recipe, Runs, open_run
from histofast.errors import ModelError
from histofast.learning import corrected_interval, median_steps
from histofast.networks import starts
from histofast.studies import (
    PictureSetting,
    Transfusion,
    conduct,
    filters_moved,
    first_filters,
    look_ahead_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

FAST = Recipe.preset("transfusion").changed({"epochs": 1, "batch_size": 16, "px": 24})
KINDS = ("pretrained", "mean-var", "transfuse:maxpool", "gabor")


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage")
    (folder / "stripes").mkdir()
    write_pictures(folder / "stripes", n=160)
    save_file(networks.create("resnet18", seed=3).state_dict(), folder / "w.safetensors")
    return folder


def setting_of(stage, out, **changes):
    told = {"recipe": FAST, "repeats": 2} | changes
    return PictureSetting(data=[stage / "stripes" / "labels.csv"], out=out, **told)


def study_of(stage, out, *, setting=None, **changes):
    told = {"network": ["resnet18"], "weights": {"resnet18": stage / "w.safetensors"}}
    return Transfusion(setting=setting or setting_of(stage, out), **{**told, **changes})


# --- The plan --------------------------------------------------------------------------------------


def planned(study, folder):
    runs = Runs(folder)
    study.plan(runs)
    return runs


def test_every_start_is_asked_at_every_block_and_random_always():
    def ways(name, *asked, weights=True):
        plan = Transfusion(
            setting=PictureSetting(data=["x"], out="out", recipe=FAST),
            network=[name],
            weights={name: __file__} if weights else {},
            **({"ways": asked} if asked else {}),
        )
        return [str(way) for way in plan.ways_of(name)]

    assert ways("resnet18") == [
        *("random", "pretrained", "mean-var", "transfuse maxpool", "transfuse layer1"),
        *("transfuse layer2", "transfuse layer3", "slim layer2", "gabor"),
    ]
    assert ways("resnet18", "slim:layer1", "pretrained") == ["random", "pretrained", "slim layer1"]
    assert ways("resnet18", weights=False) == ["random", "gabor"]
    assert "slim" not in " ".join(ways("squeezenet1.1"))  # which has no slim form


def test_starts_are_those_of_classify(stage, tmp_path):
    study = study_of(stage, tmp_path, ways=["slim", *KINDS])
    trial, split = study.trials[0], study.setting.splits[1]
    file = stage / "w.safetensors"
    assert [str(study.asked(trial, way, split).start) for way in study.ways_of("resnet18")] == [
        "random",
        f"{file}",
        f"mean-var:{file}",
        f"transfuse:{file}:maxpool",
        f"slim:{file}:layer2:2",
        "gabor:1",
    ]


def test_training_sets_are_nested_and_the_same_for_all_starts(stage, tmp_path):
    study = study_of(stage, tmp_path, sizes=[60, 20, 60], ways=KINDS)
    few, many = study.trials
    assert (few.size, many.size) == (20, 60)
    for split in study.setting.splits:
        whole = study.setting.ask(
            study.setting.sets["stripes"], network="resnet18", start="random", split=split
        ).fold
        folds = {
            trial: [study.asked(trial, way, split).fold for way in study.ways_of("resnet18")]
            for trial in study.trials
        }
        for trial, found in folds.items():
            for fold in found:
                np.testing.assert_array_equal(fold.train, found[0].train)
                np.testing.assert_array_equal(fold.validation, whole.validation)
                np.testing.assert_array_equal(fold.test, whole.test)
                assert len(fold.train) == trial.size
        assert set(folds[few][0].train) < set(folds[many][0].train) < set(whole.train)


@pytest.mark.parametrize(
    ("changes", "epochs", "every"),
    [
        ({}, {20: 2, 60: 1}, 1),  # an epoch of 60 pictures has 4 steps, one of 20 has 2
        ({"steps": 100}, {20: 50, 60: 25}, 2),
        ({"steps": 101}, {20: 51, 60: 26}, 2),
    ],
)
def test_all_runs_take_as_many_steps_and_look_as_often(stage, tmp_path, changes, epochs, every):
    study = study_of(stage, tmp_path, sizes=[20, 60], ways=["gabor"], **changes)
    for trial in study.trials:
        for way in study.ways_of("resnet18"):
            recipe = study.asked(trial, way, study.setting.splits[0]).recipe
            assert (recipe.epochs, recipe.every) == (epochs[trial.size], every)
            assert replace(recipe, epochs=1, every=None) == FAST


def test_a_recipe_that_says_how_often_to_look_is_followed(stage, tmp_path):
    setting = setting_of(stage, tmp_path, recipe=replace(FAST, every=3))
    assert study_of(stage, tmp_path, setting=setting, steps=500).every == 3


def test_a_plan_names_its_jobs_and_what_needs_them(stage, tmp_path):
    study = study_of(stage, tmp_path, sizes=[20, 60], ways=["pretrained"])
    runs = planned(study, tmp_path / "runs")
    names = [job.name for job in runs.plan]
    trained = [name for name in names if "compared" not in name]
    assert len(trained) == 2 * 2 * 2
    assert trained[0] == "stripes, resnet18, 20 pictures, random, seed 0"
    compared = {job.name: job for job in runs.plan if job.name not in trained}
    assert len(compared) == 2
    of = "stripes, resnet18, 60 pictures, "  # the largest training set alone
    needs = compared[f"{of}networks compared, seed 1"].arguments["needs"]
    assert {what: [job.name for job in of_pair] for what, of_pair in needs.items()} == {
        "random: start and tuned": [f"{of}random, seed 1"],
        "pretrained: start and tuned": [f"{of}pretrained, seed 1"],
        "tuned from pretrained and from random": [f"{of}pretrained, seed 1", f"{of}random, seed 1"],
        "two random networks, untrained": [],
    }
    # Another study that shares the folder asks for the same runs, and more.
    more = planned(study_of(stage, tmp_path, sizes=[20, 60], ways=KINDS), tmp_path / "runs")
    made = {job.folder for job in runs.plan if job.name in trained}
    assert made < {job.folder for job in more.plan}


# --- What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (ValueError, {"network": []}, "network must be at least one, got none"),
        (ModelError, {"network": ["resnet19"]}, "network must be one of .* did you mean"),
        (
            ValueError,
            {"network": ["resnet18", "resnet18"]},
            "network must name each once, got resnet18, resnet18",
        ),
        (
            ValueError,
            {"weights": {"resnet34": "w"}},
            "weights must be of a network of the study, resnet18, got 'resnet34'",
        ),
        (FileNotFoundError, {"weights": {"resnet18": "nowhere.safetensors"}}, "nowhere.safet"),
        (ValueError, {"sizes": [0]}, "sizes must be at least 1, got 0"),
        (ValueError, {"steps": 0}, "steps must be at least 1, got 0"),
        (
            ValueError,
            {"ways": ["gabbor"]},
            "ways must be of random, .* got 'gabbor': did you mean gabor?",
        ),
        (ValueError, {"ways": ["gabor:1"]}, "ways must be of random, .* got 'gabor:1'"),
        (ValueError, {"threshold": ("brier", 0.1)}, "metric must be one of which more is better"),
        (ValueError, {"threshold": ("auroc", np.inf)}, "threshold must be finite, got inf"),
    ],
)
def test_options_that_cannot_be(stage, tmp_path, kind, changes, message):
    with pytest.raises(kind, match=message):
        study_of(stage, tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"freeze": "head"},
            "freeze must be all in a study of transfusion, .* got head: train with",
        ),
        ({"patience": 3}, "patience must be none in a study of transfusion, .* got 3: train with"),
        ({"schedule": "step"}, "schedule must be constant or cosine in a study of transfusion"),
    ],
)
def test_recipes_whose_curves_cannot_be_compared_are_refused(stage, tmp_path, changes, message):
    setting = setting_of(stage, tmp_path, recipe=replace(FAST, **changes))
    with pytest.raises(ValueError, match=message):
        study_of(stage, tmp_path, setting=setting)


def test_metrics_of_which_less_is_better_are_refused(stage, tmp_path):
    with pytest.raises(ValueError, match=r"metric must be one of which more is better .* brier"):
        study_of(stage, tmp_path, setting=setting_of(stage, tmp_path, metric="brier"))


def test_a_training_set_that_is_not_there_and_a_layer_that_is_none(stage, tmp_path):
    with pytest.raises(ValueError, match=r"sizes must be in 1\.\.\d+, the training pictures"):
        planned(study_of(stage, tmp_path, sizes=[1000]), tmp_path / "runs")
    with pytest.raises(ModelError, match="layer of resnet18 must be one of"):
        planned(study_of(stage, tmp_path, ways=["transfuse:layer9"]), tmp_path / "runs")
    with pytest.raises(ModelError, match="layer must have convolutions of resnet18 after it"):
        planned(study_of(stage, tmp_path, ways=["slim:layer4"]), tmp_path / "runs")


def test_the_command_line_says_what_is_wrong_in_one_line(cli, stage, tmp_path):
    data = ["--data", stage / "stripes" / "labels.csv", "--out", tmp_path / "out", "--px", "24"]
    for more, message in (
        (
            ["--network", "resnet18", "--weights", "w"],
            "histofast: --weights must be NAME=WEIGHTS, got 'w'",
        ),
        (
            ["--network", "resnet18", "--ways", "x"],
            "histofast: --ways must be of random, pretrained",
        ),
        (
            ["--network", "resnet18", "--threshold", "auroc"],
            "histofast: --threshold must be a metric",
        ),
        (["--network", "resnet18", "--recipe", "ours"], "histofast: freeze must be all in a study"),
        (["--network", "resnet18", "--sizes", "9999"], "histofast: --sizes must be in 1.."),
    ):
        found = cli("study", "transfusion", *more, *data, "--quiet")
        assert found.code == 2
        assert len(found.err) == 1
        assert found.err[0].startswith(message)
    assert not (tmp_path / "out").exists()


def test_looking_ahead_trains_nothing(cli, stage, tmp_path):
    found = cli(
        *(
            "study",
            "transfusion",
            "--network",
            "resnet18",
            "--ways",
            "gabor",
            "--sizes",
            "20",
            "40",
        ),
        *("--data", stage / "stripes" / "labels.csv", "--out", tmp_path / "out", "--px", "24"),
        *("--epochs", "1", "--batch-size", "16", "--repeats", "1", "--plan-only"),
    )
    assert found.code == 0
    assert "stripes, resnet18, 40 pictures, gabor, seed 0" in found.out
    assert "5 runs, 0 done" in found.out
    assert not list((tmp_path / "out").rglob("metrics.json"))


# --- What is measured ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def conducted(stage, tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    study = study_of(stage, out, sizes=[20, 40], ways=KINDS, steps=8)
    return study, conduct(study)


def rows_of(found, name):
    with (found.path / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_numbers_are_those_of_the_runs(conducted):
    _, found = conducted
    runs, starts_of = rows_of(found, "runs"), rows_of(found, "starts")
    assert len(starts_of) == 2 * 5
    assert len(runs) == 2 * 5 * 2
    opened = {r["run"]: open_run(found.path / "runs" / r["run"]) for r in runs}
    for size in (20, 40):
        trial = f"stripes, resnet18, {size} pictures"
        own = [r for r in runs if r["trial"] == trial]
        finals = [
            opened[r["run"]].log()["validation_auroc"][-1]
            for r in own
            if r["start"] in ("random", "pretrained")
        ]
        threshold = 0.95 * float(np.median(finals))
        for row in (r for r in starts_of if r["pictures"] == str(size)):
            of = [opened[r["run"]] for r in own if r["start"] == row["start"]]
            values = [run.metrics()["test"]["auroc"]["value"] for run in of]
            assert float(row["value"]) == pytest.approx(np.mean(values))
            low = corrected_interval(values, test_share=0.2).low
            assert (row["low"] == "") == np.isnan(low)
            assert float(row["threshold"]) == pytest.approx(threshold)
            reached = [run.steps_to(threshold, metric="auroc") for run in of]
            assert int(row["runs_there"]) == sum(one.is_reached for one in reached)
            median = median_steps(reached).value
            assert (row["steps"] == "") == np.isinf(median)
            if np.isfinite(median):
                assert float(row["steps"]) == pytest.approx(median)


@pytest.mark.slow
def test_filters_are_measured_from_where_each_run_began(conducted, stage):
    study, found = conducted
    rows = [r for r in rows_of(found, "filters") if r["start"] == "pretrained"]
    assert len(rows) == 2 * 64
    trial = study.largest[0]
    way = next(w for w in study.ways_of("resnet18") if w.kind == "pretrained")
    folder = study.work[trial, way][0].folder
    begun = starts.begin("resnet18", stage / "w.safetensors", classes=2, seed=0)
    wanted = filters_moved(first_filters(begun), first_filters(open_run(folder).network()))
    first = [r for r in rows if r["split"] == "0"]
    assert [float(r["distance"]) for r in first] == pytest.approx(wanted.distance)
    assert [float(r["cosine"]) for r in first] == pytest.approx(wanted.cosine)
    assert wanted.distance.min() > 0


@pytest.mark.slow
def test_the_page_has_it_all(conducted):
    study, found = conducted
    text = (found.path / "index.html").read_text()
    told = json.loads((found.path / "transfusion.json").read_text())
    for title in (
        "stripes, resnet18: auroc by start",
        "stripes, resnet18: speed by the last block taken",
        "stripes, resnet18: CKA by layer",
        "how far first filters moved",
        "What this does not show",
        "What was published, held against this",
    ):
        assert title in text
    assert {row["compared"] for row in told["likeness"]} == {
        *(f"{kind}: start and tuned" for kind in ("random", "pretrained", "mean-var")),
        "tuned from pretrained and from random",
        "two random networks, untrained",
    }
    assert any("Intervals are wide: they stand on 2 splits" in line for line in told["findings"])
    assert Recipe.read(found.path / "recipe.toml") == study.recipe


@pytest.mark.slow
def test_a_study_that_is_there_is_not_done_again_and_a_row_repeats_itself(
    cli, conducted, monkeypatch
):
    study, found = conducted
    left, seconds = look_ahead_of(study)
    assert all(run.is_done for run in left)
    assert seconds == 0
    (row,) = (r for r in rows_of(found, "starts") if (r["start"], r["pictures"]) == ("gabor", "40"))
    _, *words = shlex.split(row["command"])
    trained = sorted((found.path / "runs").rglob("metrics.json"))
    answer = cli(*words, "--quiet")
    assert answer.code == 0
    assert sorted((found.path / "runs").rglob("metrics.json")) == trained
    out = Path(words[words.index("--out") + 1])
    with (out / "starts.csv").open(newline="") as file:
        again = next(r for r in csv.DictReader(file) if r["start"] == "gabor")
    assert again["value"] == row["value"]


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_rest_goes_on(stage, tmp_path, monkeypatch):
    study = study_of(stage, tmp_path / "out", sizes=[40], ways=["pretrained"])
    whole = type(study).asked

    def asked(self, trial, way, split):
        found = whole(self, trial, way, split)
        if way.kind == "pretrained" and split.seed == 1:
            return replace(found, recipe=replace(found.recipe, lr=1e30))
        return found

    monkeypatch.setattr(type(study), "asked", asked)
    found = conduct(study)
    told = json.loads((found.path / "transfusion.json").read_text())
    assert "stripes, resnet18, 40 pictures, pretrained, seed 1" in [
        r["job"] for r in told["failed"]
    ]
    assert any(line.startswith("Not done: ") for line in told["findings"])
    (failed,) = (r for r in told["runs"] if r["failed"])
    assert failed["value"] is None
    row = next(r for r in told["starts"] if r["start"] == "pretrained")
    assert row["runs"] == 1
    assert row["value"] is not None
    monkeypatch.setattr(type(study), "asked", whole)
    again = conduct(study_of(stage, tmp_path / "out", sizes=[40], ways=["pretrained"]))
    assert "failed" not in json.loads((again.path / "transfusion.json").read_text())
