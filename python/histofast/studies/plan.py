"""The runs of a study: each candidate on the same folds and seeds, repeat by repeat, as jobs.

runs/<candidate>/repeat-<r>/         a run of `train`, with seed + r for folds and models alike
runs/<candidate>/mean-pooling-<r>/   predictions of logistic regression on mean features
"""

from __future__ import annotations

import contextvars
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from histofast import jobs
from histofast.jobs import Engine, Job, Outcome, Part
from histofast.learning import read_json, read_record, write_json
from histofast.mil import (
    Bags,
    Run,
    TrainConfig,
    TrainProgress,
    mean_pooling,
    open_bags,
    open_run,
    train,
)
from histofast.studies.rows import StudyRow
from histofast.studies.setting import SAY_S, Setting

_PREDICTIONS = "predictions.json"
_POOLING = 2  # revision of the baseline: raised when the same features would give other numbers

Predicted = Mapping[str, NDArray[np.float64]]  # by slide


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An encoder whose features models of bags are trained on.

    Attributes:
        row: what is known of it beforehand; values and intervals are filled in.
        encoder: its file, for its speed; None: not measured.
        key: name of its features, and of its folder among the runs.
        commands: titles and commands of what to do with it if it is chosen.
        null: of several networks with random weights, one; their name in rows. "": no such.
    """

    row: StudyRow
    encoder: Path | None
    key: str
    commands: tuple[tuple[str, str], ...] = ()
    null: str = ""


class _Unit(NamedTuple):
    """A run: of which candidate, in which repeat."""

    candidate: Candidate
    repeat: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """The runs of a candidate, and what mean pooling predicts on the folds of each.

    Attributes:
        bags: with the features of the candidate.
        runs: one for each repeat.
        pooled: predictions of mean pooling, likewise; empty where it was not asked for.
    """

    bags: Bags
    runs: tuple[Run, ...]
    pooled: tuple[Predicted, ...]


def train_all(
    candidates: Sequence[Candidate], features: Sequence[Path], setting: Setting
) -> list[Trained]:
    """Train what is not trained yet; a failure stays with its run, and is raised when all others are.

    Random networks are many seeds already: they take the first repeat alone.

    Raises:
        ValueError, FeatureError, FileNotFoundError, ModelError: as `open_bags` and `train`; candidates
            of other bags.
    """
    units = _units(candidates, setting)
    bags = _opened(candidates, features, units, setting)
    jobs.values_of(_train(units, bags, setting))
    jobs.values_of(_pool(units, bags, setting))
    return [
        Trained(
            bags=bags[candidate.key],
            runs=tuple(open_run(_run(setting, candidate, r)) for r in _repeats(candidate, setting)),
            pooled=tuple(
                _read_pooled(_pooling(setting, candidate, r))
                if _is_pooled(candidate, setting)
                else {}
                for r in _repeats(candidate, setting)
            ),
        )
        for candidate in candidates
    ]


def train_part(
    candidates: Sequence[Candidate], features: Sequence[Path], setting: Setting, *, part: Part
) -> list[Outcome]:
    """Make the runs of one part of all, and what mean pooling predicts on their folds.

    Returns:
        What became of each; a failure stays with its run.

    Raises:
        ValueError, FeatureError, FileNotFoundError: as `open_bags`; candidates of other bags.
    """
    units = [unit for place, unit in enumerate(_units(candidates, setting)) if part.has(place)]
    bags = _opened(candidates, features, units, setting)
    trained = _train(units, bags, setting)
    is_done = [outcome.status == "done" for outcome in trained]
    left = [unit for unit, done in zip(units, is_done, strict=True) if done]
    return [*trained, *_pool(left, bags, setting)]


def _units(candidates: Sequence[Candidate], setting: Setting) -> list[_Unit]:
    """Return the runs: repeat by repeat, so that a study that is stopped has all candidates on the first folds."""
    units = [_Unit(candidate, r) for candidate in candidates for r in _repeats(candidate, setting)]
    return sorted(units, key=lambda unit: unit.repeat)


def _opened(
    candidates: Sequence[Candidate],
    features: Sequence[Path],
    units: Sequence[_Unit],
    setting: Setting,
) -> dict[str, Bags]:
    """Return the bags of the candidates of some runs by their keys, all of the same slides as those of the first."""
    wanted = {unit.candidate.key for unit in units}
    opened = {
        candidate.key: open_bags(folder, setting.labels, task=setting.task, missing=setting.missing)
        for candidate, folder in zip(candidates, features, strict=True)
        if candidate is candidates[0] or candidate.key in wanted
    }
    first = opened[candidates[0].key]
    for candidate in candidates:
        own = opened.get(candidate.key)
        if own is not None and own.names != first.names:
            raise ValueError(
                f"features of {candidate.row.name} must be of the same slides as those of "
                f"{candidates[0].row.name}, got {len(own)} and {len(first)}"
            )
    return opened


def _train(units: Sequence[_Unit], bags: Mapping[str, Bags], setting: Setting) -> list[Outcome]:
    work = [_train_job(*unit, bags[unit.candidate.key], setting) for unit in units]
    return work_on(work, setting, "training", engine=setting.engine)


def _pool(units: Sequence[_Unit], bags: Mapping[str, Bags], setting: Setting) -> list[Outcome]:
    work = [
        _pooling_job(*unit, bags[unit.candidate.key], setting)
        for unit in units
        if _is_pooled(unit.candidate, setting)
    ]
    return work_on(work, setting, "mean pooling", engine=setting.engine)


def _repeats(candidate: Candidate, setting: Setting) -> range:
    return range(1 if candidate.null else setting.repeats)


def _is_pooled(candidate: Candidate, setting: Setting) -> bool:
    return setting.task == "classification" and not candidate.row.baseline


def work_on(
    work: Sequence[Job], setting: Setting, doing: str, *, engine: Engine | None = None
) -> list[Outcome]:
    """Do jobs of a study, here if there is no engine, and say which.

    Raises:
        KeyboardInterrupt: what is done is kept.
    """
    begun, said = 0, time.monotonic()

    def hear(event: jobs.Event) -> None:
        nonlocal begun, said
        if isinstance(event, jobs.Started):
            setting.tell(f"{doing}: {event.job.name}", done=begun, total=len(work))
            begun, said = begun + 1, time.monotonic()
        elif isinstance(event, jobs.Told) and isinstance(event.what, str):
            setting.tell(f"{doing}: {event.name}: {event.what}", level=logging.DEBUG)
        elif isinstance(event, jobs.Told) and time.monotonic() - said > SAY_S:
            said, now = time.monotonic(), event.what
            epoch = f"fold {now.fold}, epoch {now.epoch} of {now.epochs}"
            setting.tell(f"{doing}: {event.name}, {epoch}", done=begun - 1, total=len(work))

    outcomes = jobs.run(work, engine=engine, on_event=hear)
    for outcome in outcomes:
        if outcome.status == "interrupted":
            raise outcome.error or KeyboardInterrupt
    return outcomes


def _run(setting: Setting, candidate: Candidate, repeat: int) -> Path:
    return setting.out / "runs" / candidate.key / f"repeat-{repeat}"


def _pooling(setting: Setting, candidate: Candidate, repeat: int) -> Path:
    return setting.out / "runs" / candidate.key / f"mean-pooling-{repeat}"


def _name(candidate: Candidate, repeat: int, setting: Setting) -> str:
    several = setting.repeats > 1 and not candidate.null
    return candidate.row.name + (f", repeat {repeat}" if several else "")


# Bags go along to the jobs: to open them means to open every feature file.


def _train_job(candidate: Candidate, repeat: int, bags: Bags, setting: Setting) -> Job:
    return Job(
        name=_name(candidate, repeat, setting),
        function=train_one,
        arguments={
            "bags": bags,
            "out": _run(setting, candidate, repeat),
            "model": setting.model,
            "config": replace(setting.config, seed=setting.config.seed + repeat),
            "threads": setting.threads,
        },
    )


def train_one(
    *, bags: Bags, out: Path, model: str, config: TrainConfig, threads: int | None
) -> None:
    """Make one run of a study, wherever this is called; a finished one is only looked at."""
    out.parent.mkdir(parents=True, exist_ok=True)
    outside = contextvars.copy_context()  # the folds of `train` are jobs that tell by themselves

    def on_progress(progress: TrainProgress) -> None:
        if progress.finished is not None:
            outside.run(jobs.tell, progress)

    train(
        bags,
        out=out,
        model=model,
        config=config,
        threads=threads,
        progress=False,
        on_progress=on_progress,
        on_note=lambda text: outside.run(jobs.tell, text),
    )


def _pooling_job(candidate: Candidate, repeat: int, bags: Bags, setting: Setting) -> Job:
    run = _run(setting, candidate, repeat)
    record = read_record(run)
    assert record is not None, f"{run} was trained"
    folder = _pooling(setting, candidate, repeat)
    return Job(
        name=_name(candidate, repeat, setting),
        function=pool_one,
        arguments={"bags": bags, "run": run, "out": folder},
        folder=folder,
        identity={"run": record.sha256, "revision": _POOLING},
    )


def pool_one(*, bags: Bags, run: Path, out: Path) -> None:
    """Write what logistic regression on mean features predicts on the folds of a run."""
    values = mean_pooling(bags, open_run(run).folds)
    tested = np.flatnonzero(~np.isnan(values).any(axis=1))
    predicted = {bags.names[i]: values[i].tolist() for i in tested}
    write_json(out / _PREDICTIONS, {"probabilities": predicted})


def _read_pooled(folder: Path) -> Predicted:
    found = read_json(folder / _PREDICTIONS, remedy=f"remove {folder} to make it anew")
    return {name: np.array(p, np.float64) for name, p in found["probabilities"].items()}
