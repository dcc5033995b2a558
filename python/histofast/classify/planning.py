"""Runs that are asked for in, jobs of one plan out, and how long they will take.

A run may start from others that are yet to be made (`run:FOLDER` of the folder that the plan gave them, in
any start that holds one): what it follows from is then told by their keys.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from histofast._files import path_of
from histofast.classify.asking import Asked, refuse_small
from histofast.classify.layers import EpochOfLayers
from histofast.classify.loop import Lesson, Progress, fit, logits_of, steps_of_epoch
from histofast.classify.recipe import Recipe
from histofast.classify.state import TrainingState
from histofast.classify.task import Goal
from histofast.classify.training import torch_threads, train_asked
from histofast.datasets import Images, contents_of, open_images
from histofast.jobs import (
    Cluster,
    Engine,
    Job,
    Local,
    Plan,
    canonical,
    engine_for,
    key_of,
    run,
    seconds_side_by_side,
    tell,
    values_of,
)
from histofast.learning import fold_folder, is_finished, metrics, refuse_folder
from histofast.networks import pick_device, starts, workers_on

Kind = tuple[Any, ...]  # what the time of a step depends on

_TIMED = 3  # steps, after one that warms up
_PIXELS = ".pixels"  # in the folder of runs: decoded images, shared by them


class Runs:
    """Runs of `train` as jobs of one plan: what is asked for twice, by two studies too, is made once.

    Args:
        folder: of the runs' folders; several studies may share it.
        device, threads, layer_metrics: as of `train`.
        cache: folder for decoded images; None: within `folder`.

    Attributes:
        plan: of the runs, to which others that need them may be added.
        cache: where decoded images are.
        device: where networks run.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        cache: str | Path | None = None,
        layer_metrics: bool = False,
    ) -> None:
        self.plan = Plan(folder)
        self._timed_with: dict[str, Any] = {
            "device": device,
            "threads": threads,
            "layer_metrics": layer_metrics,
        }
        self.device = device
        self.cache = self.plan.folder / _PIXELS if cache is None else Path(cache)
        self._options = self._timed_with | {"cache": self.cache}
        self._asked: dict[Path, Asked] = {}
        self._looks: dict[Path, tuple[Asked, float]] = {}
        self._contents: dict[int, tuple[Images, tuple[str, ...]]] = {}
        self._begun: set[tuple[str, str, str, int]] = set()
        self._identities: dict[
            tuple[starts.Start, tuple[tuple[str, str], ...]], dict[str, Any]
        ] = {}

    def add(self, asked: Asked, *, name: str) -> Job:
        """Have a run made; one that is asked for already is returned as it is.

        Args:
            asked: for what.
            name: for people.

        Raises:
            FileNotFoundError, ModelError, ValueError: as `train`; a start that is at hand is tried.
        """
        start, needs = self.start_of(asked)
        if not needs:
            self._try(asked)
        told = canonical(asked.told(self.contents_of(asked.images)))
        job = self.plan.add(
            make_run,
            name=name,
            kind=starts.network_of(asked.network, asked.start),
            arguments={"asked": asked, "options": self._options},
            identity={
                "network": asked.network,
                "start": start,
                "run": hashlib.sha256(told.encode()).hexdigest(),
                "layer_metrics": self._options["layer_metrics"],
            },
            needs=needs,
        )
        assert job.folder is not None
        self._asked.setdefault(job.folder, asked)
        return job

    def look(
        self, function: Callable[..., Any], *, like: Asked, pictures: float, **job: Any
    ) -> Job:
        """Have a job done that has networks look at pictures; asked for twice it is done once.

        Args:
            function: as of `Plan.add`.
            like: a run whose network it is, or one of its size.
            pictures: how many go through a network, for the time that it will take.
            job: further arguments of `Plan.add`.

        Raises:
            TypeError, ValueError: as `Plan.add`.
        """
        made = self.plan.add(function, **job)
        assert made.folder is not None
        self._looks.setdefault(made.folder, (like, pictures))
        return made

    def asked_of(self, job: Job) -> Asked:
        """Return what a run was asked for."""
        assert job.folder is not None
        return self._asked[job.folder]

    def start_of(self, asked: Asked) -> tuple[dict[str, Any], list[Job]]:
        """Return what a start follows from, as JSON holds it, and the jobs that it needs.

        Raises:
            FileNotFoundError, ModelError: as `starts.identity`.
        """
        found = {folder: self.plan.made_in(folder) for folder in starts.runs_of(asked.start)}
        needs = {folder: job for folder, job in found.items() if job is not None}
        planned = {folder: key_of(need) for folder, need in needs.items()}
        known = asked.start, tuple(planned.items())
        if known not in self._identities:  # it reads the files of a start from end to end
            self._identities[known] = starts.identity(asked.start, planned=planned)
        return self._identities[known], list(needs.values())

    def contents_of(self, images: Images) -> tuple[str, ...]:
        """Return what `datasets.contents_of` says, asked once."""
        if id(images) not in self._contents:  # kept with them, so that the number stays theirs
            self._contents[id(images)] = images, contents_of(images)
        return self._contents[id(images)][1]

    def estimate(self, *, engine: Engine | None = None) -> float:
        """Time some steps of each kind of run that is left, and say how long all that is left will take.

        Args:
            engine: that will do them; as many are timed side by side as it does. None: one after the other.

        Returns:
            Seconds; the jobs of the plan have theirs as cost.
        """
        left = [job for job in self.plan.left() if job.folder is not None]
        runs = [(job, self._asked[job.folder]) for job in left if job.folder in self._asked]
        looks = [(job, *self._looks[job.folder]) for job in left if job.folder in self._looks]
        asked = [*(one for _, one in runs), *(one for _, one, _ in looks)]
        engine = engine or Local(threads=self._timed_with["threads"])
        times = times_of(asked, engine=engine, **self._timed_with)
        for job, one in runs:
            self.plan.cost(job, times[_kind(one)].of(one))
        for job, one, pictures in looks:
            self.plan.cost(job, times[_kind(one)].image_s * pictures)
        return self.plan.seconds(processes=engine.side_by_side)

    def _try(self, asked: Asked) -> None:
        what = (asked.network, str(asked.start), asked.recipe.freeze, asked.px)
        if what not in self._begun:
            refuse_small(asked.begin(), asked.px)
            self._begun.add(what)


def make_run(*, asked: Asked, options: Mapping[str, Any], out: Path) -> None:
    """Make one run of a plan, wherever this is called; a finished one is only looked at."""

    def on_progress(progress: Progress) -> None:
        if progress.finished is not None:
            tell(progress)

    train_asked(asked, out=out, on_progress=on_progress, on_note=tell, **options)


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A run that is asked for.

    Attributes:
        name: for people.
        folder: of it.
        start: what it begins with.
        is_done: whether it is there, finished.
        seconds: that it will take, if it goes on to its last epoch; 0 if it is done.
    """

    name: str
    folder: Path
    start: str
    is_done: bool
    seconds: float


def look_ahead(
    data: Images | str | Path,
    *,
    network: str,
    out: str | Path,
    start: starts.Start | str = "random",
    recipe: Recipe | str | Path = "ours",
    fold: int | None = None,
    folds: int = 5,
    seed: int = 0,
    jobs: int | None = None,
    gpus: Sequence[int] | None = None,
    cluster: Cluster | str | None = None,
    device: str = "auto",
    threads: int | None = None,
    layer_metrics: bool = False,
) -> tuple[list[Planned], float]:
    """Say what `train`, or `train_folds` where no fold is told, would do with these arguments, and do nothing.

    Args:
        data, network, out, start, recipe, fold, folds, seed, device, threads, layer_metrics: as theirs.
        jobs, gpus, cluster: as of `train_folds`; some steps are timed there, as many at a time.

    Returns:
        The runs, and the seconds that those which are left take.

    Raises:
        What they raise before they train.
    """
    workers = workers_on(gpus, device=device, jobs=jobs)
    out = path_of("out", out)
    engine = engine_for(folder=out, jobs=jobs, threads=threads, workers=workers, cluster=cluster)
    images = data if isinstance(data, Images) else open_images(data)
    contents = contents_of(images)
    asked = {
        (fold_folder(out, i) if fold is None else out): Asked.of(
            images, network=network, start=start, recipe=recipe, fold=i, folds=folds, seed=seed
        )
        for i in (range(folds) if fold is None else [fold])
    }
    done = {}
    for folder, one in asked.items():
        begun = one.begin()
        refuse_small(begun, one.px)
        record = one.record(contents, begun)
        done[folder] = is_finished(folder, record)
        refuse_folder(folder, record, overwrite=False)
    left = [folder for folder in asked if not done[folder]]
    times = times_of(
        [asked[folder] for folder in left],
        engine=engine,
        device="auto" if workers else device,
        threads=threads,
        layer_metrics=layer_metrics,
    )
    taken = {folder: times[_kind(asked[folder])].of(asked[folder]) for folder in left}
    found = [
        Planned(
            name=folder.name,
            folder=folder,
            start=str(one.start),
            is_done=done[folder],
            seconds=taken.get(folder, 0.0),
        )
        for folder, one in asked.items()
    ]
    work = [Job(name=str(folder), cost=taken[folder]) for folder in left]
    return found, seconds_side_by_side(work, processes=engine.side_by_side)


# --- How long runs take --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimes:
    """Seconds of the parts of a run.

    Attributes:
        head_s: of a step in which the head alone trains.
        whole_s: of another step.
        image_s: of an image that is predicted.
        interval_s: of an image whose metrics get an interval.
        layers_s: of the ranks of all layers, after an epoch; 0 where they are not measured.
    """

    head_s: float
    whole_s: float
    image_s: float
    interval_s: float
    layers_s: float = 0.0

    def of(self, asked: Asked) -> float:
        """Return the seconds of a run that goes on to its last epoch: steps, looks at images, intervals."""
        recipe, fold = asked.recipe, asked.fold
        per_epoch = steps_of_epoch(len(fold.train), recipe.batch_size)
        steps = recipe.epochs * per_epoch
        alone = {"head": steps, "head-then-all": recipe.head_epochs * per_epoch}
        head = alone.get(recipe.freeze, 0)
        looks = 1 + -(-steps // (recipe.every or per_epoch))
        images = (looks + 1) * len(fold.validation) + len(fold.test)
        measured = len(fold.validation) + len(fold.test)
        return (
            head * self.head_s
            + (steps - head) * self.whole_s
            + images * self.image_s
            + measured * self.interval_s
            + (1 + recipe.epochs) * self.layers_s
        )


def times_of(
    asked: Sequence[Asked],
    *,
    engine: Engine,
    device: str = "auto",
    threads: int | None = None,
    layer_metrics: bool = False,
) -> dict[Kind, StepTimes]:
    """Time some steps of each kind of run.

    Args:
        asked: the runs.
        engine: that will do them; they are timed side by side, as they would run.
        device, threads, layer_metrics: as of `train`.

    Raises:
        What training meets.
    """
    kinds = {_kind(one): one for one in asked}
    options = {"device": device, "threads": threads, "layer_metrics": layer_metrics}
    processes = engine.side_by_side
    todo = [
        Job(
            name=f"{place}, {copy}",
            function=time_steps,
            arguments={"asked": one, "px": one.px} | options,
        )
        for place, one in enumerate(kinds.values())
        for copy in range(processes)
    ]
    found = values_of(run(todo, engine=engine, fail_fast=True))
    return {
        kind: _mean(found[place * processes : (place + 1) * processes])
        for place, kind in enumerate(kinds)
    }


def time_steps(
    *, asked: Asked, px: int, device: str, threads: int | None, layer_metrics: bool
) -> StepTimes:
    """Train on noise for a few steps, as a run does."""
    where = pick_device(device)
    size = asked.recipe.batch_size
    recipe = replace(
        asked.recipe, epochs=1, head_epochs=0, every=None, patience=None, metric="loss"
    )
    count = size * (1 + _TIMED)
    pixels = np.random.default_rng(0).integers(0, 256, (count, px, px, 3), np.uint8)
    rows = np.arange(count)
    asked = replace(
        asked, images=asked.images.part(rows % len(asked.images)), start=starts.Random()
    )

    def fitted_s(recipe: Recipe) -> float:
        """Return the seconds of a step."""
        state = TrainingState(asked.begin().to(where), recipe)
        seconds = []
        for train in (rows[:size], rows[size:]):
            lesson = Lesson(
                pixels=pixels,
                images=rows,
                train=train,
                validation=rows[:1],
                test=rows[:0],
                goal=Goal.of(asked.images, train, recipe, where),
                recipe=recipe,
                seed=asked.seed,
                metric="loss",
                score=lambda _: {},
                colour_axes=np.eye(3) if recipe.augmentation.rgb_pca else None,
                device=where,
            )
            begin = time.perf_counter()
            state.step = 0
            fit(lesson, state, save=lambda: None)
            seconds.append(time.perf_counter() - begin)
        return seconds[-1] / _TIMED

    with torch_threads(threads, where):
        whole_s = fitted_s(recipe)
        head_s = fitted_s(replace(recipe, freeze="head"))
        network = asked.begin().to(where)
        begin = time.perf_counter()
        logits_of(network, pixels, rows, device=where)
        image_s = (time.perf_counter() - begin) / count
        begin = time.perf_counter()
        if layer_metrics:
            EpochOfLayers.of(network, epoch=0, step=0)
        layers_s = (time.perf_counter() - begin) * layer_metrics
    return StepTimes(
        head_s=head_s,
        whole_s=whole_s,
        image_s=image_s,
        interval_s=_interval_s(asked),
        layers_s=layers_s,
    )


def _kind(asked: Asked) -> Kind:
    """Return what the time of a step depends on."""
    recipe = replace(asked.recipe, epochs=asked.recipe.head_epochs + 1, metric=None)
    return (
        starts.network_of(asked.network, asked.start),
        repr(recipe),
        asked.px,
        len(asked.images.classes),
    )


def _mean(times: Sequence[StepTimes]) -> StepTimes:
    return StepTimes(
        **{
            part.name: float(np.mean([getattr(one, part.name) for one in times]))
            for part in fields(StepTimes)
        }
    )


def _interval_s(asked: Asked) -> float:
    """Return the seconds of an image whose metrics get an interval."""
    images = asked.images
    outputs = np.random.default_rng(0).dirichlet(np.ones(len(images.classes)), len(images))
    begin = time.perf_counter()
    metrics(images.task, images.targets, outputs, groups=images.groups, classes=images.classes)
    return (time.perf_counter() - begin) / len(images)
