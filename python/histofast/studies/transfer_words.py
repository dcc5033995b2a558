"""What a transfer study found, in words: fixed rules, so that equal numbers give equal sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from histofast._words import count, joined, listed
from histofast.comparison import MIN_IMAGES
from histofast.learning import Difference, repeats_needed
from histofast.report import after_holm, number, signed
from histofast.studies.transfer_found import OTHER_TARGETS, RANDOM, TransferFound, Values, Way
from histofast.studies.transfer_ranks import MEASURES, ends_compared
from histofast.transferability import describe_rankings

_FEW_SPLITS = 10  # intervals over fewer are wide
_NAMED = 3  # of a sentence


def describe_transfer(found: TransferFound) -> tuple[str, ...]:
    """Return what was found, as sentences: of each start, then what was asked for beside, then what lacks."""
    said: list[str] = []
    for start in found.starts:
        said += [*_sources(found, start), *_longer(found, start)]
    for start in found.starts:
        said += _pretrained(found, start)
    for start in found.starts:
        said += [*_heads(found, start), *_merges(found, start), *_barriers(found, start)]
        said += [*_ranks(found, start), *_maps(found, start)]
    return (*said, *_scores(found), *_unmoved(found), *_few(found), *_failed(found))


def limits_of(found: TransferFound) -> tuple[str, ...]:
    """Return what must not be concluded."""
    said = [
        (
            "A network that came by a source saw more steps in all than its baseline: the source's epochs and the "
            "target's. The diagonal, trained twice on the target, has as many epochs, not as many steps where the "
            "sets differ in size."
        ),
        (
            f"It is one network ({found.network}) and one recipe, whose rate was tuned for none of the sets: "
            "another may transfer otherwise."
        ),
        (
            "The sets differ in stain, scanner, magnification, number of pictures and classes at once: which of "
            "these a difference comes from is not told."
        ),
        "Intervals are over splits and seeds of these pictures. They say nothing of other hospitals.",
    ]
    compared = {way.target for way in found.likenesses}
    if compared:
        said.append(
            "CKA says how far a network went from where it began, not whether that was for the better."
        )
    lacking = [name for name in found.sets if name not in compared]
    if lacking:
        said.append(
            f"How far networks went is not measured on {joined(lacking)}: fewer than {MIN_IMAGES} test pictures."
        )
    if found.ranks:
        said.append(
            "Ranks say how many directions the weights of a layer use, not whether using more of them is better; they "
            "are of the weights that train, not of those that validation pictures chose."
        )
    if found.maps:
        said.append(
            "Maps of features are for looking at: they keep which pictures are neighbours, not how far clusters are "
            "apart or how large they are, and another seed gives another map. What is said beside them is measured in "
            "the features themselves."
        )
    if found.merges:
        said.append(
            "A merged network is tuned on the target afterwards, like any other start: what it is worth "
            "before that is not measured."
        )
    return tuple(said)


def shown_of(differences: Mapping[Way, Difference]) -> list[Way]:
    """Return those whose adjusted interval excludes 0, the largest first."""
    shown = [way for way, one in differences.items() if one.is_shown]
    return sorted(shown, key=lambda way: -abs(differences[way].value))


# --- Sentences ---------------------------------------------------------------------------------


def _sources(found: TransferFound, start: str) -> list[str]:
    """Say which sources change which targets."""
    cells = {
        way: one for way, one in found.against_direct(start).items() if way.source != way.target
    }
    what = f"From {start}, less the target trained directly"
    text = _told(found, cells, what, noun="transfer")
    if shown_of(cells):
        return [text]
    largest = _largest(found, cells)
    if largest is None:
        return [text]
    needed = _needed(
        found,
        found.test[largest],
        found.test[Way(start=start, target=largest.target)],
        len(found.sets) ** 2,
    )
    return [f"{text} {needed}"]


def _longer(found: TransferFound, start: str) -> list[str]:
    """Hold sources against as many epochs on the target itself."""
    against = found.against_own(start)
    what = f"From {start}, less as many epochs on the target's own pictures"
    return [_told(found, against, what, noun="transfer")]


def _pretrained(found: TransferFound, start: str) -> list[str]:
    gains = found.against_random(start)
    if not gains:
        return []
    direct = {way: one for way, one in gains.items() if way.is_direct}
    two_stage = {way: one for way, one in gains.items() if not way.is_direct}
    return [
        _told(found, direct, f"{start} less {RANDOM}, trained directly", noun="target"),
        _told(found, two_stage, f"{start} less {RANDOM}, both by a source", noun="transfer"),
    ]


def _heads(found: TransferFound, start: str) -> list[str]:
    heads = found.head_against_all(start)
    return [
        _told(found, heads, f"From {start}, the head alone less all layers", noun="way")
    ] * bool(heads)


def _merges(found: TransferFound, start: str) -> list[str]:
    if not found.merges:
        return []
    k = len(found.sets) - 1
    chosen = Counter(
        name for target in found.sets for name in found.single(start, target)[1] if name
    )
    names = ", ".join(f"{name} {count(n, 'time')}" for name, n in chosen.most_common(_NAMED))
    said = [
        _told(
            found,
            found.merged_against(start, "single"),
            f"From {start}, merged networks less the single source that was the highest of {k} on validation "
            f"pictures ({names or 'none'})",
            noun="merge",
        )
    ]
    others = found.merged_against(start, "mean")
    if others:
        said.append(
            _told(found, others, f"From {start}, other merges less the plain mean", noun="merge")
        )
    return said


def _barriers(found: TransferFound, start: str) -> list[str]:
    rises = {pair: found.mean(found.barriers(pair)) for pair in found.lines if pair.start == start}
    known = {pair: rise for pair, rise in rises.items() if not math.isnan(rise.value)}
    if not known:
        return []
    highest = max(known, key=lambda pair: known[pair].value)
    rise = known[highest]
    return [
        (
            f"From {start}, between networks of two sources the loss rises by {number(rise.value)} at most on "
            f"average of the splits ({' and '.join(highest.sources)}, on {highest.target}"
            f"{_bounds(rise.low, rise.high)}), the highest of {len(known)}."
        )
    ]


def _ranks(found: TransferFound, start: str) -> list[str]:
    """Say whether layers end with other ranks after a source than trained directly."""
    told = ends_compared(found, start)
    defined = {kind: one for kind, one in told.items() if not math.isnan(one.value)}
    if not defined:
        return []
    shown = sorted(
        (kind for kind, one in defined.items() if one.is_shown),
        key=lambda kind: defined[kind].p_adjusted,
    )
    whole = count(len(defined), "comparison")
    what = f"From {start}, the ranks of layers at the end, after a source less trained directly"
    if not shown:
        measures = joined(list(MEASURES.values()))
        return [f"{what}: no difference is shown in {whole} ({measures}, on each target)."]
    names = [
        f"{MEASURES[measure]} on {target} ({after_holm(one)})"
        for target, measure in shown[:_NAMED]
        for one in [defined[target, measure]]
    ]
    rest = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return [f"{what}: {len(shown)} of {whole} are shown to differ, {joined(names)}{rest}."]


def _maps(found: TransferFound, start: str) -> list[str]:
    """Say how well neighbours in the features tell the data set, before and after a target."""
    of_set = {
        which.way: one.told[0].value
        for which, one in found.maps.items()
        if one is not None and which.way.start == start and not math.isnan(one.told[0].value)
    }  # what tells the set is first
    before = of_set.pop(Way(start=start), None)
    if before is None or not of_set:
        return []
    least, most = number(min(of_set.values())), number(max(of_set.values()))
    return [
        (
            f"From {start}, the nearest neighbours in the features tell which set a test picture is of with balanced "
            f"accuracy {number(before)} before, and {least if least == most else f'{least} to {most}'} after training on "
            f"a target (chance {number(1 / len(found.sets))}; one split, so no difference is shown)."
        )
    ]


def _scores(found: TransferFound) -> tuple[str, ...]:
    agreements = found.agreements()
    return describe_rankings(agreements, baseline=OTHER_TARGETS) if agreements else ()


def _unmoved(found: TransferFound) -> list[str]:
    if not found.unmoved:
        return []
    runs = found.splits * sum(not way.head for way in found.test)
    text = (
        f"{found.unmoved} of {count(runs, 'run')} kept the layers that they began with under a trained head, as no "
        "later look at validation pictures was better: more epochs, or another rate, may change what is said here."
    )
    return [text]


def _few(found: TransferFound) -> list[str]:
    if found.splits >= _FEW_SPLITS:
        return []
    missing = _FEW_SPLITS - found.splits
    none = " With one split there are no intervals, so nothing is shown." * (found.splits == 1)
    return [
        (
            f"These are {count(found.splits, 'split')} of each set: intervals are wide, and a difference that is not "
            f"shown may still be there. {missing} more would make {_FEW_SPLITS}.{none}"
        )
    ]


def _failed(found: TransferFound) -> list[str]:
    if not found.failed:
        return []
    n = len(found.failed)
    name, why = next(iter(found.failed.items()))
    return [
        (
            f"{count(n, 'job')} failed and {'is' if n == 1 else 'are'} left out: "
            f"{listed(list(found.failed), most=_NAMED)}. The first, {name}: {why}."
        )
    ]


# --- Parts of sentences --------------------------------------------------------------------------


def _told(
    found: TransferFound, differences: Mapping[Way, Difference], what: str, *, noun: str
) -> str:
    """Say which of several differences are shown, or that none is and how large the largest was."""
    defined = {way: one for way, one in differences.items() if not math.isnan(one.value)}
    if not defined:
        return f"{what}: no value could be compared."
    whole = count(len(defined), noun)
    shown = shown_of(defined)
    if not shown:
        largest = _largest(found, defined)
        assert largest is not None
        one = defined[largest]
        return (
            f"{what}, no difference in {found.metric} is shown in {whole}; the largest is "
            f"{_named(largest)} ({after_holm(one)})."
        )
    parts = []
    for word, sign in (("better", 1), ("worse", -1)):
        ways = [way for way in shown if defined[way].value * found.sign * sign > 0]
        if ways:
            names = [f"{_named(way)} ({after_holm(defined[way])})" for way in ways[:_NAMED]]
            rest = f" and {len(ways) - _NAMED} more" if len(ways) > _NAMED else ""
            parts.append(f"{len(ways)} {word}: {joined(names)}{rest}")
    return f"{what}, {len(shown)} of {whole} are shown to differ in {found.metric}, {'; '.join(parts)}."


def _named(way: Way) -> str:
    before = way.source or (f"{way.merge} of the others" if way.merge else "")
    return f"{before} to {way.target}" if before else way.target


def _bounds(low: float, high: float) -> str:
    return "" if math.isnan(low + high) else f", 95 % interval {signed(low)} to {signed(high)}"


def _largest(found: TransferFound, differences: Mapping[Way, Difference]) -> Way | None:
    defined = [way for way, one in differences.items() if not math.isnan(one.value)]
    return max(defined, key=lambda way: abs(differences[way].value), default=None)


def _needed(found: TransferFound, values: Values, others: Values, comparisons: int) -> str:
    """Say how many splits would show a difference like the largest, if any number would."""
    known = np.isfinite(values - others).sum()
    if known < 2:
        return "Two splits at least are needed for an interval."
    needed = repeats_needed(values, others, test_share=found.test_share, comparisons=comparisons)
    if needed is None:
        return "If its mean and spread stay, no number of splits would show it: it needs more pictures."
    return f"If its mean and spread stay, about {needed} splits would show it."


def basis_of(found: TransferFound, told: Sequence[str]) -> str:
    """Return on what it was measured."""
    return f"{found.metric} of test pictures, {count(found.splits, 'split')} of each of {', '.join(told)}"
