"""Studies of labelled pictures: what they are told, the runs they plan, and what becomes of them.

    PictureStudy.plan(Planning) -> runs and what needs them, each once -> jobs -> PictureStudy.answer(Done) -> page

A study asks for runs of `classify` and for comparisons of them; what is asked for twice, or was done by
another study in the same folder of runs, is done once. A run that fails fails what needs it: the page says so,
and shows the rest.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from histofast import jobs, report
from histofast._notes import log_of
from histofast._numbers import whole_number
from histofast._progress import listening
from histofast._tables import is_table
from histofast._words import one_line
from histofast.classify import Asked, Planned, Recipe, Run, Runs, as_recipe, open_run
from histofast.datasets import Images, open_images
from histofast.errors import HistofastError
from histofast.jobs import Cluster, Engine, Job, engine_for
from histofast.networks import starts, workers_on
from histofast.studies.setting import StudyProgress

_log = log_of(__name__)

RECIPE = "recipe.toml"  # of a study, in its folder
_FOLDS = 5  # one in so many groups tests, where folds are not asked for
_COMMAND = (
    "histofast classify {data} --network {network} --start {start} --recipe {recipe} --freeze {freeze} "
    "--fold {fold} --folds {folds} --seed {seed} --out {out}"
)
_COMMAND_BY_GROUP = (
    "histofast classify {data} --group-column {group} --network {network} --start {start} --recipe {recipe} "
    "--freeze {freeze} --fold {fold} --folds {folds} --seed {seed} --out {out}"
)
OnProgress = Callable[[StudyProgress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One division of a data set: which fold of how many, and the seed of folds and of training."""

    seed: int
    fold: int
    folds: int


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Where and how the jobs of a study of pictures are done, whatever they are.

    Attributes:
        out: folder of the study.
        runs: folder of the jobs, which studies may share; None: within `out`.
        device, threads: as of `classify.train`.
        jobs: at a time, in processes side by side, >= 1. None: 1, or one for each of `gpus`.
        gpus: indices of GPUs, each with a process of its own or several.
        cluster: do the jobs on the machines of a Ray cluster, as `extract` encodes slides there.
        command: how a user would repeat it, for the page.
        progress: show it as lines of text: True, False; None: in a notebook, unless `on_progress` hears it.
        on_progress: called before each part.

    Raises:
        TypeError, ValueError: numbers that are none, or out of range.
    """

    out: str | Path
    runs: str | Path | None = None
    device: str = "auto"
    threads: int | None = 1
    jobs: int | None = None
    gpus: Sequence[int] | None = None
    cluster: Cluster | str | None = None
    command: str | None = None
    progress: bool | None = None
    on_progress: OnProgress | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "jobs"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, whole_number(name, value, at_least=1))
        if workers_on(self.gpus, device=self.device, jobs=self.jobs):
            object.__setattr__(self, "device", "auto")  # each worker has its own
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "cluster", Cluster.of(self.cluster))
        _ = self.engine  # refused now, what does not go together
        object.__setattr__(self, "on_progress", listening(self.progress, self.on_progress))
        object.__setattr__(self, "progress", False)  # a copy does not show it twice

    @property
    def folder(self) -> Path:
        """Of the jobs."""
        return Path(self.out) / "runs" if self.runs is None else Path(self.runs)

    @property
    def engine(self) -> Engine:
        """What does the jobs of a study."""
        return engine_for(
            folder=self.folder,
            jobs=self.jobs,
            threads=self.threads,
            workers=workers_on(self.gpus, jobs=self.jobs),
            cluster=self.cluster,
        )

    def tell(self, doing: str, *, done: int = 0, total: int = 1, level: int = logging.INFO) -> None:
        """Say what is done next; `level` is that of the log, lower where others log it too."""
        progress = StudyProgress(doing=doing, done=done, total=total)
        _log.log(level, "%s", progress)
        if self.on_progress is not None:
            self.on_progress(progress)


@dataclass(frozen=True, kw_only=True)
class PictureSetting(Conditions):
    """What every study of runs on labelled pictures is told, once, besides the conditions.

    Attributes:
        data: folders or tables of labelled pictures, as `datasets.open_images` opens them, or images.
        recipe: of all runs; one of `classify.PRESETS`, a TOML file or a recipe.
        repeats: divisions of each data set, each with folds and seeds of its own, >= 1.
        folds: all of so many folds are trained in each repeat, >= 2. None: one of five, drawn anew in
            each repeat.
        seed: of the first repeat.
        metric: of test pictures, that ways of training are judged by.
        group_column: of tables, what must not be on two sides of a split; None: the usual names.

    Raises:
        TypeError, ValueError: numbers that are none, or out of range; no data, two sets of one name.
        FileNotFoundError: no such data set.
    """

    data: Sequence[Images | str | Path]
    recipe: Recipe | str | Path = "ours"
    repeats: int = 3
    folds: int | None = None
    seed: int = 0
    metric: str = "auroc"
    group_column: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("repeats", 1), ("folds", 2), ("seed", 0)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, whole_number(name, value, at_least=least))
        object.__setattr__(self, "recipe", as_recipe(self.recipe))
        if not self.data:
            raise ValueError("data must have at least one set of pictures, got none")

    @cached_property
    def sets(self) -> Mapping[str, Images]:
        """The data sets by name: that of the folder they lie in, or of the table."""
        found: dict[str, Images] = {}
        for one in self.data:
            images = (
                one if isinstance(one, Images) else open_images(one, group_column=self.group_column)
            )
            name = name_of(images.path)
            if name in found:
                raise ValueError(
                    f"data must be sets of different names, got {name} twice: rename a folder"
                )
            found[name] = images
        return found

    @property
    def splits(self) -> tuple[Split, ...]:
        """The divisions that every way of training is tried on."""
        return tuple(
            Split(seed=self.seed + repeat, fold=fold, folds=self.folds or _FOLDS)
            for repeat in range(self.repeats)
            for fold in (range(self.folds) if self.folds else [0])
        )

    @property
    def test_share(self) -> float:
        """Share of the groups that a split tests."""
        return 1 / (self.folds or _FOLDS)

    def ask(
        self,
        images: Images,
        *,
        network: str,
        start: starts.Start | str,
        split: Split,
        recipe: Recipe | None = None,
    ) -> Asked:
        """Ask for a run on one split."""
        assert isinstance(self.recipe, Recipe)
        return Asked.of(
            images,
            network=network,
            start=start,
            recipe=recipe or self.recipe,
            fold=split.fold,
            folds=split.folds,
            seed=split.seed,
        )

    def command_of(
        self, asked: Asked, split: Split, out: Path, *, recipe: Path | None = None
    ) -> str:
        """Return the command that does a run again, given a recipe.toml; None: that in the study's folder."""
        told = {
            "data": asked.images.path,
            "network": asked.network,
            "start": asked.start,
            "recipe": recipe or Path(self.out) / RECIPE,
            "freeze": asked.recipe.freeze,
            "fold": split.fold,
            "folds": split.folds,
            "seed": split.seed,
            "group": self.group_column,
            "out": out,
        }
        command = _COMMAND if self.group_column is None else _COMMAND_BY_GROUP
        return command.format(**{name: shlex.quote(str(value)) for name, value in told.items()})


def name_of(path: Path) -> str:
    """Return what a data set is called: its folder's name, or that of a table not called labels or images."""
    whole = path.resolve()
    if is_table(whole):
        usual = whole.stem.lower() in ("labels", "images", "index")
        return whole.parent.name if usual else whole.stem
    return whole.name


class PictureStudy(Protocol):
    """A question: what it must have done, and what follows from that."""

    @property
    def setting(self) -> Conditions: ...
    @property
    def name(self) -> str:
        """Of the command, and of the JSON file."""

    @property
    def layer_metrics(self) -> bool:
        """Whether runs measure the ranks of their layers."""

    def plan(self, runs: Runs) -> None:
        """Ask for all runs, and add the jobs that need them."""

    def answer(self, done: Done) -> report.Answer:
        """Measure what was done, and say what it means."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What became of the jobs of a plan.

    Attributes:
        runs: the plan.
        failed: name and reason of those that could not be done.
        seconds_of: what each job took that was not there before, by name.
    """

    runs: Runs
    failed: Mapping[str, str] = field(default_factory=dict)
    seconds_of: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """What was not there before took, one after the other."""
        return sum(self.seconds_of.values())

    def run(self, job: Job) -> Run | None:
        """Return the finished run of a job; None if it failed."""
        if job.name in self.failed:
            return None
        assert job.folder is not None
        return open_run(job.folder)

    def values(
        self, work: Sequence[Job], metric: str, *, part: Literal["test", "validation"] = "test"
    ) -> NDArray[np.float64]:
        """Return (n,) a metric of some pictures of runs; NaN of those that failed or do not define it."""
        found = []
        for job in work:
            run = self.run(job)
            told = {} if run is None else run.metrics()[part]
            value = told.get(metric, {}).get("value")
            found.append(np.nan if value is None else float(value))
        return np.array(found, np.float64)


def failed_tables(failed: Mapping[str, str]) -> list[report.Table]:
    """Return the jobs that failed, and why; none where none did."""
    if not failed:
        return []
    return [
        report.Table(
            name="failed",
            title="What failed",
            caption="Left out of all that is here; it is tried again when the study is started again.",
            columns=tuple(report.Column(title=name, names=(name,)) for name in ("job", "reason")),
            rows=tuple(failed.items()),
        )
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conducted:
    """A study's answer, and the folder that holds all of it (index.html is the page)."""

    answer: report.Answer
    path: Path


def look_ahead_of(study: PictureStudy) -> tuple[list[Planned], float]:
    """Say what a study would do, what is there already, and how many seconds the rest takes; do nothing.

    Raises:
        What asking for its runs raises.
    """
    runs = _planned(study)
    seconds = runs.estimate(engine=study.setting.engine)
    left = {job.folder for job in runs.plan.left()}
    return [_shown(job, is_done=job.folder not in left) for job in runs.plan], seconds


def _shown(job: Job, *, is_done: bool) -> Planned:
    assert job.folder is not None
    asked = job.arguments.get("asked")
    return Planned(
        name=job.name,
        folder=job.folder,
        start=str(asked.start) if isinstance(asked, Asked) else "",
        is_done=is_done,
        seconds=0.0 if is_done else job.cost,
    )


def conduct(study: PictureStudy) -> Conducted:
    """Do what a study needs and is not there, measure it, and write its page.

    Raises:
        What asking for its runs raises; HistofastError: every run failed; KeyboardInterrupt: what is
            done is kept, and gone on from.
        OSError: a folder cannot be written.
    """
    report.check_installed()  # before the hours
    runs = _planned(study)
    done = _done(runs, study.setting)
    study.setting.tell("measures and the page")
    answer = study.answer(done)
    out = Path(study.setting.out)
    report.save(answer, out)
    return Conducted(answer=answer, path=out)


def levels_of(study: PictureStudy) -> int:
    """Return how often jobs of a study wait for others at most, and once more: so many arrays do it in parts.

    Raises:
        What asking for its runs raises.
    """
    return len(jobs.levels_of(_planned(study).plan.jobs))


def conduct_part(study: PictureStudy, part: jobs.Part) -> list[jobs.Outcome]:
    """Do the jobs of a part of a study whose needs are there, and return what became of each.

    Raises:
        What asking for its runs raises; KeyboardInterrupt: as of `conduct`.
    """
    return _outcomes(part.free(_planned(study).plan.jobs), study.setting)


def _planned(study: PictureStudy) -> Runs:
    setting = study.setting
    runs = Runs(
        setting.folder,
        device=setting.device,
        threads=setting.threads,
        layer_metrics=study.layer_metrics,
    )
    study.plan(runs)
    return runs


def _done(runs: Runs, setting: Conditions) -> Done:
    work = runs.plan.jobs
    outcomes = _outcomes(work, setting)
    failed = {o.job.name: _why(o) for o in outcomes if o.status == "failed"}
    if len(failed) == len(work):
        first = next(iter(failed.items()))
        raise HistofastError(f"all of {len(work)} jobs failed, the first, {first[0]}: {first[1]}")
    seconds = {o.job.name: o.seconds for o in outcomes if o.status == "done"}
    return Done(runs=runs, failed=failed, seconds_of=seconds)


def _outcomes(work: Sequence[Job], setting: Conditions) -> list[jobs.Outcome]:
    """Do jobs, and say what is done."""
    begun = 0

    def hear(event: jobs.Event) -> None:
        nonlocal begun
        if isinstance(event, jobs.Started):
            setting.tell(event.job.name, done=begun, total=len(work))
            begun += 1
        elif isinstance(event, jobs.Ended):
            if event.outcome.status == "there":
                begun += 1
            elif event.outcome.status == "failed":
                text = f"{event.outcome.job.name} failed: {_why(event.outcome)}"
                setting.tell(text, level=logging.WARNING)
        elif isinstance(event, jobs.Told) and isinstance(event.what, str):
            setting.tell(f"{event.name}: {event.what}", level=logging.DEBUG)

    outcomes = jobs.run(work, engine=setting.engine, on_event=hear)
    for outcome in outcomes:
        if outcome.status == "interrupted":
            raise outcome.error or KeyboardInterrupt
    return outcomes


def _why(outcome: jobs.Outcome) -> str:
    return "no reason given" if outcome.error is None else one_line(outcome.error)
