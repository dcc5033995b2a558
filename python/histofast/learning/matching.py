"""What tables call slides in, what their features are called out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import PurePath

from histofast._tables import as_number
from histofast.slides import SLIDE_SUFFIXES

# Cut off names. Other endings may be part of a name, as in "case.2".
_SUFFIXES = SLIDE_SUFFIXES | {".czi", ".h5", ".isyntax", ".npy", ".pt", ".vsi"}
# What spreadsheets make of `1-3` and `3-21`: 01-Mar, 1. Mrz, Mar-21, 2021-03-01, 01.03.2021.
_DATE = re.compile(
    r"\d\d?[-. ]{1,2}[^\W\d_]{3,4}\.?|[^\W\d_]{3,4}[-. ]\d\d|\d{4}-\d\d-\d\d|\d\d?\.\d\d?\.\d{4}"
)
_DOUBLE = ".ome"  # before .tif, .zarr


def matched(names: Sequence[str], slides: Collection[str]) -> list[str]:
    """Return what each name of a table is called among the slides, itself where it is none of them.

    With and without folders (of Windows too) and the suffix of a slide, which either side may have,
    where only one slide can be meant.

    Example:
        >>> matched(["x/a.SVS", "b", "c.ome.tif", "d.2"], ["a", "b.svs", "c", "d"])
        ['a', 'b.svs', 'c', 'd.2']
    """
    known = set(slides)
    counts = Counter(_bare(slide) for slide in known)
    bare = {_bare(slide): slide for slide in known if counts[_bare(slide)] == 1}
    return [_matched(name, known, bare) for name in names]


def _matched(name: str, known: Collection[str], bare: dict[str, str]) -> str:
    last = PurePath(name.replace("\\", "/")).name or name
    stem = _without_suffix(last)
    for each in (name, last, stem):
        if each in known:
            return each
    # Two suffixes that differ are two files.
    found = bare.get(_bare(last))
    if found is not None and (stem == last or _without_suffix(found) == found):
        return found
    return stem


def _without_suffix(name: str) -> str:
    path = PurePath(name)
    return path.stem if path.suffix.lower() in _SUFFIXES else name


def _bare(name: str) -> str:
    stem = _without_suffix(name)
    if stem != name and PurePath(stem).suffix.lower() == _DOUBLE:
        return PurePath(stem).stem
    # A slide of one file, `a.ome.tif`, has features `a.ome`.
    return PurePath(name).stem if PurePath(name).suffix.lower() == _DOUBLE else stem


def zeros_lost(names: Sequence[str], slides: Collection[str]) -> str:
    """Return the remedy for names that a spreadsheet took for numbers or dates, "" where there is none.

    Numbers must be those of slides, for the rest is no spreadsheet's doing.

    Example:
        >>> zeros_lost(["01-Mar"], ["1-3"])
        'save the column of slides as text, for spreadsheets write dates like 01-Mar'
        >>> zeros_lost(["7", "12.0"], ["007", "012"])
        'save the column of slides as text, for spreadsheets take 007 for 7'
        >>> zeros_lost(["7"], ["8"])
        ''
    """
    numbers = {as_number(slide): slide for slide in sorted(slides) if slide.isdecimal()}
    for name in names:
        number = as_number(name)
        if number is not None and number in numbers:
            slide = numbers[number]
            return f"save the column of slides as text, for spreadsheets take {slide} for {name}"
    dates = [name for name in names if _DATE.fullmatch(name)]
    if dates and not any(_DATE.fullmatch(slide) for slide in slides):
        return f"save the column of slides as text, for spreadsheets write dates like {dates[0]}"
    return ""
