"""Checks on arrays, in one wording, for every function that takes some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def check(
    name: str, array: Any, dtype: str, shape: Sequence[str | int], *, contiguous: bool = True
) -> tuple[int, ...]:
    """Return the sizes of the named axes of `array`, or refuse it.

    Args:
        name: what the caller calls the array, for the message.
        array: the array.
        dtype: NumPy name of the type it must have.
        shape: an int is an exact size, a letter a free one; the same letter twice must agree.
        contiguous: require C order.

    Returns:
        The sizes of the axes given by a letter, each letter once, in order.

    Raises:
        TypeError: not an array, or another dtype.
        ValueError: another rank or size, or strided.

    Example:
        >>> check("tiles", np.zeros((2, 4, 4, 3), np.uint8), "uint8", ("n", "p", "p", 3))
        (2, 4)
    """
    order = "C-contiguous " if contiguous else ""
    wanted = (
        f"{order}{dtype} of shape ({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    )
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be {wanted}, got {type(array).__name__}")
    got = f"{array.dtype.name} of shape {array.shape}"
    if array.dtype != np.dtype(dtype):
        raise TypeError(f"{name} must be {wanted}, got {got}")
    sizes: dict[str, int] = {}
    fits = array.ndim == len(shape)
    if fits:
        for size, want in zip(array.shape, shape, strict=True):
            fits &= size == (want if isinstance(want, int) else sizes.setdefault(want, size))
    if not fits:
        raise ValueError(f"{name} must be {wanted}, got {got}")
    if contiguous and not array.flags.c_contiguous:
        raise ValueError(f"{name} must be {wanted}, got strided {got}")
    return tuple(sizes.values())
