"""How two networks are compared: checked once, then handed on as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from histofast._numbers import real_number, whole_number
from histofast.comparison.gram_sums import KERNELS
from histofast.comparison.source import Mode
from histofast.comparison.spatial import BY_CHANNELS
from histofast.similarity import MEASURES, Measure, names_of


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions:
    """How `compare` is to compare; its docstring explains each.

    Raises:
        TypeError, ValueError: an option of the wrong type, out of range, or at odds with another.
    """

    mode: Mode
    measure: str
    preset: str | None
    batch_size: int
    resamples: int
    permutations: int | None
    random_seeds: int
    confidence: float
    seed: int

    def __post_init__(self) -> None:
        check_one_of("mode", self.mode, get_args(Mode))
        check_one_of("measure", self.measure, names_of("rows", "pooled rows"))
        if self.preset is not None:
            check_one_of("preset", self.preset, (*names_of("maps"), None))
        elif self.mode not in self._modes():
            raise ValueError(
                f"mode must be {' or '.join(self._modes())} for {self.measure}, got {self.mode!r}"
                + self._why_not()
            )
        if self.permutations is None:
            object.__setattr__(self, "permutations", 9 if self.mode == "spatial" else 99)
        for name, least in (
            ("batch_size", 8),
            ("resamples", 0),
            ("permutations", 0),
            ("random_seeds", 0),
        ):
            number = whole_number(name, getattr(self, name), at_least=least)
            object.__setattr__(self, name, number)
        object.__setattr__(self, "confidence", real_number("confidence", self.confidence))
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be in 0..1, got {self.confidence:g}")

    @property
    def entry(self) -> Measure:
        """What is computed, in the table of measures."""
        return MEASURES[self.preset or self.measure]

    @property
    def is_summed(self) -> bool:
        """Whether it is added up over batches, so that maps of any width can be compared."""
        return self.entry.name in KERNELS

    def _modes(self) -> tuple[str, ...]:
        if self.measure == BY_CHANNELS.name:
            return get_args(Mode)
        return ("flatten", "pool") if self.measure in KERNELS else ("pool",)

    def _why_not(self) -> str:
        if MEASURES[self.measure].needs == "pooled rows":
            return ": of whole maps it would need more images than numbers in a map"
        return ""


def check_one_of(name: str, value: object, choices: tuple[str | None, ...]) -> None:
    """Refuse what is none of some choices."""
    if value not in choices:
        *first, last = (str(choice) for choice in choices)
        raise ValueError(f"{name} must be {', '.join(first)} or {last}, got {value!r}")
