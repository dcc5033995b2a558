"""What a comparison found, in words: fixed rules, so that equal numbers give equal sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from histofast._words import count
from histofast.learning import LEAST_GROUPS
from histofast.report import number, percent
from histofast.similarity import Comparison

NEARLY_SAME = 0.95
_FEW_GROUPS = 10  # fewer slides than this carry no interval worth its name
_LEAST_SEEDS = 5  # of random networks whose range something may be above or below
_SHOWN_RUNS = 5  # of layers in one sentence

Verdict = Literal["undefined", "chance", "same", "changed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One layer of the diagonal, and all that is known of it.

    Attributes:
        name: of the layer; of both where they differ.
        value: its similarity; NaN: undefined.
        low, high: bounds of its interval.
        permuted: what shuffled images give.
        random: the most that randomly initialised networks give. None in these four: not known.
        random_least: the least that they give.
        random_seeds: how many they are.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    permuted: float | None
    random: float | None
    random_least: float | None = None
    random_seeds: int = 0

    @property
    def verdict(self) -> Verdict:
        """What the numbers say; chance is ruled out before anything else is believed."""
        if math.isnan(self.value):
            return "undefined"
        if self.permuted is not None and self.least <= self.permuted:
            return "chance"
        return "same" if self.value >= NEARLY_SAME else "changed"

    @property
    def least(self) -> float:
        """The lower bound, or the value itself where there is no interval."""
        return self.value if self.low is None else self.low

    @property
    def most(self) -> float:
        """The upper bound, or the value itself where there is no interval."""
        return self.value if self.high is None else self.high

    @property
    def side_of_random(self) -> Literal["above", "below", "level with"] | None:
        """Where the interval lies to all that random networks give; None: too little to say."""
        if self.low is None or self.random is None or self.random_seeds < _LEAST_SEEDS:
            return None
        if self.least > self.random:
            return "above"
        least = self.random if self.random_least is None else self.random_least
        return "below" if self.most < least else "level with"


def pairs_of(comparison: Comparison) -> tuple[Pair, ...]:
    """Return the diagonal, in order."""
    between = comparison.random_range
    least, most = (None, None) if between is None else between
    low, high, permuted, random, random_least = (
        _known(array, len(comparison.pairs))
        for array in (comparison.low, comparison.high, comparison.permuted, most, least)
    )
    names = [
        comparison.names_a[i]
        if comparison.names_a[i] == comparison.names_b[j]
        else f"{comparison.names_a[i]} / {comparison.names_b[j]}"
        for i, j in comparison.pairs
    ]
    return tuple(
        Pair(
            name=name,
            value=float(comparison.diagonal[k]),
            low=low[k],
            high=high[k],
            permuted=permuted[k],
            random=random[k],
            random_least=random_least[k],
            random_seeds=0 if comparison.random is None else len(comparison.random),
        )
        for k, name in enumerate(names)
    )


def _known(array: NDArray[np.float64] | None, k: int) -> list[float | None]:
    if array is None:
        return [None] * k
    return [None if math.isnan(value) else float(value) for value in array]


def is_one_set(comparison: Comparison) -> bool:
    """Whether one row of encoders is compared with itself: then nothing is paired with itself.

    Two networks with the same layers are not: there each layer is paired with its namesake.
    """
    return comparison.names_a == comparison.names_b and all(i != j for i, j in comparison.pairs)


def words_of(verdict: Verdict, *, one_set: bool) -> str:
    """Write a verdict; encoders that differ have not changed."""
    return {
        "undefined": "undefined",
        "chance": "not told from shuffled images",
        "same": "nearly the same",
        "changed": "different" if one_set else "changed",
    }[verdict]


def title_of(comparison: Comparison) -> str:
    """Return what was compared, in a few words."""
    if is_one_set(comparison):
        return count(len(comparison.names_a), "encoder", "encoders")
    return f"{comparison.label_a} and {comparison.label_b}"


def basis_of(comparison: Comparison) -> str:
    """Return on what it was compared."""
    images = count(comparison.n, "image", "images")
    return f"{images} of {count(comparison.groups, 'slide or patient', 'slides or patients')}"


def describe_comparison(comparison: Comparison) -> tuple[str, ...]:
    """Return what a comparison found, as sentences; the same numbers give the same words.

    Layers of at least 0.95 are called nearly the same, unless their interval reaches what shuffled
    images give: those are said to be indistinguishable from it.
    """
    pairs = pairs_of(comparison)
    if is_one_set(comparison):
        return (
            *_extremes(comparison),
            *_chance(pairs, "pair"),
            *_undefined_cells(comparison),
            *(_missing(comparison) if pairs else ()),
        )
    if not pairs:
        said = "No layer has the same name in both."
        return (said, *_extremes(comparison), *_undefined_cells(comparison))
    return (
        *_same(comparison, pairs),
        *_most_changed(comparison, pairs),
        *_chance(pairs, "layer"),
        *_no_closer_than_random(comparison, pairs),
        *_undefined(comparison, pairs),
        *_undefined_cells(comparison),
        *_missing(comparison),
    )


def _same(comparison: Comparison, pairs: Sequence[Pair]) -> list[str]:
    same = [i for i, pair in enumerate(pairs) if pair.verdict == "same"]
    bar = f"{comparison.measure} of at least {NEARLY_SAME:g}"
    if not same:
        return [f"No layer is nearly the same in both ({bar})."]
    lowest = min(pairs[i].value for i in same)
    if len(same) < len(pairs):
        return [f"{_named(pairs, same)} nearly the same ({bar})."]
    if number(lowest) == number(1):
        return [f"{_all(pairs)} the same: {comparison.measure} is {number(1)} throughout."]
    return [f"{_all(pairs)} nearly the same: {comparison.measure} is at least {number(lowest)}."]


def _most_changed(comparison: Comparison, pairs: Sequence[Pair]) -> list[str]:
    defined = [pair for pair in pairs if not math.isnan(pair.value)]
    if not defined:
        return []
    pair = min(defined, key=lambda pair: pair.value)
    if pair.verdict == "same":
        return []
    text = f"Most changed is {pair.name} ({number(pair.value)}"
    if pair.low is not None and pair.high is not None:
        interval = f"{percent(comparison.confidence)} interval {number(pair.low)} to"
        text += f", {interval} {number(pair.high)}"
    against = []
    if pair.permuted is not None:
        side = "within" if pair.verdict == "chance" else "beside" if pair.low is None else "above"
        against.append(f"{side} what shuffled images give ({number(pair.permuted)})")
    if pair.random is not None:
        against.append(f"{pair.side_of_random or 'beside'} what {_random_networks(pair)}")
    return [f"{text}){': ' if against else ''}{' and '.join(against)}."]


def _random_networks(pair: Pair) -> str:
    assert pair.random is not None
    if pair.random_seeds <= 1 or pair.random_least is None:
        return f"a randomly initialised network gives ({number(pair.random)})"
    least, most = number(pair.random_least), number(pair.random)
    between = most if least == most else f"{least} to {most}"
    return f"{pair.random_seeds} randomly initialised networks give ({between})"


def _chance(pairs: Sequence[Pair], noun: str) -> list[str]:
    found = [i for i, pair in enumerate(pairs) if pair.verdict == "chance"]
    if not found:
        return []
    why = "the interval reaches" if pairs[found[0]].low is not None else "the value is within"
    shuffled = f"indistinguishable from shuffled images: {why} what those give"
    return [f"{_named(pairs, found, noun)} {shuffled}."]


def _no_closer_than_random(comparison: Comparison, pairs: Sequence[Pair]) -> list[str]:
    found = [
        i
        for i, pair in enumerate(pairs)
        if pair.verdict != "undefined" and pair.side_of_random in ("below", "level with")
    ]
    if not found:
        return []
    subject = _named(pairs, found)
    closer = f"not shown to be closer to {comparison.label_a}'s than randomly initialised networks'"
    return [f"In {comparison.label_b}, {_lower(subject)} {closer}."]


def _undefined(comparison: Comparison, pairs: Sequence[Pair]) -> list[str]:
    found = [i for i, pair in enumerate(pairs) if pair.verdict == "undefined"]
    if not found:
        return []
    return [f"{_named(pairs, found)} undefined: no variation over these {comparison.n} images."]


def word_for_blanks(comparison: Comparison) -> str:
    """Say what a NaN is: undefined, or left out where only layers of the same name were compared."""
    blank = np.isnan(comparison.matrix)
    paired = np.zeros(blank.shape, np.bool_)
    paired[tuple(comparison.pairs.T)] = True
    only_pairs = not blank[paired].all() and not paired.all() and blank[~paired].all()
    return "not compared" if only_pairs else "undefined"


def _undefined_cells(comparison: Comparison) -> list[str]:
    if word_for_blanks(comparison) == "not compared":
        return ["Only layers of the same name were compared."]
    cells = int(np.isnan(comparison.matrix).sum())
    if cells == 0:
        return []
    what = "is" if cells == 1 else "are"
    return [f"Of the {comparison.matrix.size} cells of the matrix {cells} {what} undefined."]


def _missing(comparison: Comparison) -> list[str]:
    said = []
    if comparison.low is None or comparison.high is None:
        few = f": {LEAST_GROUPS} slides or patients are needed, these are {comparison.groups}"
        short = few if comparison.groups < LEAST_GROUPS else " were computed"
        said.append(f"No intervals{short}.")
    elif comparison.groups < _FEW_GROUPS:
        groups = count(comparison.groups, "slide or patient", "slides or patients")
        said.append(f"The intervals rest on only {groups}: take them as rough.")
    if comparison.permuted is None:
        said.append("No images were shuffled, so that chance is not ruled out.")
    return said


def _extremes(comparison: Comparison) -> list[str]:
    """Say which two are most and least alike, where there is no diagonal to speak of."""
    one_set = is_one_set(comparison)
    cells = [
        (float(comparison.matrix[i, j]), a, b)
        for i, a in enumerate(comparison.names_a)
        for j, b in enumerate(comparison.names_b)
        if not math.isnan(comparison.matrix[i, j]) and (i < j or not one_set)
    ]
    if not cells:
        return []
    if len(cells) == 1:
        value, a, b = cells[0]
        return [f"Between {a} and {b} {comparison.measure} is {number(value)}."]
    most, least = max(cells, key=lambda cell: cell[0]), min(cells, key=lambda cell: cell[0])
    best = f"{most[1]} and {most[2]} ({comparison.measure} {number(most[0])})"
    worst = f"{least[1]} and {least[2]} ({number(least[0])})"
    return [f"Most alike are {best}, least alike {worst}."]


def _all(pairs: Sequence[Pair], noun: str = "layer") -> str:
    one = f"The {noun} {pairs[0].name} is"
    return one if len(pairs) == 1 else f"All {len(pairs)} {noun}s are"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _named(pairs: Sequence[Pair], chosen: Sequence[int], noun: str = "layer") -> str:
    """Name some layers as runs, with the verb that follows: Layers a to c and e are."""
    if len(chosen) == len(pairs) and len(pairs) > 1:
        return _all(pairs, noun)
    runs: list[list[int]] = []
    for i in chosen:
        if noun == "layer" and runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    words = []
    for run in runs[:_SHOWN_RUNS]:
        first, last = pairs[run[0]].name, pairs[run[-1]].name
        words += [first] if len(run) == 1 else [first, last] if len(run) == 2 else []
        words += [f"{first} to {last}"] if len(run) > 2 else []
    more = sum(len(run) for run in runs[_SHOWN_RUNS:])
    words += [f"{more} more"] if more else []
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    one, many = noun.capitalize(), f"{noun.capitalize()}s"
    return f"{one} {listed} is" if len(chosen) == 1 else f"{many} {listed} are"
