"""What the runs of a transfer study are worth, and how they compare: numbers only."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from histofast.classify import EpochOfLayers, Run, steps_of_epoch
from histofast.comparison import Alike
from histofast.jobs import Job
from histofast.learning import (
    LOWER_IS_BETTER,
    Agreement,
    Difference,
    Metric,
    agreement_of_rankings,
    corrected_differences,
    corrected_interval,
    merit_elsewhere,
)
from histofast.studies.likeness import START_AND_END, read_likeness
from histofast.studies.lines import Line, read_line
from histofast.studies.maps import FeatureMap, read_map
from histofast.studies.pictures import Done, PictureSetting
from histofast.studies.scoring import read_scores
from histofast.transferability import SCORES

RANDOM = "random"
OTHER_TARGETS = "worth on the other targets"
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """A way of training a network for a target.

    Attributes:
        start: name of what came first of all.
        target: name of the set that it is trained on at last; "": on none, it is the start itself.
        source: of the set that it was trained on before; "": of none.
        merge: method by which networks of all other sets were merged before; "": none were.
        head: whether the head alone is trained on the target.
    """

    start: str
    target: str = ""
    source: str = ""
    merge: str = ""
    head: bool = False

    @property
    def is_direct(self) -> bool:
        """Whether the start itself is trained on the target."""
        return not (self.source or self.merge)

    def __str__(self) -> str:
        before = self.source or (f"{self.merge} of the others" if self.merge else "")
        path = ", ".join(part for part in (self.start, before, self.target) if part)
        return path + " (head only)" * self.head


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two ways to a target from one start, through two sources."""

    start: str
    target: str
    sources: tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mapped:
    """A network whose features were laid flat, and by which method."""

    way: Way
    method: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TransferFound:
    """Values of all runs, each of a split; NaN where a run failed or does not define the metric.

    Attributes:
        metric: of the pictures.
        network: that was trained.
        starts, sets: their names, in the order of asking.
        test_share: of the groups, that a split tests.
        test, validation: (n,) values of the metric over splits, by way.
        likenesses: of the network before and after training on the target, by way, a split each.
        lines: between the networks of two sources, a split each.
        scores: of networks on the target's training pictures, before they are trained on it, by way and
            name of the score, a split each.
        ranks: of the layers at the start and after every epoch on the target, by way, a split each; {}: not
            measured.
        maps: of the test pictures of all sets, on the first split.
        unmoved: runs whose layers before the head are as they began, as no later look at validation pictures
            was better; of those that train more than the head.
        failed: name and reason of jobs that could not be done.
        seconds: that the study took.
    """

    metric: str
    network: str
    starts: Sequence[str]
    sets: Sequence[str]
    test_share: float
    test: Mapping[Way, Values]
    validation: Mapping[Way, Values]
    likenesses: Mapping[Way, Sequence[Alike | None]] = field(default_factory=dict)
    lines: Mapping[Pair, Sequence[Line | None]] = field(default_factory=dict)
    scores: Mapping[Way, Sequence[Mapping[str, float] | None]] = field(default_factory=dict)
    ranks: Mapping[Way, Sequence[Sequence[EpochOfLayers] | None]] = field(default_factory=dict)
    maps: Mapping[Mapped, FeatureMap | None] = field(default_factory=dict)
    unmoved: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def splits(self) -> int:
        """Splits that each way was tried on."""
        return len(next(iter(self.test.values())))

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, else -1."""
        return -1 if self.metric in LOWER_IS_BETTER else 1

    @property
    def merges(self) -> list[str]:
        """Methods of merging."""
        return list(dict.fromkeys(way.merge for way in self.test if way.merge))

    def mean(self, values: Values, *, of: str | None = None) -> Metric:
        """Return the mean over splits with its corrected interval, `of` a metric within its range."""
        return corrected_interval(values, test_share=self.test_share, of=of)

    def cell(self, start: str, source: str, target: str) -> Way:
        """Return the way of a cell of a matrix."""
        return Way(start=start, source=source, target=target)

    # --- Comparisons, each set of them told together, after Holm ---------------------------------

    def against_direct(self, start: str) -> dict[Way, Difference]:
        """Return each cell less its target's baseline, of which the diagonal trained twice on the target."""
        return self._compared(
            {
                (way := self.cell(start, source, target)): (way, Way(start=start, target=target))
                for source, target in itertools.product(self.sets, self.sets)
            }
        )

    def against_own(self, start: str) -> dict[Way, Difference]:
        """Return each cell off the diagonal less the one on it: another source against the target itself."""
        return self._compared(
            {
                (way := self.cell(start, source, target)): (way, self.cell(start, target, target))
                for source, target in itertools.permutations(self.sets, 2)
            }
        )

    def against_random(self, start: str) -> dict[Way, Difference]:
        """Return what ways from a start are worth less the same from random weights; {} without these."""
        if start == RANDOM or RANDOM not in self.starts:
            return {}
        ways = [Way(start=start, target=target) for target in self.sets]
        ways += [self.cell(start, *pair) for pair in itertools.permutations(self.sets, 2)]
        return self._compared({way: (way, replace(way, start=RANDOM)) for way in ways})

    def head_against_all(self, start: str) -> dict[Way, Difference]:
        """Return what training the head alone is worth less training all layers; {} if not asked for."""
        heads = [way for way in self.test if way.head and way.start == start]
        return self._compared({way: (way, replace(way, head=False)) for way in heads})

    def single(self, start: str, target: str) -> tuple[Values, list[str]]:
        """Return (n,) test values of the source that validation pictures chose in each split, and its name.

        The name is "" where no source has a value.
        """
        sources = [name for name in self.sets if name != target]
        ways = [self.cell(start, source, target) for source in sources]
        seen = np.array([self.validation[way] for way in ways]) * self.sign
        tested = np.array([self.test[way] for way in ways])
        values, names = np.full(self.splits, np.nan), [""] * self.splits
        for i in range(self.splits):
            if not np.isnan(seen[:, i]).all():
                chosen = int(np.nanargmax(seen[:, i]))
                values[i], names[i] = tested[chosen, i], sources[chosen]
        return values, names

    def merged_against(self, start: str, what: str) -> dict[Way, Difference]:
        """Return merged networks less something: "single", the chosen source; "mean"; "direct".

        Those less the plain mean leave it out itself.
        """
        pairs: dict[Way, tuple[Values, Values]] = {}
        for way in self.test:
            if not way.merge or way.start != start or (what == "mean" == way.merge):
                continue
            if what == "single":
                other, _ = self.single(start, way.target)
            else:
                other = self.test[replace(way, merge="mean" if what == "mean" else "")]
            pairs[way] = self.test[way], other
        return corrected_differences(pairs, test_share=self.test_share)

    def _compared(self, pairs: Mapping[Way, tuple[Way, Way]]) -> dict[Way, Difference]:
        return corrected_differences(
            {name: (self.test[way], self.test[other]) for name, (way, other) in pairs.items()},
            test_share=self.test_share,
        )

    # --- Beside the values ------------------------------------------------------------------------

    def cka(self, way: Way) -> dict[str, Metric]:
        """Return how alike start and end are, by layer: mean over splits, and its corrected interval."""
        known = [one for one in self.likenesses.get(way, ()) if one is not None]
        if not known:
            return {}
        values = np.array([one.cka for one in known])
        return {layer: self.mean(values[:, k]) for k, layer in enumerate(known[0].layers)}

    def barriers(self, pair: Pair) -> Values:
        """Return (n,) how far the loss rises between the networks of two sources."""
        return np.array(
            [np.nan if line is None else line.barrier for line in self.lines[pair]], np.float64
        )

    def score(self, way: Way, name: str) -> float:
        """Return a score of a way before the target, the mean over splits; NaN where it is not known."""
        told = [one[name] for one in self.scores.get(way, ()) if one is not None]
        return _mean(np.array(told, np.float64))

    def agreements(self) -> dict[str, Agreement]:
        """Return how well each score ranks networks by what they were worth after training, over targets.

        Networks are all starts, by themselves and by every other set. With them goes the ranking that looks
        at no target: what each was worth on the other targets (`OTHER_TARGETS`).
        """
        if not self.scores:
            return {}
        columns = list(itertools.product(self.starts, ["", *self.sets]))
        ways = [
            [Way(start=start, source=source, target=target) for start, source in columns]
            for target in self.sets
        ]
        truth = np.array(
            [
                [self.sign * _mean(self.test[w]) if w in self.scores else np.nan for w in row]
                for row in ways
            ]
        )
        tables = {
            score.title: np.array([[self.score(way, name) for way in row] for row in ways])
            for name, score in SCORES.items()
        }
        tables[OTHER_TARGETS] = merit_elsewhere(truth)
        return {title: agreement_of_rankings(table, truth) for title, table in tables.items()}


def _mean(values: Values) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def found_of(
    setting: PictureSetting,
    done: Done,
    *,
    network: str,
    starts: Sequence[str],
    trained: Mapping[Way, Sequence[Job]],
    likenesses: Mapping[Way, Sequence[Job]],
    lines: Mapping[Pair, Sequence[Job]],
    scores: Mapping[Way, Sequence[Job]],
    maps: Mapping[Mapped, Job],
    with_ranks: bool,
) -> TransferFound:
    """Read what the jobs of a study left; ranks of layers where runs have measured them.

    Raises:
        ModelError: a file that was changed since.
    """
    return TransferFound(
        metric=setting.metric,
        network=network,
        starts=starts,
        sets=list(setting.sets),
        test_share=setting.test_share,
        test={way: done.values(work, setting.metric) for way, work in trained.items()},
        validation={
            way: done.values(work, setting.metric, part="validation")
            for way, work in trained.items()
        },
        likenesses={
            way: [read_likeness(job).get(START_AND_END) for job in work]
            for way, work in likenesses.items()
        },
        lines={
            pair: [None if job.name in done.failed else read_line(job) for job in work]
            for pair, work in lines.items()
        },
        scores={
            way: [None if job.name in done.failed else read_scores(job) for job in work]
            for way, work in scores.items()
        },
        ranks={
            way: [None if (run := done.run(job)) is None else run.layers() for job in work]
            for way, work in trained.items()
            if with_ranks
        },
        maps={
            which: None if job.name in done.failed else read_map(job) for which, job in maps.items()
        },
        unmoved=sum(_is_unmoved(run) for work in trained.values() for run in map(done.run, work)),
        failed=done.failed,
        seconds=done.seconds,
    )


def _is_unmoved(run: Run | None) -> bool:
    """Whether the weights that a run kept are from before anything but its head was trained."""
    if run is None or run.recipe.freeze == "head":
        return False
    epochs = run.recipe.head_epochs if run.recipe.freeze == "head-then-all" else 0
    steps = epochs * steps_of_epoch(len(run.fold.train), run.recipe.batch_size)
    return bool(run.metrics()["best_step"] <= steps)
