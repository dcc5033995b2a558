"""The study of drift: its plan, its numbers, its words, what fails; and the published points."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, replace
from io import StringIO

import numpy as np
import pytest

import reference
import reference_learning
from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors", "matplotlib", "jinja2")

from safetensors.torch import save_file

from histofast.classify import Recipe, Runs, open_run
from histofast.errors import ModelError
from histofast.learning import Difference, corrected_difference, correlate
from histofast.networks import create
from histofast.similarity import PredictionAgreement
from histofast.studies import Done, PictureSetting, conduct, look_ahead_of, read_likeness
from histofast.studies.drift import (
    LAYERS,
    Drift,
    Held,
    Way,
    describe_drift,
    found_of,
    independent_as_published,
    limits_of,
    published_points,
)

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = "resnet18"
FAST = Recipe(epochs=2, batch_size=16, px=24, ema=0.0, lr=1e-4)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A table of pictures and two files of weights."""
    folder = tmp_path_factory.mktemp("drift")
    for seed in (1, 2):
        save_file(create(NETWORK, seed=40 + seed).state_dict(), folder / f"w{seed}.safetensors")
    return write_pictures(folder / "stripes", n=96), folder


def drift(given, out, *, kind=None, recipe=FAST, **changes):
    table, folder = given
    setting = PictureSetting(
        data=[table],
        out=out,
        recipe=recipe,
        repeats=1,
        folds=2,
        **{key: changes.pop(key) for key in ("runs", "metric") if key in changes},
    )
    told = {"source": {"one": folder / "w1.safetensors"}, "layers": ("conv1", "layer2")} | changes
    return (kind or Drift)(setting=setting, network=NETWORK, **told)


@pytest.fixture(scope="module")
def conducted(given, tmp_path_factory):
    """The study of one source, done."""
    out = tmp_path_factory.mktemp("study")
    study = drift(given, out)
    answer = conduct(study)
    runs = Runs(out / "runs", threads=1)
    study.plan(runs)
    return study, answer, found_of(study, Done(runs=runs))


# --- The plan ------------------------------------------------------------------------------------


def test_what_is_trained_and_what_is_compared(given, tmp_path):
    study = drift(given, tmp_path, source={n: given[1] / f"w{n}.safetensors" for n in "12"})
    runs = Runs(tmp_path / "runs", threads=1)
    study.plan(runs)
    asked = [job.arguments["asked"] for job in runs.plan if "asked" in job.arguments]
    assert len(asked) == 4 * 2 * 2  # two sources and two random starts, two ways, two folds
    assert {a.recipe.freeze for a in asked} == {"all", "head-then-all"}
    assert {a.recipe.epochs for a in asked} == {FAST.epochs}
    assert {str(a.start) for a in asked} >= {"random:0", "random:1"}
    held = list(study.held())
    assert len(held) == len(set(held))
    kinds = {kind: sum(one.kind == kind for one in held) for kind in {one.kind for one in held}}
    assert kinds == {"tuned": 6, "recipes": 3, "random": 3, "ends": 4, "starts": 3, "null": 5}
    assert len(runs.plan) == len(asked) + 2
    study.plan(runs)
    assert len(runs.plan) == len(asked) + 2
    by_name = {job.name: job for job in runs.plan}
    ends = by_name["stripes, networks compared, seed 0, fold 1"]
    assert set(ends.arguments["pairs"]) == {str(one) for one in held}
    assert len(held) == len(set(map(str, held)))
    of_split = {name for name in by_name if name.endswith("seed 0, fold 1")} - {ends.name}
    assert set(ends.after) == of_split - {"stripes, random:1, head first, seed 0, fold 1"}
    needs = ends.arguments["needs"]
    assert {job.name for job in needs["1 and 2, tuned"]} == {
        f"stripes, {n}, seed 0, fold 1" for n in "12"
    }
    assert not needs["1 and 2, starts"]
    rows = by_name["stripes, 1, seed 0, fold 1"].arguments["asked"].fold.test
    assert ends.arguments["rows"].tolist() == rows.tolist()
    assert not (tmp_path / "runs").exists()


def test_a_study_goes_on_where_it_was(conducted, given):
    study, answer, _ = conducted
    seen = {p: p.stat().st_mtime_ns for p in answer.path.rglob("metrics.json")}
    assert len(seen) == 12
    planned, seconds = look_ahead_of(study)
    assert (all(run.is_done for run in planned), seconds) == (True, 0.0)
    lost = next(iter(answer.path.glob("runs/likeness-*/likeness.json")))
    lost.parent.joinpath("done.json").unlink()
    again = conduct(drift(given, answer.path))
    assert again.answer.findings == answer.answer.findings
    assert {p: p.stat().st_mtime_ns for p in seen} == seen


# --- The numbers -----------------------------------------------------------------------------------


def rows_of(answer, name):
    return list(csv.DictReader(StringIO((answer.path / f"{name}.csv").read_text())))


def run_of(found, start, freeze, i):
    return open_run(found.trained["stripes", Way(start=start, freeze=freeze)][i].job.folder)


def test_what_networks_are_worth_is_what_their_runs_say(conducted):
    _, answer, found = conducted
    values = {
        (start, freeze): [
            run_of(found, start, freeze, i).metrics()["test"]["auroc"]["value"] for i in (0, 1)
        ]
        for start in ("one", "random:0", "random:1")
        for freeze in ("all", "head-then-all")
    }
    assert len({v for row in values.values() for v in row}) > 3  # they are not all the same
    words = {"all at once": "all", "head first, then all": "head-then-all"}
    for row in rows_of(answer, "worth"):
        wanted = values[row["start"], words[row["trained"]]]
        assert float(row["value"]) == pytest.approx(np.mean(wanted), abs=1e-9)
    for freeze in ("all", "head-then-all"):
        base = np.mean([values[f"random:{s}", freeze] for s in (0, 1)], axis=0)
        versus = found.against_random["stripes", Way(start="one", freeze=freeze)]
        assert versus.value == pytest.approx(np.mean(values["one", freeze] - base), abs=1e-12)
    base = np.mean([values[f"random:{s}", "all"] for s in (0, 1)], axis=0)
    gain = (np.array(values["one", "all"]) - base) / base
    assert [p.gain for p in found.points] == pytest.approx(gain.tolist(), abs=1e-12)


def test_predictions_against_their_definitions(conducted):
    _, answer, found = conducted
    (row,) = [r for r in found.predictions if (r.a, r.b) == ("one", "random:0")]
    for i in (0, 1):
        runs = [run_of(found, start, "all", i) for start in ("one", "random:0")]
        rights = []
        for run in runs:
            told = run.predictions()
            names = [run.names[k] for k in run.fold.test]
            chosen = np.array([told[name].argmax() for name in names])
            rights.append(chosen == run.targets[run.fold.test])
        a, b = (right.mean() for right in rights)
        assert row.observed[i] == pytest.approx(np.mean(rights[0] == rights[1]))
        assert row.independent[i] == pytest.approx(a * b + (1 - a) * (1 - b))
        assert row.independent[i] == pytest.approx(reference.chance_agreement(*rights))
        assert row.published[i] == pytest.approx(a * a + (1 - a) * (1 - a))
        if {a, b} - {0.0, 1.0}:
            assert row.kappa[i] == pytest.approx(reference.error_consistency(*rights))
    (told,) = [r for r in rows_of(answer, "predictions") if r["networks"] == "one, random:0"]
    assert float(told["observed"]) == pytest.approx(row.observed.mean())
    assert float(told["published_wrong"]) == pytest.approx(row.published.mean())


def test_the_published_baseline_is_wrong_where_accuracies_differ():
    found = PredictionAgreement(observed=0.8, chance=0.58, accuracy_a=0.9, accuracy_b=0.6)
    assert found.chance == pytest.approx(0.9 * 0.6 + 0.1 * 0.4)
    assert independent_as_published(found) == pytest.approx(0.82)


def test_layers_are_those_of_the_comparisons(conducted):
    study, answer, found = conducted
    runs = Runs(study.setting.out / "runs", threads=1)
    likenesses = study.likenesses(runs, study.trained(runs))

    def cka(held):
        return np.array([read_likeness(job)[str(held)].cka for job in likenesses["stripes", held]])

    own, random = (
        Held(kind="tuned", a="one", b="one"),
        Held(kind="random", a="one", b="random:0"),
    )
    kept = found.kept["stripes", own, "layer2"]
    wanted = corrected_difference(cka(own)[:, 1], cka(random)[:, 1], test_share=0.5)
    assert (kept.value, kept.p) == pytest.approx((wanted.value, wanted.p))
    ends = Held(kind="ends", a="one", b="random:0")
    further = found.further["stripes", ends, "conv1"]
    starts = cka(replace(ends, kind="starts"))
    assert further.value == pytest.approx(np.mean(cka(ends)[:, 0] - starts[:, 0]))
    nulls = np.concatenate([cka(h)[:, 1] for h in study.held() if h.kind == "null"])
    assert len(nulls) == 10
    assert found.null("stripes", "CKA", 1) == pytest.approx(
        (nulls.mean(), nulls.min(), nulls.max())
    )
    rows = {(r["networks"], r["layer"]): r for r in rows_of(answer, "layers")}
    assert float(rows[str(own), "conv1"]["cka"]) == pytest.approx(cka(own)[:, 0].mean())
    assert {r["n"] for r in rows.values()} == {"2"}


def test_filters_that_moved(conducted):
    _, answer, found = conducted
    (row,) = [r for r in found.filters if r.way == Way(start="one", freeze="all")]
    begun = found.trained["stripes", row.way][0].asked.begin()
    for i in (0, 1):
        before, after = (
            dict(n.named_modules())["conv1"].weight.detach().double().numpy().reshape(64, -1)
            for n in (begun, run_of(found, "one", "all", i).network())
        )
        distance = np.linalg.norm(after - before, axis=1) / np.linalg.norm(before, axis=1)
        assert row.distance[i] == pytest.approx(np.median(distance), rel=1e-6)
    assert {f.name for f in answer.answer.figures} == {"layers-1", "gain", "filters"}


def test_the_page_says_what_it_stands_on_and_how_to_repeat_it(conducted):
    study, answer, found = conducted
    html = (answer.path / "index.html").read_text()
    assert "What this does not show" in html
    limits = " ".join(limits_of(study, found))
    assert "over 2 splits" in limits
    assert "trained with 2 seeds" in limits
    assert "A null of random networks wants 5" in limits
    assert "1 data set" in limits
    told = json.loads((answer.path / "drift.json").read_text())
    assert told["findings"] == list(answer.answer.findings)
    command = rows_of(answer, "runs")[0]["command"].split()
    assert command[:2] == ["histofast", "classify"]
    recipe = Recipe.read(command[command.index("--recipe") + 1])
    assert recipe == replace(FAST, freeze="all")
    assert (answer.path / "points.csv").is_file()


@pytest.mark.slow
def test_published_points_are_shown_where_asked_for(conducted, given):
    _, answer, _ = conducted
    found = conduct(
        drift(given, answer.path / "with", runs=answer.path / "runs", show_published=True)
    )
    assert "published" in {f.name for f in found.answer.figures}
    assert found.answer.findings[-1] == (
        "The published points are 7 data sets of 5 folds. With whole data sets drawn again, r is shown "
        "without adjustment at RadImageNet block1 (-0.722 to -0.043) only."
    )


# --- The words -------------------------------------------------------------------------------------


def planted(value, half=0.01):
    return Difference(
        value=value,
        low=value - half,
        high=value + half,
        p=0.01,
        p_adjusted=0.02,
        low_adjusted=value - 2 * half,
        high_adjusted=value + 2 * half,
        confidence=0.95,
        n=10,
    )


def said(study, found, **changes):
    return " ".join(describe_drift(study, replace(found, **changes)))


def test_words_of_layers_follow_the_numbers(conducted):
    study, _, found = conducted
    held = Held(kind="ends", a="one", b="two")

    def told(one, other):
        further = {("s", held, "conv1"): planted(one), ("s", held, "layer2"): planted(other)}
        return said(study, found, further=further)

    assert "s: one and two: fine-tuning took them further apart at conv1 (CKA, 2 layers)." in told(
        -0.2, 0.01
    )
    assert "further apart at conv1 and closer at layer2 (CKA" in told(-0.2, 0.3)
    assert (
        "s: one and two: that fine-tuning takes them further apart, as was published, is not shown at any of 2 layers."
        in told(-0.01, 0.01)
    )
    own = Held(kind="tuned", a="one", b="one")
    kept = {("s", own, "conv1"): planted(0.5), ("s", own, "layer2"): planted(0.0)}
    assert "is left is shown at conv1 (CKA, 2 layers)." in said(study, found, kept=kept)


def test_words_of_predictions_gain_and_heads_follow_the_numbers(conducted):
    study, _, found = conducted
    (row,) = [r for r in found.predictions if (r.a, r.b) == ("one", "random:0")]
    for beyond, words in (
        (0.2, "they agree more often than independent errors would (+0.200"),
        (-0.2, "they agree less often than independent errors would (-0.200"),
        (0.0, "agreement beyond independent errors is not shown (0.000"),
    ):
        assert words in said(study, found, predictions=(replace(row, beyond=planted(beyond)),))
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    for y, words in (
        (x + rng.normal(0, 0.1, 30), "shown at conv1."),
        (rng.normal(size=30), "that gain goes with similarity is not shown at any layer."),
    ):
        groups = np.arange(30) // 5
        r = correlate(x, y, groups=groups)
        row = replace(
            found.gain[0], r=r, r_adjusted=correlate(x, y, groups=groups, confidence=0.99)
        )
        assert words in said(study, found, gain=(row,))
    few = replace(found.gain[0], r=correlate(x[:8], x[:8] ** 2, groups=np.arange(8) // 2))
    assert (
        "8 points of 4 data sets: too few sets to say that gain goes with similarity, or does"
        in (said(study, found, gain=(few,)))
    )
    assert "changes the outcome of one on s (+0.300" in said(
        study, found, head_first={("s", "one"): planted(0.3)}
    )
    assert "a loss in auroc of one over random weights is shown (-0.300" in said(
        study, found, against_random={("s", Way(start="one", freeze="all")): planted(-0.3)}
    )


# --- What fails --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Broken(Drift):
    """Its heads first never train: the loss leaves all numbers."""

    def recipe_of(self, freeze):
        recipe = Drift.recipe_of(self, freeze)
        return recipe if freeze == "all" else recipe.changed({"lr": 1e30})


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_rest_is_shown(conducted, given, tmp_path):
    _, answer, _ = conducted
    found = conduct(drift(given, tmp_path, kind=Broken, runs=answer.path / "runs"))
    assert found.answer.findings[0].startswith(
        "8 jobs failed and are missing below: stripes, one, head"
    )
    worth = rows_of(found, "worth")
    heads = {row["trained"]: math.isnan(float(row["value"])) for row in worth}
    assert heads == {"all at once": False, "head first, then all": True}
    failed = [row for row in rows_of(found, "runs") if row["failed"]]
    assert len(failed) == 6
    assert all("loss must be finite" in row["failed"] for row in failed)


def test_a_study_of_which_all_fails_says_so(given, tmp_path):
    with pytest.raises(ValueError, match="epochs must be above head_epochs of the recipe, 1"):
        drift(given, tmp_path, recipe=replace(FAST, epochs=1, freeze="all"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": {}}, ValueError, "source must be at least one, got none"),
        ({"source": {"random": "x"}}, ValueError, "source must have names other than random"),
        (
            {"source": {"a": "slim:x:layer2:2"}},
            ModelError,
            "source must begin the network as it is",
        ),
        ({"random_seeds": 1}, ValueError, "random_seeds must be at least 2, got 1"),
        ({"metric": "brier"}, ValueError, "metric must be one of which more is better in a study"),
        ({"metric": "au"}, ValueError, "metric must be "),
    ],
)
def test_what_cannot_be_is_refused(given, tmp_path, changes, error, message):
    with pytest.raises(error, match=message) as raised:
        drift(given, tmp_path, **changes)
    assert "\n" not in str(raised.value)


def test_pictures_of_several_labels_are_refused(given, tmp_path):
    setting = PictureSetting(data=[given[0]], out=tmp_path, recipe=FAST)
    several = replace(setting.sets["stripes"], task="multilabel")
    with pytest.raises(ValueError, match="data must have one label for each picture in a study"):
        Drift(
            setting=replace(setting, data=[several]),
            network=NETWORK,
            source={"one": given[1] / "w1.safetensors"},
        )


# --- The command -------------------------------------------------------------------------------------


def test_the_command(cli, conducted, given):
    _, answer, _ = conducted
    table, folder = given
    common = (
        *("study", "drift", "--network", NETWORK, "--data", table, "--folds", 2, "--px", 24),
        *("--out", answer.path, "--layers", "conv1", "layer2", "--quiet", "--epochs", 2),
    )
    found = cli(*common, "--source", f"one={folder / 'w1.safetensors'}", "--plan-only")
    assert (found.code, found.err) == (0, [])
    lines = found.out.splitlines()
    assert lines[-1].startswith(f"{len(lines) - 1} runs, ")
    assert sum(" from random:" in line for line in lines) == 8
    for source, said in (
        ("one", "--source must be NAME=WEIGHTS, got 'one'"),
        (f"random={folder / 'w1.safetensors'}", "--source must have names other than random"),
        ("one=absent.h5", "absent.h5"),
    ):
        refused = cli(*common, "--source", source)
        assert refused.code != 0
        assert len(refused.err) == 1
        assert said in refused.err[0]


# Pearson's r of relative gain and CCA at each layer, as recomputed from the authors' tables.
PUBLISHED_R = {
    "ImageNet": (-0.16, -0.03, -0.07, -0.10, -0.13),
    "RadImageNet": (-0.15, -0.45, -0.43, -0.56, -0.47),
}


# --- The published points -----------------------------------------------------------------------


def test_the_published_35_points_give_the_published_r():
    assert len(published_points()) == 70
    for source, wanted in PUBLISHED_R.items():
        of_source = [point for point in published_points() if point.source == source]
        gain = [(p.auc - p.auc_random) / p.auc_random for p in of_source]
        for k in range(len(LAYERS)):
            found = correlate(
                [p.cca[k] for p in of_source], gain, groups=[p.target for p in of_source]
            )
            assert (found.n, found.groups) == (35, 7)
            assert found.r == pytest.approx(wanted[k], abs=0.006)
            assert (found.low_points, found.high_points) == pytest.approx(
                reference_learning.fisher(found.r, 35, 0.95)
            )


def test_the_published_means_are_those_of_the_folds():
    by_source = {
        source: {
            target: np.array(
                [p.cca for p in published_points() if (p.source, p.target) == (source, target)]
            ).mean(axis=0)
            for target in ("pcam-small", "thyroid")
        }
        for source in PUBLISHED_R
    }
    wanted = {
        ("ImageNet", "pcam-small"): (0.857, 0.836, 0.725, 0.494, 0.231),
        ("ImageNet", "thyroid"): (0.951, 0.955, 0.917, 0.827, 0.647),
        ("RadImageNet", "pcam-small"): (0.709, 0.409, 0.303, 0.254, 0.277),
        ("RadImageNet", "thyroid"): (0.798, 0.552, 0.478, 0.397, 0.331),
    }
    for (source, target), means in wanted.items():
        assert by_source[source][target] == pytest.approx(means, abs=6e-4)
    aucs = [p.auc for p in published_points() if (p.source, p.target) == ("ImageNet", "pcam-small")]
    assert 100 * np.mean(aucs) == pytest.approx(93.8, abs=0.06)
    assert 100 * np.std(aucs, ddof=1) == pytest.approx(1.1, abs=0.06)
