"""study transfer --ranks: the ranks of layers over epochs, from the files of runs to the page."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

import reference
from extras import need
from labelled_pictures import write_pictures

need("torch", "safetensors", "matplotlib", "jinja2")

from histofast.classify import EpochOfLayers, Runs, StepTimes
from histofast.errors import ModelError
from histofast.learning import corrected_interval
from histofast.similarity import LayerMetrics
from histofast.studies import (
    Made,
    PictureSetting,
    Way,
    answer_of_transfer,
    conduct,
    describe_transfer,
    limits_of,
)
from small_transfers import FAST, NAMES, planted, rows_of, transfer

pytestmark = pytest.mark.usefixtures("one_thread")

NAN = float("nan")
MEASURES = ("stable_rank", "effective_rank", "knowledge_gain")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    return [
        write_pictures(folder / name, n=48, px=24, seed=k) for k, name in enumerate(["aa", "bb"])
    ]


def test_ranks_are_those_of_the_runs(sets, tmp_path, monkeypatch):
    planning = sys.modules["histofast.classify.planning"]
    whole = planning.train_asked

    def fails(asked, **more):
        if asked.seed == 1 and asked.images.path == sets[1]:
            raise ModelError("loss must be finite, got nan in step 3")
        return whole(asked, **more)

    monkeypatch.setattr(planning, "train_asked", fails)
    study = transfer(
        sets,
        tmp_path,
        ranks=True,
        network="squeezenet1.1",
        recipe=replace(FAST, epochs=2),
    )
    found = conduct(study)
    trained = study.trained(Runs(tmp_path / "runs", threads=1, layer_metrics=True))
    rows = rows_of(found.path, "ranks")
    assert {(row["source"], row["target"]) for row in rows} == {
        (way.source, way.target) for way in trained
    }
    for way, made in trained.items():
        tables = [one.job.folder / "layers.csv" for one in made]
        assert [table.exists() for table in tables] == [True, "bb" not in (way.source, way.target)]
        of_runs = [list(csv.DictReader(io.StringIO(t.read_text()))) for t in tables if t.exists()]
        told = [row for row in rows if (row["source"], row["target"]) == (way.source, way.target)]
        assert [float(row["epoch"]) for row in told] == [0, 1, 2]
        for row in told:
            for measure in MEASURES:
                means = [
                    np.mean(
                        [float(r[measure]) for r in run if float(r["epoch"]) == float(row["epoch"])]
                    )
                    for run in of_runs
                ]
                assert float(row[measure]) == pytest.approx(np.mean(means))
                assert float(row["splits"]) == len(means)
        layers = [
            row
            for row in rows_of(found.path, "ranks_of_layers")
            if (row["source"], row["target"]) == (way.source, way.target)
        ]
        for run_rows in zip(*of_runs, strict=True):
            row = next(r for r in layers if r["layer"] == run_rows[0]["layer"])
            end = {"0": "start", "2": "end"}.get(run_rows[0]["epoch"])
            for measure in MEASURES if end else ():
                wanted = np.mean([float(r[measure]) for r in run_rows])
                assert float(row[f"{measure}_{end}"]) == pytest.approx(wanted)
    titles = [panel.title for figure in found.answer.figures for panel in figure.panels]
    assert [title for title in titles if "of layers" in title] == [
        "From random: stable rank of layers",
        "From random: effective rank of layers",
        "From random: knowledge gain of layers",
    ]
    assert "seed 1, fold 0: loss must be finite, got nan in step 3" in " ".join(
        found.answer.findings
    )


def epochs(values):
    """Two layers over epochs, whose mean has each measure as told."""
    return tuple(
        EpochOfLayers(
            epoch=k,
            step=k,
            layers=tuple(
                LayerMetrics(
                    layer=name,
                    stable_rank=value + apart,
                    effective_rank=2 * value + apart,
                    rank_in=1,
                    rank_out=1,
                    rank_ratio_in=0.5,
                    rank_ratio_out=0.5,
                    knowledge_gain=0.25,
                )
                for name, apart in (("a", -1.0), ("b", 1.0))
            ),
        )
        for k, value in enumerate(values)
    )


def with_ranks(*, n=12, higher=None, noise=0.01, reached=3):
    """Planted numbers; layers end at 5 and some noise, and `higher` by that where it says."""
    found = planted(n=n)
    rng = np.random.default_rng(3)
    return replace(
        found,
        ranks={
            way: [
                epochs([5.0, *(5 + rng.normal(0, noise) + (higher or {}).get(way, 0.0),) * reached])
                for _ in range(n)
            ]
            for way in found.test
        },
    )


def test_what_is_planted_is_said_and_no_more():
    said = [one for one in describe_transfer(with_ranks()) if "ranks of layers" in one]
    (said,) = said
    assert said == (
        "From random, the ranks of layers at the end, after a source less trained directly: no difference is "
        "shown in 9 comparisons (stable rank, effective rank and knowledge gain, on each target)."
    )
    higher = {Way(start="random", source=s, target="b"): 0.5 for s in ("a", "c")}
    found = with_ranks(higher=higher)
    (said,) = [one for one in describe_transfer(found) if "ranks of layers" in one]
    assert "less trained directly: 2 of 9 comparisons are shown to differ, " in said
    assert "effective rank on b (+1.0" in said
    assert "stable rank on b (+0.5" in said or "stable rank on b (+0.4" in said
    assert not [one for one in describe_transfer(planted()) if "ranks" in one]
    assert any("not whether using more of them is better" in one for one in limits_of(found))
    assert not any("directions" in one for one in limits_of(planted()))


def answer(found, folder):
    data = [write_pictures(folder / name, n=16, px=24, groups=8) for name in NAMES]
    setting = PictureSetting(data=data, out=folder / "out", recipe=FAST)
    made = Made(
        way=Way(start="random", target="a"), place=0, seed=0, fold=0, folder="r", command="c"
    )
    return answer_of_transfer(found, setting=setting, runs=[made])


def test_charts_are_means_over_splits_and_sources_to_the_last_epoch_of_all(tmp_path):
    found = with_ranks(n=4, noise=0.2)
    ranks = dict(found.ranks)
    lost = Way(start="random", source="a", target="c")
    ranks[lost] = [None, *ranks[lost][1:]]
    short = Way(start="random", target="a")
    ranks[short] = [ranks[short][0][:2], *ranks[short][1:]]
    found = replace(found, ranks=ranks)
    (figure,) = [one for one in answer(found, tmp_path).figures if one.name == "ranks"]
    panel = figure.panels[1]  # effective rank: twice the value that was planted
    by_name = {series.name: series for series in panel.series}
    assert list(by_name) == [
        f"{target}, {kind}" for target in NAMES for kind in ("trained directly", "after a source")
    ]
    assert [
        len(by_name[f"a, {kind}"].points) for kind in ("trained directly", "after a source")
    ] == [
        2,
        4,
    ]
    assert [series.dashed for series in panel.series] == [False, True] * 3
    other = Way(start="random", source="b", target="c")
    values = np.array(
        [
            [
                NAN if run is None else np.mean([each.effective_rank for each in run[-1].layers])
                for run in ranks[way]
            ]
            for way in (lost, other)
        ]
    ).mean(axis=0)  # a split that lost a source is left out
    last = by_name["c, after a source"].points[-1]
    assert last.value == pytest.approx(np.nanmean(values))
    wanted = corrected_interval(values, test_share=1 / 5)
    assert (last.low, last.high) == pytest.approx((wanted.low, wanted.high))
    _, low, high = reference.corrected_interval(values[~np.isnan(values)], 1 / 5, 0.95)
    assert (last.low, last.high) == pytest.approx((low, high))
    assert all(math.isnan(point.low) for point in by_name["c, after a source"].points[:-1])
    nothing = replace(found, ranks={way: [None] * 4 for way in ranks})
    assert "ranks" not in [one.name for one in answer(nothing, tmp_path / "none").figures]


def test_a_plan_counts_the_time_of_ranks(sets, tmp_path):
    runs = Runs(tmp_path / "runs")
    study = transfer(sets, tmp_path)
    study.plan(runs)
    one = runs.asked_of(runs.plan.jobs[0])
    times = {"head_s": 0.0, "whole_s": 0.0, "image_s": 0.0, "interval_s": 0.0}
    assert StepTimes(**times, layers_s=3.0).of(one) == 3.0 * (1 + FAST.epochs)
    assert StepTimes(**times).of(one) == 0


def test_the_command_asks_for_other_runs_where_ranks_are_measured(sets, tmp_path, cli):
    words = ["study", "transfer", "--data", *sets, "--network", "squeezenet1.1", "--epochs", "2"]
    words += [
        "--px",
        "24",
        "--repeats",
        "1",
        "--out",
        tmp_path / "o",
        "-q",
        "--plan-only",
        "--json",
    ]
    plain, with_ranks = (json.loads(cli(*words, *more).out)["runs"] for more in ([], ["--ranks"]))
    assert [run["name"] for run in plain] == [run["name"] for run in with_ranks]
    assert not {run["folder"] for run in plain} & {run["folder"] for run in with_ranks}
