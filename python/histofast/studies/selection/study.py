"""What a cheap encoder's attention saves an expensive one: models of slides on shares of their patches.

    cheap, costly features -> outer folds -> a run on cheap features of the training slides of each, which chooses
      -> costly features of chosen, random and all patches -> models -> page

The run that chooses is cross-validated within the training slides of an outer fold, and is asked as `extract
--select` asks a run: a slide that it knows by those models that have not seen it, a tested slide by all.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histofast._numbers import real_number, whole_number
from histofast.classify import Runs, torch_threads
from histofast.encoders import find, read_spec
from histofast.errors import ModelError
from histofast.jobs import Job, canonical
from histofast.learning import (
    TOLERANCE,
    Fold,
    LabelsOfPatients,
    Missing,
    Task,
    folds,
    parts_of_config,
)
from histofast.mil import Bags, TrainConfig, create, open_bags, refuse_without_attention
from histofast.pipeline import checked_shares
from histofast.report import Answer
from histofast.studies.pictures import Conditions, Done
from histofast.studies.selection.parts import (
    Share,
    time_encoders,
    train_on_attended,
    train_on_random,
    train_part,
)

CHEAP, WHOLE, ATTENTION, RANDOM = "cheap", "whole", "attention", "random"  # ways
_REVISION = 1  # raised when the same would give other numbers
_EPOCHS_TIMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One outer fold of one repeat.

    Attributes:
        repeat, number: which.
        fold: of the slides.
    """

    repeat: int
    number: int
    fold: Fold

    def __str__(self) -> str:
        return f"repeat {self.repeat}, fold {self.number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A way to come to patches, and the share that is taken for its attention; 1 of all patches."""

    way: str
    keep: float = 1.0

    def __str__(self) -> str:
        return {
            CHEAP: "cheap encoder, all patches",
            WHOLE: "all patches",
        }.get(self.way, f"{self.way}, {self.keep:g}")


@dataclass(frozen=True, kw_only=True)
class SelectionStudy:
    """A study of how many patches an expensive encoder must see.

    Attributes:
        setting: of the jobs.
        cheap: feature files of the cheap encoder, whose attention chooses.
        costly: feature files of the expensive encoder, of all patches.
        labels: as `mil.open_bags` reads them.
        keep: shares that are taken for their attention, each above 0 and below 1.
        keep_random: share of the others that is taken at random, 0..1.
        model: of slides, on the expensive features.
        select_model: of slides, on the cheap features, which chooses; None: the same.
        task, missing: see `open_bags`.
        config: how all models are trained; its seed is that of the first repeat.
        repeats: of the cross-validation, each with folds, seeds and random patches of its own.
        tolerance: how much less than with all patches counts as about as good, in units of the metric.
        cheap_encoder, costly_encoder: names or files, which are timed here; None: hours are not told.

    Raises:
        TypeError, ValueError: shares or numbers out of range; a model without attention; labels that do
            not fit; features of other slides; an encoder that did not make the features.
        FileNotFoundError, FeatureError, ModelError: features, labels or encoders that cannot be read.
    """

    setting: Conditions
    cheap: str | Path
    costly: str | Path
    labels: str | Path | LabelsOfPatients
    keep: Sequence[float] = (0.05, 0.1, 0.2, 0.5)
    keep_random: float = 0.1
    model: str = "attention"
    select_model: str | None = None
    task: Task = "classification"
    missing: Missing = "error"
    config: TrainConfig = field(default_factory=TrainConfig)
    repeats: int = 3
    tolerance: float = TOLERANCE
    cheap_encoder: str | Path | None = None
    costly_encoder: str | Path | None = None

    name = "selection"
    layer_metrics = False

    def __post_init__(self) -> None:
        shares = sorted({checked_shares(keep, self.keep_random)[0] for keep in self.keep} - {1.0})
        if not shares:
            raise ValueError("keep must have at least one share below 1, got none")
        object.__setattr__(self, "keep", tuple(shares))
        object.__setattr__(self, "keep_random", checked_shares(1, self.keep_random)[1])
        object.__setattr__(self, "repeats", whole_number("repeats", self.repeats, at_least=1))
        object.__setattr__(self, "tolerance", real_number("tolerance", self.tolerance))
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be above 0, got {self.tolerance:g}")
        if (self.cheap_encoder is None) != (self.costly_encoder is None):
            raise ValueError(
                "cheap_encoder and costly_encoder must be given together, to compare their time"
            )
        refuse_without_attention(self.chooser, of="the run that chooses")
        object.__setattr__(self, "config", replace(self.config, device=self.setting.device))
        _ = self.bags, self.parts, self.encoders  # refuse before the work

    @property
    def chooser(self) -> str:
        """Model of the run that chooses."""
        return self.model if self.select_model is None else self.select_model

    @cached_property
    def bags(self) -> dict[str, Bags]:
        """The slides with cheap and with expensive features, in one order."""
        found = {
            name: open_bags(features, self.labels, task=self.task, missing=self.missing)
            for name, features in ((CHEAP, self.cheap), (WHOLE, self.costly))
        }
        ours, theirs = (set(bags.names) for bags in found.values())
        if ours != theirs:
            single = sorted(ours ^ theirs)
            raise ValueError(
                f"cheap and costly must be features of the same slides, got {len(single)} in one only, first "
                f"{single[0]}"
            )
        return found

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The outer folds of all repeats; what chooses can be trained within each."""
        found = []
        for repeat in range(self.repeats):
            seed = self.config.seed + repeat
            divided = folds(self.bags[WHOLE], n=self.config.folds, seed=seed)
            for number, fold in enumerate(divided):
                part = Part(repeat=repeat, number=number, fold=fold)
                folds(self._training(part), n=self.config.folds, seed=seed)
                found.append(part)
        return tuple(found)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All ways to come to patches, the cheapest first."""
        chosen = [Arm(way=way, keep=keep) for keep in self.keep for way in (ATTENTION, RANDOM)]
        return (Arm(way=CHEAP), *chosen, Arm(way=WHOLE))

    @cached_property
    def encoders(self) -> dict[str, Path]:
        """Files of the encoders that are timed; {} where none are named."""
        if self.cheap_encoder is None or self.costly_encoder is None:
            return {}
        files = {CHEAP: find(self.cheap_encoder), WHOLE: find(self.costly_encoder)}
        for name, file in files.items():
            told, spec = self.bags[name].encoder, read_spec(file)
            if told.get("sha256") not in (None, spec.sha256):
                which = "cheap_encoder" if name == CHEAP else "costly_encoder"
                raise ModelError(
                    f"{which} must be {told.get('name')} (sha256 {str(told['sha256'])[:12]}), which made the "
                    f"features, got one of sha256 {spec.sha256[:12]}"
                )
        return files

    @property
    def test_share(self) -> float:
        """Share of the patients that an outer fold tests, the mean over all."""
        groups = np.array(self.bags[WHOLE].groups)
        every = len(set(groups.tolist()))
        return float(np.mean([len(set(groups[part.fold.test])) / every for part in self.parts]))

    # --- The plan ----------------------------------------------------------------------------------

    def plan(self, runs: Runs) -> None:
        """Ask for all parts."""
        self.jobs(runs)
        self.speed(runs)

    def jobs(self, runs: Runs) -> dict[Arm, list[Job]]:
        """Ask for the models of each arm, one for each part; asked for again they are the same."""
        found: dict[Arm, list[Job]] = {arm: [] for arm in self.arms}
        for part in self.parts:
            selector = self._selector(runs, part)
            for arm in self.arms:
                found[arm].append(self._job(runs, arm, part, selector))
        return found

    def speed(self, runs: Runs) -> Job | None:
        """Ask for the time of the encoders, after all else; None where none are named."""
        if not self.encoders:
            return None
        files = {name: str(file) for name, file in self.encoders.items()}
        return runs.plan.add(
            time_encoders,
            name="time of the encoders",
            kind="speed",
            arguments={"encoders": files, "device": self.setting.device},
            identity={
                "encoders": {n: read_spec(file).sha256 for n, file in self.encoders.items()},
                "device": self.setting.device,
                "revision": _REVISION,
            },
            after=[job for jobs in self.jobs(runs).values() for job in jobs],
        )

    def _selector(self, runs: Runs, part: Part) -> Job:
        config, bags = self._config(part), self._training(part)
        if self.chooser != self.model:  # options are of one model
            config = replace(config, model_options={})
        return self._ask(
            runs,
            train_part,
            name=f"what chooses, {part}",
            kind="selector",
            bags=bags,
            model=self.chooser,
            config=config,
            share=None,
            cost=self._cost(bags, self.chooser) * config.folds,
        )

    def _job(self, runs: Runs, arm: Arm, part: Part, selector: Job) -> Job:
        source = self.bags[CHEAP if arm.way == CHEAP else WHOLE]
        bags, config = _divided(source, part.fold), self._config(part)
        share = Share(
            keep=arm.keep, keep_random=self.keep_random, seed=self.config.seed + part.repeat
        )
        is_chosen = arm.way in (ATTENTION, RANDOM)
        function = {ATTENTION: train_on_attended, RANDOM: train_on_random}.get(arm.way, train_part)
        more: dict[str, Any] = {"share": share} if is_chosen else {}
        if arm.way == ATTENTION:
            more |= {"cheap": self.bags[CHEAP], "selector": selector.folder}
        return self._ask(
            runs,
            function,
            name=f"{arm}, {part}",
            kind=arm.way,
            bags=bags,
            model=self.model,
            config=config,
            share=share if is_chosen else None,
            more=more,
            needs=[selector] if arm.way == ATTENTION else [],
            cost=self._cost(source, self.model) * (arm.keep if is_chosen else 1.0),
        )

    def _ask(
        self,
        runs: Runs,
        function: Any,
        *,
        name: str,
        kind: str,
        bags: Bags,
        model: str,
        config: TrainConfig,
        share: Share | None,
        cost: float,
        more: Mapping[str, Any] | None = None,
        needs: Sequence[Job] = (),
    ) -> Job:
        told = {"bags": bags, "model": model, "config": config, "threads": self.setting.threads}
        cheap = self._content(CHEAP) if kind == ATTENTION else None
        return runs.plan.add(
            function,
            name=name,
            kind=kind,
            arguments={**told, **(more or {})},
            identity={
                "revision": _REVISION,
                "bags": _sum_of(bags, self._contents),
                "cheap": cheap,
                "model": model,
                "task": self.task,
                "config": parts_of_config(config)[0],
                "share": None if share is None else share.told,
            },
            needs=needs,
            cost=cost,
        )

    def _config(self, part: Part) -> TrainConfig:
        return replace(self.config, seed=self.config.seed + part.repeat)

    def _training(self, part: Part) -> Bags:
        """Cheap features of the slides that an outer fold does not test."""
        bags = self.bags[CHEAP]
        rows = np.sort(np.concatenate([part.fold.train, part.fold.validation]))
        some = bags.part(rows)
        return replace(some, splits=("",) * len(some))

    @cached_property
    def _contents(self) -> dict[Path, str]:
        """Checksums of all feature files, each read once."""
        return {
            path: content
            for bags in self.bags.values()
            for path, content in zip(bags.paths, bags.contents(), strict=True)
        }

    def _content(self, name: str) -> str:
        return _sum_of(self.bags[name], self._contents)

    def _cost(self, bags: Bags, model: str) -> float:
        """About how many seconds a model takes: some steps on a bag of mean size are timed."""
        key = (model, bags.d)
        if key not in self._step_s:
            self._step_s[key] = self._timed(model, bags)
        train = len(bags) * (1 - self.test_share)
        return self._step_s[key] * train * self.config.epochs

    @cached_property
    def _step_s(self) -> dict[tuple[str, int], float]:
        return {}

    def _timed(self, model: str, bags: Bags) -> float:
        outputs = max(2, len(bags.classes))
        made = create(model, d=bags.d, outputs=outputs, **self.config.model_options)
        bag = torch.randn(int(bags.sizes.mean()) + 1, bags.d)
        with torch_threads(self.setting.threads, torch.device("cpu")):
            for step in range(1 + _EPOCHS_TIMED):
                if step == 1:  # the first one makes ready
                    begin = time.perf_counter()
                made(bag).output.sum().backward()
            return (time.perf_counter() - begin) / _EPOCHS_TIMED

    def answer(self, done: Done) -> Answer:
        """Measure what was done, and say what it means."""
        from histofast.studies.selection.answers import answer_of_selection
        from histofast.studies.selection.found import found_of

        return answer_of_selection(self, found_of(self, done))


def _divided(bags: Bags, fold: Fold) -> Bags:
    """Return bags whose split is a fold."""
    splits = np.full(len(bags), "train", dtype=object)
    splits[fold.validation], splits[fold.test] = "validation", "test"
    return replace(bags, splits=tuple(splits.tolist()))


def _sum_of(bags: Bags, contents: Mapping[Path, str]) -> str:
    """Return a checksum of slides, features, targets and how they are divided."""
    told = [
        [name, contents[path], group, target, split]
        for name, path, group, target, split in zip(
            bags.names,
            bags.paths,
            bags.groups,
            bags.targets.tolist(),
            bags.splits,
            strict=True,
        )
    ]
    return hashlib.sha256(canonical({"bags": told}).encode()).hexdigest()
