"""One fold of fine-tuning: encoder and model of bags train together on the patches that matter.

The model that was trained on frozen features ranks the patches of training and validation slides; the
first k of each are trained on. Validation slides choose the epoch, the frozen encoder among them;
test slides are looked at once, with all their patches. All that is random follows from the seed, the
number of the fold and the epoch alone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histofast._machine import TORCH, check_device
from histofast._notes import log_of, note
from histofast._words import count, duration
from histofast.errors import ModelError
from histofast.jobs import stop_if_asked
from histofast.learning import (
    EpochReport,
    OnNote,
    aside,
    best_of,
    fold_folder,
    has_ended,
    is_better,
    or_none,
    read_json,
    refuse_out_of_range,
    sha256_of,
    unchanged,
    write_json,
    write_log,
)
from histofast.mil.bags import Bags
from histofast.mil.end_to_end import backward, chunk_of, encode
from histofast.mil.fold_state import FoldState
from histofast.mil.goals import Goal, scores_of
from histofast.mil.pixels import Pixels, Slides
from histofast.mil.reading import forked_generators, read_ahead, threads_of_torch
from histofast.mil.runs import (
    LOG,
    MODEL,
    STATE,
    Run,
    load_model,
    save_model,
    values_of,
    write_weights,
)
from histofast.mil.topk import top_rows
from histofast.mil.tuning_source import Source
from histofast.networks import Network, PixelsIn, pick_device
from histofast.patches import PatchImages

_log = log_of(__name__)

FOLD, NETWORK = "fold.json", "network.safetensors"
_ROWS = 256  # patches whose pixels are in memory at a time when all of a slide are looked at
_DAY_S = 86_400.0
_SAY_S = 10.0  # between lines on slides that are only looked at

Chosen = dict[int, NDArray[np.int64]]  # patches, by the row of their bag


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuneConfig:
    """How to fine-tune.

    Attributes:
        top_k: patches of a slide, those of the highest attention, >= 1; slides with fewer give all.
        epochs: at most, >= 1.
        patience: epochs without a better validation metric after which a fold ends, >= 1.
        lr: learning rate of Adam, for encoder and model of bags alike, > 0.
        weight_decay: decoupled, >= 0.
        unfreeze: stages of the network that train; ("all",): all of them.
        patch_loss: weight of the loss of every patch against its slide's label, >= 0.
        reselect: epochs after which the patches are chosen anew by the tuned network; 0: never.
        memory_gb: for what autograd keeps; more patches than fit take a second forward pass, > 0.
        folds: which of the run's to tune; None: all.
        seed: of the order of slides, >= 0.
        device: "auto" is CUDA where there is some; cpu, cuda or such as cuda:1.
        most_hours: refuse work that would take longer, judged by the first step; None: no limit.

    Raises:
        ValueError: a value out of range.
    """

    top_k: int = 64
    epochs: int = 20
    patience: int = 5
    lr: float = 1e-5
    weight_decay: float = 0.0
    unfreeze: tuple[str, ...] = ("all",)
    patch_loss: float = 0.0
    reselect: int = 0
    memory_gb: float = aside(8.0)
    folds: tuple[int, ...] | None = aside(None)
    seed: int = 0
    device: str = aside("auto")
    most_hours: float | None = aside(24.0)

    def __post_init__(self) -> None:
        """Refuse what nothing can be tuned with."""
        least = {"top_k": 1, "epochs": 1, "patience": 1}
        least |= dict.fromkeys(("weight_decay", "patch_loss", "reselect", "seed"), 0)
        refuse_out_of_range(self, least, above_0=("lr", "memory_gb"))
        check_device(self.device, TORCH)
        if not self.unfreeze:
            raise ValueError("unfreeze must name stages, or all, got nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuneProgress:
    """Where fine-tuning is; `remaining_s` is an estimate from the steps so far, an upper bound.

    `fold` is its number in the run, `folds` how many are tuned. `finished` is the epoch that has just
    ended, else None; epoch 0 is the frozen encoder.
    """

    fold: int
    folds: int
    epoch: int
    epochs: int
    slides_done: int
    slides_total: int
    remaining_s: float
    metric: str
    finished: EpochReport | None = None

    def __str__(self) -> str:
        """As a line on where it is, or on the epoch that has ended."""
        text, found = f"fold {self.fold}, epoch {self.epoch}", self.finished
        if found is None:
            text += f": {self.slides_done} of {count(self.slides_total, 'slide')}"
            known = not math.isnan(self.remaining_s)
            return text + (f", at most {duration(self.remaining_s)} left" if known else "")
        loss = "frozen" if not self.epoch else f"loss {found.loss:.4f}"
        score = f"{found.score(self.metric):.4f}{' *' * found.is_best}"
        return f"{text}: {loss}, validation {self.metric} {score}"

    @property
    def line(self) -> str:
        """What stays to be said."""
        return str(self) if self.finished is not None else ""


OnProgress = Callable[[FineTuneProgress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What tuning any fold needs; it can be sent to another process."""

    run: Run
    bags: Bags
    config: FineTuneConfig
    source: Source
    slides: Slides
    patches: str | Path | PatchImages | None
    out: Path

    @property
    def folds(self) -> tuple[int, ...]:
        """Numbers of the folds that are tuned, in their order."""
        every = range(len(self.run.folds))
        return tuple(every) if self.config.folds is None else tuple(sorted(set(self.config.folds)))

    def is_tuned(self, fold: int) -> bool:
        """Whether a fold's network is there, and nothing of it is left to do.

        Raises:
            ModelError: as `told`.
        """
        folder = fold_folder(self.out, fold)
        is_done = (folder / FOLD).is_file() and not (folder / STATE).exists()
        return is_done and bool(self.told(fold))

    def told(self, fold: int) -> dict[str, Any]:
        """Return what a tuned fold came to: `test` rows, their `values`, the best epoch.

        Raises:
            ModelError: it, or the fold's network, was changed since.
        """
        folder = fold_folder(self.out, fold)
        remedy = f"remove {folder / FOLD} to tune the fold anew"
        found = read_json(folder / FOLD, remedy=remedy)
        unchanged(folder / NETWORK, found[NETWORK], remedy=remedy)
        return found


def tune_fold(
    tuning: Tuning,
    *,
    fold: int,
    pixels: Pixels | None = None,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
) -> None:
    """Tune one fold, from where it is; write its network, its model and what they say of test slides.

    Args:
        tuning: what is tuned.
        fold: its number.
        pixels: of the bags, if they are open.
        threads: of torch; None: as many as it has.
        on_progress: called after every step.
        on_note: called with a line on what is done besides steps.

    Raises:
        As `finetune`.

    Determinism: bitwise on one CPU with one number of threads, whatever the other folds do.
    """
    device = pick_device(tuning.config.device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(threads_of_torch(threads))
        stack.enter_context(forked_generators(device))
        if pixels is None:
            pixels = Pixels(tuning.bags, slides=tuning.slides, patches=tuning.patches)
            stack.enter_context(pixels)
        _FoldTuning(tuning, fold, pixels, device, on_progress, on_note).work()


@dataclass(kw_only=True, slots=True)
class _Pace:
    """How fast the steps go."""

    seconds: float = 0.0
    steps: int = 0

    def expected_s(self, steps: int) -> float:
        """Seconds that so many steps take; NaN before the first."""
        return self.seconds / self.steps * steps if self.steps else math.nan


class _FoldTuning:
    """The tuning of one fold."""

    def __init__(
        self,
        tuning: Tuning,
        fold: int,
        pixels: Pixels,
        device: torch.device,
        on_progress: OnProgress | None,
        on_note: OnNote | None,
    ) -> None:
        self.tuning, self.fold, self.pixels, self.device = tuning, fold, pixels, device
        self.on_progress, self.on_note, self.pace = on_progress, on_note, _Pace()
        self.run, self.bags, self.config = tuning.run, tuning.bags, tuning.config
        self.part = self.run.folds[fold]
        self.rows = [*self.part.train.tolist(), *self.part.validation.tolist()]
        self.folder = fold_folder(tuning.out, fold)
        self.module = PixelsIn(tuning.source.build())
        self.module.to(device).eval()
        network = self.module.network
        assert isinstance(network, Network)
        self.network = network
        self.head, self.unit = load_model(self.run, fold)
        self.head.to(device)
        config = replace(self.run.config, patch_loss=self.config.patch_loss)
        self.goal = Goal.of(self.bags, replace(self.run, config=config), self.part.train)
        trained = [*unfreeze(network, self.config.unfreeze), *self.head.parameters()]
        optimizer = torch.optim.AdamW(
            trained, lr=self.config.lr, weight_decay=self.config.weight_decay
        )
        self.state = FoldState(modules={"network": network, "head": self.head}, optimizer=optimizer)
        self.chosen: Chosen = {}
        self.chunk = 1

    def work(self) -> None:
        """Tune until the fold has ended; what it came to is written last."""
        config, state = self.config, self.state
        self.folder.mkdir(exist_ok=True)
        self._say("choosing patches")
        self.chosen = {row: self._top(self._known(row)) for row in self.rows}
        first = self.rows[0]
        probe = self.pixels.read(first, self.chosen[first][:1]).to(self.device)
        self.chunk = chunk_of(self.module, probe, memory_gb=config.memory_gb)
        if lost := state.go_on(self.folder / STATE, self.device):
            self._say(f"tuned from its start: {lost}")
        for row, patches in state.more.items():
            self.chosen[int(row)] = patches.cpu().numpy()
        now = FineTuneProgress(
            fold=self.fold,
            folds=len(self.tuning.folds),
            epoch=0,
            epochs=config.epochs,
            slides_done=0,
            slides_total=len(self.part.train),
            remaining_s=math.nan,
            metric=self.run.metric,
        )
        while not has_ended(state.epochs, most=config.epochs, patience=config.patience):
            now = replace(now, epoch=len(state.epochs))  # 0 is the frozen encoder
            found = self._epoch(now)
            state.add(found)
            state.save(self.folder / STATE)
            self._tell(replace(now, slides_done=now.slides_total, finished=found))
        state.take_best()
        outputs = self._outputs(self.part.test, chosen=None, doing="test slides, all patches")
        self._save(values_of(self.run.task, outputs, self.unit))

    def _epoch(self, now: FineTuneProgress) -> EpochReport:
        """Train an epoch, if it is not that of the frozen encoder; look at the validation slides."""
        began, every, validation = time.perf_counter(), self.config.reselect, self.part.validation
        if every and now.epoch > 1 and (now.epoch - 1) % every == 0:
            self._say("choosing patches anew")
            self.chosen = {row: self._top(self._features(row, None)) for row in self.rows}
            self.state.more = {str(row): torch.from_numpy(p) for row, p in self.chosen.items()}
        loss = self._train(now) if now.epoch else math.nan
        outputs = self._outputs(validation, chosen=self.chosen, doing="validation slides")
        if not np.isfinite(outputs).all() or (now.epoch and not math.isfinite(loss)):
            raise ModelError(
                f"loss of fold {self.fold} must be finite, got {loss:g} in epoch {now.epoch}: tune "
                f"with a lower learning rate than {self.config.lr:g}"
            )
        found = EpochReport(
            epoch=now.epoch,
            loss=loss,
            validation_loss=self.goal.loss_of(outputs, validation),
            metrics=scores_of(self.bags, validation, values_of(self.run.task, outputs, self.unit)),
            is_best=False,
            seconds=time.perf_counter() - began,
        )
        return replace(found, is_best=is_better(found, self.state.epochs, self.run.metric))

    def _train(self, now: FineTuneProgress) -> float:
        """Take every training slide once; return the mean loss."""
        goal, optimizer = self.goal, self.state.optimizer
        seeds = [self.config.seed, self.fold, now.epoch]
        order = np.random.default_rng(seeds).permutation(goal.rows).tolist()
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
        self.head.train()  # its dropout; the encoder's BatchNorms keep their statistics
        losses = []
        pixels_of = read_ahead(lambda row: self.pixels.read(row, self.chosen[row]), order)
        with contextlib.closing(pixels_of):
            for step, (row, pixels) in enumerate(zip(order, pixels_of, strict=True)):
                stop_if_asked()
                began = time.perf_counter()
                optimizer.zero_grad(set_to_none=True)
                target = goal.targets[row].to(self.device)
                weight = goal.weights[row].to(self.device)
                loss, _ = backward(
                    self.module,
                    self.head,
                    pixels.to(self.device),
                    lambda out, target=target, weight=weight: goal.loss(out, target) * weight,  # type: ignore[misc]
                    goal.known(row),
                    chunk=self.chunk,
                )
                optimizer.step()
                losses.append(loss)
                self.pace.seconds += time.perf_counter() - began
                self.pace.steps += 1
                self._refuse_days()
                self._tell(replace(now, slides_done=step + 1))
        return float(torch.stack(losses).mean())

    def _known(self, row: int) -> Tensor:
        """The features of a bag as the frozen encoder gave them."""
        return torch.from_numpy(np.array(self.bags.read(row), np.float32)).to(self.device)

    def _top(self, features: Tensor) -> NDArray[np.int64]:
        """The patches of a bag that its model attends to most."""
        self.head.eval()
        with torch.no_grad():
            scores = self.head(features).scores
        if scores is None:
            raise ValueError(f"model of the run must rank patches, got {self.head.name}")
        return top_rows(scores.float().cpu().numpy(), k=self.config.top_k)

    def _features(self, row: int, patches: NDArray[np.int64] | None) -> Tensor:
        """The features of chosen patches of a bag, or of all, as the encoder is now."""
        if patches is None:
            patches = np.arange(int(self.bags.sizes[row]))
        parts = np.split(patches, range(_ROWS, len(patches), _ROWS))
        pixels = (self.pixels.read(row, some).to(self.device) for some in parts)
        return torch.cat([encode(self.module, some, chunk=self.chunk) for some in pixels])

    def _say(self, text: str) -> None:
        note(_log, f"fold {self.fold}: {text}", to=self.on_note, level=logging.INFO)

    def _outputs(
        self, rows: NDArray[np.int64], *, chosen: Chosen | None, doing: str
    ) -> NDArray[np.float32]:
        """Return (b, o) of bags: of their chosen patches, or of all."""
        self.head.eval()
        found: list[Tensor] = []
        said = time.monotonic()
        for row in map(int, rows):
            stop_if_asked()
            if time.monotonic() - said > _SAY_S:
                said = time.monotonic()
                self._say(f"{doing}, {len(found)} of {len(rows)}")
            features = self._features(row, None if chosen is None else chosen[row])
            with torch.no_grad():
                found.append(self.head(features).output.float().cpu())
        stacked: NDArray[np.float32] = torch.stack(found).numpy()
        return stacked

    def _steps(self, folds: Sequence[int]) -> int:
        return sum(len(self.run.folds[fold].train) for fold in folds) * self.config.epochs

    def _refuse_days(self) -> None:
        most = self.config.most_hours
        if most is None or self.pace.steps > 1:
            return
        expected = self.pace.expected_s(self._steps(self.tuning.folds))
        if expected > 3600 * most:
            raise ValueError(
                f"fine-tuning would take about {expected / _DAY_S:.1f} days at the speed of its "
                f"first slide, more than {most:g} hours: take fewer folds or epochs, a smaller "
                "top_k, a GPU, or raise most_hours"
            )

    def _tell(self, progress: FineTuneProgress) -> None:
        if self.on_progress is not None:
            later = self._steps([fold for fold in self.tuning.folds if fold > self.fold])
            left = self._steps([self.fold]) - max(0, progress.epoch - 1) * progress.slides_total
            remaining = self.pace.expected_s(left - progress.slides_done + later)
            self.on_progress(replace(progress, remaining_s=remaining))
        if progress.finished is not None:
            _log.info("%s", progress)

    def _save(self, values: NDArray[np.float64]) -> None:
        write_weights(self.folder / NETWORK, self.network)
        save_model(self.folder / MODEL, self.head, unit=self.unit)
        write_log(self.folder / LOG, self.run.task, self.state.epochs, timed=False)
        best = best_of(self.state.epochs)
        assert best is not None
        write_json(
            self.folder / FOLD,
            {
                "test": self.part.test.tolist(),
                "values": values.tolist(),
                "best_epoch": best.epoch,
                "best_score": or_none(best.score(self.run.metric)),
                "best_loss": best.validation_loss,
                NETWORK: sha256_of(self.folder / NETWORK),
            },
        )
        (self.folder / STATE).unlink(missing_ok=True)


def unfreeze(network: Network, stages: Sequence[str]) -> list[torch.nn.Parameter]:
    """Let the parameters of some stages train, and no others; return them.

    Raises:
        ValueError: a stage that the network has not.
    """
    known = network.stage_names
    for name in stages:
        if name != "all" and name not in known:
            raise ValueError(f"unfreeze must be of {', '.join(known)}, or all, got {name!r}")
    for parameter in network.parameters():
        parameter.requires_grad_("all" in stages)
    for name in stages:
        if name != "all":
            for parameter in network.stage(name).parameters():
                parameter.requires_grad_(True)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
