"""Slides in, feature files out, by encoders of any kind, whole or reduced to fewer features."""

from __future__ import annotations

from histofast.encoding.extracting import extract
from histofast.encoding.reducing import reduce

__all__ = ["extract", "reduce"]


def __dir__() -> list[str]:
    return __all__
