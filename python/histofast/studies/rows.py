"""What a study found: one row per cut of a network, per network and per baseline, and how it was done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["truncation", "networks"]

_COLUMNS = (
    *("name", "network", "layer", "depth", "d", "value", "low", "high"),
    *("difference", "difference_low", "difference_high", "patches_per_s", "size_bytes"),
    *("baseline", "chosen", "notes"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A row's value less the best row's, both on the same resamples of patients.

    Attributes:
        difference: NaN: undefined.
        low, high: bounds of its interval; NaN: undefined.
    """

    difference: float
    low: float
    high: float

    @property
    def reaches_zero(self) -> bool:
        """Whether the interval holds 0: then the two cannot be told apart."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRow:
    """One cut of a network, one network, or one baseline.

    Attributes:
        name: what it is called in charts and sentences; no two rows have the same.
        network, layer: whose features these are, and of which layer.
        depth: share of the whole network's operations (FLOPs) up to there, 0..1; None: not known.
        d: width of the features.
        value: of the study's metric; NaN: undefined.
        low, high: bounds of its interval; NaN: there is none.
        patches_per_s: measured; None: not measured.
        size_bytes: of the encoder's file; None: not known.
        baseline: not part of the question, but what its answers are held against.
        versus_best: paired difference to the best row; None: it is the best, or not computed.
        chosen: the cheapest whose difference to the best has an interval that reaches 0.
        notes: anything a reader should know of this row, in words; "": nothing.
        extra: what else was measured, by name in words; NaN: undefined.
    """

    name: str
    network: str
    layer: str
    depth: float | None
    d: int
    value: float
    low: float
    high: float
    patches_per_s: float | None
    size_bytes: int | None
    baseline: bool = False
    versus_best: Difference | None = None
    chosen: bool = False
    notes: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_defined(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether there is a value with both bounds."""
        return not math.isnan(self.value + self.low + self.high)

    def _check(self) -> None:
        named = f"of row {self.name!r}"
        numbers = [self.value, self.low, self.high, *self.extra.values()]
        if self.versus_best is not None:
            best = self.versus_best
            numbers += [best.difference, best.low, best.high]
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
        n_slides, n_patients, folds: what they were measured on.
        convention: everything that decides the numbers, in words.
        commands: (what it does, shell command), in order.
        chance: the metric of guessing; None: there is no such number.
        remarks: sentences of the study's own, said after those that follow from the rows.

    Raises:
        ValueError: no rows, two of one name, two chosen, a chosen baseline, numbers out of range.
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
        for row in self.rows:
            row._check()

    @property
    def candidates(self) -> tuple[StudyRow, ...]:
        """The rows that are no baselines."""
        return tuple(row for row in self.rows if not row.baseline)

    @property
    def baselines(self) -> tuple[StudyRow, ...]:
        """The rows that are baselines."""
        return tuple(row for row in self.rows if row.baseline)

    @property
    def best(self) -> StudyRow | None:
        """The candidate of the best value, the first of equals; None: no value is defined."""
        defined = [row for row in self.candidates if row.is_defined]
        return max(defined, key=lambda row: self.goodness(row.value)) if defined else None

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
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["rows"] = [
            {
                **{name: getattr(row, name) for name in row.__dataclass_fields__},
                "versus_best": None
                if row.versus_best is None
                else {
                    name: getattr(row.versus_best, name)
                    for name in row.versus_best.__dataclass_fields__
                },
                "extra": dict(row.extra),
            }
            for row in self.rows
        ]
        return values | {"convention": dict(self.convention)}
