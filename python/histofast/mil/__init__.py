"""Slides as bags of patch features: models of bags, their training, what they attend to, fine-tuning.

Needs torch (and scikit-learn for the baseline), which come with the extra `train`.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "histofast.mil needs torch, which is not installed: pip install 'histofast[train]'",
        name="torch",
    ) from None

from histofast.mil._bags import Bags, open_bags, open_labels
from histofast.mil._baseline import mean_pooling
from histofast.mil._epochs import EpochReport
from histofast.mil._finetune import FineTuneConfig, FineTuned, FineTuneProgress, finetune
from histofast.mil._folds import Fold, folds
from histofast.mil._metrics import Metric, differences, metrics
from histofast.mil._models import BagModel, BagOutput, create, names
from histofast.mil._predict import Predictions, attend, attention_of, predict
from histofast.mil._run import Run, TrainConfig, open_run
from histofast.mil._survival import cox_loss
from histofast.mil._topk import top_rows
from histofast.mil._train import TrainProgress, evaluate, train

__all__ = [
    "BagModel",
    "BagOutput",
    "Bags",
    "EpochReport",
    "FineTuneConfig",
    "FineTuneProgress",
    "FineTuned",
    "Fold",
    "Metric",
    "Predictions",
    "Run",
    "TrainConfig",
    "TrainProgress",
    "attend",
    "attention_of",
    "cox_loss",
    "create",
    "differences",
    "evaluate",
    "finetune",
    "folds",
    "mean_pooling",
    "metrics",
    "names",
    "open_bags",
    "open_labels",
    "open_run",
    "predict",
    "top_rows",
    "train",
]
