"""Numbers given as options: any numeric type in, Python's own out, or one line that says why not."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, TypeVar

MPP_MIN, MPP_MAX = 0.05, 20.0  # um per pixel; no slide scanner works outside

WholeOrNone = TypeVar("WholeOrNone", int, int | None)
RealOrNone = TypeVar("RealOrNone", float, float | None)


def whole_number(
    name: str, value: WholeOrNone, *, at_least: int | None = None, at_most: int | None = None
) -> WholeOrNone:
    """Return a number of any integer type (NumPy's too) as Python's own; None stays None.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is out of range.
    """
    given: Any = value
    if given is None:
        return value
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise TypeError(f"{name} must be a whole number, got {given!r}")
    number = int(given)
    if (at_least, at_most) != (None, None):
        _refuse_outside(name, number, at_least, at_most)
    return number


def real_number(
    name: str,
    value: RealOrNone,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> RealOrNone:
    """Return a number of any real type (NumPy's too) as Python's own; None stays None.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range, or, where there is one, not finite.
    """
    given: Any = value
    if given is None:
        return value
    if isinstance(given, bool) or not isinstance(given, Real):
        raise TypeError(f"{name} must be a number, got {given!r}")
    number = float(given)
    if above is not None and not above < number < math.inf:
        raise ValueError(f"{name} must be above {above:g}, got {number:g}")
    if (at_least, at_most) != (None, None):
        _refuse_outside(name, number, at_least, at_most)
    return number


def mpp_number(name: str, value: RealOrNone) -> RealOrNone:
    """As `real_number`, for um per pixel.

    Raises:
        TypeError: it is no number.
        ValueError: no slide has such a scale.
    """
    mpp = real_number(name, value)
    if mpp is not None and not MPP_MIN <= mpp <= MPP_MAX:
        raise ValueError(f"{name} must be within {MPP_MIN}..{MPP_MAX:g} um per pixel, got {mpp:g}")
    return mpp


def _refuse_outside(
    name: str, number: float, at_least: float | None, at_most: float | None
) -> None:
    low = -math.inf if at_least is None else at_least
    high = math.inf if at_most is None else at_most
    if math.isfinite(number) and low <= number <= high:
        return
    if at_least is not None and at_most is not None:
        wanted = f"within {at_least:g}..{at_most:g}"
    else:
        wanted = f"at least {at_least:g}" if at_most is None else f"at most {at_most:g}"
        wanted += "" if math.isfinite(number) else " and finite"
    got = f"{number}" if isinstance(number, int) else f"{number:g}"
    raise ValueError(f"{name} must be {wanted}, got {got}")
