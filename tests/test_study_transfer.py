"""study transfer: its plan, its numbers, its words, and what becomes of runs that fail or are stopped."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

import reference
from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors", "matplotlib", "jinja2")

from typer.testing import CliRunner

from histofast import datasets
from histofast.classify import Recipe, Runs, open_run
from histofast.cli import app
from histofast.datasets import decode
from histofast.errors import ModelError
from histofast.learning import agreement_of_rankings, merit_elsewhere
from histofast.networks import starts
from histofast.studies import (
    Line,
    Made,
    Pair,
    PictureSetting,
    Way,
    answer_of_transfer,
    conduct,
    describe_transfer,
    look_ahead_of,
    read_likeness,
    read_line,
    read_scores,
)
from histofast.transferability import SCORES, log_me, rank_me
from small_transfers import FAST, NAMES, planted, rows_of, transfer

pytestmark = pytest.mark.usefixtures("one_thread")

NAN = float("nan")
PLANNING = "histofast.classify.planning"  # which makes runs


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Three sets of pictures: their tables."""
    folder = tmp_path_factory.mktemp("sets")
    return [
        write_pictures(folder / name, n=n, px=24, seed=seed)
        for seed, (name, n) in enumerate([("aa", 64), ("bb", 160), ("cc", 64)])
    ]


@pytest.fixture(scope="module")
def conducted(sets, tmp_path_factory):
    """Two sets: all of it done."""
    return conduct(transfer(sets[:2], tmp_path_factory.mktemp("study")))


def auroc(study, runs, way, part="test"):
    """Values of a way, straight from the files of its runs."""
    return np.array(
        [
            json.loads((one.job.folder / "metrics.json").read_text())[part]["auroc"]["value"]
            for one in study.trained(runs)[way]
        ]
    )


# --- The plan ------------------------------------------------------------------------------------


def test_a_source_is_the_baseline_of_its_own_set_and_trained_once(sets, tmp_path):
    study = transfer(sets, tmp_path, repeats=2, start=("random", "gabor:0"), merge=("ties",))
    runs = Runs(tmp_path / "runs")
    study.plan(runs)
    trained = study.trained(runs)
    made = [job for job in runs.plan if "asked" in job.arguments and job.folder in runs._asked]
    # Of each start: 3 baselines, 9 cells, 3 targets of the mean and of ties; of each 2 splits.
    assert len(made) == 2 * (3 + 9 + 3 + 3) * 2
    kinds = [job.folder.name.split("-")[0] for job in runs.plan]
    assert kinds.count("likeness") == 2 * (1 + 3) * 2  # only bb has enough test pictures
    assert kinds.count("line") == 2 * 3 * 2
    again = len(runs.plan)
    study.plan(runs)
    assert len(runs.plan) == again
    for (source, target), split in itertools.product(
        itertools.product(["aa", "bb", "cc"], repeat=2), (0, 1)
    ):
        cell = trained[Way(start="random", source=source, target=target)][split]
        first = trained[Way(start="random", target=source)][split]
        assert cell.job.needs == (first.job.name,)
        assert cell.asked.start == starts.Run(str(first.job.folder))
        assert cell.split == first.split
        assert cell.asked.seed == first.asked.seed
        assert cell.asked.recipe == first.asked.recipe == FAST
        alone = trained[Way(start="random", target=target)][split]
        np.testing.assert_array_equal(cell.asked.fold.test, alone.asked.fold.test)
        np.testing.assert_array_equal(cell.asked.fold.train, alone.asked.fold.train)
    merged = trained[Way(start="gabor:0", merge="ties", target="aa")][1]
    others = [trained[Way(start="gabor:0", target=name)][1].job for name in ("bb", "cc")]
    assert merged.asked.start == starts.Merge(
        method="ties",
        parts=(starts.Gabor(0), *(starts.Run(str(job.folder)) for job in others)),
    )
    assert merged.job.needs == tuple(job.name for job in others)
    assert [job.name for job in runs.plan][:2] == [
        "random, aa, seed 0, fold 0",
        "random, aa, seed 1, fold 0",
    ]


def test_looking_ahead_does_nothing(conducted, sets, tmp_path):
    planned, seconds = look_ahead_of(transfer(sets[:2], tmp_path / "new"))
    assert seconds > 0
    assert [run.is_done for run in planned] == [False] * ((2 + 4) * 2 + (1 + 2) * 2)
    assert not (tmp_path / "new").exists()
    planned, seconds = look_ahead_of(transfer(sets[:2], conducted.path))
    assert all(run.is_done for run in planned)
    assert seconds == 0


@pytest.mark.parametrize(
    ("kind", "n", "changes", "message"),
    [
        (ValueError, 1, {}, "data must have two sets of pictures or more, .*, got 1"),
        (
            ValueError,
            2,
            {"merge": ("ties",)},
            "merge must be of two or more networks, got data of 2 sets, .*: add a set",
        ),
        (ValueError, 3, {"merge": ("tie",)}, "merge must be one of mean, .*did you mean ties"),
        (
            ValueError,
            3,
            {"merge": ("svd-pre",)},
            "merge must be one of .* with a rank: .*'svd-pre'",
        ),
        (ValueError, 3, {"merge": ("mean:2",)}, "merge must be one of .*got 'mean:2'"),
        (ValueError, 2, {"start": ()}, "start must be at least one, got none: random, or a file"),
        (
            ValueError,
            2,
            {"start": ("random", "random")},
            "start must name each once, got random twice",
        ),
        (ValueError, 2, {"metric": "auc"}, "metric must be one of"),
        (
            ValueError,
            2,
            {"head_only": True, "recipe": replace(FAST, freeze="head")},
            "head_only must be left out of a recipe that trains nothing but the head",
        ),
        (ModelError, 2, {"start": ("transfuse:random:layer9",)}, "layer9"),
    ],
)
def test_what_cannot_be_asked(sets, tmp_path, kind, n, changes, message):
    with pytest.raises(kind, match=message):
        transfer(sets[:n], tmp_path, **changes)


def test_pictures_of_several_labels_are_not_scored(sets, tmp_path):
    table = write_pictures(tmp_path / "several", n=64, px=24, several=True)
    several = datasets.open_images(table, labels=["light", "stripes"])
    with pytest.raises(
        ValueError, match=r"scores must be of sets with one class .*in several: leave"
    ):
        transfer([sets[0], several], tmp_path / "out", scores=True)


def test_sets_that_share_pictures_and_splits_that_cannot_be_are_refused(sets, tmp_path):
    shared = tmp_path / "shared.csv"
    lines = sets[0].read_text().splitlines()
    folder = sets[0].parent
    shared.write_text("\n".join([lines[0], *(f"{folder}/{line}" for line in lines[1:])]) + "\n")
    runs = Runs(tmp_path / "runs")
    with pytest.raises(
        ValueError, match="data must be sets that share no picture, aa and shared have 64 in common"
    ):
        transfer([sets[0], shared], tmp_path / "out").plan(runs)
    few = write_pictures(tmp_path / "few", n=12, px=24, groups=4, seed=9)
    with pytest.raises(ValueError, match=r"folds must be at most .*\(of few\)"):
        transfer([sets[0], few], tmp_path / "out").plan(runs)


# --- The numbers ---------------------------------------------------------------------------------


def test_cells_are_paired_differences_to_the_target_trained_directly(conducted, sets):
    study = transfer(sets[:2], conducted.path)
    runs = Runs(conducted.path / "runs", threads=1)
    rows = rows_of(conducted.path, "cells")
    assert len(rows) == 2 * 3
    p = {}
    for row in rows:
        way = Way(start="random", source=row["source"], target=row["target"])
        values = auroc(study, runs, way)
        assert float(row["value"]) == pytest.approx(values.mean())
        direct = auroc(study, runs, Way(start="random", target=row["target"]))
        if not row["source"]:
            assert row["direct"] == row["own"] == ""
            continue
        d = values - direct
        assert float(row["direct"]) == pytest.approx(d.mean())
        if np.ptp(d) > 0:
            _, low, high = reference.corrected_interval(d, 1 / 5, 0.95)
            assert float(row["direct_low"]) == pytest.approx(low)
            assert float(row["direct_high"]) == pytest.approx(high)
            p[way] = row["direct_p_adjusted"], low, high, d
        own = auroc(study, runs, replace(way, source=row["target"]))
        if row["source"] != row["target"]:
            assert float(row["own"]) == pytest.approx((values - own).mean())
        else:
            assert row["own"] == ""
    assert p
    raw = []
    for _, _, _, d in p.values():
        mean, error, freedom = reference.corrected_t(d, 1 / 5)
        raw.append(2 * reference.stats.t.sf(abs(mean) / error, freedom))
    adjusted = reference.holm(np.array(raw))
    np.testing.assert_allclose([float(told[0]) for told in p.values()], adjusted)


def test_likeness_is_the_mean_over_splits(conducted, sets):
    study = transfer(sets[:2], conducted.path)
    runs = Runs(conducted.path / "runs", threads=1)
    found = study.likenesses(runs, study.trained(runs))
    rows = rows_of(conducted.path, "likeness")
    assert {(row["source"], row["target"]) for row in rows} == {
        (way.source, way.target) for way in found
    }
    for way, jobs in found.items():
        values = np.mean([read_likeness(job)["start and end"].cka for job in jobs], axis=0)
        told = [
            float(row["cka"])
            for row in rows
            if (row["source"], row["target"]) == (way.source, way.target)
        ]
        np.testing.assert_allclose(told, values)


def test_every_run_has_the_command_that_does_it_again(conducted, sets):
    rows = rows_of(conducted.path, "runs")
    assert len(rows) == (2 + 4) * 2
    row = next(row for row in rows if row["way"] == "random, aa, bb")
    seen = (conducted.path / "runs").stat()
    before = {p: p.stat().st_mtime_ns for p in (conducted.path / "runs").rglob("metrics.json")}
    words = row["command"].split()
    assert words[:2] == ["histofast", "classify"]
    told = CliRunner().invoke(app, [*words[1:], "--threads", "1", "--json"])
    assert told.exit_code == 0, told.output
    after = {p: p.stat().st_mtime_ns for p in (conducted.path / "runs").rglob("metrics.json")}
    assert (after, seen.st_ino) == (before, (conducted.path / "runs").stat().st_ino)
    kept = sum(json.loads(p.read_text())["best_step"] == 0 for p in before)
    said = [one for one in conducted.answer.findings if "kept the layers" in one]
    assert said == [] if not kept else said[0].startswith(f"{kept} of 12 runs kept the layers")
    page = (conducted.path / "index.html").read_text()
    assert page.count('aria-label="Table: ') == 2  # likeness is a CSV only
    assert "What this does not show" in page
    assert "histofast study transfer" in page


# --- Runs that fail, studies that are stopped ------------------------------------------------------


def test_a_run_that_fails_leaves_its_cells_undefined(sets, tmp_path, monkeypatch):
    whole = sys.modules[PLANNING].train_asked

    def fails(asked, **more):
        if asked.images.path == sets[1] and isinstance(asked.start, starts.Run):
            raise ModelError("loss must be finite, got nan in step 3")
        return whole(asked, **more)

    monkeypatch.setattr(f"{PLANNING}.train_asked", fails)
    found = conduct(transfer(sets[:2], tmp_path, repeats=1))
    rows = {(row["source"], row["target"]): row for row in rows_of(found.path, "cells")}
    assert rows["aa", "bb"]["value"] == rows["aa", "bb"]["direct"] == "nan"
    assert rows["aa", "bb"]["direct_finding"] == "undefined"
    assert rows["bb", "aa"]["value"] != "nan"
    said = " ".join(found.answer.findings)
    assert "jobs failed and are left out: random, aa, bb, seed 0, fold 0" in said
    assert "loss must be finite, got nan in step 3" in said


def test_a_study_that_is_stopped_goes_on(conducted, sets, tmp_path, monkeypatch):
    whole, calls = sys.modules[PLANNING].train_asked, []

    def stops(asked, **more):
        calls.append(asked)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(asked, **more)

    monkeypatch.setattr(f"{PLANNING}.train_asked", stops)
    with pytest.raises(KeyboardInterrupt):
        conduct(transfer(sets[:2], tmp_path, repeats=1))
    assert not (tmp_path / "index.html").exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("metrics.json")}
    assert len(kept) == 3
    monkeypatch.setattr(f"{PLANNING}.train_asked", whole)
    found = conduct(transfer(sets[:2], tmp_path, repeats=1))
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    undisturbed = rows_of(conducted.path, "runs")
    told = {row["way"]: row["test"] for row in undisturbed if row["seed"] == "0.0"}
    assert {row["way"]: row["test"] for row in rows_of(found.path, "runs")} == told
    assert len(told) == 6


# --- Merged networks -------------------------------------------------------------------------------


@pytest.mark.slow
def test_merged_networks_heads_and_the_line_between_two_networks(sets, tmp_path):
    study = transfer(sets, tmp_path, repeats=1, merge=("ties",), head_only=True, scores=True)
    found = conduct(study)
    runs = Runs(tmp_path / "runs", threads=1)
    trained = study.trained(runs)
    rows = rows_of(found.path, "merges")
    assert {(row["merge"], row["target"]) for row in rows} == set(
        itertools.product(["mean", "ties"], ["aa", "bb", "cc"])
    )
    for row in rows:
        target = row["target"]
        values = auroc(study, runs, Way(start="random", merge=row["merge"], target=target))
        cells = [
            Way(start="random", source=source, target=target)
            for source in ("aa", "bb", "cc")
            if source != target
        ]
        seen = np.array([auroc(study, runs, way, "validation") for way in cells])
        tested = np.array([auroc(study, runs, way) for way in cells])
        single = tested[seen.argmax(0), [0]]
        assert float(row["highest_single_source"]) == pytest.approx((values - single).mean())
        mean = auroc(study, runs, Way(start="random", merge="mean", target=target))
        told = row["plain_mean"]
        assert (
            told == ""
            if row["merge"] == "mean"
            else float(told) == pytest.approx((values - mean).mean())
        )

    for row in rows_of(found.path, "head_only"):
        way = Way(start="random", source=row["source"], target=row["target"], head=True)
        values = auroc(study, runs, way)
        everything = auroc(study, runs, replace(way, head=False))
        assert float(row["all_layers"]) == pytest.approx((values - everything).mean())
        assert open_run(study.trained(runs)[way][0].job.folder).recipe.freeze == "head"

    jobs = study.lines(runs, trained)
    pair = Pair(start="random", target="aa", sources=("bb", "cc"))
    line = read_line(jobs[pair][0])
    ends = [trained[Way(start="random", source=s, target="aa")][0] for s in pair.sources]
    networks = [open_run(one.job.folder).network() for one in ends]
    states = [network.state_dict() for network in networks]
    middle = {
        key: (0.5 * (value.double() + states[1][key].double())).float()
        if value.is_floating_point()
        else value
        for key, value in states[0].items()
    }
    images = datasets.open_images(sets[0])
    pixels = decode(images, cache=runs.cache, px=24).pixels
    fold = ends[0].asked.fold

    def shown(rows):
        x = torch.from_numpy(pixels[rows].astype(np.float32)).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (networks[0].mean, networks[0].std))
        return (x - mean) / std

    network = networks[0]
    network.load_state_dict(middle)
    starts.estimate_batchnorm(network, [shown(fold.train)])
    with torch.no_grad():
        logits = network(shown(fold.test)).double().numpy()
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    loss = -logp[np.arange(len(fold.test)), images.targets[fold.test]].mean()
    assert line.loss[5] == pytest.approx(loss, rel=1e-3)
    assert line.n == len(fold.test)
    np.testing.assert_allclose(line.at, np.linspace(0, 1, 11))
    barriers = {row["target"]: row for row in rows_of(found.path, "barriers")}
    values = [read_line(job).barrier for job in jobs[pair]]
    assert float(barriers["aa"]["barrier"]) == pytest.approx(np.mean(values))

    features = open_run(trained[Way(start="random", target="bb")][0].job.folder).network(head=False)
    with torch.no_grad():
        values = features(shown(fold.train)).double().numpy()
    wanted = log_me(values, images.targets[fold.train])
    told = study.scorings(runs, trained)
    scored = read_scores(told[Way(start="random", source="bb", target="aa")][0])
    assert scored["logme"] == pytest.approx(wanted, rel=1e-4)
    assert set(scored) == set(SCORES)
    begun = starts.begin("resnet18", "random", seed=0)
    with torch.no_grad():
        values = begun(shown(fold.train)).double().numpy()
    scored = read_scores(told[Way(start="random", target="aa")][0])
    assert scored["rankme"] == pytest.approx(rank_me(values), rel=1e-3)
    rows = rows_of(found.path, "scores_of_networks")
    assert len(rows) == 3 * 3
    assert len(rows_of(found.path, "scores")) == len(SCORES) + 1


def test_a_barrier_is_the_highest_rise_above_the_line_between_the_ends():
    at = np.linspace(0, 1, 3)
    assert Line(at=at, loss=np.array([1.0, 2.0, 2.0]), n=9).barrier == pytest.approx(0.5)
    assert Line(at=at, loss=np.array([1.0, 0.2, 2.0]), n=9).barrier == 0


# --- The words ---------------------------------------------------------------------------------------


def test_no_difference_is_not_claimed():
    said = describe_transfer(planted(n=3, noise=0.03))
    assert said[0].startswith(
        "From random, less the target trained directly, no difference in auroc is shown in 6 transfers; "
        "the largest is "
    )
    assert "splits would show it" in said[0]
    assert "no difference in auroc is shown in 6 transfers" in said[1]
    assert said[2] == (
        "These are 3 splits of each set: intervals are wide, and a difference that is not shown may "
        "still be there. 7 more would make 10."
    )
    assert len(said) == 3


def test_what_is_planted_is_said():
    gain = {
        Way(start="random", source="a", target="b"): 0.1,
        Way(start="random", source="c", target="a"): -0.1,
    }
    said = describe_transfer(planted(gain=gain))
    assert "2 of 6 transfers are shown to differ in auroc, 1 better: a to b (+0." in said[0]
    assert "; 1 worse: c to a (-0." in said[0]
    assert "2 of 6 transfers" in said[1]
    less = describe_transfer(planted(gain=gain, metric="brier"))
    assert "1 better: c to a (-0." in less[0]
    longer = describe_transfer(planted(gain={Way(start="random", source="a", target="a"): 0.2}))
    assert "no difference" in longer[0]  # the diagonal is no transfer
    assert "2 of 6 transfers are shown to differ in auroc, 2 worse: " in longer[1]


def test_pretrained_starts_are_held_against_random_ones():
    gain = {Way(start="imagenet", target="b"): 0.2}
    said = describe_transfer(planted(gain=gain, starts=("random", "imagenet")))
    (direct,) = [one for one in said if one.startswith("imagenet less random, trained directly")]
    assert "1 of 3 targets are shown to differ in auroc, 1 better: b (+0." in direct
    (stages,) = [one for one in said if one.startswith("imagenet less random, both by a source")]
    assert "no difference in auroc is shown in 6 transfers" in stages
    assert not any("less random" in one for one in describe_transfer(planted(starts=("imagenet",))))


def test_the_single_source_is_chosen_by_validation_pictures_not_by_test_pictures():
    merge = ("mean", "ties")
    good = Way(start="random", source="b", target="a")
    found = planted(merge=merge, gain={good: 0.2})
    seen = {way: np.full(12, 0.5) for way in found.test}
    seen[Way(start="random", source="c", target="a")] = np.full(12, 0.9)
    found = replace(found, validation=seen)
    values, names = found.single("random", "a")
    assert names == ["c"] * 12
    np.testing.assert_array_equal(values, found.test[Way(start="random", source="c", target="a")])
    assert replace(found, metric="brier").single("random", "a")[1] == ["b"] * 12
    said = " ".join(describe_transfer(found))
    assert "the single source that was the highest of 2 on validation pictures" in said
    assert "From random, other merges less the plain mean, no difference" in said
    ways = found.merged_against("random", "mean")
    assert {way.merge for way in ways} == {"ties"}
    nothing = replace(found, validation={way: np.full(12, NAN) for way in seen})
    assert nothing.single("random", "a")[1] == [""] * 12


def test_scores_are_held_against_what_came_of_it():
    found = planted(starts=("random", "w"), noise=0.05)
    ways = [way for way in found.test if not way.merge and way.source != way.target]
    told = {
        way: [
            dict.fromkeys(SCORES, float(found.test[way].mean()))
            | {"rankme": -found.test[way].mean()},
            None,
        ]
        for way in ways
    }
    found = replace(found, scores=told)
    agreements = found.agreements()
    assert list(agreements)[-1] == "worth on the other targets"
    logme, rankme = agreements[SCORES["logme"].title], agreements[SCORES["rankme"].title]
    assert logme.tau.value == pytest.approx(1)
    assert rankme.tau.value == pytest.approx(-1)
    assert logme.n_sources.tolist() == [6, 6, 6]  # two starts, by themselves and by two sources
    assert replace(found, metric="brier").agreements()[SCORES["logme"].title].tau.value == -1
    truth = np.array(
        [
            [
                NAN
                if source == target
                else found.test[Way(start=s, source=source, target=target)].mean()
                for s, source in itertools.product(("random", "w"), ["", *NAMES])
            ]
            for target in NAMES
        ]
    )
    other = agreement_of_rankings(merit_elsewhere(truth), truth)
    assert agreements["worth on the other targets"].tau.value == other.tau.value
    said = " ".join(describe_transfer(found))
    assert "nothing is shown of any score" in said
    assert "any score" not in " ".join(describe_transfer(planted()))


def test_one_split_shows_nothing_and_failures_are_named():
    said = describe_transfer(planted(n=1, failed={"random, a, b, seed 0, fold 0": "disk full"}))
    assert "Two splits at least are needed for an interval." in said[0]
    assert "With one split there are no intervals, so nothing is shown." in said[2]
    assert said[3] == (
        "1 job failed and is left out: random, a, b, seed 0, fold 0. The first, random, a, b, seed 0, "
        "fold 0: disk full."
    )
    (unmoved,) = [one for one in describe_transfer(planted(unmoved=3)) if "began with" in one]
    assert unmoved.startswith("3 of 144 runs kept the layers that they began with under a")
    nothing = planted(n=1)
    nothing = replace(nothing, test={way: np.array([NAN]) for way in nothing.test})
    assert describe_transfer(nothing)[0].endswith("no value could be compared.")


def test_a_page_of_planted_numbers_has_all_of_them(tmp_path, sets):
    merge = ("mean", "ties")
    pair = Pair(start="random", target="a", sources=("b", "c"))
    line = Line(at=np.linspace(0, 1, 3), loss=np.array([1.0, 1.5, 1.0]), n=9)
    found = planted(merge=merge, starts=("random", "w"), lines={pair: [line, None]})
    setting = PictureSetting(data=sets, out=tmp_path, recipe=FAST)
    way = Way(start="random", target="a")
    made = Made(way=way, place=0, seed=0, fold=0, folder="runs/x", command="histofast classify a")
    answer = answer_of_transfer(found, setting=setting, runs=[made])
    names = [table.name for table in answer.tables]
    assert names == ["cells", "two_stage", "merges", "barriers", "runs"]
    titles = [panel.title for figure in answer.figures for panel in figure.panels]
    assert titles == [
        "From random: change by a source",
        "From random: the values themselves",
        "From w: change by a source",
        "From w: the values themselves",
        "a, from random: between two sources",
    ]
    matrix = answer.figures[0].panels[0]
    direct = found.test[Way(start="random", target="c")]
    wanted = (found.test[Way(start="random", source="b", target="c")] - direct).mean()
    assert matrix.values[1][2] == pytest.approx(wanted)
    assert matrix.low == -matrix.high
    assert "the loss rises by 0.500 at most" in " ".join(answer.findings)
    assert Recipe.read(_written(tmp_path, answer.files["recipe.toml"])) == FAST
    assert any("saw more steps in all" in one for one in answer.limits)
    assert answer.limits[4] == (
        "How far networks went is not measured on a, b and c: fewer than 32 test pictures."
    )
    assert len(answer.limits) == 6


def _written(folder, text):
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


# --- The command -------------------------------------------------------------------------------------


def test_the_command_plans_and_refuses_in_one_line(sets, tmp_path, cli):
    def told(*words, data=sets[:2]):
        common = ["--network", "resnet18", "--epochs", "2", "--px", "24", "--repeats", "1"]
        return cli(
            *("study", "transfer", "--data", *data, *common, "--out", tmp_path / "o", "-q"), *words
        )

    found = told("--plan-only", "--start", "random", "gabor:0", "--json")
    assert (found.code, found.err) == (0, [])
    runs = json.loads(found.out)["runs"]
    assert len(runs) == 2 * (2 + 4 + 1 + 2)
    assert "gabor:0, aa, bb, seed 0, fold 0" in [run["name"] for run in runs]
    lines = told("--plan-only").out.splitlines()
    assert lines[0].startswith("random, aa, seed 0, fold 0")
    assert lines[0].endswith("from random")
    compared = "random, aa, bb, seed 0, fold 0: start and end compared  left, "
    assert any(line.startswith(compared) for line in lines)
    assert lines[-1].startswith("9 runs, 0 done; the others take about ")

    one = told(data=sets[:1])
    assert one.code == 2
    assert one.err == [
        "histofast: --data must have two sets of pictures or more, a source and a target, got 1"
    ]
    (line,) = told("--merge", "ties").err
    assert line.startswith("histofast: --merge must be of two or more networks, got data of 2 sets")
    (line,) = told("--head-only", "--recipe", _head_recipe(tmp_path)).err
    assert line.startswith("histofast: --head-only must be left out of a recipe")
    assert not (tmp_path / "o").exists()


def _head_recipe(folder):
    return _written(folder, replace(FAST, freeze="head", epochs=2).to_toml())
