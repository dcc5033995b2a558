"""Broken copies of the files of a run: refused in one line, or read as what they were; never other numbers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import fuzzing
from extras import need
from histofast import jobs
from toy_bags import write_toy

torch = need("torch", "sklearn")

from histofast.errors import HistofastError
from histofast.mil import TrainConfig, open_run, train

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(folds=2, epochs=2, lr=1e-2, device="cpu", model_options={"hidden": 8})
MODEL = "fold-1/model.safetensors"
STAGE = "HISTOFAST_FUZZ_STAGE"  # where the process that reads finds the whole run


class Stop(Exception):
    """Raised to leave a run half done."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """Features, labels, a finished run, one with a state, and a job that is done."""
    folder = tmp_path_factory.mktemp("stage")
    toy = write_toy(folder, b=8)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    train(*toy, out=folder / "whole", config=CONFIG)

    def stop(progress):
        if progress.finished:
            raise Stop

    with pytest.raises(Stop):
        train(*toy, out=folder / "begun", config=CONFIG, on_progress=stop)
    jobs.values_of(jobs.run([job_in(folder / "job")]))
    torch.set_num_threads(before)
    return folder


def job_in(folder: Path) -> jobs.Job:
    identity = {"run": "ab" * 32, "options": {"lr": 0.1, "names": ["a", "b"]}, "revision": 1}
    return jobs.Job(name="a", function=int, folder=folder, identity=identity)


def broken(path: Path, name: str, *, of: str = "whole") -> Path:
    """Return a copy of a run, or of a job's folder, in which one file is the broken one."""
    stage = Path(os.environ[STAGE])
    copy = stage / f"{of}-{os.getpid()}"
    if copy.exists():
        shutil.rmtree(copy)
    shutil.copytree(stage / of, copy)
    shutil.copyfile(path, copy / name)
    return copy


def read_run(path: Path, name: str) -> None:
    """All that is read of a run. What is not refused is what it was."""
    found, whole = open_run(broken(path, name)), open_run(Path(os.environ[STAGE], "whole"))
    assert found.record == whole.record
    assert found.metrics() == whole.metrics()
    said = [{k: v.tolist() for k, v in run.predictions().items()} for run in (found, whole)]
    assert said[0] == said[1]
    for one, other in zip(found.models(), whole.models(), strict=True):
        states = one.state_dict(), other.state_dict()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    assert found.units() == whole.units()


def read_run_json(path: Path) -> None:
    read_run(path, "run.json")


def read_metrics_json(path: Path) -> None:
    read_run(path, "metrics.json")


def read_predictions_csv(path: Path) -> None:
    read_run(path, "predictions.csv")


def read_model(path: Path) -> None:
    read_run(path, MODEL)


def read_done_json(path: Path) -> None:
    (outcome,) = jobs.run([job_in(broken(path, "done.json", of="job"))])
    if outcome.error is not None:
        raise outcome.error
    assert outcome.status == "there"


def read_state(path: Path) -> None:
    """A run goes on from the state, or says that it does not; the numbers are the same."""
    stage, out = Path(os.environ[STAGE]), broken(path, "fold-0/state.pt", of="begun")
    torch.set_num_threads(1)
    notes: list[str] = []
    train(stage / "features", stage / "labels.csv", out=out, config=CONFIG, on_note=notes.append)
    is_same = path.read_bytes() == (stage / "begun" / "fold-0" / "state.pt").read_bytes()
    assert is_same == (not any("is not as it was written" in note for note in notes))
    for name in ("predictions.csv", "fold-0/model.safetensors", MODEL):
        assert (out / name).read_bytes() == (stage / "whole" / name).read_bytes()


# Of 2,000 mutants; a state takes a training.
@pytest.mark.parametrize(
    ("read", "name", "share", "text"),
    [
        (read_run_json, "whole/run.json", 0.25, False),
        (read_run_json, "whole/run.json", 0.15, True),
        (read_metrics_json, "whole/metrics.json", 0.15, True),
        (read_predictions_csv, "whole/predictions.csv", 0.15, True),
        (read_model, f"whole/{MODEL}", 0.15, False),
        (read_done_json, "job/done.json", 0.1, True),
        (read_state, "begun/fold-0/state.pt", 0.05, False),
    ],
)
def test_broken_files_of_a_run(stage, tmp_path, monkeypatch, read, name, share, text):
    monkeypatch.setenv(STAGE, str(stage))
    mutants = max(1, round(share * fuzzing.MUTANTS))
    strays = fuzzing.attack(read, [stage / name], tmp_path, mutants=mutants, text=text)
    assert not strays, fuzzing.told(strays)


def test_errors_of_a_run_are_of_histofast(stage, tmp_path, monkeypatch):
    """The readers above do find what is broken: a run without a file is refused by each."""
    monkeypatch.setenv(STAGE, str(stage))
    empty = tmp_path / "empty"
    empty.touch()
    for read in (
        read_run_json,
        read_metrics_json,
        read_predictions_csv,
        read_model,
        read_done_json,
    ):
        with pytest.raises(HistofastError):
            read(empty)
