"""What fine-tuning changes in a network, and whether networks of two sources end alike.

    Drift.plan -> starts x {all layers at once, head first} x splits -> Runs, and what is held against what

Weights of every source and random ones are tuned on the same splits, for the same number of epochs. Networks
are compared layer by layer on the test pictures of their split, which trained neither.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from histofast._numbers import whole_number
from histofast.classify import Asked, Recipe, Runs
from histofast.datasets import Images
from histofast.errors import ModelError
from histofast.jobs import Job
from histofast.learning import LOWER_IS_BETTER, check_metric
from histofast.networks import starts
from histofast.report import Answer
from histofast.studies.likeness import Side, plan_likeness
from histofast.studies.pictures import Done, PictureSetting, Split

Freeze = Literal["all", "head-then-all"]
Kind = Literal["tuned", "ends", "starts", "recipes", "random", "null"]

FREEZES: tuple[Freeze, ...] = ("all", "head-then-all")
NULL_SEEDS = 5  # random networks never trained: the fewest whose range means something
LEAST_SEEDS = 2  # of random networks that are trained


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How networks are made: weights they begin with, and what trains first."""

    start: str
    freeze: Freeze

    def __str__(self) -> str:
        return self.start if self.freeze == "all" else f"{self.start}, head first"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """One network that is asked for."""

    asked: Asked
    split: Split
    job: Job


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Two networks that are held against each other on every split.

    Attributes:
        kind: "tuned" a network against its own start, "ends" two tuned ones, "starts" what two begin with,
            "recipes" one tuned at once against head first, "random" a tuned one against random weights,
            "null" two random ones that were never trained.
        a, b: names of starts.
        freeze: of "tuned".
    """

    kind: Kind
    a: str
    b: str
    freeze: Freeze = "all"

    def __str__(self) -> str:
        return {
            "tuned": f"{Way(start=self.a, freeze=self.freeze)}: start and tuned",
            "ends": f"{self.a} and {self.b}, tuned",
            "starts": f"{self.a} and {self.b}, starts",
            "recipes": f"{self.a}: tuned at once and head first",
            "random": f"{self.a} tuned, and random weights",
            "null": f"{self.a} and {self.b}, never trained",
        }[self.kind]


Work = Mapping[tuple[str, Way], tuple[Trained, ...]]
Likenesses = Mapping[tuple[str, Held], tuple[Job, ...]]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A study of what fine-tuning changes.

    Attributes:
        setting: of all runs. What the recipe freezes is not taken: both ways are tried.
        network: that the weights are of.
        source: starts by name, files of weights most often; random weights are always among them.
        random_seeds: random networks that are trained on each split, >= 2.
        layers: that are compared; (): the network's blocks.
        show_published: whether the page has the published points of gain and similarity as well.

    Raises:
        TypeError, ValueError: options that are none; pictures of several labels; a metric of which less is
            better; epochs too few to train the head first.
        FileNotFoundError: no such file of weights.
        ModelError: no such network or layer; weights of another one.
    """

    setting: PictureSetting
    network: str
    source: Mapping[str, starts.AnyStart]
    random_seeds: int = LEAST_SEEDS
    layers: Sequence[str] = ()
    show_published: bool = False

    name = "drift"
    layer_metrics = False

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError("source must be at least one, got none: name weights to begin with")
        seeds = whole_number("random_seeds", self.random_seeds, at_least=LEAST_SEEDS)
        object.__setattr__(self, "random_seeds", seeds)
        for name, start in self.source.items():
            if not name or name.split(":")[0] == "random":
                raise ValueError(f"source must have names other than random, got {name!r}")
            made = starts.network_of(self.network, start)
            if made != starts.network_of(self.network, "random"):
                raise ModelError(
                    f"source must begin the network as it is, {name} makes {made} of it"
                )
        check_metric("metric", self.setting.metric, task="classification")
        if self.setting.metric in LOWER_IS_BETTER:
            raise ValueError(
                "metric must be one of which more is better in a study of drift, got "
                f"{self.setting.metric}: ask for auroc"
            )
        for name, images in self.setting.sets.items():
            if images.task != "classification":
                raise ValueError(
                    f"data must have one label for each picture in a study of drift, got several in "
                    f"{name}"
                )
        for freeze in FREEZES:
            self.recipe_of(freeze)

    @cached_property
    def begins(self) -> Mapping[str, starts.Start]:
        """All starts that are trained, by name: the sources, then random ones."""
        found = {name: starts.parse(start) for name, start in self.source.items()}
        return found | {name: starts.parse(name) for name in self.randoms}

    @property
    def randoms(self) -> tuple[str, ...]:
        """Names of the random starts that are trained."""
        return tuple(f"random:{seed}" for seed in range(self.random_seeds))

    @property
    def ways(self) -> tuple[Way, ...]:
        """How networks are made, on every split."""
        return tuple(Way(start=start, freeze=f) for start in self.begins for f in FREEZES)

    def recipe_of(self, freeze: Freeze) -> Recipe:
        """Return the recipe of a way: the epochs of the head alone are of the same budget."""
        assert isinstance(self.setting.recipe, Recipe)
        return self.setting.recipe.changed({"freeze": freeze})

    # --- The plan ------------------------------------------------------------------------------

    def plan(self, runs: Runs) -> None:
        """Ask for all runs, and add the comparisons that need them."""
        self.likenesses(runs, self.trained(runs))

    def trained(self, runs: Runs) -> Work:
        """Ask for the runs, one on each split; what was asked for before is the same again."""
        return {
            (data, way): tuple(
                Trained(
                    asked=asked,
                    split=split,
                    job=runs.add(asked, name=f"{data}, {way}, {_of(split)}"),
                )
                for split in self.setting.splits
                for asked in [self.ask(images, self.begins[way.start], split, freeze=way.freeze)]
            )
            for data, images in self.setting.sets.items()
            for way in self.ways
        }

    def ask(
        self, images: Images, start: starts.Start, split: Split, *, freeze: Freeze = "all"
    ) -> Asked:
        """Ask for one run."""
        return self.setting.ask(
            images,
            network=self.network,
            start=start,
            split=split,
            recipe=self.recipe_of(freeze),
        )

    def held(self) -> Iterator[Held]:
        """Name what is held against what."""
        first, second = self.randoms[:2]
        names = [*self.source, first]  # more random networks would be held against more of the same
        for name in names:
            for freeze in FREEZES:
                yield Held(kind="tuned", a=name, b=name, freeze=freeze)
            yield Held(kind="recipes", a=name, b=name)
            # A random start is held against another one, for its own is what "tuned" has.
            yield Held(kind="random", a=name, b=second if name == first else first)
        for a, b in itertools.combinations(names, 2):
            yield Held(kind="ends", a=a, b=b)
            yield Held(kind="starts", a=a, b=b)
        yield Held(kind="ends", a=first, b=second)
        for seed in range(NULL_SEEDS):
            yield Held(kind="null", a=f"random:{seed}", b=f"random:{(seed + 1) % NULL_SEEDS}")

    def likenesses(self, runs: Runs, work: Work) -> Likenesses:
        """Have networks compared on the test pictures of each split, all pairs of a split in one job."""
        found: dict[tuple[str, Held], tuple[Job, ...]] = {}
        for data, images in self.setting.sets.items():
            jobs = []
            for i, split in enumerate(self.setting.splits):
                asked = work[data, self.ways[0]][i].asked
                jobs.append(
                    plan_likeness(
                        runs,
                        {
                            str(held): self._sides(held, asked, work, data, i)
                            for held in self.held()
                        },
                        images=images,
                        rows=asked.fold.test,
                        px=asked.px,
                        name=f"{data}, networks compared, {_of(split)}",
                        layers=list(self.layers) or None,
                        with_cca=True,
                    )
                )
            found |= {(data, held): tuple(jobs) for held in self.held()}
        return found

    def _sides(self, held: Held, asked: Asked, work: Work, data: str, i: int) -> tuple[Side, Side]:
        def begins(name: str) -> Side:
            start = self.begins.get(name) or starts.parse(name)
            return Side(begins=replace(asked, start=start))

        def ends(name: str, freeze: Freeze = "all") -> Side:
            return Side(run=work[data, Way(start=name, freeze=freeze)][i].job)

        match held.kind:
            case "tuned":
                return begins(held.a), ends(held.a, held.freeze)
            case "ends":
                return ends(held.a), ends(held.b)
            case "recipes":
                return ends(held.a), ends(held.a, "head-then-all")
            case "random":
                return ends(held.a), begins(held.b)
            case _:
                return begins(held.a), begins(held.b)

    def answer(self, done: Done) -> Answer:
        """Measure what was done, and say what it means."""
        from histofast.studies.drift.answers import answer_of_drift
        from histofast.studies.drift.found import found_of

        return answer_of_drift(self, found_of(self, done))


def _of(split: Split) -> str:
    return f"seed {split.seed}, fold {split.fold}"
