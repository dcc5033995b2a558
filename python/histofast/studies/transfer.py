"""What one data set teaches another: networks trained on one set of pictures, then on the next.

For each start S, source A and target B, on the same splits and with one recipe:

    S -> B          the baseline
    S -> A -> B     what A teaches; S -> A is the baseline of A, trained once
    S -> B -> B     as many epochs on the target's own pictures: what training longer alone does

So source and target, the diagonal and the rest have one optimiser and one number of epochs. Reference: HistoKT
(Zhang et al., 2021), which trained its baselines with another optimiser and schedule than its transfers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from histofast._words import did_you_mean
from histofast.classify import Asked, Recipe, Runs
from histofast.comparison import MIN_IMAGES
from histofast.datasets import Images
from histofast.jobs import Job
from histofast.learning import check_metric
from histofast.networks import starts
from histofast.report import Answer
from histofast.studies.likeness import START_AND_END, Side, plan_likeness
from histofast.studies.lines import plan_line
from histofast.studies.maps import methods as map_methods
from histofast.studies.maps import plan_map
from histofast.studies.pictures import Done, PictureSetting, Split
from histofast.studies.scoring import plan_scores
from histofast.studies.transfer_answers import Made, answer_of_transfer
from histofast.studies.transfer_found import Mapped, Pair, Way, found_of

_PLAIN = "mean"  # method of merging that others are held against


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A run of the study: what was asked for, on which split, and its job."""

    asked: Asked
    split: Split
    job: Job


Ways = Mapping[Way, tuple[Trained, ...]]


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What one data set teaches another, see the module.

    Attributes:
        setting: of all studies of pictures; two data sets or more, three for `merge`.
        network: that is trained.
        start: what it begins with, each with a matrix of its own.
        merge: methods of merging the networks of all other sets before the target is trained, as in the
            start `merge:METHOD:...`; the plain mean is always among them.
        head_only: whether the head alone is trained on each target as well.
        scores: whether networks are scored on a target's training pictures before they are trained on it,
            and the scores held against what came of it.
        ranks: whether all runs measure the ranks of their layers at the start and after every epoch. That
            takes what 120 pictures of 64 px take a ResNet18 in training, 26 a DenseNet121, every epoch; a
            run that was made without is made anew.
        maps: whether all sets' test pictures are laid flat by the features of each start, and of what became
            of it on each target, on the first split; by t-SNE, and by UMAP where that is installed.

    Raises:
        ModelError: no such network; a start that cannot be of it.
        TypeError, ValueError: a start or a method that is none, or twice; too few data sets; a metric
            that one of them lacks; `head_only` with a recipe that trains nothing else; `scores` with a
            set whose pictures have several labels.
        ModuleNotFoundError: `maps` without scikit-learn.
    """

    setting: PictureSetting
    network: str
    start: Sequence[starts.AnyStart] = ("random",)
    merge: Sequence[str] = ()
    head_only: bool = False
    scores: bool = False
    ranks: bool = False
    maps: bool = False

    def __post_init__(self) -> None:
        if not self.start:
            raise ValueError("start must be at least one, got none: random, or a file of weights")
        for begun in self.begins.values():
            starts.network_of(self.network, begun)
        n = len(self.setting.sets)
        if n < 2:
            raise ValueError(
                "data must have two sets of pictures or more, a source and a target, got 1"
            )
        if self.merges and n < 3:
            raise ValueError(
                f"merge must be of two or more networks, got data of {n} sets, which leave "
                f"{n - 1} for a target: add a set, or leave it out"
            )
        for images in self.setting.sets.values():
            check_metric("metric", self.setting.metric, task=images.task)
        labelled = [n for n, s in self.setting.sets.items() if s.task != "classification"]
        if self.scores and labelled:
            raise ValueError(
                "scores must be of sets with one class a picture, got several labels in "
                f"{', '.join(labelled)}: leave them out"
            )
        if self.maps:
            map_methods()
        if self.head_only and self.recipe.freeze == "head":
            raise ValueError(
                "head_only must be left out of a recipe that trains nothing but the head"
            )

    @property
    def name(self) -> str:
        """Of the command, and of the JSON file."""
        return "transfer"

    @property
    def layer_metrics(self) -> bool:
        """Whether runs measure the ranks of their layers."""
        return self.ranks

    @property
    def recipe(self) -> Recipe:
        """Of all runs."""
        assert isinstance(self.setting.recipe, Recipe)
        return self.setting.recipe

    @cached_property
    def begins(self) -> Mapping[str, starts.Start]:
        """The starts by name: a file is called without its folder and suffix."""
        found: dict[str, starts.Start] = {}
        for text in self.start:
            begun = starts.parse(text)
            name = Path(begun.path).stem if isinstance(begun, starts.File) else str(begun)
            if name in found:
                raise ValueError(f"start must name each once, got {name} twice")
            found[name] = begun
        return found

    @cached_property
    def merges(self) -> Mapping[str, starts.Merge]:
        """The methods of merging by name, without their parts; the plain mean first."""
        asked = [_PLAIN, *self.merge] if self.merge else []
        return {text: _merge_of(text) for text in asked}

    def plan(self, runs: Runs) -> None:
        """Ask for all runs, and add the jobs that need them."""
        trained = self.trained(runs)
        self.likenesses(runs, trained)
        self.lines(runs, trained)
        self.scorings(runs, trained)
        self.mapped(runs, trained)

    def answer(self, done: Done) -> Answer:
        """Measure what was done, and say what it means."""
        trained = self.trained(done.runs)
        found = found_of(
            self.setting,
            done,
            network=self.network,
            starts=list(self.begins),
            trained={way: [one.job for one in made] for way, made in trained.items()},
            likenesses=self.likenesses(done.runs, trained),
            lines=self.lines(done.runs, trained),
            scores=self.scorings(done.runs, trained),
            maps=self.mapped(done.runs, trained),
            with_ranks=self.ranks,
        )
        return answer_of_transfer(found, setting=self.setting, runs=self._made(trained))

    # --- The plan ------------------------------------------------------------------------------

    def ways(self) -> list[Way]:
        """Return all ways of training, each behind those that it starts from."""
        sets = list(self.setting.sets)
        found = []
        for start in self.begins:
            found += [Way(start=start, target=target) for target in sets]
            pairs = itertools.product(sets, sets)
            found += [Way(start=start, source=source, target=target) for source, target in pairs]
            merged = itertools.product(self.merges, sets)
            found += [Way(start=start, merge=method, target=target) for method, target in merged]
        heads = [way for way in found if not way.merge and way.source != way.target]
        return found + [replace(way, head=True) for way in heads if self.head_only]

    def trained(self, runs: Runs) -> Ways:
        """Ask for the runs of all ways, one on each split; what was asked for before is the same again.

        Raises:
            ValueError: two data sets share pictures.
        """
        _refuse_shared(self.setting.sets, runs)
        found: dict[Way, tuple[Trained, ...]] = {}
        for way in self.ways():
            made = []
            for i, split in enumerate(self.setting.splits):
                asked = self._asked(way, split, self._start_of(way, i, found))
                job = runs.add(asked, name=_called(way, split))
                made.append(Trained(asked=asked, split=split, job=job))
            found[way] = tuple(made)
        return found

    def likenesses(self, runs: Runs, trained: Ways) -> Mapping[Way, list[Job]]:
        """Ask how alike the network before and after training on the target is, on its test pictures."""
        return {
            way: [
                plan_likeness(
                    runs,
                    {START_AND_END: (Side(begins=one.asked), Side(run=one.job))},
                    images=one.asked.images,
                    rows=one.asked.fold.test,
                    px=one.asked.px,
                    name=f"{one.job.name}: start and end compared",
                )
                for one in made
            ]
            for way, made in trained.items()
            if not (way.merge or way.head) and all(_can_be_compared(one) for one in made)
        }

    def lines(self, runs: Runs, trained: Ways) -> Mapping[Pair, list[Job]]:
        """Ask for the loss between the networks of one target that come of two sources, where merges are."""
        if not self.merges:
            return {}
        found: dict[Pair, list[Job]] = {}
        for start, target in itertools.product(self.begins, self.setting.sets):
            others = [name for name in self.setting.sets if name != target]
            for pair in itertools.combinations(others, 2):
                ends = [trained[Way(start=start, source=s, target=target)] for s in pair]
                found[Pair(start=start, target=target, sources=pair)] = [
                    plan_line(
                        runs,
                        a.job,
                        b.job,
                        asked=a.asked,
                        device=self.setting.device,
                        name=f"between {a.job.name} and {pair[1]}",
                    )
                    for a, b in zip(*ends, strict=True)
                ]
        return found

    def scorings(self, runs: Runs, trained: Ways) -> Mapping[Way, list[Job]]:
        """Ask what networks promise of a target before they are trained on it, where that is asked for."""
        found: dict[Way, list[Job]] = {}
        for way, made in trained.items() if self.scores else ():
            if way.merge or way.head or way.source == way.target:
                continue
            sources = trained[Way(start=way.start, target=way.source or way.target)]
            found[way] = [
                plan_scores(
                    runs,
                    Side(run=source.job) if way.source else Side(begins=one.asked),
                    asked=one.asked,
                    device=self.setting.device,
                    name=f"{one.job.name}: scored before",
                )
                for one, source in zip(made, sources, strict=True)
            ]
        return found

    def mapped(self, runs: Runs, trained: Ways) -> Mapping[Mapped, Job]:
        """Ask for maps of features of the first split, before and after each target, where that is asked for."""
        found: dict[Mapped, Job] = {}
        for start in self.begins if self.maps else ():
            direct = {name: trained[Way(start=start, target=name)][0] for name in self.setting.sets}
            sides = {Way(start=start): Side(begins=next(iter(direct.values())).asked)}
            sides |= {
                Way(start=start, target=name): Side(run=one.job) for name, one in direct.items()
            }
            for (way, side), method in itertools.product(sides.items(), map_methods()):
                found[Mapped(way=way, method=method)] = plan_map(
                    runs,
                    side,
                    shown={name: one.asked for name, one in direct.items()},
                    method=method,
                    device=self.setting.device,
                    name=f"{way}: map of features by {method}",
                )
        return found

    def _asked(self, way: Way, split: Split, start: starts.Start) -> Asked:
        try:
            return self.setting.ask(
                self.setting.sets[way.target],
                network=starts.network_of(self.network, self.begins[way.start]),
                start=start,
                split=split,
                recipe=self.recipe.changed({"freeze": "head"}) if way.head else self.recipe,
            )
        except ValueError as error:  # several sets are at hand
            raise ValueError(f"{error} (of {way.target})") from None

    def _start_of(self, way: Way, split: int, trained: Ways) -> starts.Start:
        """Return what the run of a way begins with on a split."""

        def ended(name: str) -> starts.Run:
            return starts.Run(str(trained[Way(start=way.start, target=name)][split].job.folder))

        begun = self.begins[way.start]
        if way.merge:
            method = self.merges[way.merge]
            base = (begun,) if method.method in starts.ON_A_BASE else ()
            others = tuple(ended(name) for name in self.setting.sets if name != way.target)
            return replace(method, parts=base + others)
        return ended(way.source) if way.source else begun

    def _made(self, trained: Ways) -> list[Made]:
        """Return what the table of runs tells of each."""
        found = []
        for way, place, one in (
            (way, place, one) for way, made in trained.items() for place, one in enumerate(made)
        ):
            assert one.job.folder is not None
            found.append(
                Made(
                    way=way,
                    place=place,
                    seed=one.split.seed,
                    fold=one.split.fold,
                    folder=str(one.job.folder),
                    command=self.setting.command_of(one.asked, one.split, one.job.folder),
                )
            )
        return found


def _can_be_compared(one: Trained) -> bool:
    return len(one.asked.fold.test) >= MIN_IMAGES


def _called(way: Way, split: Split) -> str:
    return f"{way}, seed {split.seed}, fold {split.fold}"


def _merge_of(text: str) -> starts.Merge:
    method, _, rank = text.partition(":")
    known = [
        name for name in starts.METHODS if name != "greedy"
    ]  # it scores tasks, of which there are several
    needs = text.startswith("svd-")
    if method not in known or bool(rank) != needs:
        raise ValueError(
            f"merge must be one of {', '.join(known)}, svd- ones with a rank: svd-post:evbmf, got "
            f"{text!r}{did_you_mean(method, known)}"
        )
    found = starts.parse(f"merge:{text}:random+random+random")
    assert isinstance(found, starts.Merge)
    return found


def _refuse_shared(sets: Mapping[str, Images], runs: Runs) -> None:
    for (name, images), (other, others) in itertools.combinations(sets.items(), 2):
        common = set(runs.contents_of(images)) & set(runs.contents_of(others))
        if common:
            raise ValueError(
                f"data must be sets that share no picture, {name} and {other} have {len(common)} in "
                "common, and what tests one may have trained the other: leave one out"
            )
