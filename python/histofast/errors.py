"""The exceptions of histofast: one line each, saying what was wanted, what came and what to do."""

from __future__ import annotations

from histofast._core import CudaError


class HistofastError(Exception):
    """Base of every error that histofast raises about the outside world (files, models, devices)."""


class SlideError(HistofastError):
    """A slide or image that cannot be read, or lacks what is needed."""


class TileError(SlideError):
    """One compressed tile that cannot be decoded; the rest of the slide may be fine."""


class StoreError(SlideError):
    """A bucket or web server that does not give a slide, or another version of it: no fault of its tiles."""


class ModelError(HistofastError):
    """An encoder file that is missing, broken, or not in the pixel-in form."""


class FeatureError(HistofastError):
    """A feature file that is missing, broken, or was made by something else."""


class JobError(HistofastError):
    """A job whose process died, or whose folder holds something else."""


class WriteError(HistofastError, OSError):
    """A file or folder that cannot be written."""


class NoSpaceError(WriteError):
    """The disk is full: nothing further could be written either."""


def missing_extra(module: str, *, by: str, extra: str = "train") -> ModuleNotFoundError:
    """Return what to raise where a module is not installed: `by` needs it, and the extra brings it."""
    return ModuleNotFoundError(
        f"{by} needs {module}, which is not installed: pip install 'histofast[{extra}]'",
        name=module,
    )


__all__ = [
    "CudaError",
    "FeatureError",
    "HistofastError",
    "JobError",
    "ModelError",
    "NoSpaceError",
    "SlideError",
    "StoreError",
    "TileError",
    "WriteError",
    "missing_extra",
]
