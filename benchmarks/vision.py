"""torchvision's transforms, also beside a torch for CPUs alone."""

from __future__ import annotations

import sys

import pytest
import torch

OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # they are there as long as it is
try:
    import torchvision  # noqa: F401
except ModuleNotFoundError:
    pytest.skip("needs torchvision: pip install 'histofast[timm]'", allow_module_level=True)
except RuntimeError:  # its wheel asks for operators that a torch for CPUs alone lacks
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    OPERATORS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    OPERATORS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from torchvision.transforms import v2

__all__ = ["v2"]
