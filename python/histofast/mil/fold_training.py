"""One fold: training bags train, validation bags choose the epoch, test bags are not looked at.

Everything random of an epoch (order, dropout, drawn patches) follows from the seed, the number of the
fold and the epoch alone: a fold alone is the fold among all, and one that goes on from the state of
its last epoch gives the numbers of one that was never stopped.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histofast._notes import log_of, note
from histofast._words import count
from histofast.errors import ModelError
from histofast.jobs import stop_if_asked
from histofast.learning import (
    EpochReport,
    Log,
    OnNote,
    fold_folder,
    has_ended,
    is_better,
    loggers,
    write_log,
)
from histofast.mil.bag_model import BagModel
from histofast.mil.bags import Bags
from histofast.mil.fold_state import FoldState
from histofast.mil.goals import RISK_SET, Goal, scores_of
from histofast.mil.measuring import evaluate
from histofast.mil.models import create
from histofast.mil.reading import bags_on, forked_generators, threads_of_torch
from histofast.mil.runs import (
    LOG,
    MODEL,
    STATE,
    Run,
    TrainConfig,
    Unit,
    load_model,
    outputs_of,
    save_model,
    values_of,
)
from histofast.mil.starting import put_start
from histofast.mil.survival import cox_loss
from histofast.networks import pick_device

_log = log_of(__name__)

_ORDER, _MODEL, _DROPOUT, _PATCHES = range(1, 5)  # streams of random numbers
_REFRESH_S = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainProgress:
    """Where a run is.

    Attributes:
        fold: its number, from 0.
        folds: in all.
        epoch: from 1.
        epochs: at most.
        bags_done: of this epoch's training.
        bags_total: of this epoch's training.
        metric: what chooses the epoch.
        finished: the epoch that has just ended and been saved, else None.
    """

    fold: int
    folds: int
    epoch: int
    epochs: int
    bags_done: int
    bags_total: int
    metric: str
    finished: EpochReport | None = None

    def __str__(self) -> str:
        """As a line on where it is, and on the epoch that has ended."""
        text = f"fold {self.fold}, epoch {self.epoch}/{self.epochs}"
        found = self.finished
        if found is None:
            return f"{text}: {self.bags_done} of {count(self.bags_total, 'slide')}"
        text += f": loss {found.loss:.3f}, validation loss {found.validation_loss:.3f}"
        known = ("auroc", "r2", "c_index") if self.metric == "loss" else (self.metric,)
        for name in known:
            value = found.metrics.get(name, math.nan)
            if not math.isnan(value):
                text += f", {name} {value:.3f}"
        return f"{text}, {found.seconds:.1f} s{' (best)' * found.is_best}"

    @property
    def line(self) -> str:
        """What stays to be said."""
        return str(self) if self.finished is not None else ""


OnProgress = Callable[[TrainProgress], None]


def is_trained(run: Run, fold: int) -> bool:
    """Whether a fold's model is there, and nothing of its training is left to do.

    Raises:
        ModelError: it was changed since.
    """
    folder = fold_folder(run.path, fold)
    is_done = (folder / MODEL).is_file() and not (folder / STATE).exists()
    return is_done and bool(load_model(run, fold))


def train_fold(
    run: Run,
    bags: Bags,
    *,
    fold: int,
    threads: int | None = 1,
    tensorboard: bool = False,
    mlflow: bool = False,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
) -> None:
    """Train one fold of a run, from where it is; write its model and its log.

    For engines of jobs: all arguments but `on_progress` and `on_note` can be sent to another process.

    Args:
        run: whose run.json is written; nobody else may be at this fold.
        bags: of the run.
        fold: its number.
        threads: of torch; None: as many as it has.
        tensorboard, mlflow, on_progress, on_note: as of `train`.

    Raises:
        FeatureError, ModelError, ModuleNotFoundError, OSError: as `train`.

    Determinism: bitwise on one CPU with one number of threads, whatever the other folds do.
    """
    device = pick_device(run.config.device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(threads_of_torch(threads))
        stack.enter_context(forked_generators(device))
        makers = loggers(run.path, tensorboard=tensorboard, mlflow=mlflow)
        logs = [stack.enter_context(logger(fold)) for logger in makers]
        _Training(run, bags, fold, device, logs, on_progress, on_note).work()


class _Training:
    """The training of one fold."""

    def __init__(
        self,
        run: Run,
        bags: Bags,
        fold: int,
        device: torch.device,
        logs: Sequence[Log],
        on_progress: OnProgress | None,
        on_note: OnNote | None,
    ) -> None:
        self.run, self.bags, self.fold, self.device = run, bags, fold, device
        self.logs, self.on_progress, self.on_note = logs, on_progress, on_note
        self.part = run.folds[fold]
        self.folder = fold_folder(run.path, fold)
        self.goal = Goal.of(bags, run, self.part.train)
        self.targets, self.weights = self.goal.targets.to(device), self.goal.weights.to(device)
        config = run.config
        self.model: BagModel = create(
            run.model,
            d=run.d,
            outputs=outputs_of(run.task, run.classes),
            seed=_seed(_MODEL, config, fold),
            **config.model_options,
        )
        if run.init is not None:
            put_start(run.path, run.init, self.model)
        self.model.to(device)
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.state = FoldState(modules={"model": self.model}, optimizer=optimizer)

    def work(self) -> None:
        """Train until the fold has ended; its model is written last."""
        config, state = self.run.config, self.state
        self.folder.mkdir(exist_ok=True)
        lost = state.go_on(self.folder / STATE, self.device)
        if lost:
            note(_log, f"fold {self.fold} is trained from its start: {lost}", to=self.on_note)
        for epoch in state.epochs:
            self._log(epoch)
        now = TrainProgress(
            fold=self.fold,
            folds=len(self.run.folds),
            epoch=0,
            epochs=config.epochs,
            bags_done=0,
            bags_total=len(self.part.train),
            metric=self.run.metric,
        )
        while not has_ended(state.epochs, most=config.epochs, patience=config.patience):
            now = replace(now, epoch=len(state.epochs) + 1)
            found = self._epoch(now)
            state.add(found)
            state.save(self.folder / STATE)
            write_log(self.folder / LOG, self.run.task, state.epochs)
            self._log(found)
            ended = replace(now, bags_done=now.bags_total, finished=found)
            _log.info("%s", ended)
            if self.on_progress is not None:
                self.on_progress(ended)
        # A kill may have come between the state and its log.
        write_log(self.folder / LOG, self.run.task, state.epochs)
        state.take_best()
        save_model(self.folder / MODEL, self.model, unit=self._unit())
        (self.folder / STATE).unlink(missing_ok=True)

    def _epoch(self, now: TrainProgress) -> EpochReport:
        """Train an epoch and look at the validation bags."""
        start = time.perf_counter()
        loss = self._train(now)
        validation = self.part.validation
        outputs = evaluate(self.model, self.bags, validation, device=self.device)
        if not (math.isfinite(loss) and np.isfinite(outputs).all()):
            raise ModelError(
                f"loss of fold {self.fold} must be finite, got NaN or infinity in epoch {now.epoch}: "
                f"train anew with a lower learning rate than {self.run.config.lr:g}"
            )
        values = values_of(self.run.task, outputs, self.goal.unit)
        found = EpochReport(
            epoch=now.epoch,
            loss=loss,
            validation_loss=self.goal.loss_of(outputs, validation),
            metrics=scores_of(self.bags, validation, values),
            is_best=False,
            seconds=0.0,
        )
        is_best = is_better(found, self.state.epochs, self.run.metric)
        return replace(found, is_best=is_best, seconds=time.perf_counter() - start)

    def _train(self, now: TrainProgress) -> float:
        """Take every training bag once; return the mean loss."""
        config, goal = self.run.config, self.goal
        rng = np.random.default_rng(_entropy(_ORDER, config, self.fold, now.epoch))
        order = rng.permutation(goal.rows).tolist()
        torch.manual_seed(_seed(_DROPOUT, config, self.fold, now.epoch))
        size = config.accumulate or (RISK_SET if goal.task == "survival" else 1)
        steps = [order[first : first + size] for first in range(0, len(order), size)]
        losses: list[Tensor] = []
        shown, done = time.monotonic(), 0
        self.model.train()
        draw = self._drawing(now.epoch)
        with bags_on(self.device, self.bags, order, draw=draw) as found:
            for rows in steps:
                self.state.optimizer.zero_grad(set_to_none=True)
                risks: list[Tensor] = []
                for row in rows:
                    stop_if_asked()
                    loss = self._loss(row, next(found), risks, rows)
                    if loss is not None:
                        loss.backward()
                        losses.append(loss.detach() * len(rows))
                    del loss  # before the next bag comes
                    done += 1
                    if self.on_progress is not None and time.monotonic() - shown > _REFRESH_S:
                        shown = time.monotonic()
                        self.on_progress(replace(now, bags_done=done))
                self.state.optimizer.step()
        return float(torch.stack(losses).sum()) / len(order)

    def _loss(
        self, row: int, bag: Tensor, risks: list[Tensor], rows: Sequence[int]
    ) -> Tensor | None:
        """The loss of a bag as its step's mean takes it; in survival that of the whole risk set, last."""
        goal = self.goal
        with torch.autocast(
            self.device.type,
            torch.bfloat16,
            enabled=self.device.type == "cuda" and self.run.config.amp == "auto",
        ):
            output = self.model(bag, goal.known(row))
        if goal.task != "survival":
            return goal.loss(output, self.targets[row]) * self.weights[row] / len(rows)
        risks.append(output.output.float())
        if len(risks) < len(rows):
            return None
        time_, event = self.targets[list(rows)].T
        return cox_loss(torch.cat(risks), time_, event)

    def _drawing(self, epoch: int) -> Callable[[int], NDArray[np.int64] | None]:
        config, fold, sizes = self.run.config, self.fold, self.bags.sizes

        def draw(row: int) -> NDArray[np.int64] | None:
            n = int(sizes[row])
            if config.max_patches is None or n <= config.max_patches:
                return None
            rng = np.random.default_rng(_entropy(_PATCHES, config, fold, epoch, row))
            return np.sort(rng.choice(n, config.max_patches, replace=False))

        return draw

    def _unit(self) -> Unit:
        """The unit of the best model's output."""
        if self.run.task != "survival":
            return self.goal.unit
        risks = evaluate(self.model, self.bags, self.part.train, device=self.device)
        return Unit(offset=-float(risks.mean(dtype=np.float64)))

    def _log(self, epoch: EpochReport) -> None:
        values = {"loss": epoch.loss, "validation_loss": epoch.validation_loss} | {
            f"validation_{name}": value for name, value in epoch.metrics.items()
        }
        for log in self.logs:
            log(values, epoch.epoch)


def _entropy(stream: int, config: TrainConfig, fold: int, *more: int) -> list[int]:
    return [stream, config.seed, fold, *more]


def _seed(stream: int, config: TrainConfig, fold: int, *more: int) -> int:
    sequence = np.random.SeedSequence(_entropy(stream, config, fold, *more))
    return int(sequence.generate_state(1)[0])
