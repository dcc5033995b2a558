"""A job that records where networks would run, in a process whose torch says that it finds two GPUs."""

from __future__ import annotations

import torch

from histofast.networks import pick_device


def pretend(patch) -> None:
    """Have torch find two GPUs; `patch(object, name, value)` sets an attribute."""
    patch(torch.cuda, "is_available", lambda: True)
    patch(torch.cuda, "device_count", lambda: 2)


def device_of(*, device: str = "auto") -> str:
    """Return the device that a job with this option uses."""
    pretend(setattr)
    return str(pick_device(device))
