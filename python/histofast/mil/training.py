"""Bags with targets in, cross-validated models out: one visible loop.

Everything random of an epoch (order, dropout, drawn patches) follows from seed, fold and epoch alone,
so a run that goes on from the state of its last epoch gives the numbers of one that was never
stopped.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from histofast._files import Lock
from histofast.errors import ModelError
from histofast.learning import (
    METRICS,
    METRICS_OF,
    PREDICTIONS,
    RUN,
    EpochReport,
    Fold,
    Log,
    Task,
    fold_folder,
    folds,
    has_ended,
    is_better,
    loggers,
    metrics,
    or_none,
    plain,
    read_record,
    write_bytes,
    write_csv,
    write_json,
    write_log,
)
from histofast.mil.bag_model import BagModel, BagOutput
from histofast.mil.bags import Bags, Missing, Paths, open_bags
from histofast.mil.models import create, names
from histofast.mil.reading import bags_on, forked_generators
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
from histofast.mil.survival import cox_loss
from histofast.networks import pick_device

_FEW = 30  # validation bags; a metric of ranks takes few values on fewer
_RISK_SET = 16
_ORDER, _MODEL, _DROPOUT, _PATCHES = range(1, 5)  # streams of random numbers
_REFRESH_S = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainProgress:
    """Where a run is.

    Attributes:
        fold: from 0.
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


OnProgress = Callable[[TrainProgress], None]


def train(
    features: Bags | Paths,
    labels: str | Path | None = None,
    *,
    out: str | Path,
    model: str = "attention",
    task: Task | None = None,
    config: TrainConfig | None = None,
    missing: Missing = "error",
    label_column: str = "label",
    overwrite: bool = False,
    tensorboard: bool = False,
    mlflow: bool = False,
    on_progress: OnProgress | None = None,
) -> Run:
    """Train a model of bags for each fold, and measure it on the fold's test bags.

    Training bags train, validation bags choose the epoch, test bags are looked at once, at the end.
    A run that was stopped goes on where it was when called again with the same arguments; a finished
    one is only opened.

    Args:
        features: bags, or a folder of feature files, or files and folders.
        labels: table of labels, as `open_bags` reads it; None for bags, which have theirs.
        out: folder of the run.
        model: its name.
        task: None: that of the bags, else classification.
        config: how to train.
        missing: what to do about labels without features and features without labels.
        label_column: where the labels are.
        overwrite: replace a run of other arguments, or write into a folder that is not empty.
        tensorboard: log epochs to `out`/tensorboard as well.
        mlflow: log epochs to MLflow as well, to `out`/mlflow.db unless MLFLOW_TRACKING_URI is set.
        on_progress: called after every epoch, and within one now and then.

    Returns:
        The finished run.

    Raises:
        ValueError: options or labels that do not fit (see `open_bags`, `folds`, `TrainConfig`); a
            training part without a class; a metric that is unknown, or undefined on validation bags;
            a folder of something else or of other arguments.
        FeatureError: feature files that do not fit, are broken, or hold NaN.
        FileNotFoundError: no such file or folder.
        ModelError: the loss is not finite; another process trains in this folder; a broken state.
        ModuleNotFoundError: tensorboard or mlflow is asked for and not installed.
        OSError: the folder cannot be written, or the disk is full; what is there stays whole.

    Determinism: bitwise on one CPU with one number of threads, interrupted or not; not guaranteed on
    CUDA, where torch sums in any order.

    Example:
        run = train("features", "labels.csv", out="runs/abmil")
    """
    config = config or TrainConfig()
    out = Path(out)
    bags = _bags(features, labels, task=task, missing=missing, label_column=label_column)
    device = pick_device(config.device)
    record = _record(bags, model, config)
    logging = loggers(out, tensorboard=tensorboard, mlflow=mlflow)
    _check_folder(out, record, overwrite=overwrite)
    out.mkdir(parents=True, exist_ok=True)
    lock = Lock(out / RUN)
    if not lock.acquire():
        raise ModelError(f"{out} must be trained by one process, got a second one: wait for it")
    try:
        _settle(out, record)
        run = Run.of(out, record)
        if not run.is_finished:
            with forked_generators(device):
                for fold in range(len(run.folds)):
                    if _is_done(run, fold):
                        continue
                    with contextlib.ExitStack() as stack:
                        logs = [stack.enter_context(logger(fold)) for logger in logging]
                        _train_fold(bags, run, fold, device, logs, on_progress)
            _measure(bags, run, device)
    finally:
        lock.release()
    return run


# --- What is asked -----------------------------------------------------------------------------


def _bags(
    features: Bags | Paths,
    labels: str | Path | None,
    *,
    task: Task | None,
    missing: Missing,
    label_column: str,
) -> Bags:
    if not isinstance(features, Bags):
        if labels is None:
            raise ValueError("labels must name a table of labels, got None")
        return open_bags(
            features,
            labels,
            task=task or "classification",
            missing=missing,
            label_column=label_column,
        )
    if labels is not None:
        raise ValueError("labels must be None for bags, which have theirs")
    if task is not None and task != features.task:
        raise ValueError(f"task must be that of the bags, {features.task}, got {task}")
    return features


def _record(bags: Bags, model: str, config: TrainConfig) -> dict[str, Any]:
    """What run.json holds: all that the numbers of the run depend on."""
    from histofast import __version__

    if model not in names():
        raise ValueError(f"model must be one of {', '.join(names())}, got {model!r}")
    if bags.task == "survival" and (config.accumulate or _RISK_SET) < _RISK_SET:
        raise ValueError(
            f"accumulate must be at least {_RISK_SET} in survival, where it is the size of a risk "
            f"set, got {config.accumulate}"
        )
    if config.patch_loss and bags.task == "survival":
        raise ValueError("patch_loss must be 0 in survival: a patch has no time of its own")
    divided = folds(bags, n=config.folds, seed=config.seed)
    _check_classes(bags, divided)
    # A typing mistake in the options must not cost the reading of the first bags.
    create(model, d=bags.d, outputs=outputs_of(bags.task, bags.classes), **config.model_options)
    record = {
        "versions": {"histofast": __version__, "torch": torch.__version__},
        "model": model,
        "task": bags.task,
        "classes": bags.classes,
        "d": bags.d,
        "encoder": dict(bags.encoder),
        "config": asdict(config),
        "metric": _choose_metric(bags, divided, config.metric),
        "folds": [
            {part: getattr(fold, part).tolist() for part in ("train", "validation", "test")}
            for fold in divided
        ],
        "bags": {
            "names": bags.names,
            "patients": bags.patients,
            "sizes": bags.sizes.tolist(),
            "targets": bags.targets.tolist(),
        },
        "paths": [str(path.resolve()) for path in bags.paths],
    }
    found: dict[str, Any] = json.loads(json.dumps(record))
    return found


def _check_classes(bags: Bags, divided: Sequence[Fold]) -> None:
    for i, fold in enumerate(divided):
        if bags.task == "classification":
            counts = np.bincount(bags.targets[fold.train], minlength=len(bags.classes))
            if not counts.all():
                lacking = bags.classes[int(counts.argmin())]
                raise ValueError(
                    f"training bags of fold {i} must be of every class, got none of {lacking}: "
                    "more patients are needed, or another split"
                )
        elif bags.task == "survival" and not bags.targets[fold.train, 1].any():
            raise ValueError(f"training bags of fold {i} must have an event, got none")


def _choose_metric(bags: Bags, divided: Sequence[Fold], asked: str | None) -> str:
    known = ("loss", *METRICS_OF[bags.task])
    if asked is not None and asked not in known:
        raise ValueError(f"metric must be one of {', '.join(known)}, got {asked!r}")
    chosen = asked or _usual_metric(bags)
    if chosen == "loss":
        return chosen
    undefined = [i for i, fold in enumerate(divided) if not _is_defined(bags, fold, chosen)]
    if asked is not None and undefined:
        raise ValueError(
            f"metric {asked} must be defined on the validation bags, got too few, or one class "
            f"only, in fold {undefined[0]}: choose loss"
        )
    few = min(len(fold.validation) for fold in divided) < _FEW
    return "loss" if asked is None and (few or undefined) else chosen


def _usual_metric(bags: Bags) -> str:
    if bags.task == "classification":
        return "auroc" if len(bags.classes) == 2 else "balanced_accuracy"
    return "mae" if bags.task == "regression" else "c_index"


def _is_defined(bags: Bags, fold: Fold, metric: str) -> bool:
    """Whether some outputs, of which no two are equal, have this metric."""
    b = len(fold.validation)
    ramp = np.linspace(0.1, 0.2, b)
    outputs = ramp
    if bags.task == "classification":
        outputs = np.tile(ramp[:, None] / len(bags.classes), len(bags.classes))
        outputs[:, -1] = 1 - outputs[:, :-1].sum(axis=1)
    return math.isfinite(scores_of(bags, fold.validation, outputs)[metric])


def _check_folder(out: Path, record: Mapping[str, Any], *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"out must be a folder, {out} is a file")
    if overwrite or not out.is_dir():
        return
    there = read_record(out)
    if there is None:
        if any(path.name != ".locks" for path in out.iterdir()):
            raise ValueError(
                f"out must be new, empty or of a run, {out} is not: choose another folder, or ask to "
                "overwrite"
            )
        return
    other = _difference(there, record)
    if other:
        raise ValueError(
            f"{out} holds a run of other arguments ({other}): choose another folder, or ask to "
            "overwrite it"
        )


def _difference(there: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Say what differs of what the numbers depend on; "" if nothing."""
    for key, wanted in record.items():
        found = there.get(key)
        if key in ("versions", "paths") or found == wanted:
            continue
        if key in ("config", "bags", "encoder") and isinstance(found, Mapping):
            inner = next(k for k in {**found, **wanted} if found.get(k) != wanted.get(k))
            if key == "bags":
                return f"other {inner} of bags"
            return f"{inner} {found.get(inner)}, not {wanted.get(inner)}"
        return "other folds" if key == "folds" else f"{key} {found}, not {wanted}"
    return ""


def _settle(out: Path, record: dict[str, Any]) -> None:
    """Write run.json, after removing a run of other arguments."""
    try:
        there = read_record(out)
    except ModelError:  # broken; `_check_folder` has raised it unless it is to be replaced
        there = {}
    if there is not None and not _difference(there, record):
        return
    # run.json goes first: a folder that lost only some of its files is not taken for the old run.
    for name in (RUN, METRICS, PREDICTIONS):
        (out / name).unlink(missing_ok=True)
    for folder in out.glob("fold-*"):
        for name in (STATE, MODEL, LOG):
            (folder / name).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    write_json(out / RUN, record)


def _is_done(run: Run, fold: int) -> bool:
    folder = fold_folder(run.path, fold)
    return (folder / MODEL).is_file() and not (folder / STATE).exists()


def evaluate(
    model: BagModel, bags: Bags, rows: Sequence[int] | NDArray[np.int64], *, device: torch.device
) -> NDArray[np.float32]:
    """Return the outputs (b, o) of bags, all patches taken, in evaluation mode and without a graph.

    The model is left in evaluation mode.

    Raises:
        FeatureError: as `Bags.read`.
    """
    model.eval()
    with torch.inference_mode(), bags_on(device, bags, rows) as found:
        outputs = [model(bag).output.float() for bag in found]
        stacked: NDArray[np.float32] = torch.stack(outputs).cpu().numpy()
    return stacked


# --- One fold ----------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class _State:
    """Where a fold is after an epoch: all that the next one depends on."""

    model: BagModel
    optimizer: torch.optim.Optimizer
    best: dict[str, Tensor]
    epochs: list[EpochReport]

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()  # torch reports a full disk as another error
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "epochs": [asdict(epoch) for epoch in self.epochs],
            },
            buffer,
        )
        return buffer.getvalue()

    def read(self, path: Path, device: torch.device) -> None:
        """Go to the state in a file."""
        try:
            found = torch.load(path, map_location=device, weights_only=True)
            self.model.load_state_dict(found["model"])
            self.optimizer.load_state_dict(found["optimizer"])
            self.best = found["best"]
            self.epochs = [EpochReport(**epoch) for epoch in found["epochs"]]
        except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError) as error:
            said = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{path} must be the state of a fold, got {type(error).__name__} ({said}): remove it "
                "to train the fold anew"
            ) from error


def _train_fold(
    bags: Bags,
    run: Run,
    fold: int,
    device: torch.device,
    logs: Sequence[Log],
    on_progress: OnProgress | None,
) -> None:
    config, part = run.config, run.folds[fold]
    folder = fold_folder(run.path, fold)
    folder.mkdir(exist_ok=True)
    model = create(
        run.model,
        d=run.d,
        outputs=outputs_of(run.task, run.classes),
        seed=_seed(_MODEL, config, fold),
        **config.model_options,
    ).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    state = _State(model=model, optimizer=optimizer, best={}, epochs=[])
    if (folder / STATE).is_file():
        state.read(folder / STATE, device)
    goal = Goal.of(bags, run, part.train)
    for epoch in state.epochs:
        _log(logs, epoch)
    progress = TrainProgress(
        fold=fold,
        folds=len(run.folds),
        epoch=0,
        epochs=config.epochs,
        bags_done=0,
        bags_total=len(part.train),
        metric=run.metric,
    )
    while not has_ended(state.epochs, most=config.epochs, patience=config.patience):
        start = time.perf_counter()
        number = len(state.epochs) + 1
        now = replace(progress, epoch=number)
        loss = _train_epoch(state, goal, bags, fold, now, device, on_progress)
        outputs = evaluate(model, bags, part.validation, device=device)
        if not (math.isfinite(loss) and np.isfinite(outputs).all()):
            raise ModelError(
                f"loss of fold {fold} must be finite, got NaN or infinity in epoch {number}: train "
                f"anew with a lower learning rate than {config.lr:g}"
            )
        found = EpochReport(
            epoch=number,
            loss=loss,
            validation_loss=goal.loss_of(outputs, part.validation),
            metrics=scores_of(bags, part.validation, values_of(run.task, outputs, goal.unit)),
            is_best=False,
            seconds=0.0,
        )
        is_best = is_better(found, state.epochs, run.metric)
        if is_best:
            state.best = deepcopy(model.state_dict())
        found = replace(found, is_best=is_best, seconds=time.perf_counter() - start)
        state.epochs.append(found)
        write_bytes(folder / STATE, state.to_bytes())
        write_log(folder / LOG, run.task, state.epochs)
        _log(logs, found)
        if on_progress is not None:
            on_progress(replace(now, bags_done=now.bags_total, finished=found))
    write_log(folder / LOG, run.task, state.epochs)  # a kill may have come between it and the state
    model.load_state_dict(state.best)
    unit = goal.unit
    if run.task == "survival":
        risks = evaluate(model, bags, part.train, device=device)
        unit = Unit(offset=-float(risks.mean(dtype=np.float64)))
    save_model(folder / MODEL, model, unit=unit)
    (folder / STATE).unlink(missing_ok=True)


def _train_epoch(
    state: _State,
    goal: Goal,
    bags: Bags,
    fold: int,
    now: TrainProgress,
    device: torch.device,
    on_progress: OnProgress | None,
) -> float:
    """Take every training bag once; return the mean loss."""
    model, optimizer, config = state.model, state.optimizer, goal.config
    rng = np.random.default_rng(_entropy(_ORDER, config, fold, now.epoch))
    order = rng.permutation(goal.rows).tolist()
    torch.manual_seed(_seed(_DROPOUT, config, fold, now.epoch))
    targets = goal.targets.to(device)
    weights = goal.weights.to(device)
    group = config.accumulate or (_RISK_SET if goal.task == "survival" else 1)
    autocast = torch.autocast(
        device.type, torch.bfloat16, enabled=device.type == "cuda" and config.amp == "auto"
    )
    losses: list[Tensor] = []
    risks: list[Tensor] = []
    shown = time.monotonic()

    def draw(row: int) -> NDArray[np.int64] | None:
        n = int(bags.sizes[row])
        if config.max_patches is None or n <= config.max_patches:
            return None
        rng = np.random.default_rng(_entropy(_PATCHES, config, fold, now.epoch, row))
        return np.sort(rng.choice(n, config.max_patches, replace=False))

    model.train()
    with bags_on(device, bags, order, draw=draw) as found:
        for step, (row, bag) in enumerate(zip(order, found, strict=True)):
            first = step - step % group
            size = min(group, len(order) - first)
            if step == first:
                optimizer.zero_grad(set_to_none=True)
            with autocast:
                output = model(bag, goal.known(row))
            loss = None
            if goal.task != "survival":
                loss = goal.loss(output, targets[row]) * weights[row] / size
            else:
                risks.append(output.output.float())
                if step == first + size - 1:
                    time_, event = targets[order[first : step + 1]].T
                    loss = cox_loss(torch.cat(risks), time_, event)
                    risks.clear()
            if loss is not None:
                loss.backward()
                losses.append(loss.detach() * size)
            if step == first + size - 1:
                optimizer.step()
            del bag, output, loss  # before the next one comes
            if on_progress is not None and time.monotonic() - shown > _REFRESH_S:
                shown = time.monotonic()
                on_progress(replace(now, bags_done=step + 1))
    return float(torch.stack(losses).sum()) / len(order)


def _entropy(stream: int, config: TrainConfig, fold: int, *more: int) -> list[int]:
    return [stream, config.seed, fold, *more]


def _seed(stream: int, config: TrainConfig, fold: int, *more: int) -> int:
    sequence = np.random.SeedSequence(_entropy(stream, config, fold, *more))
    return int(sequence.generate_state(1)[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What the bags of a training part are to be fitted to.

    Attributes:
        task: of the run.
        config: of the run.
        rows: the training bags.
        targets: (b,) classes, (b,) values in units of `unit`, or (b, 2) time and event, of all bags.
        weights: (b,) of their losses; the training bags' mean is 1.
        class_weights: (c,) the same by class; None where all are 1.
        unit: of the targets.
    """

    task: Task
    config: TrainConfig
    rows: NDArray[np.int64]
    targets: Tensor
    weights: Tensor
    class_weights: Tensor | None
    unit: Unit

    @classmethod
    def of(cls, bags: Bags, run: Run, rows: NDArray[np.int64]) -> Goal:
        """Take weights and units from the training bags alone."""
        class_weights, unit = None, Unit()
        weights = torch.ones(len(bags))
        targets = torch.from_numpy(bags.targets)
        if run.task == "classification":
            if run.config.balance:
                counts = torch.bincount(targets[rows], minlength=len(run.classes))
                class_weights = len(rows) / (len(run.classes) * counts.float())
                weights = class_weights[targets]
        elif run.task == "regression":
            values = bags.targets[rows]
            unit = Unit(offset=float(values.mean()), scale=float(values.std()) or 1.0)
            targets = ((targets - unit.offset) / unit.scale).float()
        return cls(
            task=run.task,
            config=run.config,
            rows=rows,
            targets=targets,
            weights=weights,
            class_weights=class_weights,
            unit=unit,
        )

    def known(self, row: int) -> Tensor | None:
        """The class, on the CPU, for a model that adds a loss of its own."""
        return (
            self.targets[row] if self.task == "classification" and self.config.auxiliary else None
        )

    def loss(self, out: BagOutput, target: Tensor) -> Tensor:
        """The loss of one bag, not weighted by its class."""
        loss = self._fit(out.output[None], target[None])
        if self.config.patch_loss:
            if out.patch_outputs is None:
                raise ValueError("patch_loss must be 0 for a model without outputs of patches")
            patches = out.patch_outputs
            loss = loss + self.config.patch_loss * self._fit(patches, target.expand(len(patches)))
        if out.auxiliary is not None:
            loss = loss + self.config.auxiliary * out.auxiliary.float()
        return loss

    def _fit(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.task == "classification":
            return functional.cross_entropy(outputs.float(), targets)
        return functional.mse_loss(outputs[:, 0].float(), targets)

    def loss_of(self, outputs: NDArray[np.float32], rows: NDArray[np.int64]) -> float:
        """The loss of many bags, their slides' labels alone."""
        found, targets = torch.from_numpy(outputs).double(), self.targets[rows]
        if self.task == "classification":
            weight = None if self.class_weights is None else self.class_weights.double()
            return float(functional.cross_entropy(found, targets, weight=weight))
        if self.task == "regression":
            return float(functional.mse_loss(found[:, 0], targets.double()))
        time_, event = targets.T
        return float(cox_loss(found[:, 0], time_, event))


def scores_of(bags: Bags, rows: NDArray[np.int64], values: NDArray[np.float64]) -> dict[str, float]:
    """Return all metrics of predicted values of some bags, without intervals."""
    chosen = bags.part(rows)
    found = metrics(
        bags.task, chosen.targets, values, groups=chosen.groups, classes=bags.classes, resamples=0
    )
    return {name: metric.value for name, metric in found.items()}


# --- Logs --------------------------------------------------------------------------------------


def _log(logs: Sequence[Log], epoch: EpochReport) -> None:
    values = {"loss": epoch.loss, "validation_loss": epoch.validation_loss} | {
        f"validation_{name}": value for name, value in epoch.metrics.items()
    }
    for log in logs:
        log(values, epoch.epoch)


# --- What it is worth --------------------------------------------------------------------------


def _measure(bags: Bags, run: Run, device: torch.device) -> None:
    """Predict every test bag with the model of its fold; write predictions and metrics."""
    rows: list[tuple[int, int, NDArray[np.float64]]] = []
    of_folds = []
    for i, fold in enumerate(run.folds):
        model, unit = load_model(run, i)
        outputs = evaluate(model.to(device), bags, fold.test, device=device)
        # As they are written, so that the metrics are those of the table.
        values = values_of(run.task, outputs, unit).astype(np.float32).astype(np.float64)
        of_folds.append({k: or_none(v) for k, v in scores_of(bags, fold.test, values).items()})
        rows += [(int(row), i, value) for row, value in zip(fold.test, values, strict=True)]
    rows.sort(key=lambda entry: entry[:2])
    tested = bags.part([row for row, _, _ in rows])
    values = np.stack([value for _, _, value in rows])
    found = metrics(
        bags.task,
        tested.targets,
        values,
        groups=tested.groups,
        classes=bags.classes,
        seed=run.config.seed,
    )
    write_csv(run.path / PREDICTIONS, _table(bags, rows))
    write_json(
        run.path / METRICS,
        {
            "out_of_fold": {name: plain(metric) for name, metric in found.items()},
            "folds": of_folds,
            "bags": len(tested),
            "patients": len(set(tested.groups)),
        },
    )


def _table(bags: Bags, rows: Sequence[tuple[int, int, NDArray[np.float64]]]) -> Iterator[list[Any]]:
    if bags.task == "classification":
        yield ["slide", "patient", "fold", "target", *(f"p_{name}" for name in bags.classes)]
    elif bags.task == "regression":
        yield ["slide", "patient", "fold", "target", "prediction"]
    else:
        yield ["slide", "patient", "fold", "time", "event", "prediction"]
    for row, fold, value in rows:
        target: list[Any]
        if bags.task == "classification":
            target = [bags.classes[bags.targets[row]]]
        elif bags.task == "regression":
            target = [repr(float(bags.targets[row]))]
        else:
            target = [repr(float(bags.targets[row, 0])), int(bags.targets[row, 1])]
        predicted = [float(v) for v in np.atleast_1d(value)]
        yield [bags.names[row], bags.patients[row], fold, *target, *predicted]
