"""What features are like, in words: fixed rules, so that equal numbers give equal sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator

from histofast._words import count, listed
from histofast.summaries.looking import FeatureLook, LookResult

# What is warned of.
LOW_RANK = 0.02  # of the rank that could be
ONE_AXIS = 0.8  # of the variance
ALIKE = 0.99  # median cosine of patches of different slides
REPEATED = 0.01  # of the patches
FAR_APART = 10.0  # norms, 99th over 1st percentile
HALF_MOST = 65_504.0  # of float16
MOSTLY_SLIDES = 0.5  # of the variance


def describe_look(result: LookResult) -> tuple[str, ...]:
    """Return what was found, as sentences: warnings first, or that there is none; then the numbers."""
    found = tuple(warnings_of(result.look))
    none = "Nothing has collapsed: no warning." if not found else ""
    return tuple(filter(None, (*found, none, *_numbers(result.look))))


def warnings_of(look: FeatureLook) -> Iterator[str]:
    """Yield a sentence on each thing that is not as features of a sound encoder are."""
    most = min(look.n, look.d)
    if look.constant:
        which = listed([str(k) for k in look.constant])
        yield f"Warning: {len(look.constant)} of {count(look.d, 'feature')} are the same in all patches ({which})."
    if look.still:
        which = listed([str(k) for k in look.still])
        yield (
            f"Warning: {len(look.still)} of {count(look.d, 'feature')} hardly move, less than a thousandth "
            f"as much as the median one ({which})."
        )
    if look.rank_centred < LOW_RANK * most:
        yield (
            f"Warning: the features less their mean lie in about {look.rank_centred:.1f} directions, of "
            f"{most} that there could be."
        )
    axis = look.variance_in.get(1, 0.0)
    if axis > ONE_AXIS and look.d > 1:
        yield f"Warning: {axis:.0%} of the variance lies along one direction."
    if look.cosines.median > ALIKE:
        yield (
            f"Warning: patches of different slides nearly point the same way, median cosine "
            f"{look.cosines.median:.4f}: centre features before cosines are taken."
        )
    if look.repeated > REPEATED:
        yield f"Warning: {look.repeated:.0%} of the patches have the features of another patch, bit for bit."
    if look.zeros:
        yield f"Warning: {count(look.zeros, 'patch')} of {look.n} have features that are all 0."
    elif look.norms.low > 0 and look.norms.high / look.norms.low > FAR_APART:
        yield (
            f"Warning: norms lie far apart, from {look.norms.low:.3g} to {look.norms.high:.3g} (1st and 99th "
            "percentile)."
        )
    if look.largest > HALF_MOST / 2:
        yield f"Warning: the largest value is {look.largest:.3g}, float16 ends at 65,504."
    if look.dependence > MOSTLY_SLIDES:
        yield (
            f"Warning: {look.dependence:.0%} of the variance is whose slide a patch is of: stain and scanner, "
            "or tissue that differs between slides."
        )


def _numbers(look: FeatureLook) -> Iterator[str]:
    most = min(look.n, look.d)
    yield (
        f"RankMe is {look.rank_me:.1f} of {most}; of the features less their mean the effective rank is "
        f"{look.rank_centred:.1f}."
    )
    if look.variance_in:
        yield (
            "Variance along the first principal axes: "
            + ", ".join(f"{share:.1%} in {k}" for k, share in look.variance_in.items())
            + "."
        )
    yield (
        f"Norms: {look.norms.median:.3g} in the median, {look.norms.low:.3g} to {look.norms.high:.3g} (1st "
        "and 99th percentile)."
    )
    if math.isnan(look.dependence):
        yield "How much of the variance is the slide is not known of one slide."
    else:
        yield (
            f"The slide explains {look.share_of_slides:.1%} of the variance, {look.dependence:.1%} after "
            "what as many groups would by their number alone."
        )
