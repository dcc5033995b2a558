"""Labelled images in, trained networks and what they are worth out: one visible loop.

`train` makes a run: one network, one start, one data set, one split, one recipe, one seed. Its folder is
what comes of it; `networks.starts` begins other networks with it (`run:FOLDER`), `models export --run`
makes it an encoder.
"""

from __future__ import annotations

from histofast.errors import missing_extra

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError:
    raise missing_extra("torch", by=__name__) from None

from histofast.classify.asking import Asked
from histofast.classify.evaluation import Evaluation
from histofast.classify.exporting import export, export_cuts
from histofast.classify.folds import Folds, train_folds
from histofast.classify.layers import EpochOfLayers
from histofast.classify.loop import Progress, logits_of, standardised, steps_of_epoch
from histofast.classify.merging import Merged, merge
from histofast.classify.planning import Planned, Runs, StepTimes, look_ahead
from histofast.classify.predicting import Predictions, predict
from histofast.classify.recipe import PRESETS, Recipe, as_recipe
from histofast.classify.runs import Run, open_run
from histofast.classify.task import probabilities_of
from histofast.classify.training import torch_threads, train

__all__ = [
    "PRESETS",
    "Asked",
    "EpochOfLayers",
    "Evaluation",
    "Folds",
    "Merged",
    "Planned",
    "Predictions",
    "Progress",
    "Recipe",
    "Run",
    "Runs",
    "StepTimes",
    "as_recipe",
    "export",
    "export_cuts",
    "logits_of",
    "look_ahead",
    "merge",
    "open_run",
    "predict",
    "probabilities_of",
    "standardised",
    "steps_of_epoch",
    "torch_threads",
    "train",
    "train_folds",
]


def __dir__() -> list[str]:
    return __all__
