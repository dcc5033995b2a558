"""--gpus of studies and of classify: each worker has its GPU, and what cannot be meant is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors", "matplotlib", "jinja2")

import small_devices
from histofast import jobs
from histofast.classify import Recipe, train_folds
from histofast.networks import pick_device, workers_on
from histofast.studies import PictureSetting
from small_devices import device_of

FAST = Recipe(epochs=1, batch_size=16, px=24, freeze="all", ema=0.0)


@pytest.fixture
def two_gpus(monkeypatch):
    small_devices.pretend(monkeypatch.setattr)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("set") / "aa", n=48, px=24)


def made(table, tmp_path, **changes):
    return PictureSetting(data=[table], out=tmp_path / "out", recipe=FAST, **changes)


@pytest.mark.parametrize(
    ("changes", "devices"),
    [
        ({"gpus": [0, 1]}, ["cuda:0", "cuda:1"]),
        ({"gpus": [1], "device": "cuda"}, ["cuda:1"]),
        ({"gpus": [1, 0], "jobs": 3}, ["cuda:1", "cuda:0", "cuda:1"]),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_a_study_has_a_worker_on_each_gpu(table, tmp_path, changes, devices):
    setting = made(table, tmp_path, **changes)
    engine = setting.engine
    assert [worker.arguments["device"] for worker in engine.workers] == devices
    assert engine.side_by_side == len(devices)
    assert setting.device == "auto"  # what jobs are told; each worker knows what that is


@pytest.mark.usefixtures("two_gpus")
def test_jobs_run_on_the_gpu_of_their_worker(table, tmp_path):
    todo = [jobs.Job(name=str(k), function=device_of) for k in range(4)]
    found = jobs.run(todo, engine=made(table, tmp_path, gpus=[0, 1]).engine)
    assert {outcome.value for outcome in found} == {"cuda:0", "cuda:1"}
    assert all(outcome.value == f"cuda:{outcome.worker}" for outcome in found)
    told = [jobs.Job(name="told", function=device_of, arguments={"device": "cpu"})]
    assert jobs.run(told, engine=made(table, tmp_path, gpus=[1]).engine)[0].value == "cpu"


@pytest.mark.usefixtures("two_gpus")
def test_one_gpu_is_worked_on_here_and_forgotten_afterwards(table, tmp_path):
    here = jobs.Job(name="here", function=_where)
    ((outcome),) = jobs.run([here], engine=made(table, tmp_path, gpus=[1]).engine)
    assert outcome.value == (os.getpid(), "cuda:1")
    assert str(pick_device("auto")) == "cuda"


def _where():
    return os.getpid(), str(pick_device("auto"))


def test_without_gpus_it_is_as_ever(table, tmp_path):
    assert workers_on(None) == ()
    engine = made(table, tmp_path, jobs=2).engine
    assert (engine.workers, engine.processes, engine.side_by_side) == ((), 2, 2)
    assert made(table, tmp_path).engine.side_by_side == 1


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"gpus": []}, ValueError, "gpus must name at least one GPU, got none"),
        ({"gpus": 0}, TypeError, "gpus must be a list of whole numbers, got 0"),
        ({"gpus": [0, -1]}, ValueError, "gpus must not be negative, got -1"),
        ({"gpus": [1, 1]}, ValueError, "gpus must be given once each, got 1, 1"),
        (
            {"gpus": [0, 2]},
            ValueError,
            r"gpus must be within 0\.\.1, the GPUs that torch finds, got 2",
        ),
        (
            {"gpus": [0], "device": "cpu"},
            ValueError,
            "device must be auto or cuda with gpus, got 'cpu': leave it out",
        ),
        ({"gpus": [0], "device": "cuda:1"}, ValueError, "device must be auto or cuda with gpus"),
        (
            {"gpus": [0, 1], "jobs": 1},
            ValueError,
            "jobs must be at least 2, one for each GPU, got 1: name fewer GPUs",
        ),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_gpus_that_cannot_be_meant(table, tmp_path, changes, kind, message):
    with pytest.raises(kind, match=message):
        made(table, tmp_path, **changes)
    with pytest.raises(kind, match=message):
        train_folds(table, network="resnet18", out=tmp_path / "o", folds=2, **changes)
    assert not any(tmp_path.iterdir())


def test_without_a_gpu_it_is_said_in_one_line(table, tmp_path, cli, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["--network", "resnet18", "--out", tmp_path / "o", "--gpus", "0,1"]
    told = cli("study", "transfer", "--data", table, *words)
    assert (told.code, told.err) == (
        2,
        ["histofast: --gpus must be left out where torch finds no GPU, got 0, 1"],
    )
    told = cli("classify", table, "--folds", "2", *words)
    assert told.err == ["histofast: --gpus must be left out where torch finds no GPU, got 0, 1"]
    told = cli("classify", table, *words)
    assert told.err == ["histofast: --gpus must be left out of a single run: it is for all --folds"]
    told = cli("study", "drift", "--gpus", "0,b", "--data", table)
    assert "'--gpus': must be indices such as 0,1, got '0,b'" in " ".join(told.err)
    small_devices.pretend(monkeypatch.setattr)
    told = cli("study", "transfer", "--data", table, *words, "--jobs", "1")
    assert told.err == [
        "histofast: --jobs must be at least 2, one for each GPU, got 1: name fewer GPUs"
    ]


@pytest.mark.usefixtures("two_gpus")
def test_folds_are_dealt_to_gpus(table, tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    def stop(function, folds, *, engine, **_):
        devices = [worker.arguments["device"] for worker in engine.workers]
        assert devices == ["cuda:0", "cuda:1"]
        assert function.keywords["device"] == "auto"
        raise Enough

    monkeypatch.setattr(sys.modules["histofast.classify.folds"], "work_on_folds", stop)
    with pytest.raises(Enough):
        train_folds(table, network="resnet18", out=tmp_path / "o", folds=2, gpus=[0, 1])


def test_a_process_of_its_own_means_nothing_by_auto():
    code = "from histofast.networks import pick_device; print(pick_device('auto').type)"
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert found == ("cuda" if torch.cuda.is_available() else "cpu")
