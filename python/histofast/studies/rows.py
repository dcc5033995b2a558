"""What a study found: one row per cut of a network, per network and per baseline, and how it was done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from typing import Any, Literal, get_args

from histofast.learning import Difference, Knee, Metric, wider

Kind = Literal["truncation", "networks"]

_COLUMNS = (
    *("name", "network", "layer", "depth", "d", "value", "low", "high"),
    *("patients_value", "patients_low", "patients_high", "difference", "difference_low"),
    *("difference_high", "p_adjusted", "spread_low", "spread_high", "patches_per_s", "size_bytes"),
    *("baseline", "chosen", "pool", "notes"),
)
_NONE = Metric(value=math.nan, low=math.nan, high=math.nan)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRow:
    """One cut of a network, one network, or one baseline.

    Attributes:
        name: what it is called in charts and sentences; no two rows have the same.
        network, layer: whose features these are, and of which layer.
        depth: share of the whole network's operations (FLOPs) up to there, 0..1; None: not known.
        d: width of the features.
        method: the study's metric, mean over folds and repeats, with the interval of this way of making
            models: folds and seeds vary; NaN: undefined, or no interval.
        patients: the metric of these very models, ranks compared within each, with the interval over
            patients; NaN likewise.
        patches_per_s: measured; None: not measured.
        size_bytes: of the encoder's file; None: not known.
        baseline: not part of the question, but what its answers are held against.
        versus: difference to the highest row on the same folds and seeds, adjusted for the number of
            comparisons; None: it is the highest, or not compared.
        spread: smallest and largest of several networks with random weights, whose mean `method` is.
        seeds: how many these are.
        chosen: the cheapest that is shown to be about as good as the highest.
        block, pool: of a cut of a vision transformer, after which block, with its last norm or not, and by
            which tokens; "": another one.
        notes: anything a reader should know of this row, in words; "": nothing.
        extra: what else was measured, by name in words; NaN: undefined.
    """

    name: str
    network: str
    layer: str
    depth: float | None
    d: int = 1
    method: Metric = _NONE
    patients: Metric = _NONE
    patches_per_s: float | None = None
    size_bytes: int | None = None
    baseline: bool = False
    versus: Difference | None = None
    spread: tuple[float, float] | None = None
    seeds: int = 0
    chosen: bool = False
    block: str = ""
    pool: str = ""
    notes: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The metric, mean over folds and repeats."""
        return self.method.value

    @property
    def interval(self) -> Metric:
        """The wider of the two intervals, which is what a sentence may claim."""
        return wider(self.method, self.patients)

    @property
    def is_defined(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether there is a value with both bounds."""
        return not math.isnan(self.value + self.interval.low + self.interval.high)

    def _check(self) -> None:
        named = f"of row {self.name!r}"
        numbers = [*self.extra.values(), *(self.spread or ())]
        numbers += [*astuple(self.method), *astuple(self.patients)]
        if self.versus is not None:
            numbers += astuple(self.versus)
        for number in numbers:
            if math.isinf(number):
                raise ValueError(f"numbers {named} must be finite or NaN, got {number}")
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise ValueError(f"depth {named} must be in [0, 1] or None, got {self.depth}")
        for what, measured in (
            ("patches_per_s", self.patches_per_s),
            ("size_bytes", self.size_bytes),
        ):
            if measured is not None and not 0 < measured < math.inf:
                raise ValueError(f"{what} {named} must be positive or None, got {measured}")
        clash = sorted(set(self.extra) & set(_COLUMNS))
        if clash:
            raise ValueError(f"extra {named} must not be called as a column is, got {clash[0]!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolDifference:
    """By how much a row is above another of the same network and block, which is pooled in another way.

    `row` and `other` are their names, `difference` that of the first less the second, fold by fold, after
    Holm over all such pairs of a study.
    """

    row: str
    other: str
    difference: Difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Rows measured on the same slides, with what is needed to read and to repeat them.

    Attributes:
        kind: "truncation": rows are cuts of networks; "networks": rows are networks.
        title: a few words.
        question: one sentence.
        metric: what `value` of the rows is: "AUROC".
        higher_is_better: whether more of it is better.
        confidence: of all intervals.
        rows: at least one, of which at most one is chosen; cuts from pixels to the end.
        n_slides, n_patients, folds: what they were measured on; folds of each repeat.
        repeats: of the cross-validation, each with folds and seeds of its own.
        unit: what patients are: "slide" where patients are not known.
        pools: ways of pooling held against each other, block by block.
        knee: the choice, and what it would take where none can be made; None: not asked.
        convention: everything that decides the numbers, in words.
        commands: (what it does, shell command), in order.
        chance: the metric of guessing; None: there is no such number.
        remarks: sentences of the study's own, said after those that follow from the rows.

    Raises:
        ValueError: no rows, two of one name, two chosen, a chosen baseline, a choice that is not the
            knee's or was not compared with the highest, numbers out of range.
    """

    kind: Kind
    title: str
    question: str
    metric: str
    higher_is_better: bool
    confidence: float
    rows: tuple[StudyRow, ...]
    n_slides: int
    n_patients: int
    folds: int
    convention: Mapping[str, str]
    commands: tuple[tuple[str, str], ...]
    chance: float | None = None
    remarks: tuple[str, ...] = ()
    repeats: int = 1
    unit: Literal["patient", "slide"] = "patient"
    pools: tuple[PoolDifference, ...] = ()
    knee: Knee | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        if not self.rows:
            raise ValueError("rows must not be empty, got none")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, got {self.confidence}")
        names = [row.name for row in self.rows]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"names of rows must differ, got {name!r} twice")
        chosen = [row for row in self.rows if row.chosen]
        if len(chosen) > 1:
            raise ValueError(
                f"at most one row can be chosen, got {chosen[0].name!r} and {chosen[1].name!r}"
            )
        if chosen and chosen[0].baseline:
            raise ValueError(f"a baseline cannot be chosen, got {chosen[0].name!r}")
        if self.chance is not None and not math.isfinite(self.chance):
            raise ValueError(f"chance must be finite or None, got {self.chance}")
        for row in self.rows:
            row._check()
        for pair in self.pools:
            for name in (pair.row, pair.other):
                if name not in names:
                    raise ValueError(f"pools must be of rows, got {name!r}")
        self._check_choice()

    def _check_choice(self) -> None:
        row = self.chosen
        if self.knee is not None and self.knee.name != (row.name if row else None):
            got = f"got {self.knee.name!r} and {row.name!r}" if row else f"got {self.knee.name!r}"
            raise ValueError(f"knee must name the chosen row, or None where none is, {got}")
        if row is not None and row is not self.highest and row.versus is None:
            raise ValueError(
                f"the chosen row must have a difference to the highest, got none for {row.name!r}"
            )

    @property
    def candidates(self) -> tuple[StudyRow, ...]:
        """The rows that are no baselines."""
        return tuple(row for row in self.rows if not row.baseline)

    @property
    def baselines(self) -> tuple[StudyRow, ...]:
        """The rows that are baselines."""
        return tuple(row for row in self.rows if row.baseline)

    @property
    def highest(self) -> StudyRow | None:
        """The candidate of the highest value, or the lowest where lower is better; None: none is defined.

        Of equal ones it is that which the others were held against.
        """
        defined = [row for row in self.candidates if row.is_defined]
        return max(
            defined,
            key=lambda row: (self.goodness(row.value), row.versus is None),
            default=None,
        )

    @property
    def chosen(self) -> StudyRow | None:
        """The row that is chosen; None: none is."""
        return next((row for row in self.rows if row.chosen), None)

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks of the candidates, in order."""
        return tuple(dict.fromkeys(row.network for row in self.candidates))

    @property
    def extras(self) -> tuple[str, ...]:
        """What else was measured, on any row, in order."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.extra))

    def goodness(self, value: float) -> float:
        """Return a value, or a difference, so that more is better."""
        return value if self.higher_is_better else -value

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return asdict(self)
