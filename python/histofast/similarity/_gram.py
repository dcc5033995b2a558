"""Centred Grams of many layers at once, in the native kernel: features in, packed triangles out.

For stored float32, float16 and bfloat16 features; what is float64 goes through `_hsic`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from histofast import _core
from histofast._cpus import available_cpus
from histofast.similarity._hsic import MIN_SAMPLES, Estimator, Kernel, check_options
from histofast.similarity._matrix import check_choice, check_count

_CPU = 1  # of DLPack's kinds of devices
_NOT_FINITE = 1  # of the kernel's problems
_ZERO_MEDIAN = 2
_BLOCK = 8192  # elements of packed Grams that are copied to float64 at a time
# Where norms of float32 triangles and products of two of them stay normal numbers.
_FLOAT32_NORMS = 1e-18, 1e18


class Tensor(Protocol):
    """What other libraries' arrays offer: torch's among them, bfloat16 included."""

    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def dtype(self) -> Any: ...
    def __dlpack__(self, *, stream: Any = ...) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...


Layer = NDArray[Any] | Tensor


def packed_grams(
    layers: Sequence[Layer],
    *,
    kernel: Kernel = "linear",
    rbf_scale: float = 1.0,
    estimator: Estimator = "debiased",
    dtype: type[np.float32 | np.float64] = np.float64,
    threads: int | None = None,
    names: Sequence[str] | None = None,
) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    """Return the centred Gram of every layer as a packed triangle.

    Features are read where they lie, panel by panel: besides the result it takes 4 n^2 bytes (rbf:
    8 n^2) and 4 MB, or 2 kB per sample; as much for each thread where n is 1024 or less.

    Args:
        layers: l matrices (n, p_i) of features of the same n >= 4 samples: float32 or float16
            arrays, bfloat16 arrays of ml_dtypes, or CPU tensors of these types (torch). Rows may be
            apart in memory, elements of a row may not.
        kernel: "linear", or "rbf": exp(-d^2 / (2 t^2 m)), m the median of the squared distances
            over the full n x n matrix with its zero diagonal.
        rbf_scale: t of the rbf kernel.
        estimator: "debiased" U-centres; "biased" centres rows and columns.
        dtype: of the result; float32 costs about 1e-9 of a CKA and half the memory.
        threads: at most so many; all CPUs when omitted.
        names: of the layers in messages; layers[0], layers[1] ... when omitted.

    Returns:
        (l, m) triangles below the diagonal, row by row, m = n (n - 1) / 2; biased: with the
        diagonal over sqrt(2), m = n (n + 1) / 2. Twice the product of two is that of the Grams.
        (l,) squared norms of the Grams before their rows are centred: 0 where no feature varies,
        and where the triangle's is below 1e-9 of it, the centred Gram is rounding.

    Raises:
        TypeError: not a sequence of such arrays, another dtype.
        ValueError: fewer than 4 rows, layers of different rows, no column, strided columns, a
            tensor that records gradients or is on a GPU, NaN or infinity, rbf of rows that are
            equal in half of the pairs, numbers out of float32's reach, an unknown option.

    Determinism: the same bits whatever the threads and whatever the other layers; processors with
        other instruction sets may differ in the last bits. Elements of a Gram err by about 1e-7 of
        the samples' squared norms, a CKA by less, whatever the offset of the features.

    Reference: Szekely and Rizzo, 2014, Partial distance correlation, for U-centring.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 300)).astype(np.float32)
        >>> packed, _ = packed_grams([x, 2 * x + 5])
        >>> products = gram_products(packed, packed)
        >>> round(float(products[0, 1] / np.sqrt(products[0, 0] * products[1, 1])), 6)
        1.0
    """
    check_options(kernel, estimator, rbf_scale)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"dtype must be numpy.float32 or numpy.float64, got {dtype!r}")
    if threads is not None:
        check_count("threads", threads, at_least=1)
    if not isinstance(layers, Sequence):
        raise TypeError(f"layers must be a sequence of arrays (n, p), got {type(layers).__name__}")
    if not layers:
        raise ValueError("layers must hold at least 1 array, got none")
    if names is None:
        names = [f"layers[{i}]" for i in range(len(layers))]
    native = [_native(name, layer) for name, layer in zip(names, layers, strict=True)]
    n = layers[0].shape[0]
    for name, layer in zip(names, layers, strict=True):
        if layer.shape[0] != n:
            raise ValueError(
                f"{name} must have the rows of {names[0]}, got {layer.shape[0]} and {n}"
            )
    debiased = estimator == "debiased"
    out = np.empty((len(layers), n * (n - 1) // 2 if debiased else n * (n + 1) // 2), dtype)
    squares = np.empty(len(layers))
    problems = np.empty(len(layers), np.uint8)
    _core.packed_grams(
        native,
        out,
        squares,
        problems,
        rbf=kernel == "rbf",
        rbf_scale=rbf_scale,
        debiased=debiased,
        threads=available_cpus() if threads is None else threads,
    )
    for name, problem, square in zip(names, problems, squares, strict=True):
        if problem == _NOT_FINITE and square:
            raise ValueError(
                f"{name} must be finite, got NaN or infinity in {square:.0f} of {n} rows"
            )
        if problem == _NOT_FINITE:
            raise ValueError(f"{name} must differ by less than 3.4e38 in a column: scale it down")
        if problem == _ZERO_MEDIAN:
            raise ValueError(
                f"rbf needs a median distance above 0, got equal rows in half of the pairs of "
                f"{name}: use kernel='linear'"
            )
        low, high = _FLOAT32_NORMS
        if dtype == np.float32 and square and not low <= math.sqrt(square) <= high:
            raise ValueError(
                f"{name} must have a Gram of norm 1e-18 to 1e18 for float32, got "
                f"{math.sqrt(square):.1e}: use dtype=numpy.float64"
            )
    return out, squares


def gram_products(
    packed_a: NDArray[np.floating], packed_b: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the sum of U_a * U_b over all n x n elements, for every pair of packed Grams.

    Products of float32 triangles are summed in float64.

    Args:
        packed_a: (la, m) of `packed_grams`.
        packed_b: (lb, m) of the same samples and options.

    Returns:
        (la, lb) float64.

    Raises:
        TypeError: not arrays of float32 or float64.
        ValueError: not two matrices with rows of the same length.
    """
    for name, packed in (("packed_a", packed_a), ("packed_b", packed_b)):
        _check_packed(name, packed, ndim=2)
    if packed_a.shape[1] != packed_b.shape[1]:
        raise ValueError(
            "packed_a and packed_b must have rows of the same length, "
            f"got {packed_a.shape[1]} and {packed_b.shape[1]}"
        )
    out = np.zeros((len(packed_a), len(packed_b)))
    step = packed_a.shape[1]
    if np.float32 in (packed_a.dtype, packed_b.dtype):
        step = _BLOCK
    for start in range(0, packed_a.shape[1], step):
        block = slice(start, start + step)
        a, b = (packed[:, block].astype(np.float64, copy=False) for packed in (packed_a, packed_b))
        out += a @ b.T
    return 2 * out


def unpack(packed: NDArray[np.floating], *, estimator: Estimator = "debiased") -> NDArray[Any]:
    """Return the symmetric (n, n) centred Gram of one packed triangle.

    Args:
        packed: (m,) one row of `packed_grams`.
        estimator: the one it was packed with.

    Raises:
        TypeError: not an array of float32 or float64.
        ValueError: a length that no triangle has, an unknown estimator.
    """
    check_choice("estimator", estimator, ("debiased", "biased"))
    _check_packed("packed", packed, ndim=1)
    m, step = len(packed), -1 if estimator == "debiased" else 0
    n = (math.isqrt(8 * m + 1) - 1) // 2 - step
    if n < MIN_SAMPLES or n * (n + 1 + 2 * step) // 2 != m:
        raise ValueError(f"packed must hold the triangle of a {estimator} Gram, got length {m}")
    gram = np.zeros((n, n), packed.dtype)
    gram[np.tri(n, k=step, dtype=bool)] = packed
    gram[np.diag_indices(n)] *= packed.dtype.type(0.5**0.5)  # the diagonal meets itself below
    return gram + gram.T


def _native(name: str, layer: Layer) -> Any:
    """Return the layer as the kernel takes it: bits of NumPy's bfloat16 as uint16."""
    if not hasattr(layer, "__dlpack__"):
        raise TypeError(f"{name} must be an array (n, p), got {type(layer).__name__}")
    dtype = str(layer.dtype).rpartition(".")[2]
    if dtype not in ("float16", "bfloat16", "float32"):
        remedy = ": convert it"
        if dtype == "uint16":
            remedy = ": pass bfloat16 as a torch tensor, or .view(ml_dtypes.bfloat16)"
        raise TypeError(f"{name} must be float16, bfloat16 or float32, got {dtype}{remedy}")
    shape = tuple(layer.shape)
    if len(shape) != 2:
        raise ValueError(f"{name} must be of shape (n, p), got {shape}")
    if shape[1] == 0:
        raise ValueError(f"{name} must have at least 1 column, got shape {shape}")
    if shape[0] < MIN_SAMPLES:
        raise ValueError(f"{name} must have at least {MIN_SAMPLES} rows, got {shape[0]}")
    if isinstance(layer, np.ndarray):
        size = layer.itemsize
        if (shape[1] > 1 and layer.strides[1] != size) or layer.strides[0] % size:
            raise ValueError(
                f"{name} must have contiguous rows, got strides of {layer.strides} bytes for "
                f"elements of {size}: copy it"
            )
        return layer.view(np.uint16) if dtype == "bfloat16" else layer
    if getattr(layer, "requires_grad", False):
        raise ValueError(f"{name} must not record gradients: detach it")
    if layer.__dlpack_device__()[0] != _CPU:
        raise ValueError(f"{name} must lie in the memory of the CPU: move it with .cpu()")
    return layer


def _check_packed(name: str, packed: object, *, ndim: int) -> None:
    shape = "(l, m)" if ndim == 2 else "(m,)"
    if not isinstance(packed, np.ndarray) or packed.dtype not in (np.float32, np.float64):
        got = packed.dtype.name if isinstance(packed, np.ndarray) else type(packed).__name__
        raise TypeError(f"{name} must be float32 or float64 of shape {shape}, got {got}")
    if packed.ndim != ndim:
        raise ValueError(f"{name} must be of shape {shape}, got {packed.shape}")
