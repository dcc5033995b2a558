"""Plans of runs: each once, those that start from others behind them, and how long they take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors")

from histofast import classify, datasets, jobs
from histofast.classify import Asked, Recipe, Runs, StepTimes, look_ahead, open_run, train
from histofast.errors import JobError, ModelError
from histofast.networks import starts

pytestmark = pytest.mark.usefixtures("one_thread")

FAST = Recipe(epochs=2, batch_size=16, px=24, freeze="all", ema=0.0)
NETWORK = "resnet18"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return datasets.open_images(write_pictures(tmp_path_factory.mktemp("pictures")))


def asked(images, *, start="random", recipe=FAST, seed=0, fold=0, network=NETWORK):
    return Asked.of(
        images, network=network, start=start, recipe=recipe, fold=fold, folds=5, seed=seed
    )


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def test_what_two_ask_for_is_one_run_and_what_starts_from_it_comes_behind(images, tmp_path):
    runs = Runs(tmp_path / "runs")
    source = runs.add(asked(images), name="source")
    assert runs.add(asked(images, recipe=replace(FAST)), name="the same") is source
    tuned = runs.add(asked(images, start=f"run:{source.folder}", seed=1), name="tuned")
    drawn = runs.add(asked(images, start=f"mean-var:run:{source.folder}"), name="drawn")
    assert [job.needs for job in runs.plan] == [(), ("source",), ("source",)]
    assert statuses(jobs.run([tuned, drawn, source])) == ["done"] * 3

    alone = train(images, network=NETWORK, recipe=FAST, folds=5, out=tmp_path / "alone")
    made = open_run(source.folder)
    assert made.record.identity == alone.record.identity
    assert (made.path / "weights.safetensors").read_bytes() == (
        alone.path / "weights.safetensors"
    ).read_bytes()
    assert open_run(tuned.folder).record.identity["start"] == starts.identity(
        f"run:{source.folder}"
    )

    other = Runs(tmp_path / "runs")  # another study, which asks in another order
    again = other.add(asked(images), name="by another name")
    other.add(asked(images, start=f"run:{again.folder}", seed=1), name="tuned")
    other.add(asked(images, seed=2), name="new")
    assert [job.name for job in other.plan.left()] == ["new"]
    assert statuses(jobs.run(other.plan.jobs)) == ["there", "there", "done"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"fold": 1},
        {"recipe": replace(FAST, lr=1e-4)},
        {"start": "gabor:0"},
        {"network": "resnet34"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_differs_in_anything_is_another_run(images, tmp_path, change):
    runs = Runs(tmp_path)
    first, other = asked(images), asked(images, **change)
    assert runs.add(first, name="a").folder != runs.add(other, name="b").folder


def test_a_run_that_fails_fails_what_starts_from_it(images, tmp_path):
    runs = Runs(tmp_path)
    bad = runs.add(asked(images, recipe=replace(FAST, lr=1e30)), name="bad")
    runs.add(asked(images, start=f"run:{bad.folder}"), name="from bad")
    runs.add(asked(images), name="good")
    outcomes = jobs.run(runs.plan.jobs)
    assert statuses(outcomes) == ["failed", "failed", "done"]
    assert isinstance(outcomes[1].error, JobError)
    assert "from bad needs bad, which failed: loss must be finite" in str(outcomes[1].error)
    assert len(runs.plan.left()) == 2


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (FileNotFoundError, {"start": "no-such.safetensors"}, "no-such.safetensors"),
        (FileNotFoundError, {"start": "run:nowhere"}, "no run of classify in nowhere"),
        (ModelError, {"recipe": replace(FAST, freeze="from:layer9")}, "freeze must be from:"),
        (ModelError, {"network": "cbr-small"}, "needs patches of at least 121 px, got 24 px"),
    ],
)
def test_what_cannot_be_trained_is_refused_when_it_is_asked_for(
    images, tmp_path, kind, change, message
):
    with pytest.raises(kind, match=message):
        Runs(tmp_path).add(asked(images, **change), name="x")
    assert not any(tmp_path.iterdir())


# --- How long ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "head_steps", "looks"),
    [
        ({"freeze": "all"}, 0, 5),
        ({"freeze": "head"}, 12, 5),
        ({"freeze": "head-then-all", "head_epochs": 1}, 3, 5),
        ({"freeze": "all", "every": 5}, 0, 4),
    ],
)
def test_seconds_are_of_steps_and_looks(images, change, head_steps, looks):
    recipe = replace(FAST, epochs=4, batch_size=10, **change)
    one = asked(images, recipe=recipe)
    one = replace(one, fold=replace(one.fold, train=np.arange(31)))  # 10, 10 and 11
    times = StepTimes(head_s=1.0, whole_s=100.0, image_s=1e-4, interval_s=1e-6)
    rows = (looks + 1) * len(one.fold.validation) + len(one.fold.test)
    measured = len(one.fold.validation) + len(one.fold.test)
    assert times.of(one) == pytest.approx(
        head_steps + 100 * (12 - head_steps) + 1e-4 * rows + 1e-6 * measured
    )


@pytest.mark.parametrize(("processes", "wanted"), [(1, 19.0), (2, 10.0), (3, 9.0), (9, 9.0)])
def test_seconds_side_by_side(processes, wanted):
    """In two: 6, 2 and 2 one after the other, beside them 4 and the 5 that waits for it."""
    todo = [
        jobs.Job(name="last", cost=5.0, needs=("first",)),
        jobs.Job(name="first", cost=4.0),
        jobs.Job(name="a", cost=6.0),
        jobs.Job(name="b", cost=2.0),
        jobs.Job(name="c", cost=2.0),
    ]
    assert jobs.seconds_side_by_side(todo, processes=processes) == wanted


def test_looking_ahead_says_what_is_there_and_does_nothing(images, tmp_path):
    options = {"network": NETWORK, "recipe": FAST, "folds": 3, "out": tmp_path / "out"}
    planned, seconds = look_ahead(images, **options)
    assert [run.name for run in planned] == ["fold-0", "fold-1", "fold-2"]
    assert not any(run.is_done for run in planned)
    assert seconds == pytest.approx(sum(run.seconds for run in planned))
    assert not (tmp_path / "out").exists()

    train(images, **{**options, "out": tmp_path / "out" / "fold-1"}, fold=1)
    planned, fewer = look_ahead(images, **options)
    assert [run.is_done for run in planned] == [False, True, False]
    assert planned[1].seconds == 0
    assert fewer > 0
    alone, nothing = look_ahead(images, **{**options, "out": tmp_path / "out" / "fold-1"}, fold=1)
    assert ([run.is_done for run in alone], nothing) == ([True], 0.0)
    with pytest.raises(ValueError, match="holds another run"):
        look_ahead(images, **options, seed=1)


def test_a_plan_is_timed_and_what_is_done_takes_no_time(images, tmp_path):
    runs = Runs(tmp_path)
    first = runs.add(asked(images), name="first")
    runs.add(asked(images, start=f"run:{first.folder}"), name="second")
    whole = runs.estimate()
    costs = [job.cost for job in runs.plan]
    assert whole == pytest.approx(sum(costs))
    assert runs.plan.seconds(processes=2) == pytest.approx(whole)  # one waits for the other
    jobs.run([runs.plan.jobs[0]])
    assert runs.estimate() == pytest.approx(runs.plan.jobs[1].cost)
    assert classify.open_run(first.folder).is_finished
