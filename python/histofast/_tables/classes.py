"""Cells that name classes in; their order, and two that are hardly told apart, out."""

from __future__ import annotations

import re
from collections.abc import Iterable

from histofast._tables.cells import as_number

_WHOLE = re.compile(r"[+-]?\d{1,300}", re.ASCII)  # Python reads no number of thousands of digits

_POINTED = re.compile(r"([+-]?\d+)(?:\.0*)?", re.ASCII)


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of classes in their order: as numbers if all are numbers, else as texts.

    Example:
        >>> ordered({"10", "9"}), ordered({"b", "a", "10"}), ordered({"10.0", "2.0"})
        (('9', '10'), ('10', 'a', 'b'), ('2.0', '10.0'))
    """
    found = {name: _number(name) for name in sorted(set(names))}
    numbers = {name: number for name, number in found.items() if number is not None}
    return tuple(sorted(numbers, key=numbers.__getitem__) if len(numbers) == len(found) else found)


def alike(names: Iterable[str]) -> str | None:
    """Say which two names of classes nobody means to be two; None where there are none.

    Such differ in case, or are a whole number with and without a point. A code such as `007` is not 7.

    Example:
        >>> alike(["Tumor", "normal", "tumor"])
        'Tumor and tumor, which differ in case only'
        >>> alike(["0", "1", "1.0"]), alike(["7", "007"])
        ('1 and 1.0, which are one number', None)
    """
    seen: dict[str, str] = {}
    for name in names:
        pointed = _POINTED.fullmatch(name)
        first = seen.setdefault(pointed[1] if pointed else name.casefold(), name)
        if first != name:
            how = "are one number" if pointed else "differ in case only"
            return f"{first} and {name}, which {how}"
    return None


def _number(name: str) -> float | None:
    return int(name) if _WHOLE.fullmatch(name) else as_number(name)
