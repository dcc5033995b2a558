"""What a study found, in words: fixed rules, so that equal numbers give equal sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from histofast._words import count
from histofast.report import number, percent, round_number, signed, size
from histofast.studies.rows import Difference, Study, StudyRow

_FEW_PATIENTS = 30  # an interval of fewer is rough
_SHOWN = 5  # names in one sentence
_FASTER = 1.05  # less is no gain worth a sentence


def describe_study(study: Study) -> tuple[str, ...]:
    """Return what a study found, as sentences; the same numbers give the same words.

    Rows are told apart by the interval of their paired difference alone. Baselines that keep up
    are named, and so is what was not measured.
    """
    return (
        *_best(study),
        *_knee(study),
        *_told_apart(study),
        *_baselines(study),
        *_few(study),
        *_not_measured(study),
        *study.remarks,
    )


def noun_of(study: Study, n: int = 2) -> str:
    """Return what a row is called."""
    one = "cut" if study.kind == "truncation" else "network"
    return one if n == 1 else f"{one}s"


def chosen_word(study: Study) -> str:
    """Return what the chosen row is called."""
    return "knee" if study.kind == "truncation" else "choice"


def study_basis(study: Study) -> str:
    """Return on what it was measured."""
    slides = count(study.n_slides, "slide", "slides")
    patients = count(study.n_patients, "patient", "patients")
    return f"{study.metric} on {slides} of {patients}, {count(study.folds, 'fold', 'folds')}"


def in_order(study: Study) -> list[StudyRow]:
    """Return cuts from pixels to the end, or networks from the best on; baselines come last."""
    rows = list(study.candidates)
    if study.kind == "networks":
        rows.sort(key=lambda row: -study.goodness(row.value) if row.is_defined else math.inf)
    return rows + list(study.baselines)


def finding_of(study: Study, row: StudyRow) -> str:
    """Return what the numbers say of one row, in a few words."""
    if not row.is_defined:
        return "undefined"
    if row is study.best:
        return f"best, and the {chosen_word(study)}" if row.chosen else "best"
    if row.versus_best is None:
        said = "not compared"
    elif math.isnan(row.versus_best.low + row.versus_best.high):
        said = "undefined against the best"
    else:
        said = {0: "not told from the best", 1: "better than the best", -1: "worse"}[
            _side(study, row.versus_best)
        ]
        if row.baseline and said == "worse":
            said = "below the best"
    return f"{chosen_word(study)}: {said}" if row.chosen else said


def _side(study: Study, versus: Difference) -> int:
    """Return 1 for better than the best, -1 for worse, 0 where the interval reaches 0."""
    if versus.reaches_zero:
        return 0
    return 1 if study.goodness(versus.difference) > 0 else -1


def _interval(study: Study, low: float, high: float, write: Callable[[float], str] = number) -> str:
    return f"{percent(study.confidence)} interval {write(low)} to {write(high)}"


def _value(study: Study, row: StudyRow, *, metric: bool = False) -> str:
    """Return a row's value with its interval, for brackets."""
    text = f"{study.metric} {number(row.value)}" if metric else number(row.value)
    return f"{text}, {_interval(study, row.low, row.high)}" if row.has_interval else text


def _difference(study: Study, versus: Difference) -> str:
    interval = _interval(study, versus.low, versus.high, signed)
    return f"difference {signed(versus.difference)}, {interval}"


def _listed(names: Sequence[str]) -> str:
    """Return a few names, and how many more there are."""
    words = list(names[:_SHOWN])
    if len(names) > _SHOWN:
        words.append(f"{len(names) - _SHOWN} more")
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _best(study: Study) -> list[str]:
    best = study.best
    if best is None:
        return [f"{study.metric} is undefined for all {noun_of(study)}."]
    if len(study.candidates) == 1:
        said = [
            f"{best.name} is the only {noun_of(study, 1)} ({_value(study, best, metric=True)})."
        ]
    else:
        said = [f"Best is {best.name} ({_value(study, best, metric=True)})."]
    if study.chance is not None and best.has_interval:
        worst = best.low if study.higher_is_better else best.high
        if study.goodness(worst) <= study.goodness(study.chance):
            chance = number(study.chance)
            said.append(f"Its interval reaches chance ({chance}): it may have learnt nothing.")
    return said


def _knee(study: Study) -> list[str]:
    row, best, word = study.chosen, study.best, chosen_word(study)
    if best is None or (row is None and len(study.candidates) == 1):
        return []
    if row is None:
        return [f"No {word} was named."]
    if row is best:
        if len(study.candidates) == 1:
            return []
        none = f"no cheaper {noun_of(study, 1)} has a paired difference to it whose interval"
        return [f"It is the {word} as well: {none} reaches 0."]
    versus, name = row.versus_best, f"The {word} is {row.name} ({number(row.value)})"
    if versus is None:
        said = [f"{name}; its paired difference to the best was not computed."]
    elif versus.reaches_zero:
        why = f"the cheapest {noun_of(study, 1)} that cannot be told from the best"
        said = [f"{name}, {why} ({_difference(study, versus)})."]
    else:
        said = [f"{name}, although it is not level with the best ({_difference(study, versus)})."]
    return [" ".join(said + _gain(study, row, best))]


def _gain(study: Study, row: StudyRow, best: StudyRow) -> list[str]:
    """Say how much faster and smaller the chosen row is than the best, and than its whole network."""
    deepest = max(
        (r for r in study.candidates if r.network == row.network and r.depth is not None),
        key=lambda r: r.depth or 0.0,
        default=row,
    )
    said = []
    if row.patches_per_s is not None and best.patches_per_s is not None:
        ratio = row.patches_per_s / best.patches_per_s
        speeds = f"({round_number(row.patches_per_s)} against {round_number(best.patches_per_s)} patches/s)"
        if ratio >= _FASTER:
            said.append(f"It is {_times(ratio)} as fast as the best {speeds}.")
        else:
            said.append(f"It is {'no faster' if ratio > 1 / _FASTER else 'slower'} {speeds}.")
    if deepest is not best and deepest is not row and row.patches_per_s is not None:
        whole = deepest.patches_per_s
        if study.kind == "truncation" and whole is not None:
            ratio = row.patches_per_s / whole
            cut = f"the deepest cut of {row.network} ({round_number(whole)} patches/s)"
            said.append(f"It is {_times(ratio)} as fast as {cut}.")
    sizes = (row.size_bytes, best.size_bytes)
    if sizes[0] is not None and sizes[1] is not None and sizes[1] >= _FASTER * sizes[0]:
        said.append(f"Its file is smaller ({size(sizes[0])} against {size(sizes[1])}).")
    return said


def _times(ratio: float) -> str:
    return f"{ratio:.{1 if ratio < 10 else 0}f} times"


def _told_apart(study: Study) -> list[str]:
    best = study.best
    others = [row for row in study.candidates if row.is_defined and row is not best]
    if best is None or not others:
        return []
    patients = count(study.n_patients, "patient", "patients")
    nouns = noun_of(study, len(others))
    little = f"with {patients} the order of the {noun_of(study)} says little"
    known = [
        (row, _side(study, row.versus_best))
        for row in others
        if row.versus_best is not None
        and not math.isnan(row.versus_best.low + row.versus_best.high)
    ]
    level = [row.name for row, side in known if side == 0]
    if known and len(level) == len(others) > 1:
        none = f"None of the other {len(others)} {nouns} can be told from the best"
        return [f"{none}: every paired difference has an interval that reaches 0, so {little}."]
    if known and len(level) == len(others):
        return [f"{level[0]} cannot be told from the best, so {little}."]
    if known and not level and len(known) == len(others):
        worse = "are" if len(others) > 1 else "is"
        return [f"The other {count(len(others), *_forms(study))} {worse} worse than the best."]
    if known and level:
        of = f"Of the other {len(others)} {nouns} {len(level)} cannot be told from the best"
        return [f"{of}: {_listed(level)}."]
    if known or not best.has_interval:
        return []
    overlapping = [
        row.name
        for row in others
        if row.has_interval and row.low <= best.high and row.high >= best.low
    ]
    if len(overlapping) == len(others):
        return [f"All intervals overlap with that of the best: {little}."]
    if overlapping:
        return [f"The intervals of these overlap with that of the best: {_listed(overlapping)}."]
    return []


def _forms(study: Study) -> tuple[str, str]:
    return noun_of(study, 1), noun_of(study)


def _baselines(study: Study) -> list[str]:
    best, chosen = study.best, study.chosen
    if best is None:
        return []
    said, below = [], []
    for row in study.baselines:
        if not row.is_defined:
            continue
        versus = row.versus_best
        if versus is not None and not math.isnan(versus.low + versus.high):
            side, shown = _side(study, versus), _difference(study, versus)
        else:
            side, shown = _side_unpaired(study, row, best), "not compared in pairs"
        name = f"The baseline {row.name} ({number(row.value)})"
        adds = f"what the {noun_of(study)} add to it"
        if side > 0:
            said.append(f"{name} beats the best {noun_of(study, 1)} ({shown}): prefer it here.")
        elif side == 0:
            patients = count(study.n_patients, "patient", "patients")
            ahead = study.goodness(row.value - best.value) > 0
            level = "is ahead of the best, though not beyond chance" if ahead else ""
            level = level or "cannot be told from the best"
            said.append(f"{name} {level} ({shown}): {adds} cannot be shown with {patients}.")
        else:
            below.append(f"{row.name} ({number(row.value)})")
            if chosen is not None and study.goodness(row.value - chosen.value) > 0:
                said.append(f"{name} is ahead of the {chosen_word(study)}.")
    if below:
        words = ("baseline", "is") if len(below) == 1 else ("baselines", "are")
        said.append(f"The {words[0]} {_listed(below)} {words[1]} below the best.")
    return said


def _side_unpaired(study: Study, row: StudyRow, best: StudyRow) -> int:
    """As `_side`, from the intervals of the two: with any overlap, they are not told apart."""
    if row.has_interval and best.has_interval and row.low <= best.high and row.high >= best.low:
        return 0
    better = study.goodness(row.value - best.value)
    return (better > 0) - (better < 0)


def _few(study: Study) -> list[str]:
    if study.n_patients >= _FEW_PATIENTS or not any(row.has_interval for row in study.rows):
        return []
    patients = count(study.n_patients, "patient", "patients")
    return [f"The intervals rest on only {patients}: take them as rough."]


def _not_measured(study: Study) -> list[str]:
    rows, best = study.candidates, study.best
    said = []
    undefined = [row.name for row in study.rows if not row.is_defined]
    if undefined and best is not None:
        said.append(f"{study.metric} is undefined for {_listed(undefined)}.")
    defined = [row for row in study.rows if row.is_defined]
    said += _absent("No intervals were computed", defined, lambda row: row.has_interval)
    others = [row for row in rows if row.is_defined and row is not best]
    paired = "No paired differences to the best were computed"
    said += _absent(paired, others, lambda row: row.versus_best is not None)
    said += _absent("Speed was not measured", rows, lambda row: row.patches_per_s is not None)
    said += _absent("The encoder's size is not known", rows, lambda row: row.size_bytes is not None)
    if study.kind == "truncation":
        depth = "Depth is not known, and no place in the charts,"
        said += _absent(depth, rows, lambda row: row.depth is not None)
    for name in study.extras:
        having = [row.name for row in rows if name in row.extra]
        if having and len(having) < len(rows):
            said.append(f"{name[:1].upper()}{name[1:]} was measured for {_listed(having)} only.")
    if not study.baselines:
        said.append(f"No baseline was run: what the {noun_of(study)} add to one is not known.")
    return said


def _absent(what: str, rows: Sequence[StudyRow], is_there: Callable[[StudyRow], bool]) -> list[str]:
    """Say what none of the rows has, or for which it is not there."""
    absent = [row.name for row in rows if not is_there(row)]
    if not absent:
        return []
    if len(absent) == len(rows):
        return [f"{what.rstrip(',')}."]
    return [f"{what} for {_listed(absent)}."]
