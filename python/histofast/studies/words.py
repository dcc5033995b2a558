"""What a study found, in words: fixed rules, so that equal numbers give equal sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from histofast._words import count, listed
from histofast.learning import Difference
from histofast.report import interval, number, percent, round_number, signed, size
from histofast.studies.rows import Study, StudyRow

_FEW_PATIENTS = 30  # an interval of fewer is rough
_FASTER = 1.05  # less is no gain worth a sentence


def describe_study(study: Study) -> tuple[str, ...]:
    """Return what a study found, as sentences; the same numbers give the same words.

    Rows are told apart by the corrected interval of their difference alone, adjusted for their
    number. Baselines that keep up are named, and so is what was not measured.
    """
    return (
        *_highest(study),
        *_choice(study),
        *_told_apart(study),
        *_above_random(study),
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


def extreme(study: Study) -> str:
    """Return what the row of the best value is called: the best of many is not the best there is."""
    return "highest" if study.higher_is_better else "lowest"


def patients_of(study: Study) -> str:
    """Return how many patients there are, or slides where those count as patients."""
    return count(study.n_patients, study.unit)


def study_basis(study: Study) -> str:
    """Return on what it was measured."""
    slides = count(study.n_slides, "slide")
    who = f"{slides} of {patients_of(study)}" if study.unit == "patient" else slides
    folds = count(study.folds, "fold")
    if study.repeats > 1:
        folds = f"{study.repeats} x {folds}"
    return f"{study.metric} on {who}, {folds}"


def in_order(study: Study) -> list[StudyRow]:
    """Return cuts from pixels to the end, or networks from the highest on; baselines come last."""
    rows = list(study.candidates)
    if study.kind == "networks":
        rows.sort(key=lambda row: -study.goodness(row.value) if row.is_defined else math.inf)
    return rows + list(study.baselines)


def finding_of(study: Study, row: StudyRow) -> str:
    """Return what the numbers say of one row, in a few words."""
    top = extreme(study)
    if not row.is_defined:
        return "undefined"
    if row.spread is not None:
        return f"random: {interval(*row.spread)}"
    if row is study.highest:
        said = f"{top} of {len(study.candidates)}" if len(study.candidates) > 1 else "the only one"
        return f"{said}, and the {chosen_word(study)}" if row.chosen else said
    if row.versus is None:
        said = "not compared"
    elif math.isnan(row.versus.low + row.versus.high):
        said = f"no interval against the {top}"
    elif not row.versus.is_shown:
        said = f"not told from the {top}"
    else:
        said = "worse" if _gain_of(study, row.versus) < 0 else f"better than the {top}"
    return f"{chosen_word(study)}: {said}" if row.chosen else said


def _gain_of(study: Study, versus: Difference) -> float:
    return study.goodness(versus.value)


def _interval(study: Study, low: float, high: float, write: Callable[[float], str] = number) -> str:
    return f"{percent(study.confidence)} interval {write(low)} to {write(high)}"


def _value(study: Study, row: StudyRow, *, metric: bool = False) -> str:
    """Return a row's value with its wider interval, for brackets."""
    text = f"{study.metric} {number(row.value)}" if metric else number(row.value)
    if not row.has_interval:
        return text
    return f"{text}, {_interval(study, row.interval.low, row.interval.high)}"


def _difference(study: Study, versus: Difference) -> str:
    if math.isnan(versus.low + versus.high):
        return f"difference {signed(versus.value)}, without an interval"
    bounds = _interval(study, versus.low, versus.high, signed)
    return f"difference {signed(versus.value)}, {bounds}"


def _highest(study: Study) -> list[str]:
    top = study.highest
    n = len(study.candidates)
    if top is None:
        return [f"{study.metric} is undefined for all {noun_of(study)}."]
    value = _value(study, top, metric=True)
    if n == 1:
        said = [f"{top.name} is the only {noun_of(study, 1)} ({value})."]
    else:
        word = extreme(study)
        said = [f"{word.capitalize()} of {n} {noun_of(study)} is {top.name} ({value})."]
        said += [f"Chosen by the {study.unit}s that it is measured on, it looks better than it is."]
    if study.chance is not None and top.has_interval:
        worst = top.interval.low if study.higher_is_better else top.interval.high
        if study.goodness(worst) <= study.goodness(study.chance):
            chance = number(study.chance)
            said.append(f"Its interval reaches chance ({chance}): it may have learnt nothing.")
    return said


def _choice(study: Study) -> list[str]:
    row, top, word = study.chosen, study.highest, chosen_word(study)
    if top is None or study.knee is None or len(study.candidates) == 1:
        return []
    limit = number(study.knee.tolerance)
    one, superlative = noun_of(study, 1), extreme(study)
    if row is None:
        none = (
            f"There is no {word}: of no cheaper {one} the interval of the difference shows that it "
            f"loses less than {limit} to the {superlative}."
        )
        return [none + _needed(study)]
    if row is top:
        return [
            f"It is the {word} as well: no {one} is cheaper, or each that is has been shown to be worse."
        ]
    assert row.versus is not None, "what is chosen was compared"
    shown = f"lose less than {limit} to the {superlative} ({_difference(study, row.versus)})"
    said = f"The {word} is {row.name} ({number(row.value)}), the cheapest {one} that is shown to {shown}."
    return [" ".join([said, *_gain(study, row, top)])]


def _needed(study: Study) -> str:
    found = study.knee
    if found is None or found.closest is None or found.patients_needed is None:
        return ""
    return (
        f" About {count(found.patients_needed, study.unit)} would be needed to show it of "
        f"{found.closest}, if its difference stays as it is; there are {study.n_patients:,}."
    )


def _gain(study: Study, row: StudyRow, top: StudyRow) -> list[str]:
    """Say how much faster and smaller the chosen row is than the highest, and than its network."""
    deepest = max(
        (r for r in study.candidates if r.network == row.network and r.depth is not None),
        key=lambda r: r.depth or 0.0,
        default=row,
    )
    said = []
    if row.patches_per_s is not None and top.patches_per_s is not None:
        ratio = row.patches_per_s / top.patches_per_s
        rates = [round_number(r.patches_per_s or 0.0) for r in (row, top)]
        speeds = f"({rates[0]} against {rates[1]} patches/s)"
        if ratio >= _FASTER:
            said.append(f"It is {_times(ratio)} as fast {speeds}.")
        else:
            said.append(f"It is {'no faster' if ratio > 1 / _FASTER else 'slower'} {speeds}.")
    if deepest is not top and deepest is not row and row.patches_per_s is not None:
        whole = deepest.patches_per_s
        if study.kind == "truncation" and whole is not None:
            ratio = row.patches_per_s / whole
            cut = f"the deepest cut of {row.network} ({round_number(whole)} patches/s)"
            said.append(f"It is {_times(ratio)} as fast as {cut}.")
    sizes = (row.size_bytes, top.size_bytes)
    if sizes[0] is not None and sizes[1] is not None and sizes[1] >= _FASTER * sizes[0]:
        said.append(f"Its file is smaller ({size(sizes[0])} against {size(sizes[1])}).")
    return said


def _times(ratio: float) -> str:
    return f"{ratio:.{1 if ratio < 10 else 0}f} times"


def _told_apart(study: Study) -> list[str]:
    """Say which rows are shown to be worse than the highest, and which are not told from it."""
    known = [
        (row, row.versus)
        for row in study.candidates
        if row.versus is not None and not math.isnan(row.versus.low + row.versus.high)
    ]
    if not known:
        return []
    top = extreme(study)
    shown = [row.name for row, versus in known if versus.is_shown]
    level = [row.name for row, versus in known if not versus.is_shown]
    among = f", after adjusting for {len(known)} comparisons" if len(known) > 1 else ""
    where = f"with {patients_of(study)}"
    if not shown:
        which = level[0] if len(level) == 1 else f"None of the other {len(level)}"
        verb = "is not" if len(level) == 1 else "is"
        little = f"{where} the order of the {noun_of(study)} says little"
        return [f"{which} {verb} told from the {top}{among}: {little}."]
    verb = "is" if len(shown) == 1 else "are"
    said = [f"{listed(shown)} {verb} worse than the {top}{among}."]
    if level:
        said.append(f"Not told from it {where}: {listed(level)}.")
    return said


def _above_random(study: Study) -> list[str]:
    """Say which candidates are above the most that random networks reach."""
    said = []
    for null in study.baselines:
        if null.spread is None:
            continue
        least = null.spread[1] if study.higher_is_better else null.spread[0]
        rivals = [
            row
            for row in study.candidates
            if row.has_interval and (row.network == null.network or study.kind == "networks")
        ]
        beyond = [row for row in rivals if study.goodness(_worst(study, row) - least) > 0]
        reach = f"{null.name} reach {interval(*null.spread)}"
        if len(beyond) == len(rivals) > 0:
            every = "The" if len(rivals) == 1 else "Every"
            said.append(
                f"{reach}. {every} {noun_of(study, 1)} is above them with its whole interval."
            )
        elif beyond:
            names = listed([row.name for row in beyond])
            said.append(f"{reach}. Above them with their whole interval: {names}.")
        else:
            said.append(f"{reach}. No {noun_of(study, 1)} is above them with its whole interval.")
    return said


def _worst(study: Study, row: StudyRow) -> float:
    return row.interval.low if study.higher_is_better else row.interval.high


def _baselines(study: Study) -> list[str]:
    top = study.highest
    if top is None:
        return []
    said, below, word = [], [], extreme(study)
    for row in study.baselines:
        if not row.is_defined or row.spread is not None:
            continue
        name = f"The baseline {row.name} ({number(row.value)})"
        versus = row.versus
        adds = f"what the {noun_of(study)} add to it"
        if versus is None or math.isnan(versus.low + versus.high):
            said.append(f"{name} was not compared in pairs.")
        elif not versus.is_shown:
            ahead = _gain_of(study, versus) > 0
            level = f"is ahead of the {word}, though that is not shown" if ahead else ""
            level = level or f"is not told from the {word}"
            where = f"cannot be shown with {patients_of(study)}"
            said.append(f"{name} {level} ({_difference(study, versus)}): {adds} {where}.")
        elif _gain_of(study, versus) > 0:
            shown = _difference(study, versus)
            said.append(f"{name} beats the {word} {noun_of(study, 1)} ({shown}): prefer it here.")
        else:
            below.append(f"{row.name} ({number(row.value)}; {_difference(study, versus)})")
    if below:
        words = ("baseline", "is") if len(below) == 1 else ("baselines", "are")
        said.append(f"The {words[0]} {listed(below)} {words[1]} below the {word}.")
    return said


def _few(study: Study) -> list[str]:
    if study.n_patients >= _FEW_PATIENTS or not any(row.has_interval for row in study.rows):
        return []
    return [f"The intervals rest on only {patients_of(study)}: take them as rough."]


def _not_measured(study: Study) -> list[str]:
    rows, top = study.candidates, study.highest
    said = []
    undefined = [row.name for row in study.rows if not row.is_defined]
    if undefined and top is not None:
        said.append(f"{study.metric} is undefined for {listed(undefined)}.")
    defined = [row for row in study.rows if row.is_defined and row.spread is None]
    said += _absent("No intervals were computed", defined, lambda row: row.has_interval)
    others = [row for row in rows if row.is_defined and row is not top]
    paired = f"No differences to the {extreme(study)} were computed"
    said += _absent(paired, others, lambda row: row.versus is not None)
    said += _absent("Speed was not measured", rows, lambda row: row.patches_per_s is not None)
    said += _absent("The encoder's size is not known", rows, lambda row: row.size_bytes is not None)
    if study.kind == "truncation":
        depth = "Depth is not known, and no place in the charts,"
        said += _absent(depth, rows, lambda row: row.depth is not None)
    for name in study.extras:
        having = [row.name for row in rows if name in row.extra]
        if having and len(having) < len(rows):
            said.append(f"{name[:1].upper()}{name[1:]} was measured for {listed(having)} only.")
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
    return [f"{what} for {listed(absent)}."]
