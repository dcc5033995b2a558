"""timm beside any torch: `need_timm` before it is imported."""

from __future__ import annotations

import sys
from typing import Any

from extras import need

_defined: list[Any] = []


def need_timm() -> Any:
    """Return timm, or skip where it, torch or torchvision is missing."""
    torch = need("torch")
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # The registry's torchvision beside a torch without CUDA lacks the two operators that it asks
        # for when it is imported; nothing here calls them.
        for half in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[half]
        operators = torch.library.Library("torchvision", "DEF")
        _defined.append(operators)  # they go with it
        for operator in ("nms", "qnms"):
            operators.define(
                f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    except ModuleNotFoundError:
        pass  # the next line says so
    return need("timm", "torchvision")
