"""Where networks run."""

from __future__ import annotations

import torch


def pick_device(device: str) -> torch.device:
    """Return the device that is asked for; "auto" is CUDA where there is some.

    Raises:
        ValueError: an unknown device; CUDA is asked for and torch finds none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be one of auto, cpu, cuda, got {device!r}")
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise ValueError("device must be auto or cpu where torch finds no GPU, got 'cuda'")
    return torch.device("cuda" if found and device != "cpu" else "cpu")
