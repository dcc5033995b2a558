"""Experiments that answer a question about pretrained networks, each with a page that says so."""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "histofast.studies needs torch, which is not installed: pip install 'histofast[train]'",
        name="torch",
    ) from None

from histofast.studies._networks import compare_networks
from histofast.studies._setting import StudyProgress
from histofast.studies._study import StudyResult
from histofast.studies._truncation import truncation

__all__ = ["StudyProgress", "StudyResult", "compare_networks", "truncation"]
