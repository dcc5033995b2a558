"""What a study of transfusion compares: starts x networks x training sets, on the same splits.

    TransfusionPlan.plan -> Trial (data set, network, training pictures) x Way (how weights begin) x split -> Runs

Every trial holds its ways against random weights on the same splits and seeds, for the same number of steps.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from histofast._files import regular_file
from histofast._numbers import whole_number
from histofast._words import did_you_mean
from histofast.classify import Asked, Recipe, Runs, steps_of_epoch
from histofast.errors import ModelError
from histofast.jobs import Job
from histofast.learning import LOWER_IS_BETTER, check_metric
from histofast.networks import layers, starts
from histofast.studies.cuts import blocks_of
from histofast.studies.likeness import Side, plan_likeness
from histofast.studies.pictures import PictureSetting, Split
from histofast.studies.subsets import train_on_fewer

Kind = Literal["random", "pretrained", "mean-var", "transfuse", "slim", "gabor"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WITHOUT_WEIGHTS: tuple[Kind, ...] = ("random", "gabor")
LOOKS = 40  # at the validation pictures in a run, at least, unless the recipe says how often
NULL = "two random networks, untrained"  # what comparisons of networks are held against
_FACTOR = 2  # of slim: channels after its layer are so many times fewer
_OTHER_SEED = 1_000_003  # added to a run's, for a second random network that it is held against


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How the weights of a network begin.

    Attributes:
        kind: of start.
        layer: up to and with which weights are taken, of transfuse and slim.
    """

    kind: Kind
    layer: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.layer}".strip()

    def start(self, weights: Path | None, *, seed: int) -> starts.Start:
        """Return the start that `classify` knows."""
        if self.kind == "random":
            return starts.Random()
        if self.kind == "gabor":
            return starts.Gabor(seed)
        of = starts.File(str(weights))
        if self.kind == "mean-var":
            return starts.MeanVar(of)
        if self.kind == "transfuse":
            return starts.Transfuse(of=of, layer=self.layer)
        if self.kind == "slim":
            return starts.Slim(of=of, layer=self.layer, factor=_FACTOR)
        return of


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What ways are compared on: a data set, a network, and how many pictures train (None: all of a split)."""

    data: str
    network: str
    size: int | None

    def __str__(self) -> str:
        pictures = "all training pictures" if self.size is None else f"{self.size} pictures"
        return f"{self.data}, {self.network}, {pictures}"


@dataclass(frozen=True, kw_only=True)
class TransfusionPlan:
    """What a study of where the gain of pretrained weights is must have done.

    Attributes:
        setting: of all runs. Its recipe trains all layers from the first step on, without patience.
        network: one or several; each with and without its weights.
        weights: file by network; a network without starts at random and from Gabor filters only.
        sizes: of training sets, nested subsets of a split's training pictures; (): all of them.
        ways: kinds of starts, of transfuse and slim also with a layer, "transfuse:layer2". Without one
            transfuse is asked at every block, slim at the middle one. Random is always among them.
        steps: of every run, at least, whatever the size; None: those of the recipe's epochs at the largest.
        threshold: metric and value that steps are counted to; None: in each trial 95 % of the median final
            value of random and pretrained runs on their validation pictures.

    Raises:
        TypeError, ValueError: of options that are none, or a recipe that trains otherwise.
        FileNotFoundError: no such file of weights.
        ModelError: no such network or layer.
    """

    setting: PictureSetting
    network: Sequence[str]
    weights: Mapping[str, str | Path] = field(default_factory=dict)
    sizes: Sequence[int] = ()
    ways: Sequence[str] = KINDS
    steps: int | None = None
    threshold: tuple[str, float] | None = None

    name = "transfusion"
    layer_metrics = False

    def __post_init__(self) -> None:
        if not self.network:
            raise ValueError("network must be at least one, got none")
        for name in self.network:
            starts.network_of(name, "random")
        if len(set(self.network)) < len(self.network):
            raise ValueError(f"network must name each once, got {', '.join(self.network)}")
        for name, file in self.weights.items():
            if name not in self.network:
                near = did_you_mean(name, self.network)
                raise ValueError(
                    f"weights must be of a network of the study, {', '.join(self.network)}, got "
                    f"{name!r}{near}"
                )
            regular_file(file, kind=f"weights file of {name}")
        for size in self.sizes:
            whole_number("sizes", size, at_least=1)
        if self.steps is not None:
            whole_number("steps", self.steps, at_least=1)
        _refuse_recipe(self.recipe)
        _refuse_lower(self.setting.metric)
        if self.threshold is not None:
            _refuse_lower(self.threshold[0])
            if not math.isfinite(self.threshold[1]):
                raise ValueError(f"threshold must be finite, got {self.threshold[1]}")
        for way in self.ways:
            kind, _, layer = way.partition(":")
            if kind not in KINDS or (layer and kind not in ("transfuse", "slim")):
                raise ValueError(
                    f"ways must be of {', '.join(KINDS)}, transfuse:LAYER or slim:LAYER, got "
                    f"{way!r}{did_you_mean(kind, KINDS)}"
                )

    @property
    def recipe(self) -> Recipe:
        """Of all runs, but for epochs and looks."""
        recipe = self.setting.recipe
        assert isinstance(recipe, Recipe)
        return recipe

    # --- What is compared ------------------------------------------------------------------------

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """All, in the order of data sets, networks and sizes."""
        sizes: Sequence[int | None] = sorted(set(self.sizes)) or [None]
        return tuple(
            Trial(data=data, network=network, size=size)
            for data in self.setting.sets
            for network in self.network
            for size in sizes
        )

    def ways_of(self, network: str) -> tuple[Way, ...]:
        """Return how a network begins, random first."""
        found = [Way(kind="random")]
        blocks = blocks_of(network)
        for text in self.ways:
            kind, _, layer = text.partition(":")
            if network not in self.weights and kind not in WITHOUT_WEIGHTS:
                continue
            if kind == "transfuse":
                # Up to the last block is pretrained.
                found += [
                    Way(kind="transfuse", layer=b) for b in ([layer] if layer else blocks[:-1])
                ]
            elif kind == "slim":
                found += _slim_of(network, layer, blocks)
            else:
                found += [Way(kind=k) for k in KINDS if k == kind]
        for way in found:
            starts.network_of(network, way.start(Path("weights"), seed=0))
        kinds = {way: (KINDS.index(way.kind), _place(network, way.layer)) for way in found}
        return tuple(sorted(kinds, key=lambda way: kinds[way]))

    def depth(self, network: str, layer: str) -> float:
        """Return the share of a network's operations up to a layer."""
        return next(cut.flops_share for cut in layers(network) if cut.name == layer)

    # --- Runs --------------------------------------------------------------------------------------

    @cached_property
    def folds(self) -> Mapping[tuple[Trial, Split], Asked]:
        """What is asked of random weights on each split of each trial, with its training pictures."""
        found = {}
        for trial in self.trials:
            images = self.setting.sets[trial.data]
            for split in self.setting.splits:
                asked = self.setting.ask(images, network=trial.network, start="random", split=split)
                if trial.size is not None:
                    seed = split.seed * split.folds + split.fold
                    fold = train_on_fewer(images, asked.fold, size=trial.size, seed=seed)
                    asked = replace(asked, fold=fold)
                found[trial, split] = asked
        return found

    @cached_property
    def least_steps(self) -> int:
        """Steps that every run takes at least: those of the recipe's epochs on the largest training set."""
        if self.steps is not None:
            return self.steps
        largest = max(len(asked.fold.train) for asked in self.folds.values())
        return self.recipe.epochs * steps_of_epoch(largest, self.recipe.batch_size)

    @property
    def every(self) -> int:
        """Steps between two looks at the validation pictures."""
        return self.recipe.every or max(1, self.least_steps // LOOKS)

    def asked(self, trial: Trial, way: Way, split: Split) -> Asked:
        """Return what is asked for."""
        base = self.folds[trial, split]
        per_epoch = steps_of_epoch(len(base.fold.train), self.recipe.batch_size)
        weights = self.weights.get(trial.network)
        return replace(
            base,
            start=way.start(None if weights is None else Path(weights), seed=split.seed),
            recipe=replace(self.recipe, epochs=-(-self.least_steps // per_epoch), every=self.every),
        )

    @cached_property
    def work(self) -> dict[tuple[Trial, Way], list[Job]]:
        """Jobs of each way in each trial, in the order of the splits; `plan` fills it."""
        return {}

    @cached_property
    def likenesses(self) -> dict[tuple[str, str, str], list[Job]]:
        """Comparisons by data set, network and what is compared; `plan` fills it."""
        return {}

    def plan(self, runs: Runs) -> None:
        """Ask for all runs, and for comparisons of those on the largest training set."""
        self.work.clear()
        self.likenesses.clear()
        for trial in self.trials:
            for way in self.ways_of(trial.network):
                self.work[trial, way] = [
                    runs.add(
                        self.asked(trial, way, split),
                        name=f"{trial}, {way}, {_name(split, self.setting)}",
                    )
                    for split in self.setting.splits
                ]
        for trial in self.largest:
            self._plan_likeness(runs, trial)

    @property
    def largest(self) -> tuple[Trial, ...]:
        """The trial of each data set and network with the most pictures."""
        found = {(trial.data, trial.network): trial for trial in self.trials}  # sizes ascend
        return tuple(found.values())

    def _plan_likeness(self, runs: Runs, trial: Trial) -> None:
        ways = [way for way in self.ways_of(trial.network) if way.kind in KINDS[:3]]
        for i, split in enumerate(self.setting.splits):
            begun = {way.kind: self.asked(trial, way, split) for way in ways}
            ended = {way.kind: self.work[trial, way][i] for way in ways}
            random = begun["random"]
            pairs = {
                f"{kind}: start and tuned": (Side(begins=begun[kind]), Side(run=ended[kind]))
                for kind in begun
            }
            if "pretrained" in ended:
                pairs["tuned from pretrained and from random"] = (
                    Side(run=ended["pretrained"]),
                    Side(run=ended["random"]),
                )
            pairs[NULL] = (
                Side(begins=random),
                Side(begins=replace(random, seed=random.seed + _OTHER_SEED)),
            )
            job = plan_likeness(
                runs,
                pairs,
                images=random.images,
                rows=random.fold.test,
                px=random.px,
                name=f"{trial}, networks compared, {_name(split, self.setting)}",
                with_cca=True,
            )
            for what in pairs:
                self.likenesses.setdefault((trial.data, trial.network, what), []).append(job)


def _name(split: Split, setting: PictureSetting) -> str:
    fold = f", fold {split.fold}" if setting.folds else ""
    return f"seed {split.seed}{fold}"


def _place(network: str, layer: str) -> int:
    known = [cut.name for cut in layers(network)]
    return known.index(layer) if layer else -1


def _slim_of(network: str, layer: str, blocks: Sequence[str]) -> list[Way]:
    """Return slim at a layer, or at the middle block; of a network that cannot be slim there, none."""
    if layer:
        return [Way(kind="slim", layer=layer)]
    way = Way(kind="slim", layer=blocks[(len(blocks) - 1) // 2])
    with contextlib.suppress(ModelError):
        starts.network_of(network, way.start(Path("weights"), seed=0))
        return [way]
    return []


def _refuse_recipe(recipe: Recipe) -> None:
    """Refuse recipes whose curves cannot be compared step by step."""
    if recipe.freeze != "all":
        raise ValueError(
            f"freeze must be all in a study of transfusion, which counts the steps of all layers, got "
            f"{recipe.freeze}: train with recipe transfusion"
        )
    if recipe.patience is not None:
        raise ValueError(
            f"patience must be none in a study of transfusion, whose runs take equal steps, got "
            f"{recipe.patience}: train with recipe transfusion"
        )
    if recipe.schedule == "step":
        raise ValueError(
            "schedule must be constant or cosine in a study of transfusion, for epochs are of other "
            "lengths in each training set, got step: train with recipe transfusion"
        )


def _refuse_lower(metric: str) -> None:
    check_metric("metric", metric, task="classification")
    if metric in LOWER_IS_BETTER:
        raise ValueError(
            f"metric must be one of which more is better in a study of transfusion, got {metric}: "
            "ask for auroc"
        )
