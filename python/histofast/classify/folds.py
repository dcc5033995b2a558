"""Every fold of a data set trained, and what they are worth together: ranks within folds only."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._files import path_of
from histofast._numbers import whole_number
from histofast._progress import shows
from histofast.classify.loop import Progress
from histofast.classify.measuring import header_of, rows_of
from histofast.classify.recipe import Recipe, as_recipe
from histofast.classify.runs import Run, open_run
from histofast.classify.training import PIXELS, OnProgress, train
from histofast.datasets import Images, open_images
from histofast.jobs import Cluster, Part, engine_for
from histofast.learning import (
    METRICS,
    PREDICTIONS,
    OnNote,
    Reached,
    corrected_interval,
    fold_folder,
    folds_of,
    metrics,
    metrics_of_models,
    or_none,
    plain,
    read_json,
    sha256_of,
    work_on_folds,
    write_csv,
    write_json,
)
from histofast.networks import starts, workers_on


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Folds:
    """The runs of all folds of a data set, one network and one start.

    Attributes:
        path: the folder; each fold is a run in `fold-<i>` of it.
        runs: of the folds.
    """

    path: Path
    runs: tuple[Run, ...]

    def metrics(self) -> dict[str, Any]:
        """Return what metrics.json holds: `out_of_fold` and `of_folds`, by name, and `folds`.

        Both of the first have value, low and high: of these models on groups like these, and of this
        way of training. `folds` has the value of each.

        Raises:
            FileNotFoundError, ModelError: it is not there, or was changed since.
        """
        return read_json(self.path / METRICS, remedy="run classify again with the same arguments")

    def steps_to(
        self, threshold: float, *, metric: str | None = None
    ) -> tuple[Reached | None, ...]:
        """Return when each fold first got to a threshold; `learning.median_steps` has their median.

        Args, Raises: as of `Run.steps_to`; metric None: the one that chose the weights of the first fold.
        """
        chosen = self.runs[0].metric if metric is None else metric
        return tuple(run.steps_to(threshold, metric=chosen) for run in self.runs)


@shows()
def train_folds(
    data: Images | str | Path,
    *,
    network: str,
    out: str | Path,
    start: starts.Start | str = "random",
    recipe: Recipe | str | Path = "ours",
    folds: int = 5,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    jobs: int | None = None,
    gpus: Sequence[int] | None = None,
    cluster: Cluster | str | None = None,
    part: str | None = None,
    cache: str | Path | None = None,
    overwrite: bool = False,
    layer_metrics: bool = False,
    tensorboard: bool = False,
    mlflow: bool = False,
    progress: bool | None = None,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
) -> Folds:
    """Train a network on every fold of a set of labelled images, and measure them together.

    Every image is tested once, by the network that has not seen its group.

    Args:
        folds: how many.
        jobs: folds at a time, side by side in processes; the numbers are the same if `threads` are. None: 1,
            or one for each of `gpus`.
        gpus: indices of GPUs, each with a process of its own or several.
        cluster: train the folds on the machines of a Ray cluster, as `extract` encodes slides there.
        part: "i/n": train only some of the folds, those of part i of n, as other processes or machines train the
            others; a call without it measures them together.
        out: folder of all runs.
        data, network, start, recipe, seed, device, threads, cache, overwrite: as of `train`.
        layer_metrics, tensorboard, mlflow, progress, on_progress, on_note: as of `train`.

    Returns:
        The finished runs; with `part` those alone.

    Raises:
        What `train` raises, for the first fold that fails; ValueError: the data set tells its split.
        JobError: the cluster gives no workers, or others.
    """
    workers = workers_on(gpus, device=device, jobs=jobs)
    folds = whole_number("folds", folds, at_least=2)
    chosen = folds_of(Part.told(part), folds)
    out = path_of("out", out)
    images = _undivided(data)
    how: dict[str, Any] = {"jobs": jobs, "threads": threads, "cluster": cluster}
    engine = engine_for(folder=out, sees=[images.path], workers=workers, **how)
    work_on_folds(
        partial(
            _train,
            images=images,
            network=network,
            out=out,
            start=starts.parse(start),
            recipe=as_recipe(recipe),
            folds=folds,
            seed=seed,
            device="auto" if workers else device,
            threads=threads,
            cache=cache or out / PIXELS,
            overwrite=overwrite,
            layer_metrics=layer_metrics,
            tensorboard=tensorboard,
            mlflow=mlflow,
        ),
        chosen,
        engine=engine,
        on_progress=on_progress,
        on_note=on_note,
    )
    found = Folds(path=out, runs=tuple(open_run(fold_folder(out, i)) for i in chosen))
    if part is None:
        _measure(found, images)
        if cache is None:
            shutil.rmtree(out / PIXELS, ignore_errors=True)
    return found


def _undivided(data: Images | str | Path) -> Images:
    images = data if isinstance(data, Images) else open_images(data)
    if any(images.splits):
        raise ValueError("folds must be left out where the data set tells its split")
    return images


def _train(
    *,
    images: Images,
    fold: int,
    out: Path,
    on_progress: OnProgress | None,
    on_note: OnNote | None,
    **options: Any,
) -> None:
    """Train one fold, in this process or another."""

    def tell(progress: Progress) -> None:
        assert on_progress is not None
        on_progress(replace(progress, fold=fold))

    train(
        images,
        fold=fold,
        out=fold_folder(out, fold),
        on_progress=None if on_progress is None else tell,
        on_note=on_note if fold == 0 else None,  # of the data, which all have
        progress=False,
        **options,
    )


def _measure(found: Folds, images: Images) -> None:
    """Write predictions.csv of all test images, and metrics.json of these."""
    place = {name: i for i, name in enumerate(images.names)}
    rows: list[int] = []
    values: list[NDArray[np.float64]] = []
    of_fold: list[int] = []
    for fold, run in enumerate(found.runs):
        told = run.predictions()
        for i in run.fold.test:
            if (name := run.names[i]) in told:  # else it cannot be read
                rows.append(place[name])
                values.append(told[name])
                of_fold.append(fold)
    tested, outputs = images.part(rows), np.stack(values)
    seed = found.runs[0].seed
    pooled = metrics(
        images.task,
        tested.targets,
        outputs,
        groups=tested.groups,
        models=of_fold,
        classes=images.classes,
        seed=seed,
    )
    alone = metrics_of_models(
        images.task, tested.targets, outputs, models=of_fold, classes=images.classes
    )
    share = 1 / len(found.runs)
    write_csv(found.path / PREDICTIONS, [header_of(images), *rows_of(tested, "test", outputs)])
    write_json(
        found.path / METRICS,
        {
            "out_of_fold": {name: plain(metric) for name, metric in pooled.items()},
            "of_folds": {
                name: plain(corrected_interval(each, test_share=share, of=name))
                for name, each in alone.items()
            },
            "folds": [
                {name: or_none(float(each[i])) for name, each in alone.items()}
                for i in range(len(found.runs))
            ],
            "images": len(tested),
            "groups": len(set(tested.groups)),
            "group_kind": images.group_kind,
            "seconds": round(sum(run.metrics()["seconds"] for run in found.runs), 3),
            PREDICTIONS: sha256_of(found.path / PREDICTIONS),
        },
    )
