"""The loop: images in, a trained network out; one visible function, and evaluation apart.

Everything random of a step (order, augmentation, dropout) follows from the seed, the epoch, the image
and the step alone: a run that goes on from the state of its last evaluation gives the numbers of one that
was never stopped.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histofast.classify.evaluation import Evaluation, has_ended
from histofast.classify.layers import EpochOfLayers
from histofast.classify.optimisers import rate_at
from histofast.classify.recipe import Recipe
from histofast.classify.state import TrainingState
from histofast.classify.task import Goal
from histofast.datasets import augment, evenly
from histofast.errors import ModelError
from histofast.jobs import stop_if_asked
from histofast.networks import Network

_ORDER, _DROPOUT = range(1, 3)  # streams of random numbers
_AHEAD = 2  # batches that are prepared while one is learnt from
EVALUATED = 256  # images at a time, without a graph
_REFRESH_S = 0.25

Pixels = NDArray[np.uint8]
Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run is: steps done of all, and the evaluation that has just ended, else None.

    `fold` is its number where all folds are trained.
    """

    step: int
    steps: int
    epochs: int
    metric: str
    finished: Evaluation | None = None
    fold: int | None = None

    def __str__(self) -> str:
        """As a line on where it is, and on the evaluation that has ended."""
        where = "" if self.fold is None else f"fold {self.fold}, "
        text, found = f"{where}step {self.step}/{self.steps}", self.finished
        if found is None:
            return text
        if not math.isnan(found.loss):
            text += f": loss {found.loss:.3f}"
        text += f", validation loss {found.validation_loss:.3f}"
        name = "auroc" if self.metric == "loss" else self.metric
        value = found.metrics.get(name, math.nan)
        if not math.isnan(value):
            text += f", {name} {value:.3f}"
        return f"{text}, {found.seconds:.1f} s{' (best)' * found.is_best}"

    @property
    def line(self) -> str:
        """What stays to be said."""
        return str(self) if self.finished is not None else ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lesson:
    """What is learnt from: all that the loop reads and does not change.

    Attributes:
        pixels: (m, px, px, 3) uint8 of the images that could be read.
        images: (m,) int64 number of each in the data set.
        train, validation, test: places in `pixels`; test is not looked at here.
        goal: loss and targets, by number in the data set.
        recipe, seed: how.
        metric: what chooses the weights.
        score: of validation probabilities: metrics by name.
        colour_axes: of the training images, where the recipe shifts colours along them.
        layer_metrics: whether the layers are measured after every epoch.
    """

    pixels: Pixels
    images: Rows
    train: Rows
    validation: Rows
    test: Rows
    goal: Goal
    recipe: Recipe
    seed: int
    metric: str
    score: Callable[[NDArray[np.float64]], dict[str, float]]
    colour_axes: NDArray[np.float64] | None = None
    layer_metrics: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return steps_of_epoch(len(self.train), self.recipe.batch_size)

    @property
    def steps(self) -> int:
        """Batches of all epochs."""
        return self.recipe.epochs * self.steps_per_epoch

    def batches(self, step: int) -> Iterator[Rows]:
        """Yield the places of each batch from a step on; the order is of the seed and the epoch."""
        while step < self.steps:
            epoch, place = divmod(step, self.steps_per_epoch)
            rng = np.random.default_rng([_ORDER, self.seed, epoch])
            order = self.train[rng.permutation(len(self.train))]
            size = self.recipe.batch_size
            for i in range(place, self.steps_per_epoch):
                last = i == self.steps_per_epoch - 1
                yield order[i * size : None if last else (i + 1) * size]
                step += 1

    def prepared(self, places: Rows, epoch: int) -> Pixels:
        """Return the pixels of a batch, augmented."""
        keys = np.empty((len(places), 2), np.uint64)
        keys[:, 0] = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0]
        keys[:, 1] = self.images[places]
        return augment(
            self.pixels[places],
            self.recipe.augmentation,
            keys=keys,
            colour_axes=self.colour_axes,
        )


def steps_of_epoch(n: int, size: int) -> int:
    """Return in how many batches n images are learnt from; one image alone joins the batch before."""
    return max(1, n // size + (n % size > (1 if size > 1 else 0)))


def fit(
    lesson: Lesson,
    state: TrainingState,
    *,
    save: Callable[[], None],
    on_progress: Callable[[Progress], None] | None = None,
) -> None:
    """Train from where the state is to the end of the recipe; the state then holds the best weights.

    Args:
        lesson: what is learnt from.
        state: the network, its optimiser, its average and what was seen so far.
        save: writes the state; called after every evaluation.
        on_progress: called after every evaluation, and now and then.

    Raises:
        ModelError: the loss is not finite (it says in which step, at which rate).
        KeyboardInterrupt: asked to stop; the last evaluation is saved.
    """
    recipe, network, optimiser = lesson.recipe, state.network, state.optimiser
    every = recipe.every or lesson.steps_per_epoch
    losses: list[Tensor] = []
    watch = _Watch(lesson, on_progress)
    if not state.evaluations:
        state.add(evaluate(lesson, state, losses, lr=0.0, seconds=0.0), lesson.metric)
    _measure_layers(lesson, state, lr=0.0)
    begin = time.perf_counter()
    for step, (places, pixels) in _batches(lesson, state.step):
        stop_if_asked()
        if has_ended(state.evaluations, recipe):
            break
        lr = rate_at(recipe, step, steps_per_epoch=lesson.steps_per_epoch)
        state.prepare(step, lr, steps_per_epoch=lesson.steps_per_epoch)
        torch.manual_seed(_seed(_DROPOUT, lesson.seed, step))
        targets = lesson.goal.targets[lesson.images[places]]
        with _autocast(recipe, lesson.device):
            logits = network(standardised(pixels, network, lesson.device))
        loss = lesson.goal.loss(logits.float(), targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        state.average(step)
        _measure_layers(lesson, state, lr=lr)
        losses.append(loss.detach())
        watch(step + 1)
        if (step + 1) % every == 0 or step + 1 == lesson.steps:
            _refuse_infinite(losses, step + 1, lr)
            seconds = time.perf_counter() - begin
            state.add(evaluate(lesson, state, losses, lr=lr, seconds=seconds), lesson.metric)
            losses.clear()
            save()
            watch(step + 1, state.evaluations[-1])
            begin = time.perf_counter()
    state.take_best()


def evaluate(
    lesson: Lesson, state: TrainingState, losses: Sequence[Tensor], *, lr: float, seconds: float
) -> Evaluation:
    """Look at the validation images with the weights that would be kept now."""
    begin = time.perf_counter()
    with state.averaged() as network:
        logits = logits_of(network, lesson.pixels, lesson.validation, device=lesson.device)
    if not bool(logits.isfinite().all()):
        raise _not_finite(state.step, lr)
    targets = lesson.goal.targets[lesson.images[lesson.validation]]
    return Evaluation(
        step=state.step,
        epoch=state.step / lesson.steps_per_epoch,
        loss=float(torch.stack(list(losses)).mean()) if losses else math.nan,
        validation_loss=float(lesson.goal.loss(logits.to(lesson.device), targets)),
        metrics=lesson.score(lesson.goal.probabilities(logits)),
        lr=lr,
        seconds=seconds + time.perf_counter() - begin,
    )


def logits_of(network: Network, pixels: Pixels, places: Rows, *, device: torch.device) -> Tensor:
    """Return (b, c) logits of some images, in evaluation mode and without a graph, on the CPU."""
    network.eval()
    found = []
    with torch.inference_mode():
        for first in range(0, len(places), EVALUATED):
            stop_if_asked()
            part = pixels[places[first : first + EVALUATED]]
            found.append(network(standardised(part, network, device)).float().cpu())
    return torch.cat(found).clone()


def training_batches(lesson: Lesson, network: Network, *, most: int) -> Iterator[Tensor]:
    """Yield training images as they are, standardised, at most so many in all; evenly chosen."""
    chosen = evenly(lesson.train, most)
    for first in range(0, len(chosen), EVALUATED):
        yield standardised(lesson.pixels[chosen[first : first + EVALUATED]], network, lesson.device)


# --- How it is done ----------------------------------------------------------------------------


def _batches(lesson: Lesson, first: int) -> Iterator[tuple[int, tuple[Rows, Pixels]]]:
    """Yield steps with their batches; a thread prepares the next ones while one is learnt from."""

    def prepare(step: int, places: Rows) -> tuple[Rows, Pixels]:
        return places, lesson.prepared(places, step // lesson.steps_per_epoch)

    todo = enumerate(lesson.batches(first), start=first)
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        waiting = deque(
            (step, pool.submit(prepare, step, places)) for step, places in islice(todo, _AHEAD)
        )
        try:
            while waiting:
                step, future = waiting.popleft()
                batch = future.result()
                waiting.extend((s, pool.submit(prepare, s, p)) for s, p in islice(todo, 1))
                yield step, batch
        finally:
            for _, future in waiting:
                future.cancel()


def _measure_layers(lesson: Lesson, state: TrainingState, *, lr: float) -> None:
    """Measure the layers at the start and at the end of an epoch, once, where it is asked for."""
    epoch, more = divmod(state.step, lesson.steps_per_epoch)
    if lesson.layer_metrics and not more and len(state.layers) == epoch:
        if not all(bool(weight.isfinite().all()) for weight in state.network.parameters()):
            raise _not_finite(state.step, lr)  # ahead of the next look at validation images
        state.layers.append(EpochOfLayers.of(state.network, epoch=epoch, step=state.step))


def standardised(pixels: Pixels, network: Network, device: torch.device) -> Tensor:
    """Return (b, 3, px, px) float32, standardised as the network wants it."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2).float()
    mean = torch.tensor(network.mean, device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor(network.std, device=device).view(1, 3, 1, 1) * 255
    if device.type == "cuda":
        x = x.contiguous(memory_format=torch.channels_last)
    return x.sub_(mean).div_(std)


def _autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    is_on = device.type == "cuda" and recipe.amp == "auto"
    return torch.autocast(device.type, torch.bfloat16, enabled=is_on)


def _refuse_infinite(losses: Sequence[Tensor], step: int, lr: float) -> None:
    finite = torch.stack(list(losses)).isfinite()
    if not bool(finite.all()):
        first = step - len(losses) + 1 + int((~finite).int().argmax())
        raise _not_finite(first, lr)


def _not_finite(step: int, lr: float) -> ModelError:
    return ModelError(
        f"loss must be finite, got NaN or infinity in step {step} at a learning rate of {lr:.3g}: "
        "train anew with a lower lr"
    )


def _seed(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


class _Watch:
    """Tells whoever listens, now and then."""

    def __init__(self, lesson: Lesson, on_progress: Callable[[Progress], None] | None) -> None:
        self._lesson, self._on_progress, self._shown = lesson, on_progress, time.monotonic()

    def __call__(self, step: int, finished: Evaluation | None = None) -> None:
        if self._on_progress is None:
            return
        if finished is None and time.monotonic() - self._shown < _REFRESH_S:
            return
        self._shown = time.monotonic()
        lesson = self._lesson
        self._on_progress(
            Progress(
                step=step,
                steps=lesson.steps,
                epochs=lesson.recipe.epochs,
                metric=lesson.metric,
                finished=finished,
            )
        )
