"""How many patches an expensive encoder must see, where a cheap one's attention chooses them."""

from __future__ import annotations

from histofast.studies.selection.found import Compared, Row, SelectionFound, found_of
from histofast.studies.selection.study import SelectionStudy
from histofast.studies.selection.words import describe_selection

__all__ = [
    "Compared",
    "Row",
    "SelectionFound",
    "SelectionStudy",
    "describe_selection",
    "found_of",
]


def __dir__() -> list[str]:
    return __all__
