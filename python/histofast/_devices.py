"""Names of the devices that work can be asked to run on."""

from __future__ import annotations

import re

TORCH = ("cuda",)
ONNX_RUNTIME = ("cuda", "tensorrt")


def check_device(device: str, gpus: tuple[str, ...]) -> None:
    """Refuse a device that is not auto, cpu, or one of `gpus`, with the index of a GPU or without.

    Whether it is there is found where it is used.

    Raises:
        ValueError: another device.
    """
    if not re.fullmatch(rf"auto|cpu|({'|'.join(gpus)})(:[0-9]+)?", device):
        known = ", ".join(("auto", "cpu", *gpus))
        raise ValueError(f"device must be one of {known}, or such as cuda:1, got {device!r}")
