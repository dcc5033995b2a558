"""Where networks run."""

from __future__ import annotations

import torch

from histofast._machine import TORCH, check_device


def pick_device(device: str) -> torch.device:
    """Return the device that is asked for; "auto" is CUDA where there is some.

    Raises:
        ValueError: an unknown device; a GPU is asked for that torch does not find.
    """
    check_device(device, TORCH)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if found else "cpu"
    elif device != "cpu" and not found:
        raise ValueError(f"device must be auto or cpu where torch finds no GPU, got {device!r}")
    chosen = torch.device(device)
    if (chosen.index or 0) >= max(found, 1):
        raise ValueError(
            f"device must be one of cuda:0 to cuda:{found - 1}, the GPUs that torch finds, "
            f"got {device!r}"
        )
    return chosen
