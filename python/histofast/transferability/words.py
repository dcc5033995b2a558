"""What rankings by scores are worth, in words: fixed rules, so that equal numbers give equal sentences."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from histofast._words import count, joined
from histofast.learning import Agreement, Metric, difference_of_agreements, holm
from histofast.report import interval, number, percent

_CONFIDENCE = 0.95


def describe_rankings(
    agreements: Mapping[str, Agreement], *, baseline: str | None = None
) -> tuple[str, ...]:
    """Say which scores are shown to rank sources better than chance, and than a ranking that costs nothing.

    A score is better than chance where its interval over targets lies above 0 and its p, after Holm for the
    number of scores, is below 0.05. It is told from another where the interval of the difference,
    wide enough for the number of comparisons (Bonferroni), excludes 0.

    Args:
        agreements: by the names that the sentences shall have; all of the same targets.
        baseline: the one of them to hold the others against, such as what each source was worth on the other
            targets (`histofast.learning.merit_elsewhere`); None: none.

    Returns:
        Sentences, the main finding first.

    Raises:
        ValueError: no score beside the baseline, a baseline that is not among them, other targets.
    """
    scores = {name: found for name, found in agreements.items() if name != baseline}
    if not scores:
        raise ValueError("agreements must have a score beside the baseline, got none")
    if baseline is not None and baseline not in agreements:
        raise ValueError(f"baseline must be one of {', '.join(agreements)}, got {baseline!r}")
    defined = {name: found for name, found in scores.items() if found.n_defined}
    said = [*_unmeasured(scores, defined)]
    if not defined:
        return tuple(said)
    if all(math.isnan(found.tau.low) for found in defined.values()):
        return (_without_intervals(defined), *said)
    compared = () if baseline is None else _against(defined, agreements[baseline], baseline)
    return (*_chance(defined), *_highest(defined), *compared, *said)


def _chance(scores: Mapping[str, Agreement]) -> list[str]:
    """Which are better than chance, and how much that is."""
    names = list(scores)
    adjusted = dict(zip(names, holm([scores[name].p for name in names]), strict=True))
    shown = [
        name for name in names if scores[name].tau.low > 0 and adjusted[name] < 1 - _CONFIDENCE
    ]
    others = [name for name in names if name not in shown]
    top = _top(scores)
    what = f"shown to rank the sources better than chance over {_targets(scores[top])}"
    if shown:
        said = f"{joined(shown)} {_are(shown)} {what}"
        said += f"; {joined(others)} {_are(others)} not." if others else "."
    else:
        said = f"{_none_of(names)} {what}."
    whose = "Its mean" if len(names) == 1 else "The highest mean"
    owner = "" if len(names) == 1 else f"{top}'s, "
    pairs = percent(round((1 + scores[top].tau.value) / 2, 2))
    height = (
        f"{whose} of Kendall's tau is {owner}{_tau(scores[top].tau)}: it puts the better of two sources first "
        f"in about {pairs} of the pairs, chance in {percent(0.5)}."
    )
    return [said, height]


def _highest(scores: Mapping[str, Agreement]) -> list[str]:
    """The highest of several, and what is not told from it."""
    if len(scores) < 2:
        return []
    top = _top(scores)
    rest = [name for name in scores if name != top]
    lower = [name for name in rest if _difference(scores[name], scores[top], len(rest)).high < 0]
    same = [name for name in rest if name not in lower]
    head = f"{top} is the highest of {len(scores)} scores"
    if not lower:
        return [f"{head} and is told from none of the others."]
    told = f"{head}; {joined(lower)} {_are(lower)} shown to be lower"
    return [f"{told}, {joined(same)} not." if same else f"{told}."]


def _against(scores: Mapping[str, Agreement], base: Agreement, name: str) -> list[str]:
    """Each against the baseline."""
    if math.isnan(base.tau.low):
        return [f"{name} has no interval: the scores were not held against it."]
    found = {score: _difference(each, base, len(scores)) for score, each in scores.items()}
    better = [score for score, each in found.items() if each.low > 0]
    worse = [score for score, each in found.items() if each.high < 0]
    than = f"shown to rank them better than {name} ({_tau(base.tau)})."
    said = [f"{joined(better)} {_are(better)} {than}" if better else f"{_none_of(scores)} {than}"]
    if worse:
        said.append(f"{joined(worse)} {_are(worse)} shown to be worse than that.")
    return said


def _unmeasured(scores: Mapping[str, Agreement], defined: Mapping[str, Agreement]) -> list[str]:
    said = []
    for name, found in scores.items():
        missing = len(found.of_targets) - found.n_defined
        if not missing:
            continue
        said.append(
            f"{name} ranks nothing on {missing} of {_targets(found)}, where it is equal for all sources or "
            "not known: its mean is of the others."
            if name in defined
            else f"{name} ranks the sources of no target: it is equal for all, or not known."
        )
    return said


def _without_intervals(scores: Mapping[str, Agreement]) -> str:
    top = _top(scores)
    return (
        f"With {_targets(scores[top])} there is no interval: nothing is shown of any score (highest mean of "
        f"Kendall's tau, {top}: {number(scores[top].tau.value)})."
    )


def _top(scores: Mapping[str, Agreement]) -> str:
    return max(scores, key=lambda name: scores[name].tau.value)


def _difference(one: Agreement, other: Agreement, comparisons: int) -> Metric:
    confidence = 1 - (1 - _CONFIDENCE) / comparisons
    return difference_of_agreements(one, other, confidence=confidence, resamples=10_000)


def _tau(tau: Metric) -> str:
    bounds = "no interval" if math.isnan(tau.low) else interval(tau.low, tau.high)
    return f"{number(tau.value)}, {bounds}"


def _none_of(names: Collection[str]) -> str:
    return "No score is" if len(names) > 1 else f"{next(iter(names))} is not"


def _are(names: Collection[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _targets(found: Agreement) -> str:
    groups = len(set(found.group_of.tolist()))
    targets = count(len(found.of_targets), "target")
    return targets if groups == len(found.of_targets) else f"{targets} in {count(groups, 'group')}"
