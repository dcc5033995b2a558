"""What was found, in sentences by fixed rules; the same numbers give the same sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator

from histofast._words import count, joined
from histofast.learning import Difference, Metric
from histofast.report import after_holm, interval, number, round_number, signed
from histofast.studies.selection.found import Compared, Row, SelectionFound
from histofast.studies.selection.study import CHEAP, RANDOM, WHOLE, Arm

_FEW_PATIENTS = 50


def describe_selection(found: SelectionFound) -> tuple[str, ...]:
    """Return what the numbers say: what is enough, attention against chance, hours, and what is not there."""
    return (
        *_whole(found),
        *_enough(found),
        *_against_random(found),
        *_cheap(found),
        *_hours(found),
        *_missing(found),
    )


def basis_of(found: SelectionFound, *, folds: int, repeats: int) -> str:
    """Return on what it was measured."""
    slides = count(found.slides, "slide")
    who = f"{slides} of {count(found.patients, 'patient')}" if found.unit == "patient" else slides
    divided = count(folds, "fold")
    return f"{found.metric} on {who}, {f'{repeats} x ' if repeats > 1 else ''}{divided}"


def with_interval(row: Row) -> str:
    """Return a value and the wider of its intervals in words."""
    return _metric(row.interval, row.method.value)


def _metric(bounds: Metric, value: float) -> str:
    if math.isnan(bounds.low + bounds.high):
        return number(value)
    return f"{number(value)} ({interval(bounds.low, bounds.high)})"


def _whole(found: SelectionFound) -> Iterator[str]:
    row = found.row(Arm(way=WHOLE))
    if math.isnan(row.method.value):
        yield f"{found.metric} with all patches is undefined."
        return
    yield f"With all patches {found.metric} is {with_interval(row)}."
    if row.interval.low <= found.chance:
        yield f"Its interval reaches chance ({number(found.chance)}): there may be nothing to lose."


def _enough(found: SelectionFound) -> Iterator[str]:
    limit = number(found.tolerance)
    enough = found.enough
    if enough is None:
        yield (
            f"No share is shown to lose less than {limit} to all patches: with {count(found.patients, found.unit)} "
            "intervals are too wide, or the losses too large."
        )
    else:
        row = found.row(enough.one)
        yield (
            f"The smallest share that is shown to lose less than {limit} to all patches is {enough.one.keep:g} by "
            f"attention, {100 * row.share:.0f} % of the patches with the random ones: {with_interval(row)}, difference "
            f"{_bounds(enough.difference)}."
        )
    worse = [
        each
        for each in found.compared
        if each.other.way == WHOLE and each.difference.is_shown and each.difference.value < 0
    ]
    if worse:
        named = joined([f"{each.one.keep:g}" for each in worse])
        yield f"Shown to be worse than all patches: {named}."


def _bounds(one: Difference) -> str:
    if math.isnan(one.low + one.high):
        return signed(one.value)
    return f"{signed(one.value)} ({signed(one.low)} to {signed(one.high)})"


def _against_random(found: SelectionFound) -> Iterator[str]:
    told = [each for each in found.compared if each.other.way == RANDOM]
    better = [each for each in told if each.difference.is_shown and each.difference.value > 0]
    worse = [each for each in told if each.difference.is_shown and each.difference.value < 0]
    level = [each for each in told if not each.difference.is_shown]
    if better:
        yield f"Attention is better than as many random patches at {_shares(better)}, {_told(better)}."
    if worse:
        yield f"Attention is worse than as many random patches at {_shares(worse)}, {_told(worse)}."
    if level:
        yield (
            f"Attention is not told from as many random patches at {_shares(level)}: there chance would do as well, as "
            "far as these slides show."
        )


def _shares(compared: list[Compared]) -> str:
    return joined([f"{each.one.keep:g}" for each in compared])


def _told(compared: list[Compared]) -> str:
    most = max(compared, key=lambda each: abs(each.difference.value))
    return f"by {after_holm(most.difference)} at {most.one.keep:g}"


def _cheap(found: SelectionFound) -> Iterator[str]:
    cheap, whole = found.row(Arm(way=CHEAP)), found.row(Arm(way=WHOLE))
    if math.isnan(cheap.method.value):
        return
    said = f"The cheap encoder alone, all patches, has {with_interval(cheap)}"
    if cheap.method.value >= whole.method.value:
        yield f"{said}, no less than the expensive one: here that one adds nothing to choose for."
    else:
        yield f"{said}."


def _hours(found: SelectionFound) -> Iterator[str]:
    if not found.speeds:
        return
    whole = found.row(Arm(way=WHOLE)).hours
    of = found.enough.one if found.enough is not None else None
    rates = f"{round_number(found.speeds[CHEAP])} and {round_number(found.speeds[WHOLE])} patches/s"
    yield f"The two encoders take {rates} here."
    if of is None or whole is None:
        return
    hours = found.row(of).hours
    if hours is not None and hours > 0:
        times = whole / hours
        said = f"{times:.1f} times as fast as" if times >= 1 else "slower than"
        yield (
            f"At {of.keep:g} both encoders together take {clock(hours)} for these slides, all patches by the "
            f"expensive one {clock(whole)}: {said} that."
        )


def clock(hours: float) -> str:
    """Return a time in hours, minutes or seconds."""
    if hours >= 1:
        return f"{hours:.1f} h"
    seconds = 3600 * hours
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def _missing(found: SelectionFound) -> Iterator[str]:
    if not found.speeds:
        yield "Encoders were not timed: patches are counted, hours are not told."
    if found.patients < _FEW_PATIENTS:
        yield f"The intervals rest on only {count(found.patients, found.unit)}: take them as rough."
    if found.failed:
        are = "is" if len(found.failed) == 1 else "are"
        yield f"{count(len(found.failed), 'part')} failed, and {are} left out."


_CHOOSES = (
    "What chooses is trained on the training slides of each fold alone, as by a user who trains it on slides of his own "
    "and then encodes others; a run that has seen labels of tested slides would look better."
)
_SHOWN = (
    "Shown means: the interval of the way of making models, after Holm over all comparisons of this page, leaves out 0. "
    "Not shown is not equal."
)
_CLOCK = (
    "Hours are those of encoding on this machine, without decoding of pixels, training and reading."
)
LIMITS = (_CHOOSES, _SHOWN, _CLOCK)
