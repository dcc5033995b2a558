"""Checks on arrays, in one wording, and the only place that tells a GPU's arrays from NumPy's.

Arrays on a GPU are those of torch and CuPy. They reach the kernels by DLPack, new ones are made by
their own library, and work is enqueued on the stream that is current there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_DLPACK_CUDA = 2


@dataclass(frozen=True, slots=True)
class Library:
    """How one library makes arrays on a GPU and names its current stream."""

    empty: Callable[[tuple[int, ...], str, Any], Any]  # shape, dtype's name, an array beside it
    stream: Callable[[Any], int]  # address of the stream that is current for the array's GPU
    to_numpy: Callable[[Any], Any]  # waits for the array
    from_numpy: Callable[[Any, Any], Any]  # NumPy's array, an array to put it beside
    products: Callable[[Any, Any], Any]  # float64, of every row of one with every row of another
    # (n, n): values, row by row from a diagonal on downwards, in both triangles; the diagonal's times
    # a factor.
    symmetric: Callable[[Any, int, int, float], Any]


def _torch_empty(shape: tuple[int, ...], dtype: str, like: Any) -> Any:
    torch = sys.modules["torch"]
    return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)


def _torch_stream(like: Any) -> int:
    return int(sys.modules["torch"].cuda.current_stream(like.device).cuda_stream)


def _torch_symmetric(values: Any, n: int, diagonal: int, factor: float) -> Any:
    torch = sys.modules["torch"]
    matrix = values.new_zeros((n, n))
    rows, columns = torch.tril_indices(n, n, diagonal, device=values.device)
    matrix[rows, columns] = values
    matrix.diagonal().mul_(factor / 2)  # meets itself below
    return matrix + matrix.T


def _cupy_empty(shape: tuple[int, ...], dtype: str, like: Any) -> Any:
    with like.device:
        return sys.modules["cupy"].empty(shape, dtype)


def _cupy_from_numpy(array: Any, like: Any) -> Any:
    with like.device:
        return sys.modules["cupy"].asarray(array)


def _cupy_stream(like: Any) -> int:
    with like.device:
        return int(sys.modules["cupy"].cuda.get_current_stream().ptr)


def _cupy_symmetric(values: Any, n: int, diagonal: int, factor: float) -> Any:
    cupy = sys.modules["cupy"]
    with values.device:
        matrix = cupy.zeros((n, n), values.dtype)
        matrix[cupy.tri(n, k=diagonal, dtype=bool)] = values
        matrix[cupy.diag_indices(n)] *= factor / 2  # meets itself below
        return matrix + matrix.T


# By the module of the array's type. No import: who holds such an array has imported its library.
LIBRARIES = {
    "torch": Library(
        empty=_torch_empty,
        stream=_torch_stream,
        to_numpy=lambda array: array.cpu().numpy(),
        from_numpy=lambda array, like: sys.modules["torch"].from_numpy(array).to(like.device),
        products=lambda a, b: a.double() @ b.double().T,
        symmetric=_torch_symmetric,
    ),
    "cupy": Library(
        empty=_cupy_empty,
        stream=_cupy_stream,
        to_numpy=lambda array: array.get(),
        from_numpy=_cupy_from_numpy,
        products=lambda a, b: a.astype("float64", copy=False) @ b.astype("float64", copy=False).T,
        symmetric=_cupy_symmetric,
    ),
}


def check(
    name: str,
    array: Any,
    dtype: str | tuple[str, ...],
    shape: Sequence[str | int],
    *,
    contiguous: bool = True,
) -> tuple[int, ...]:
    """Return the sizes of the named axes of `array`, or refuse it.

    Args:
        name: what the caller calls the array, for the message.
        array: the array, NumPy's or one on a GPU.
        dtype: NumPy name of the type it must have, or of those it may have.
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
    dtypes = (dtype,) if isinstance(dtype, str) else dtype
    axes = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    wanted = f"{'C-contiguous ' if contiguous else ''}{' or '.join(dtypes)} of shape {axes}"
    if not isinstance(array, np.ndarray) and not is_on_gpu(array):
        raise TypeError(f"{name} must be {wanted}, got {type(array).__name__}")
    got_dtype, got_shape = dtype_name(array), tuple(array.shape)
    got = f"{got_dtype} of shape {got_shape}"
    if got_dtype not in dtypes:
        raise TypeError(f"{name} must be {wanted}, got {got}")
    sizes: dict[str, int] = {}
    fits = len(got_shape) == len(shape)
    if fits:
        for size, want in zip(got_shape, shape, strict=True):
            fits &= size == (want if isinstance(want, int) else sizes.setdefault(want, size))
    if not fits:
        raise ValueError(f"{name} must be {wanted}, got {got}")
    if contiguous and not _is_contiguous(array):
        raise ValueError(f"{name} must be {wanted}, got strided {got}")
    return tuple(sizes.values())


def dtype_name(array: Any) -> str:
    """Return "float32" for NumPy's, torch's and CuPy's alike."""
    return str(array.dtype).rpartition(".")[2]


def is_on_gpu(array: Any) -> bool:
    """Say whether this is an array of torch or CuPy in the memory of an NVIDIA GPU."""
    if isinstance(array, np.ndarray) or _module_of(array) not in LIBRARIES:
        return False
    return int(array.__dlpack_device__()[0]) == _DLPACK_CUDA


def one_place(**arrays: Any) -> Library | None:
    """Return the library of arrays on one GPU, None for arrays of the CPU.

    Raises:
        ValueError: they are in different places.
    """
    places = {name: _place(array) for name, array in arrays.items()}
    if len(set(places.values())) > 1:
        listed = ", ".join(f"{name} on {place}" for name, place in places.items())
        raise ValueError(f"arrays must be in one place, got {listed}")
    first = next(iter(arrays.values()))
    return LIBRARIES[_module_of(first)] if is_on_gpu(first) else None


def empty(shape: tuple[int, ...], dtype: str, *, like: Any) -> Any:
    """Return an array that is not initialised, of the library and in the place of `like`."""
    if is_on_gpu(like):
        return LIBRARIES[_module_of(like)].empty(shape, dtype, like)
    return np.empty(shape, dtype)


def to_numpy(array: Any) -> Any:
    """Return the array itself, or what one on a GPU holds once the work on it is done."""
    return LIBRARIES[_module_of(array)].to_numpy(array) if is_on_gpu(array) else array


def beside(array: Any, like: Any) -> Any:
    """Return what a NumPy array holds, of the library and in the place of `like`."""
    return LIBRARIES[_module_of(like)].from_numpy(array, like) if is_on_gpu(like) else array


def _module_of(array: Any) -> str:
    return type(array).__module__.partition(".")[0]


def _place(array: Any) -> str:
    if not is_on_gpu(array):
        return "the CPU"
    return f"GPU {array.__dlpack_device__()[1]} ({_module_of(array)})"


def _is_contiguous(array: Any) -> bool:
    if hasattr(array, "is_contiguous"):  # torch
        return bool(array.is_contiguous())
    return bool(array.flags.c_contiguous)
