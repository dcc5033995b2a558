"""A run and the slides behind it in, an encoder that has learnt from the patches that matter out.

HistoTransfer's second stage, its leaks mended: for each fold the model that was trained on frozen
features ranks the patches of training and validation slides; encoder and model then train together
on the k first of every slide. Validation slides choose the epoch, the frozen encoder among them,
and test slides are looked at once, with all their patches.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histofast._machine import TORCH, check_device
from histofast.encoders import find, read_spec
from histofast.errors import FeatureError, ModelError
from histofast.features import FeatureFile, read_features
from histofast.learning import (
    METRICS,
    PREDICTIONS,
    EpochReport,
    Metric,
    best_of,
    differences,
    fold_folder,
    has_ended,
    is_better,
    metrics,
    or_none,
    plain,
    rank,
    refuse_out_of_range,
    write_csv,
    write_json,
    write_log,
)
from histofast.mil.bag_model import BagModel
from histofast.mil.bags import Bags, Paths, open_bags
from histofast.mil.end_to_end import backward, chunk_of, encode
from histofast.mil.reading import forked_generators, read_ahead
from histofast.mil.runs import (
    LOG,
    MODEL,
    Run,
    Unit,
    load_model,
    open_run,
    save_model,
    values_of,
    write_weights,
)
from histofast.mil.topk import top_rows
from histofast.mil.training import Goal, scores_of
from histofast.networks import Network, PixelsIn, create, export, pick_device, restore
from histofast.patches import PatchReader

RECORD, NETWORK, ENCODER = "finetune.json", "network.safetensors", "encoder.onnx"
_SAME = 0.15  # of the norm: int8 encoders differ from their networks by half of it, others by all
_LOOKED_AT = 8  # patches to compare network and encoder on
_ROWS = 256  # patches whose pixels are in memory at a time when all of a slide are looked at
_DAY_S = 86_400.0


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
    memory_gb: float = 8.0
    folds: tuple[int, ...] | None = None
    seed: int = 0
    device: str = "auto"
    most_hours: float | None = 24.0

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

    `finished` is the epoch that has just ended, else None; epoch 0 is the frozen encoder.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuned:
    """What fine-tuning came to, on test slides.

    Attributes:
        path: the folder.
        frozen: metrics of the run's models on the same slides, from its own predictions.
        tuned: metrics after tuning.
        gain: `tuned` less `frozen`, on the same resamples of patients.
        encoder: the ONNX file, of the fold whose validation slides did best.
        fold: that fold: the encoder has seen all slides but this fold's test slides.
        weights: of the same network, safetensors; with a BatchNorm's statistics as they were.
        frozen_network, tuned_network: the encoder before and after, as torch modules.
        notes: what to know, one line each.
    """

    path: Path
    frozen: Mapping[str, Metric]
    tuned: Mapping[str, Metric]
    gain: Mapping[str, Metric]
    encoder: Path
    fold: int
    weights: Path
    frozen_network: Network
    tuned_network: Network
    notes: tuple[str, ...]


OnProgress = Callable[[FineTuneProgress], None]


def finetune(
    run: Run | str | Path,
    *,
    out: str | Path,
    encoder: str | Path | None = None,
    weights: str | Path | None = None,
    slides: str | Path | Sequence[str | Path] | None = None,
    patches: str | Path | None = None,
    features: Paths | None = None,
    network: str | None = None,
    layer: str | None = None,
    config: FineTuneConfig | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> FineTuned:
    """Train encoder and model of bags end to end on the patches of highest attention.

    Folds that are done are kept: called again with the same arguments it goes on with the next one.

    Args:
        run: a finished run of `train`, or its folder.
        out: folder to write to: encoder.onnx, finetune.json, predictions.csv, metrics.json and a
            folder for each fold.
        encoder: the run's encoder, by name or file; its weights are in it. None: what histofast
            has under the name that the run tells.
        weights: instead, the weights file that the encoder was exported from.
        slides: the slides that the features are of.
        patches: instead, the table of patch images that they are of.
        features: the run's feature files; None: where they were when the run was trained.
        network, layer: of `weights`: which network, cut where.
        config: how to tune.
        overwrite: replace what was tuned with other arguments.
        on_progress: called after every step.

    Raises:
        ValueError: options that do not fit, a survival run, stages that the network has not; work
            that would take longer than `config.most_hours`.
        FileNotFoundError: a run, slide, feature file or weights file that is not there.
        FeatureError: features that are not of this run, or of other slides.
        ModelError: a network that gives other features than the run's encoder; a loss that is not
            finite; a run that is not finished.
        OSError: the disk is full; folds that are done stay.

    Determinism: bitwise on one CPU with one number of threads; not guaranteed on CUDA.

    Reference: Sharma, Ehsan, Syed, Brown, 2021, HistoTransfer.
    """
    config = config or FineTuneConfig()
    if not isinstance(run, Run):
        run = open_run(run)
    run.metrics()  # refuses a run that is not finished
    if run.task == "survival":
        raise ValueError("run must be of classification or regression, got survival")
    chosen = tuple(range(len(run.folds))) if config.folds is None else config.folds
    for fold in chosen:
        if not 0 <= fold < len(run.folds):
            raise ValueError(f"folds must be in 0..{len(run.folds) - 1}, got {fold}")
    bags = _bags_of(run, features)
    source = _source_of(run, encoder, weights, network, layer)
    device = pick_device(config.device)
    with PatchReader(slides, patches=patches) as reader, forked_generators(device):
        job = _Job(
            run=run,
            bags=bags,
            config=config,
            source=source,
            frozen=source.build(),
            reader=reader,
            out=Path(out),
            device=device,
            folds=chosen,
            on_progress=on_progress,
        )
        return job.work(overwrite=overwrite)


def _bags_of(run: Run, features: Paths | None) -> Bags:
    """Open the run's bags, in its order, with its targets."""
    if features is None:
        lost = [path for path in run.paths if not path.is_file()]
        if lost:
            raise FileNotFoundError(
                f"{lost[0]} is not there any more: name the folder of the run's features"
            )
    found = open_bags(run.paths if features is None else features, None, task=run.task)
    at = {name: i for i, name in enumerate(found.names)}
    lacking = [name for name in run.names if name not in at]
    if lacking:
        raise FeatureError(
            f"features must be of all {len(run.names)} slides of the run, got none of "
            f"{len(lacking)}: {', '.join(lacking[:3])}"
        )
    bags = found.part([at[name] for name in run.names])
    if bags.d != run.d:
        raise FeatureError(f"features must be {run.d} per patch as the run's, got {bags.d}")
    if run.encoder and bags.encoder and run.encoder.get("sha256") != bags.encoder.get("sha256"):
        raise FeatureError(
            f"features must be of the run's encoder, {run.encoder.get('name')}, got those of "
            f"{bags.encoder.get('name')}"
        )
    return replace(bags, targets=run.targets, classes=run.classes, patients=run.patients)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """Where the frozen network comes from: an encoder file, or a weights file."""

    path: Path
    is_encoder: bool
    network: str
    layer: str | None
    mpp: float | None = None

    def build(self) -> Network:
        return restore(self.path) if self.is_encoder else self.with_weights(self.path)

    def with_weights(self, weights: Path) -> Network:
        network = create(self.network, weights=weights, layer=self.layer)
        if not isinstance(network, Network):
            raise ModelError(
                f"network must be one of histofast's own to be tuned, got {self.network}"
            )
        return network


def _source_of(
    run: Run,
    encoder: str | Path | None,
    weights: str | Path | None,
    network: str | None,
    layer: str | None,
) -> _Source:
    if encoder is not None and weights is not None:
        raise ValueError("encoder and weights must not both be given: an encoder holds its weights")
    if weights is not None:
        if network is None:
            raise ValueError(f"network must be named that {Path(weights).name} holds weights of")
        return _Source(path=Path(weights), is_encoder=False, network=network, layer=layer)
    if network is not None or layer is not None:
        raise ValueError("network and layer belong to weights: an encoder knows its own")
    name = str(run.encoder.get("name", ""))
    try:
        path = find(name if encoder is None else encoder)
    except (ModelError, FileNotFoundError, ValueError):
        if encoder is not None:
            raise
        raise ValueError(
            f"encoder must be named: the run's, {name or 'unknown'}, is not one that histofast "
            "comes with"
        ) from None
    spec = read_spec(path)
    return _Source(path=path, is_encoder=True, network=spec.network, layer=spec.layer, mpp=spec.mpp)


@dataclass(kw_only=True, slots=True)
class _Job:
    """All that tuning a fold needs."""

    run: Run
    bags: Bags
    config: FineTuneConfig
    source: _Source
    frozen: Network
    reader: PatchReader
    out: Path
    device: torch.device
    folds: tuple[int, ...]
    on_progress: OnProgress | None
    seconds: float = 0.0  # spent on
    steps: int = 0  # slides, forwards and backwards
    files: dict[int, FeatureFile] = field(default_factory=dict)  # by row, without their features

    def work(self, *, overwrite: bool) -> FineTuned:
        self._check_same(self._fresh())
        self._settle(overwrite=overwrite)
        for place, fold in enumerate(self.folds):
            folder = fold_folder(self.out, fold)
            if not (folder / RECORD).is_file():
                folder.mkdir(exist_ok=True)
                self._tune(fold, place, folder)
        return self._measure()

    # --- Before ---

    def _fresh(self) -> PixelsIn:
        module = PixelsIn(deepcopy(self.frozen))
        module.to(self.device).eval()
        return module

    def _check_same(self, module: PixelsIn) -> None:
        """Refuse a network whose features are not those that the run was trained on."""
        missing = [n for n in self.bags.names if n not in self.reader.names]
        if missing:
            raise FeatureError(
                f"slides must be all {len(self.bags)} of the run, got none of {len(missing)}: "
                f"{', '.join(missing[:3])}"
            )
        rows = np.arange(min(_LOOKED_AT, int(self.bags.sizes[0])))
        pixels = self._pixels(0, rows)
        got = encode(module, pixels, chunk=len(rows)).cpu().numpy()
        wanted = np.asarray(self.bags.read(0)[rows], np.float32)
        if got.shape != wanted.shape:
            raise ModelError(
                f"network must give the run's {wanted.shape[1]} features, got {got.shape[1]}: name "
                "the layer that its encoder was cut at"
            )
        error = float(np.linalg.norm(got - wanted)) / max(float(np.linalg.norm(wanted)), 1e-30)
        if not error <= _SAME:
            raise ModelError(
                f"network must give the features of the run's encoder, got others by {error:.0%} of "
                "their norm: other weights, or another layer"
            )

    def _settle(self, *, overwrite: bool) -> None:
        """Make the folder, or find it made for the same work."""
        config = {k: v for k, v in asdict(self.config).items() if k not in ("folds", "most_hours")}
        record = json.loads(
            json.dumps(
                {
                    "run": str(self.run.path),
                    "network": self.source.network,
                    "layer": self.source.layer,
                    "from": self.source.path.name,
                    "config": config,
                }
            )
        )
        path = self.out / RECORD
        if path.is_file() and not overwrite:
            there = json.loads(path.read_text(encoding="utf-8"))
            other = [key for key in record if there.get(key) != record[key]]
            if other:
                raise ValueError(
                    f"{self.out} was tuned with another {other[0]}: choose another folder, or ask "
                    "to overwrite it"
                )
            return
        if self.out.exists() and not overwrite and any(self.out.iterdir()):
            raise ValueError(f"out must be new or empty, {self.out} is not: choose another folder")
        self.out.mkdir(parents=True, exist_ok=True)
        for old in self.out.glob(f"fold-*/{RECORD}"):
            old.unlink()
        write_json(path, record)

    # --- One fold ---

    def _tune(self, fold: int, place: int, folder: Path) -> None:
        run, config = self.run, self.config
        part = run.folds[fold]
        module = self._fresh()
        network = module.network
        assert isinstance(network, Network)
        head, unit = load_model(run, fold)
        head.to(self.device)
        trained = [*_unfreeze(network, config.unfreeze), *head.parameters()]
        chosen = self._choose(head, [*part.train, *part.validation])
        goal = Goal.of(
            self.bags,
            replace(run, config=replace(run.config, patch_loss=config.patch_loss)),
            part.train,
        )
        optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
        probe = self._pixels(int(part.train[0]), chosen[int(part.train[0])][:1])
        chunk = chunk_of(module, probe, memory_gb=config.memory_gb)
        epochs: list[EpochReport] = []
        best: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
        now = FineTuneProgress(
            fold=place,
            folds=len(self.folds),
            epoch=0,
            epochs=config.epochs,
            slides_done=0,
            slides_total=len(part.train),
            remaining_s=math.nan,
            metric=run.metric,
        )
        while not has_ended(epochs, most=config.epochs, patience=config.patience):
            began = time.perf_counter()
            epoch = len(epochs)  # 0 is the frozen encoder
            loss = math.nan
            if epoch:
                if config.reselect and epoch > 1 and (epoch - 1) % config.reselect == 0:
                    chosen = {
                        row: self._top(head, self._features(module, row, None, chunk))
                        for row in map(int, [*part.train, *part.validation])
                    }
                loss = self._epoch(
                    module, head, optimizer, goal, chosen, chunk, replace(now, epoch=epoch)
                )
            outputs = self._outputs(module, head, part.validation, chosen, chunk)
            if not np.isfinite(outputs).all() or math.isinf(loss) or (epoch and math.isnan(loss)):
                raise ModelError(
                    f"loss of fold {fold} must be finite, got {loss:g} in epoch {epoch}: tune with "
                    f"a lower learning rate than {config.lr:g}"
                )
            found = EpochReport(
                epoch=epoch,
                loss=loss,
                validation_loss=goal.loss_of(outputs, part.validation),
                metrics=scores_of(self.bags, part.validation, values_of(run.task, outputs, unit)),
                is_best=False,
                seconds=time.perf_counter() - began,
            )
            found = replace(found, is_best=is_better(found, epochs, run.metric))
            if found.is_best:
                best = (deepcopy(network.state_dict()), deepcopy(head.state_dict()))
            epochs.append(found)
            self._tell(replace(now, epoch=epoch, slides_done=len(part.train), finished=found))
        assert best is not None
        network.load_state_dict(best[0])
        head.load_state_dict(best[1])
        outputs = self._outputs(module, head, part.test, None, chunk)
        values = values_of(run.task, outputs, unit)
        self._save_fold(folder, network, head, unit, epochs, part.test, values)

    def _epoch(
        self,
        module: PixelsIn,
        head: BagModel,
        optimizer: torch.optim.Optimizer,
        goal: Goal,
        chosen: Mapping[int, NDArray[np.int64]],
        chunk: int,
        now: FineTuneProgress,
    ) -> float:
        """Take every training slide once; return the mean loss."""
        seeds = [self.config.seed, now.fold, now.epoch]
        order = np.random.default_rng(seeds).permutation(goal.rows).tolist()
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
        head.train()  # its dropout; the encoder's BatchNorms keep their statistics
        losses = []
        pixels_of = read_ahead(lambda row: self._pixels(row, chosen[row]), order)
        for step, (row, pixels) in enumerate(zip(order, pixels_of, strict=True)):
            began = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            target, weight = goal.targets[row].to(self.device), goal.weights[row].to(self.device)
            loss, _ = backward(
                module,
                head,
                pixels.to(self.device),
                lambda out, target=target, weight=weight: goal.loss(out, target) * weight,  # type: ignore[misc]
                goal.known(row),
                chunk=chunk,
            )
            optimizer.step()
            losses.append(loss)
            self.seconds += time.perf_counter() - began
            self.steps += 1
            self._refuse_days()
            self._tell(replace(now, slides_done=step + 1))
        return float(torch.stack(losses).mean())

    def _choose(
        self, head: BagModel, rows: Sequence[int] | NDArray[np.int64]
    ) -> dict[int, NDArray[np.int64]]:
        """Return the rows of the patches of each bag that its model attends to most."""
        chosen = {}
        for row in map(int, rows):
            features = torch.from_numpy(np.array(self.bags.read(row), np.float32))
            chosen[row] = self._top(head, features.to(self.device))
        return chosen

    def _top(self, head: BagModel, features: Tensor) -> NDArray[np.int64]:
        head.eval()
        with torch.no_grad():
            scores = head(features).scores
        if scores is None:
            raise ValueError(f"model of the run must rank patches, got {head.name}")
        return top_rows(scores.float().cpu().numpy(), k=self.config.top_k)

    def _features(
        self,
        module: PixelsIn,
        row: int,
        patches: NDArray[np.int64] | None,
        chunk: int,
    ) -> Tensor:
        if patches is None:
            patches = np.arange(int(self.bags.sizes[row]))
        parts = np.split(patches, range(_ROWS, len(patches), _ROWS))
        return torch.cat(
            [encode(module, self._pixels(row, some).to(self.device), chunk=chunk) for some in parts]
        )

    def _outputs(
        self,
        module: PixelsIn,
        head: BagModel,
        rows: NDArray[np.int64],
        chosen: Mapping[int, NDArray[np.int64]] | None,
        chunk: int,
    ) -> NDArray[np.float32]:
        """Return (b, o) of bags: of their chosen patches, or of all."""
        head.eval()
        found = []
        for row in map(int, rows):
            patches = None if chosen is None else chosen[row]
            features = self._features(module, row, patches, chunk)
            with torch.no_grad():
                found.append(head(features).output.float().cpu())
        stacked: NDArray[np.float32] = torch.stack(found).numpy()
        return stacked

    def _pixels(self, row: int, patches: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.reader.read(self._file(row), patches))

    def _file(self, row: int) -> FeatureFile:
        """Open a feature file once; its features are left to `bags`."""
        if row not in self.files:
            file = read_features(self.bags.paths[row], mmap=True)
            # A map that is kept would hold a file descriptor for every slide.
            self.files[row] = replace(file, features=np.empty((0, self.bags.d), np.float32))
        return self.files[row]

    def _refuse_days(self) -> None:
        most = self.config.most_hours
        if most is None or self.steps > 1:
            return
        expected = self._expected_s()
        if expected > 3600 * most:
            raise ValueError(
                f"fine-tuning would take about {expected / _DAY_S:.1f} days at the speed of its "
                f"first slide, more than {most:g} hours: take fewer folds or epochs, a smaller "
                "top_k, a GPU, or raise most_hours (--most-hours)"
            )

    def _expected_s(self) -> float:
        """Seconds that all steps take at the pace of those so far."""
        steps = sum(len(self.run.folds[f].train) for f in self.folds) * self.config.epochs
        return self.seconds / max(1, self.steps) * steps

    def _tell(self, progress: FineTuneProgress) -> None:
        if self.on_progress is not None:
            remaining = max(0.0, self._expected_s() - self.seconds) if self.steps else math.nan
            self.on_progress(replace(progress, remaining_s=remaining))

    # --- After ---

    def _save_fold(
        self,
        folder: Path,
        network: Network,
        head: BagModel,
        unit: Unit,
        epochs: Sequence[EpochReport],
        test: NDArray[np.int64],
        values: NDArray[np.float64],
    ) -> None:
        write_weights(folder / NETWORK, network)
        save_model(folder / MODEL, head, unit=unit)
        write_log(folder / LOG, self.run.task, epochs, timed=False)
        best = best_of(epochs)
        assert best is not None
        write_json(
            folder / RECORD,
            {
                "test": test.tolist(),
                "values": values.tolist(),
                "best_epoch": best.epoch,
                "best_score": or_none(best.score(self.run.metric)),
                "best_loss": best.validation_loss,
            },
        )

    def _measure(self) -> FineTuned:
        run, bags = self.run, self.bags
        records = {
            fold: json.loads((fold_folder(self.out, fold) / RECORD).read_text(encoding="utf-8"))
            for fold in self.folds
        }
        rows = np.concatenate([np.array(rec["test"], np.int64) for rec in records.values()])
        tuned = np.concatenate([np.array(rec["values"], np.float64) for rec in records.values()])
        frozen_of = run.predictions()
        frozen = np.stack([frozen_of[bags.names[row]] for row in rows])
        tested = bags.part(rows)
        options: dict[str, Any] = {
            "groups": tested.groups,
            "classes": run.classes,
            "seed": run.config.seed,
        }
        before = metrics(run.task, tested.targets, frozen, **options)
        after = metrics(run.task, tested.targets, tuned, **options)
        gain = differences(run.task, tested.targets, tuned, frozen, **options)
        fold = max(self.folds, key=lambda f: _rank(records[f], run.metric))
        folder = fold_folder(self.out, fold)
        network = self.source.with_weights(folder / NETWORK)
        network.mean, network.std = self.frozen.mean, self.frozen.std
        encoder = self.out / ENCODER
        patch_px = self._file(0).attributes.get("patch_size")
        export(
            network,
            encoder,
            name=f"{self.source.network}-{network.layer}-tuned",
            patch_px=None if patch_px is None else int(patch_px),
            mpp=self.source.mpp,
            provenance=f"{self.source.path.name}, fine-tuned on {len(bags)} slides by histofast",
            licence="that of the weights it was tuned from",
            overwrite=True,
        )
        unseen = len(run.folds[fold].test)
        notes = [
            f"encoder.onnx is of fold {fold}, the best on validation slides: it has seen all but the "
            + f"{unseen} slides that this fold tests"
        ]
        short = int((bags.sizes < self.config.top_k).sum())
        if short:
            notes.append(
                f"{short} of {len(bags)} slides have fewer than {self.config.top_k} patches: all are taken"
            )
        kept = [f for f in self.folds if records[f]["best_epoch"] == 0]
        if kept:
            notes.append(
                f"in {len(kept)} of {len(self.folds)} folds no epoch did better on validation slides than the "
                "frozen encoder, which was kept"
            )
        frozen_values = {bags.names[row]: value for row, value in zip(rows, frozen, strict=True)}
        table: list[list[Any]] = [
            ["slide", "patient", "fold", *_columns("frozen", run), *_columns("tuned", run)],
        ]
        for fold_, record in records.items():
            for row, value in zip(record["test"], record["values"], strict=True):
                name = bags.names[row]
                cells = [*np.atleast_1d(frozen_values[name]), *np.atleast_1d(value)]
                table.append([name, bags.patients[row], fold_, *map(float, cells)])
        write_csv(self.out / PREDICTIONS, table)
        write_json(
            self.out / METRICS,
            {
                name: {key: plain(metric) for key, metric in found.items()}
                for name, found in (("frozen", before), ("tuned", after), ("gain", gain))
            }
            | {"fold": fold, "notes": notes},
        )
        return FineTuned(
            path=self.out,
            frozen=before,
            tuned=after,
            gain=gain,
            encoder=encoder,
            fold=fold,
            weights=folder / NETWORK,
            frozen_network=self.frozen,
            tuned_network=network,
            notes=tuple(notes),
        )


def _unfreeze(network: Network, stages: Sequence[str]) -> list[torch.nn.Parameter]:
    """Let the parameters of some stages train, and no others; return them."""
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


def _rank(record: Mapping[str, Any], metric: str) -> tuple[float, float]:
    score = record["best_score"]
    return rank(math.nan if score is None else score, record["best_loss"], metric)


def _columns(what: str, run: Run) -> list[str]:
    return [f"{what}_p_{name}" for name in run.classes] if run.classes else [what]
