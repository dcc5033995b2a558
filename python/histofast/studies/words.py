"""What a study found, in words: fixed rules, so that equal numbers give equal sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from histofast._words import count, joined, listed
from histofast.learning import Difference
from histofast.report import interval, number, percent, round_number, signed, size
from histofast.studies.rows import PoolDifference, Study, StudyRow

_FEW_PATIENTS = 30  # an interval of fewer is rough
_SEEDS = 5  # random networks that a claim about them needs
_FASTER = 1.05  # less is no gain worth a sentence
_NAMED = 3  # rows of a sentence


def describe_study(study: Study) -> tuple[str, ...]:
    """Return what a study found, as sentences; the same numbers give the same words.

    Rows are told apart by the corrected interval of their difference alone, adjusted for their
    number. Baselines that keep up are named, and so is what was not measured.
    """
    return (
        *_highest(study),
        *_choice(study),
        *_told_apart(study),
        *_pools(study),
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


def defined_of(study: Study) -> list[StudyRow]:
    """Return the candidates that the highest is the highest of."""
    return [row for row in study.candidates if row.is_defined]


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
        n = len(defined_of(study))
        said = f"{top} of {n}" if n > 1 else "the only one"
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


def _names(rows: Sequence[StudyRow]) -> str:
    """Return names as a sentence has them, the first few of many."""
    return _some([row.name for row in rows])


def _value(study: Study, row: StudyRow) -> str:
    """Return a row's value with its wider interval, for brackets."""
    text = f"{study.metric} {number(row.value)}"
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
    if top is None:
        what = f"all {noun_of(study)}" if study.candidates else "all rows: there are baselines only"
        return [f"{study.metric} is undefined for {what}."]
    n, value = len(defined_of(study)), _value(study, top)
    if len(study.candidates) == 1:
        said = [f"{top.name} is the only {noun_of(study, 1)} ({value})."]
    elif n == 1:
        one = f"the only {noun_of(study, 1)} whose {study.metric} is defined"
        said = [f"{top.name} is {one} ({value})."]
    else:
        by = f"it was chosen by the {study.unit}s that it is measured on"
        said = [
            f"The {extreme(study)} of {n} {noun_of(study)} is {top.name} ({value}).",
            f"The {study.metric} of {top.name} is optimistic: {by}.",
        ]
    if study.chance is not None and top.has_interval:
        worst = top.interval.low if study.higher_is_better else top.interval.high
        if study.goodness(worst) <= study.goodness(study.chance):
            chance = number(study.chance)
            said.append(
                f"The interval of {top.name} reaches chance ({chance}): it may have learnt nothing."
            )
    return said


def _choice(study: Study) -> list[str]:
    row, top, word = study.chosen, study.highest, chosen_word(study)
    if top is None or study.knee is None or len(study.candidates) == 1:
        return []
    limit = number(study.knee.tolerance)
    one, superlative = noun_of(study, 1), extreme(study)
    if row is None:
        none = f"There is no {word}: no cheaper {one} is shown to lose less than {limit} to the {superlative}."
        return [none + _needed(study)]
    if row is top:
        return [
            f"The {word} is {row.name} as well: every cheaper {one}, if there is one, is shown to be worse."
        ]
    assert row.versus is not None, "Study refuses a choice that was not compared"
    shown = f"lose less than {limit} to the {superlative} ({_difference(study, row.versus)})"
    said = f"The {word} is {row.name} ({number(row.value)}), the cheapest {one} that is shown to {shown}."
    return [" ".join([said, *_gain(study, row, top)])]


def _needed(study: Study) -> str:
    found = study.knee
    if found is None or found.closest is None:
        return ""
    if found.patients_needed is None:
        closest = next((row for row in study.rows if row.name == found.closest), None)
        if closest is None or closest.versus is None or math.isnan(closest.versus.low):
            return ""
        stays = "if its difference stays as it is"
        return f" More {study.unit}s would not show it of {found.closest}, {stays}."
    return (
        f" About {found.patients_needed:,} {study.unit}s would be needed to show it of "
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
    """Say which rows are shown to differ from the highest, and which are not told from it."""
    known = [
        (row, row.versus)
        for row in study.candidates
        if row.versus is not None and not math.isnan(row.versus.low + row.versus.high)
    ]
    if not known:
        return []
    top = extreme(study)
    worse = [row for row, versus in known if versus.is_shown and _gain_of(study, versus) < 0]
    # On the folds that both have: where one lacks some, the lower mean may be of harder folds.
    better = [row for row, versus in known if versus.is_shown and _gain_of(study, versus) > 0]
    level = [row for row, versus in known if not versus.is_shown]
    among = f", after adjusting for {len(known)} comparisons" if len(known) > 1 else ""
    where = f"with {patients_of(study)}"
    if not worse and not better:
        which = level[0].name if len(level) == 1 else f"None of the other {len(level)}"
        verb = "is not" if len(level) == 1 else "is"
        little = f"{where} the order of the {noun_of(study)} says little"
        return [f"{which} {verb} told from the {top}{among}: {little}."]
    said = [
        f"{_names(rows)} {'is' if len(rows) == 1 else 'are'} {how} than the {top}{among}."
        for rows, how in ((worse, "worse"), (better, "better on the folds of both"))
        if rows
    ]
    if level:
        said.append(f"Not told from the {top} {where}: {_names(level)}.")
    return said


_POOLED = {
    "cls": "the class token",
    "mean": "the mean of the patches' tokens",
    "cls+mean": "both, one after the other",
}


def _pools(study: Study) -> list[str]:
    """Say which way of pooling a vision transformer's tokens is better, block by block."""
    rows = {row.name: row for row in study.candidates}
    ways = tuple(dict.fromkeys(row.pool for row in rows.values() if row.pool))
    said = []
    for pool in ways:
        pairs = [pair for pair in study.pools if rows[pair.row].pool == pool]
        for other in dict.fromkeys(rows[pair.other].pool for pair in pairs):
            against = [pair for pair in pairs if rows[pair.other].pool == other]
            said += _pooled_apart(study, pool, other, against, rows)
    early = [row for row in rows.values() if "cls" in row.pool and (row.depth or 1.0) < 1]
    if early:
        said.append(
            "A class token gathers what patches hold block by block, so that of an early block has seen "
            "little: cuts are pooled by mean unless told otherwise."
        )
    return said


def _pooled_apart(
    study: Study,
    pool: str,
    other: str,
    pairs: Sequence[PoolDifference],
    rows: Mapping[str, StudyRow],
) -> list[str]:
    """Say at which blocks one way of pooling is better or worse than another."""
    ways = f"{_POOLED[pool]} ({pool}) against {_POOLED[other]} ({other}), at the same block"
    found: dict[str, list[str]] = {}
    for pair in pairs:
        versus, place = pair.difference, _place(study, rows[pair.row])
        if not _has_bounds(versus):
            how = "without an interval"
        elif not versus.is_shown:
            how = "not told apart"
        else:
            how = "better" if _gain_of(study, versus) > 0 else "worse"
        shown = f"{place} ({_difference(study, versus)})" if _has_bounds(versus) else place
        found.setdefault(how, []).append(shown)
    order = ("better", "worse", "not told apart", "without an interval")
    parts = [f"{how} at {_some(found[how])}" for how in order if how in found]
    n = sum(_has_bounds(pair.difference) for pair in study.pools)
    among = f", after adjusting for {n} comparisons" if n > 1 else ""
    return [f"{ways[:1].upper()}{ways[1:]}: {'; '.join(parts)}{among}."]


def _some(names: Sequence[str]) -> str:
    return joined(names) if len(names) <= _NAMED else listed(names, most=_NAMED)


def _has_bounds(versus: Difference) -> bool:
    return not math.isnan(versus.low + versus.high)


def _place(study: Study, row: StudyRow) -> str:
    """Return the block of a row, with its network where there are several."""
    return f"{row.network} {row.block}" if len(study.networks) > 1 else row.block


def _above_random(study: Study) -> list[str]:
    """Say which candidates are beyond the most that random networks reach."""
    said = []
    several = len(study.networks) > 1 and study.kind == "truncation"
    beyond_word = "above" if study.higher_is_better else "below"
    for null in study.baselines:
        if null.spread is None:
            continue
        most = null.spread[1] if study.higher_is_better else null.spread[0]
        rivals = [
            row
            for row in study.candidates
            if row.network == null.network or study.kind == "networks"
        ]
        if not rivals:
            continue
        beyond = [
            row
            for row in rivals
            if row.has_interval and study.goodness(_worst(study, row) - most) > 0
        ]
        one = noun_of(study, 1) + (f" of {null.network}" if several else "")
        if len(beyond) == len(rivals):
            who = f"The {one} is" if len(rivals) == 1 else f"Every {one} is"
        else:
            who = f"Of the {len(rivals)} {noun_of(study)} only {_names(beyond)}"
            who += " is" if len(beyond) == 1 else " are"
        if not beyond:
            who = f"No {one} is"
        whole = "its whole interval" if len(beyond) in (0, 1, len(rivals)) else "whole intervals"
        low, high = null.spread
        reach = number(low) if low == high else interval(low, high)
        if null.seeds < _SEEDS:
            few = f"{count(null.seeds, 'seed')} of {_SEEDS} that a claim needs"
            said.append(f"{null.name}: {study.metric} {reach}, {few}.")
            continue
        said.append(f"{null.name}: {study.metric} {reach}. {who} {beyond_word} that with {whole}.")
    return said


def _worst(study: Study, row: StudyRow) -> float:
    return row.interval.low if study.higher_is_better else row.interval.high


def _baselines(study: Study) -> list[str]:
    top = study.highest
    if top is None:
        return []
    said, worse, word = [], [], extreme(study)
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
            worse.append(f"{row.name} ({number(row.value)}; {_difference(study, versus)})")
    if worse:
        words = ("baseline", "is") if len(worse) == 1 else ("baselines", "are")
        said.append(f"The {words[0]} {joined(worse)} {words[1]} worse than the {word}.")
    return said


def _few(study: Study) -> list[str]:
    if study.n_patients >= _FEW_PATIENTS or not any(row.has_interval for row in study.rows):
        return []
    return [f"The intervals rest on only {patients_of(study)}: take them as rough."]


def _not_measured(study: Study) -> list[str]:
    rows, top = study.candidates, study.highest
    said = []
    undefined = [row for row in study.rows if not row.is_defined]
    if undefined and top is not None:
        said.append(f"{study.metric} is undefined for {_names(undefined)}.")
    defined = [row for row in study.rows if row.is_defined and row.spread is None]
    said += _absent("No intervals were computed", defined, lambda row: row.has_interval)
    others = [row for row in rows if row.is_defined and row is not top]
    paired = f"No differences to the {extreme(study)} were computed"
    said += _absent(paired, others, lambda row: row.versus is not None)
    said += _absent("Speed was not measured", rows, lambda row: row.patches_per_s is not None)
    said += _absent("The encoder's size is not known", rows, lambda row: row.size_bytes is not None)
    if study.kind == "truncation":
        depth = "Depth, and so a place in the charts, is not known"
        said += _absent(depth, rows, lambda row: row.depth is not None)
    for name in study.extras:
        having = [row for row in rows if name in row.extra]
        if having and len(having) < len(rows):
            said.append(f"{name[:1].upper()}{name[1:]} was measured for {_names(having)} only.")
    if not study.baselines:
        said.append(f"No baseline was run: what the {noun_of(study)} add to one is not known.")
    return said


def _absent(what: str, rows: Sequence[StudyRow], is_there: Callable[[StudyRow], bool]) -> list[str]:
    """Say what none of the rows has, or for which it is not there."""
    absent = [row for row in rows if not is_there(row)]
    if not absent:
        return []
    if len(absent) == len(rows):
        return [f"{what}."]
    return [f"{what} for {_names(absent)}."]
