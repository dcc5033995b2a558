"""Slides as bags of patch features: models of bags, their training, what they attend to, fine-tuning.

Needs torch (and scikit-learn for the baseline), which come with the extra `train`.
"""

from __future__ import annotations

from histofast.errors import missing_extra

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError:
    raise missing_extra("torch", by=__name__) from None

from histofast.mil.bag_model import BagModel, BagOutput
from histofast.mil.bags import Bags, open_bags, open_labels
from histofast.mil.baseline import mean_pooling
from histofast.mil.clam import smooth_svm_loss
from histofast.mil.end_to_end import backward
from histofast.mil.finetuning import FineTuneArguments, finetune, finetune_part
from histofast.mil.fold_training import TrainProgress, train_fold
from histofast.mil.fold_tuning import FineTuneConfig, FineTuneProgress
from histofast.mil.looking import Look, Looker
from histofast.mil.measuring import evaluate
from histofast.mil.models import create, names
from histofast.mil.pixels import sample_of_run
from histofast.mil.prediction import Predictions, attend, attention_of, predict
from histofast.mil.runs import Run, TrainConfig, open_run
from histofast.mil.selecting import attention_by, refuse_without_attention, selection
from histofast.mil.starting import Start, read_start
from histofast.mil.survival import cox_loss
from histofast.mil.topk import top_rows
from histofast.mil.torch_datasets import BagDataset, PatchDataset
from histofast.mil.training import train
from histofast.mil.transmil import PositionEncoding, nystrom_attention, pseudo_inverse
from histofast.mil.tuning_answer import FineTuned

__all__ = [
    "BagDataset",
    "BagModel",
    "BagOutput",
    "Bags",
    "FineTuneArguments",
    "FineTuneConfig",
    "FineTuneProgress",
    "FineTuned",
    "Look",
    "Looker",
    "PatchDataset",
    "PositionEncoding",
    "Predictions",
    "Run",
    "Start",
    "TrainConfig",
    "TrainProgress",
    "attend",
    "attention_by",
    "attention_of",
    "backward",
    "cox_loss",
    "create",
    "evaluate",
    "finetune",
    "finetune_part",
    "mean_pooling",
    "names",
    "nystrom_attention",
    "open_bags",
    "open_labels",
    "open_run",
    "predict",
    "pseudo_inverse",
    "read_start",
    "refuse_without_attention",
    "sample_of_run",
    "selection",
    "smooth_svm_loss",
    "top_rows",
    "train",
    "train_fold",
]


def __dir__() -> list[str]:
    return __all__
