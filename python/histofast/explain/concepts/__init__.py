"""What can be said of a patch in words and measured: texture."""

from __future__ import annotations

from histofast.explain.concepts.glcm import GLCM_FEATURES, glcm

__all__ = ["GLCM_FEATURES", "glcm"]


def __dir__() -> list[str]:
    return __all__
