"""What was found of channels, in sentences by fixed rules."""

from __future__ import annotations

import numpy as np

from histofast._words import count
from histofast.explain.channels.look import Look, Side
from histofast.report import number


def findings(look: Look) -> tuple[str, ...]:
    """Return what the numbers say; the same numbers give the same sentences."""
    said = [_dead(look, side) for side in look.sides]
    said += [_reached(look, side) for side in look.sides if any(f is not None for f in side.found)]
    if len(look.sides) == 2:
        said.append(_together(look))
    return tuple(said)


def _dead(look: Look, side: Side) -> str:
    dead, of = int(side.real.dead.sum()), side.real.channels
    pictures = count(len(look.names), "picture")
    if not dead:
        return (
            f"{side.name}: none of the {of:,} channels of {look.layer} is dead; each varies over "
            f"the {pictures}."
        )
    return (
        f"{side.name}: {dead:,} of the {of:,} channels of {look.layer} {'is' if dead == 1 else 'are'} "
        f"dead, with one value at all places of all {pictures}."
    )


def _reached(look: Look, side: Side) -> str:
    pairs = [
        (value, float(side.real.means[:, channel].max()))
        for channel, value, found in zip(look.channels, side.values, side.found, strict=True)
        if found is not None
    ]
    higher = sum(value > most for value, most in pairs)
    if higher == len(pairs):
        every = "the one channel" if higher == 1 else f"each of the {higher:,} channels"
        return (
            f"{side.name}: in {every} shown the picture found excites its channel more than every "
            "real one."
        )
    return (
        f"{side.name}: in {higher or 'none'} of {count(len(pairs), 'channel')} shown the picture found excites its channel more than "
        "every real one; where it does not, the search has not come far, or what the channel looks "
        "for cannot be had at once at all places."
    )


def _together(look: Look) -> str:
    r = look.together()
    r = r[np.isfinite(r)]
    names = " and ".join(side.name for side in look.sides)
    if not len(r):
        return f"Each channel is dead in one of {names}: nothing is said of what goes together."
    low, middle, high = (float(np.quantile(r, q)) for q in (0.25, 0.5, 0.75))
    return (
        f"Over the same pictures, channels of one number in {names} go together with r = "
        f"{number(middle)} (median of {len(r):,} that are dead in neither; the middle half "
        f"{number(low)} to {number(high)})."
    )


def limits(look: Look) -> tuple[str, ...]:
    """Return what must not be concluded."""
    one_of_many = (
        "A picture found is one of many that excite a channel, what this search found from this seed; "
        "another seed finds another."
    )
    no_tissue = (
        "What a channel answers to in tissue is in the real pictures. Pictures found are not tissue and "
        "show nothing that was seen: read them beside the real ones only."
    )
    how = (
        "taken evenly from all, not chosen for what they show"
        if look.options.channels is None
        else "those that were asked for, and say nothing of the others"
    )
    said = [one_of_many, no_tissue, f"The channels shown are {how}."]
    if look.options.prior == "own":
        said.append(
            "Found pictures have the frequencies and colours of these real ones: what a channel might "
            "look for beyond them, as in photographs, is not shown (prior published does)."
        )
    if len(look.sides) == 2:
        said.append(
            "A channel of the same number is the same channel only where one of the networks was "
            "trained from the other."
        )
    return tuple(said)
