"""How robust encoders are, in words: fixed rules, so that equal numbers give equal sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from histofast._words import count, counted, joined
from histofast.report import interval, number, percent
from histofast.robustness.dependence import Estimate, Robustness

if TYPE_CHECKING:
    from histofast.robustness.feature_files import RobustnessResult

_SHOWN = 0.05  # a p above says nothing
_FEW_GROUPS = 30  # fewer patients make a rough interval
_NAMED = 20


def describe_robustness(result: RobustnessResult) -> tuple[str, ...]:
    """Return what was found, as sentences: who depends on the confounder, and who most and least."""
    return (
        *_shown(result),
        *_extremes(result),
        *_slides(result),
        *_few(result),
        *(f"{note[:1].upper()}{note[1:]}." for note in result.notes),
    )


def finding_of(found: Robustness) -> str:
    """Return in a few words what the numbers say of an encoder."""
    if math.isnan(found.index.value):
        return "undefined"
    if math.isnan(found.index.p):
        return "not held against chance"
    if least_p(found) <= _SHOWN:
        return "depends on it"
    return "no dependence shown"


def least_p(found: Robustness) -> float:
    """Return the p of three, adjusted for their number; NaN where there are no shuffles."""
    known = [e.p for e in (found.index, found.margin, found.share) if not math.isnan(e.p)]
    return min(1.0, 3 * min(known)) if known else math.nan


def estimate_words(estimate: Estimate, confidence: float) -> str:
    """Return a value with its interval and what shuffles give."""
    said = number(estimate.value)
    if not math.isnan(estimate.low):
        said += f", {percent(confidence)} interval {interval(estimate.low, estimate.high)}"
    if not math.isnan(estimate.shuffled):
        said += f", shuffled {number(estimate.shuffled)}"
    return said


def _shown(result: RobustnessResult) -> list[str]:
    by_finding: dict[str, list[str]] = {}
    for name, found in result.encoders.items():
        by_finding.setdefault(finding_of(found), []).append(name)
    said = []
    if names := by_finding.get("depends on it"):
        all_p = max(least_p(result.encoders[name]) for name in names)
        said.append(
            f"Features of {_listed(names)} tell {result.column} of {result.unit}s of the same class apart "
            f"more than {result.unit}s dealt at random (p at most {all_p:.2g}, of index, margin and share "
            "after Bonferroni)."
        )
    if names := by_finding.get("no dependence shown"):
        said.append(
            f"Of {_listed(names)} it is not shown that features depend on {result.column}; that is no "
            "proof that they do not."
        )
    if names := by_finding.get("undefined"):
        said.append(f"Of {_listed(names)} the robustness index is undefined.")
    return said


def _extremes(result: RobustnessResult) -> list[str]:
    known = [
        (found.index.value, name)
        for name, found in result.encoders.items()
        if not math.isnan(found.index.value)
    ]
    if len(known) < 2:
        return [
            f"Robustness index of {name}: {estimate_words(found.index, found.confidence)}."
            for name, found in result.encoders.items()
            if not math.isnan(found.index.value)
        ]
    most, least = max(known), min(known)
    highest = f"highest of {count(len(known), 'encoder')} {most[1]} ({_of(result, most[1])})"
    return [f"Robustness index: {highest}, lowest {least[1]} ({_of(result, least[1])})."]


def _of(result: RobustnessResult, name: str) -> str:
    found = result.encoders[name]
    return estimate_words(found.index, found.confidence)


def _slides(result: RobustnessResult) -> list[str]:
    known = [
        (found.share_of_groups, name)
        for name, found in result.encoders.items()
        if not math.isnan(found.share_of_groups)
    ]
    if not known:
        return []
    least, most = min(known), max(known)
    what = f"Of the variance within classes {result.unit}s make"
    if len(known) == 1:
        return [f"{what} {percent(least[0])}."]
    return [f"{what} {percent(least[0])} ({least[1]}) to {percent(most[0])} ({most[1]})."]


def _few(result: RobustnessResult) -> list[str]:
    groups = min(found.groups for found in result.encoders.values())
    if groups >= _FEW_GROUPS:
        return []
    return [f"All of this rests on {count(groups, result.unit)}: take it as rough."]


def _listed(names: Sequence[str]) -> str:
    return joined(names) if len(names) <= _NAMED else counted(names, most=_NAMED)
