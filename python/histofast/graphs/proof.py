"""What a file must stand before it takes its name: patches to run it on, and how far it may be off."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast.encoders import EncoderSpec
from histofast.graphs.stained import stained_noise

BATCHES = (1, 2, 7)


def checked_out(out: str | os.PathLike[str]) -> Path:
    """Return the path of a file to write.

    Raises:
        ValueError: it is not to be an .onnx file.
    """
    path = Path(out)
    if path.suffix != ".onnx":
        raise ValueError(f"out must end in .onnx, got {path}")
    return path


def max_relative_error(precision: str) -> float:
    """Return how much features may differ from their definition, as a share of their norm."""
    return 1e-3 if precision == "float16" else 1e-5


def patches_for(spec: EncoderSpec, n: int) -> NDArray[np.uint8]:
    """Return (n, h, w, 3) made-up patches of a size that an encoder takes."""
    height_px, width_px = spec.height_px or spec.patch_px, spec.width_px or spec.patch_px
    patches = stained_noise(n, max(height_px, width_px))
    return np.ascontiguousarray(patches[:, :height_px, :width_px])


def relative_error(got: NDArray[np.floating], wanted: NDArray[np.floating]) -> float:
    """Return the largest distance between rows, each as a share of the wanted row's norm."""
    norms = np.linalg.norm(wanted, axis=1)
    errors = np.linalg.norm(got - wanted, axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
    return float(errors.max())


def checked_patches(patches: NDArray[np.uint8] | None, patch_px: int) -> NDArray[np.uint8]:
    """Return what to compare on: as given, or made up.

    Raises:
        TypeError, ValueError: another type or shape, or too few.
    """
    if patches is None:
        patches = stained_noise(max(BATCHES), patch_px)
    (n,) = check("patches", patches, "uint8", ("n", patch_px, patch_px, 3))
    if n < max(BATCHES):
        raise ValueError(f"patches must be at least {max(BATCHES)}, got {n}")
    return patches
