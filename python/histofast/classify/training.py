"""A data set, a network and a start in, a finished run out."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from histofast._files import path_of
from histofast._notes import log_of, note
from histofast._progress import shows
from histofast._words import counted
from histofast.classify.asking import Asked, refuse_small, score
from histofast.classify.evaluation import Evaluation
from histofast.classify.layers import write_layers
from histofast.classify.loop import Lesson, Progress, fit, training_batches
from histofast.classify.measuring import measure
from histofast.classify.recipe import Recipe
from histofast.classify.runs import (
    FILES,
    LAYERS,
    LOG,
    RECIPE,
    STATE,
    WEIGHTS,
    Run,
    save_weights,
    without_layers,
)
from histofast.classify.state import TrainingState
from histofast.classify.task import Goal
from histofast.datasets import (
    Decoded,
    Images,
    colour_axes,
    contents_of,
    decode,
    refuse_lost_classes,
    unreadable_note,
)
from histofast.errors import ModelError
from histofast.learning import (
    RUN,
    Fold,
    Log,
    OnNote,
    RunRecord,
    is_finished,
    loggers,
    refuse_folder,
    run_folder,
    write_bytes,
    write_csv,
)
from histofast.networks import Network, pick_device, starts

_log = log_of(__name__)

PIXELS = ".pixels"  # in the run's folder, while it is trained
_SAVED_SHARE = 20  # of what writing the state takes, between two times
_MEASURED = 2048  # training images that statistics of BatchNorms are taken from
_FOLDS = 5

OnProgress = Callable[[Progress], None]


@shows()
def train(
    data: Images | str | Path,
    *,
    network: str,
    out: str | Path,
    start: starts.Start | str = "random",
    recipe: Recipe | str | Path = "ours",
    fold: int = 0,
    folds: int = _FOLDS,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    cache: str | Path | None = None,
    overwrite: bool = False,
    layer_metrics: bool = False,
    tensorboard: bool = False,
    mlflow: bool = False,
    progress: bool | None = None,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
) -> Run:
    """Train a network on one split of a set of labelled images, and measure it.

    Training images train, validation images choose the weights that are kept, test images are looked at
    once, at the end. A run that was stopped goes on where it was when called again with the same
    arguments; a finished one is only opened.

    Args:
        data: images, or what `open_images` opens.
        network: one of `networks.names()`, or one of these made slim, see `networks.create`.
        out: folder of the run.
        start: what it begins with, see `networks.starts`.
        recipe: how; one of `PRESETS` or a TOML file.
        fold: which of the folds tests, where the data set tells no split.
        folds: how many folds the groups are dealt into; one of them tests, about one in `folds` of the
            others validates.
        seed: of folds, head, order, augmentation and dropout.
        device: "auto" is CUDA where there is some; cpu, cuda or such as cuda:1.
        threads: of torch; None: as many as it has. Sums depend on it in their last bits.
        cache: folder for decoded images, which several runs may share. None: within `out`, and removed
            when the run is finished.
        overwrite: replace a run of another identity, or write into a folder that is not empty.
        layer_metrics: write layers.csv: stable rank, effective rank, rank by EVBMF and AdaS's knowledge
            gain of each convolution and linear layer, of the weights that train (not of their average), at
            the start and after every epoch. The numbers of the run do not depend on it.
        tensorboard: log evaluations to `out`/tensorboard as well.
        mlflow: log evaluations, with network, start and recipe, to MLflow as well, to `out`/mlflow.db
            unless MLFLOW_TRACKING_URI is set.
        progress: show it as lines of text: True, False; None: in a notebook, unless somebody hears it.
        on_progress: called after every evaluation, and now and then.
        on_note: called with a line on what is unusual, or had to be begun anew.

    Returns:
        The finished run.

    Raises:
        FileNotFoundError: no such data set or start.
        ValueError: options or labels that do not fit; a training part without a class; a folder of
            something else or of other arguments; `layer_metrics` of a run that was begun without.
        ModelError: a start that does not fit the network; a loss that is not finite; another process
            trains in this folder.
        OSError: the folder cannot be written, or the disk is full; what is there stays whole.

    Determinism: bitwise on one CPU with one number of threads, interrupted or not.
    """
    asked = Asked.of(
        data, network=network, start=start, recipe=recipe, fold=fold, folds=folds, seed=seed
    )
    return train_asked(
        asked,
        out=path_of("out", out),
        device=device,
        threads=threads,
        cache=cache,
        overwrite=overwrite,
        layer_metrics=layer_metrics,
        tensorboard=tensorboard,
        mlflow=mlflow,
        on_progress=on_progress,
        on_note=on_note,
    )


def train_asked(
    asked: Asked,
    *,
    out: Path,
    device: str = "auto",
    threads: int | None = None,
    cache: str | Path | None = None,
    overwrite: bool = False,
    layer_metrics: bool = False,
    tensorboard: bool = False,
    mlflow: bool = False,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
) -> Run:
    """Train what was asked for; see `train`."""
    images = asked.images
    begun = asked.begin()
    where = pick_device(device)
    contents = contents_of(images)
    record = asked.record(contents, begun)
    for told in images.notes:  # logged when they were opened
        if on_note is not None:
            on_note(told)
    makers = loggers(out, tensorboard=tensorboard, mlflow=mlflow, about=_about(record))
    run = Run.of(out, record)
    if is_finished(out, record):
        if layer_metrics and LAYERS not in run.metrics():
            raise without_layers(out)
        return run
    refuse_folder(out, record, overwrite=overwrite)
    with _pixels_of(out, cache) as folder, torch_threads(threads, where):
        found = decode(images, cache=folder, px=asked.recipe.px, contents=contents)
        for told in found.notes:
            if on_note is not None:
                on_note(told)
        if unreadable := unreadable_note(found):
            note(_log, unreadable, to=on_note)
        refuse_small(begun, found.px)
        lesson = replace(lesson_of(run, images, found, where), layer_metrics=layer_metrics)
        with contextlib.ExitStack() as stack:
            stack.enter_context(run_folder(out, record, files=FILES, overwrite=overwrite))
            logs = [stack.enter_context(logger(None)) for logger in makers]
            state = learn(run, begun, lesson, logs=logs, on_progress=on_progress, on_note=on_note)
            measure(run, lesson, images, state, found)
            for log in logs:
                log(_last_values(run), state.step)
            (out / STATE).unlink(missing_ok=True)
        del found, lesson
    return run


@contextlib.contextmanager
def _pixels_of(out: Path, cache: str | Path | None) -> Iterator[Path]:
    """Yield where decoded images are; a run's own go when it is finished, or cannot be trained at all."""
    if cache is not None:
        yield Path(cache)
        return
    try:
        yield out / PIXELS
    except (ValueError, ModelError):
        if not (out / RUN).exists():
            shutil.rmtree(out / PIXELS, ignore_errors=True)
            with contextlib.suppress(OSError):
                out.rmdir()
        raise
    shutil.rmtree(out / PIXELS, ignore_errors=True)


# --- The work ----------------------------------------------------------------------------------


def learn(
    run: Run,
    begun: Network,
    lesson: Lesson,
    *,
    logs: Sequence[Log],
    on_progress: OnProgress | None,
    on_note: OnNote | None,
) -> TrainingState:
    """Train from where the run is; its weights are written."""
    write_bytes(run.path / RECIPE, run.recipe.to_toml().encode())
    begun.to(lesson.device)
    if lesson.device.type == "cuda":
        begun.to(memory_format=torch.channels_last)
    if starts.is_merged(run.record.identity["start"]):
        starts.estimate_batchnorm(begun, training_batches(lesson, begun, most=_MEASURED))
    state = TrainingState(begun, run.recipe)
    lost = state.go_on(run.path / STATE, lesson.device)
    if lost:
        note(_log, f"the run is trained from its start: {lost}", to=on_note)
    _settle_layers(run, lesson, state, on_note)
    saved = _Saved(run, state, logs)

    def tell(progress: Progress) -> None:
        if progress.finished is not None:
            _log.info("%s: %s", run.path, progress)
        if on_progress is not None:
            on_progress(progress)

    fit(lesson, state, save=saved, on_progress=tell)
    saved.write_tables()  # a kill may have come between the state and them
    save_weights(run.path / WEIGHTS, state.network)
    return state


def _settle_layers(run: Run, lesson: Lesson, state: TrainingState, on_note: OnNote | None) -> None:
    """See that a run that goes on has its layers measured from the start, or not at all."""
    if lesson.layer_metrics:
        if state.step and len(state.layers) != 1 + state.step // lesson.steps_per_epoch:
            raise without_layers(run.path)
        return
    if state.layers:
        lost = f"{run.path / LAYERS} is removed: the run goes on without layer_metrics=True"
        note(_log, lost, to=on_note)
    state.layers.clear()
    (run.path / LAYERS).unlink(missing_ok=True)


class _Saved:
    """Writes log and state after an evaluation; the state when it costs less than a twentieth."""

    def __init__(self, run: Run, state: TrainingState, logs: Sequence[Log]) -> None:
        self._run, self._state, self._logs = run, state, logs
        self._due = -math.inf
        self._told = self._layers_told = 0

    def write_tables(self) -> None:
        """Write log.csv and, where layers are measured, layers.csv."""
        write_log(self._run.path / LOG, self._state.evaluations)
        if self._state.layers:
            write_layers(self._run.path / LAYERS, self._state.layers)

    def __call__(self) -> None:
        state = self._state
        told = [(_values(found), found.step) for found in state.evaluations[self._told :]]
        told += [(epoch.means(), epoch.step) for epoch in state.layers[self._layers_told :]]
        for values, step in told:
            for log in self._logs:
                log(values, step)
        self._told, self._layers_told = len(state.evaluations), len(state.layers)
        self.write_tables()
        begin = time.monotonic()
        if begin < self._due:
            return
        self._state.save(self._run.path / STATE)
        end = time.monotonic()
        self._due = end + _SAVED_SHARE * (end - begin)


def lesson_of(run: Run, images: Images, found: Decoded, device: torch.device) -> Lesson:
    """Return what a run learns from.

    Raises:
        ValueError: pictures that cannot be read leave a part, or a class, without any.
    """
    parts = {
        part.name: found.places_of(rows)
        for part in fields(Fold)
        if (rows := getattr(run.fold, part.name)) is not None
    }
    for name, places in parts.items():
        if not len(places):
            raise ValueError(
                f"{name} images must be readable, got none: "
                f"{counted([n for n, _ in found.unreadable])} cannot be read"
            )
    refuse_lost_classes(images, run.fold.train, found)
    validation = found.rows[parts["validation"]]
    return Lesson(
        pixels=found.pixels,
        images=found.rows,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        goal=Goal.of(images, found.rows[parts["train"]], run.recipe, device),
        recipe=run.recipe,
        seed=run.seed,
        metric=run.metric,
        score=lambda probabilities: score(images, validation, probabilities),
        colour_axes=(
            colour_axes(found.pixels, rows=parts["train"])
            if run.recipe.augmentation.rgb_pca
            else None
        ),
        device=device,
    )


def write_log(path: Path, evaluations: list[Evaluation]) -> None:
    """Write the table of evaluations."""
    names = list(evaluations[0].metrics) if evaluations else []
    header = ["step", "epoch", "loss", "validation_loss", *(f"validation_{name}" for name in names)]
    rows = [
        [
            *(found.step, round(found.epoch, 4), found.loss, found.validation_loss),
            *(found.metrics[name] for name in names),
            *(found.lr, int(found.is_best), round(found.seconds, 3)),
        ]
        for found in evaluations
    ]
    write_csv(path, [[*header, "lr", "is_best", "seconds"], *rows])


def _values(found: Evaluation) -> dict[str, float]:
    """What is logged of an evaluation, by name."""
    values = {"loss": found.loss, "validation_loss": found.validation_loss, "lr": found.lr}
    return values | {f"validation_{name}": value for name, value in found.metrics.items()}


def _last_values(run: Run) -> dict[str, float]:
    told = run.metrics()["test"]
    return {
        f"test_{name}": value["value"]
        for name, value in told.items()
        if isinstance(value, dict) and value["value"] is not None
    }


def _about(record: RunRecord) -> dict[str, object]:
    """What people look for among runs."""
    identity = record.identity
    found = {"network": identity["network"]["name"], "start": record.about["start"]}
    found |= {"data": record.about["data"], "seed": identity["seed"], "run": record.sha256}
    return found | {f"recipe.{name}": value for name, value in identity["recipe"].items()}


@contextlib.contextmanager
def torch_threads(threads: int | None, device: torch.device) -> Iterator[None]:
    """Let torch be seeded and have so many threads; both are given back."""
    before = torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.set_num_threads(before if threads is None else threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
