"""Position embeddings of a file for another size of pictures: resampled once, when they are loaded."""

from __future__ import annotations

import math
from typing import Any

import torch

_KEY = "pos_embed"


def resample_positions(state: dict[str, torch.Tensor], model: Any, resample: Any) -> int | None:
    """Bring position embeddings of a grid of patches to the grid of a model, in place.

    They come out as timm has them at run time (`dynamic_img_size`): bicubic, without aliasing; those of
    class token and registers stay.

    Args:
        state: tensors of a file, under any prefix.
        model: of timm, with or without memory for its weights.
        resample: `timm.layers.resample_abs_pos_embed`.

    Returns:
        The side of the file's grid in patches, or None where nothing was resampled: there is no grid, it
        is the model's own, or it does not fit for another reason, which loading tells.
    """
    own = getattr(model, _KEY, None)
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if not isinstance(own, torch.Tensor) or own.ndim != 3 or grid is None:
        return None
    before = own.shape[1] - math.prod(grid)  # of class token and registers
    found = None
    for key, value in state.items():
        is_one = key == _KEY or key.endswith(f".{_KEY}")
        if not is_one or value.ndim != 3 or value.shape[::2] != own.shape[::2]:
            continue
        side = math.isqrt(max(0, value.shape[1] - before))
        if side == 0 or side**2 != value.shape[1] - before or value.shape == own.shape:
            continue
        state[key] = resample(value, new_size=list(grid), num_prefix_tokens=before)
        found = side
    return found
