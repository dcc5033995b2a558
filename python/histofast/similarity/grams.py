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
from histofast._arrays import dtype_name, empty, is_on_gpu, one_place, to_numpy
from histofast._machine import available_cpus
from histofast.similarity.hsic import MIN_SAMPLES, Estimator, Kernel, check_options
from histofast.similarity.matrix import check_choice, check_count

_CPU = 1  # of DLPack's kinds of devices
_NOT_FINITE = 1  # of the kernel's problems
_ZERO_MEDIAN = 2
# Elements of packed Grams that are copied to float64 at a time: caches hold the first.
_BLOCK, _GPU_BLOCK = 8192, 1 << 18
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
) -> tuple[Any, NDArray[np.float64]]:
    """Return the centred Gram of every layer as a packed triangle.

    Features are read where they lie, panel by panel: besides the result it takes 4 n^2 bytes (rbf:
    8 n^2) and 4 MB, or 2 kB per sample; as much for each thread where n is 1024 or less. On a GPU
    it takes 8 n^2 bytes and up to 256 MB, allocated by the layers' library, and waits for the GPU
    once, at the end (`start_grams` does not).

    Args:
        layers: l matrices (n, p_i) of features of the same n >= 4 samples: float32 or float16
            arrays, bfloat16 arrays of ml_dtypes, or tensors of these types, all on the CPU or all
            on one GPU (torch, CuPy). Rows may be apart in memory, elements of a row may not; on a
            GPU, rows that begin at multiples of 16 bytes are read faster.
        kernel: "linear", or "rbf": exp(-d^2 / (2 t^2 m)), m the median of the squared distances
            over the full n x n matrix with its zero diagonal.
        rbf_scale: t of the rbf kernel.
        estimator: "debiased" U-centres; "biased" centres rows and columns.
        dtype: of the result; float32 costs about 1e-9 of a CKA and half the memory.
        threads: at most so many, on the CPU; all CPUs when omitted.
        names: of the layers in messages; layers[0], layers[1] ... when omitted.

    Returns:
        (l, m) triangles below the diagonal, row by row, m = n (n - 1) / 2; biased: with the
        diagonal over sqrt(2), m = n (n + 1) / 2. Twice the product of two is that of the Grams.
        A NumPy array, or one beside the layers on their GPU.
        (l,) squared norms of the Grams before their rows are centred: 0 where no feature varies,
        and where the triangle's is below 1e-9 of it, the centred Gram is rounding.

    Raises:
        TypeError: not a sequence of such arrays, another dtype.
        ValueError: fewer than 4 rows, layers of different rows or in different places, no column,
            strided columns, a tensor that records gradients, NaN or infinity, rbf of rows that are
            equal in half of the pairs, numbers out of float32's reach, an unknown option.

    Determinism: the same bits whatever the threads and whatever the other layers; processors with
        other instruction sets, and GPUs, may differ in the last bits. Elements of a Gram err by
        about 1e-7 of the samples' squared norms, a CKA by less, whatever the offset of the
        features. On a GPU centred features of 16 bits are rounded to 11 digits before they are
        multiplied: up to 2e-3 of the squared norms (bfloat16: 1e-3), in the mean 3e-4 over the root
        of p.

    Reference: Szekely and Rizzo, 2014, Partial distance correlation, for U-centring.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 300)).astype(np.float32)
        >>> packed, _ = packed_grams([x, 2 * x + 5])
        >>> products = gram_products(packed, packed)
        >>> round(float(products[0, 1] / np.sqrt(products[0, 0] * products[1, 1])), 6)
        1.0
    """
    packed, squares, problems = start_grams(
        layers,
        kernel=kernel,
        rbf_scale=rbf_scale,
        estimator=estimator,
        dtype=dtype,
        threads=threads,
        names=names,
    )
    if names is None:
        names = _numbered(layers)
    return packed, check_grams(squares, problems, n=layers[0].shape[0], dtype=dtype, names=names)


def start_grams(
    layers: Sequence[Layer],
    *,
    kernel: Kernel = "linear",
    rbf_scale: float = 1.0,
    estimator: Estimator = "debiased",
    dtype: type[np.float32 | np.float64] = np.float64,
    threads: int | None = None,
    names: Sequence[str] | None = None,
) -> tuple[Any, Any, Any]:
    """Enqueue `packed_grams` of layers on a GPU without waiting; on the CPU do the work.

    The layers must not change before the work is done: later work on the current stream is fine.

    Returns:
        (l, m) triangles, (l,) squares and (l,) problems, all where the layers are. The first two
        mean nothing before `check_grams` has seen the others.

    Raises:
        TypeError, ValueError: as `packed_grams`, of what can be said without reading the features.
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
        names = _numbered(layers)
    native = [_native(name, layer) for name, layer in zip(names, layers, strict=True)]
    library = one_place(**dict(zip(names, layers, strict=True)))
    n = layers[0].shape[0]
    for name, layer in zip(names, layers, strict=True):
        if layer.shape[0] != n:
            raise ValueError(
                f"{name} must have the rows of {names[0]}, got {layer.shape[0]} and {n}"
            )
    debiased = estimator == "debiased"
    size = n * (n - 1) // 2 if debiased else n * (n + 1) // 2
    out = empty((len(layers), size), np.dtype(dtype).name, like=layers[0])
    squares = empty((len(layers),), "float64", like=layers[0])
    problems = empty((len(layers),), "uint8", like=layers[0])
    rbf = kernel == "rbf"
    options: dict[str, Any] = {"rbf": rbf, "rbf_scale": rbf_scale, "debiased": debiased}
    if library is None:
        threads = available_cpus() if threads is None else threads
        _core.packed_grams(native, out, squares, problems, threads=threads, **options)
    else:
        scratch = empty((_core.packed_grams_scratch_bytes(native, rbf),), "uint8", like=layers[0])
        stream = library.stream(layers[0])
        _core.packed_grams(
            native, out, squares, problems, scratch=scratch, stream=stream, **options
        )
    return out, squares, problems


def check_grams(
    squares: Any,
    problems: Any,
    *,
    n: int,
    dtype: type[np.float32 | np.float64] = np.float64,
    names: Sequence[str],
) -> NDArray[np.float64]:
    """Return the squares of `start_grams` once its work is done, or refuse the layers.

    Args:
        squares: (l,) of `start_grams`, or of several calls one after the other.
        problems: (l,) of the same calls.
        n: rows of the layers.
        dtype: of the triangles.
        names: of the layers in messages.

    Raises:
        ValueError: NaN or infinity, rbf of rows that are equal in half of the pairs, numbers out of
            float32's reach.
    """
    squares = to_numpy(squares)
    for name, problem, square in zip(names, to_numpy(problems), squares, strict=True):
        if problem == _NOT_FINITE and square:
            raise ValueError(
                f"{name} must be finite, got NaN or infinity in {square:.0f} of {n} rows"
            )
        if problem == _NOT_FINITE:
            raise ValueError(f"{name} must differ by less than 3.4e38 in a column: scale it down")
        if problem == _ZERO_MEDIAN:
            raise ValueError(
                f"rbf needs a median distance above 0, got equal rows in half of the pairs of "
                f"{name}: take the linear kernel"
            )
        low, high = _FLOAT32_NORMS
        if dtype == np.float32 and square and not low <= math.sqrt(square) <= high:
            raise ValueError(
                f"{name} must have a Gram of norm 1e-18 to 1e18 for float32, got "
                f"{math.sqrt(square):.1e}: compute in float64"
            )
    return np.asarray(squares, np.float64)


def gram_products(packed_a: Any, packed_b: Any) -> Any:
    """Return the sum of U_a * U_b over all n x n elements, for every pair of packed Grams.

    Products of float32 triangles are summed in float64.

    Args:
        packed_a: (la, m) of `packed_grams`.
        packed_b: (lb, m) of the same samples and options, in the same place.

    Returns:
        (la, lb) float64; on the GPU, and not waited for, where the triangles are there.

    Raises:
        TypeError: not arrays of float32 or float64.
        ValueError: not two matrices with rows of the same length, or in different places.
    """
    for name, packed in (("packed_a", packed_a), ("packed_b", packed_b)):
        _check_packed(name, packed, ndim=2)
    if packed_a.shape[1] != packed_b.shape[1]:
        raise ValueError(
            "packed_a and packed_b must have rows of the same length, "
            f"got {packed_a.shape[1]} and {packed_b.shape[1]}"
        )
    library = one_place(packed_a=packed_a, packed_b=packed_b)
    products = _products if library is None else library.products
    size = packed_a.shape[1]
    step = max(size, 1)
    if "float32" in (dtype_name(packed_a), dtype_name(packed_b)):
        step = _BLOCK if library is None else _GPU_BLOCK
    out = products(packed_a[:, :step], packed_b[:, :step])
    for start in range(step, size, step):
        block = slice(start, start + step)
        out = out + products(packed_a[:, block], packed_b[:, block])
    return out + out


def unpack(packed: Any, *, estimator: Estimator = "debiased") -> Any:
    """Return the symmetric (n, n) centred Gram of one packed triangle, where the triangle is.

    Args:
        packed: (m,) one row of `packed_grams`.
        estimator: the one it was packed with.

    Raises:
        TypeError: not an array of float32 or float64.
        ValueError: a length that no triangle has, an unknown estimator.
    """
    check_choice("estimator", estimator, ("debiased", "biased"))
    _check_packed("packed", packed, ndim=1)
    m, step = packed.shape[0], -1 if estimator == "debiased" else 0
    n = (math.isqrt(8 * m + 1) - 1) // 2 - step
    if n < MIN_SAMPLES or n * (n + 1 + 2 * step) // 2 != m:
        raise ValueError(f"packed must hold the triangle of a {estimator} Gram, got length {m}")
    library = one_place(packed=packed)
    symmetric = _symmetric if library is None else library.symmetric
    return symmetric(packed, n, step, 2**0.5)


def _products(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    return a.astype(np.float64, copy=False) @ b.astype(np.float64, copy=False).T


def _symmetric(values: NDArray[Any], n: int, diagonal: int, factor: float) -> NDArray[Any]:
    gram = np.zeros((n, n), values.dtype)
    gram[np.tri(n, k=diagonal, dtype=bool)] = values
    gram[np.diag_indices(n)] *= values.dtype.type(factor / 2)  # the diagonal meets itself below
    return gram + gram.T


def _numbered(layers: Sequence[Layer]) -> list[str]:
    return [f"layers[{i}]" for i in range(len(layers))]


def _native(name: str, layer: Layer) -> Any:
    """Return the layer as the kernel takes it: bits of NumPy's bfloat16 as uint16."""
    if not hasattr(layer, "__dlpack__"):
        raise TypeError(f"{name} must be an array (n, p), got {type(layer).__name__}")
    dtype = dtype_name(layer)
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
    if not is_on_gpu(layer) and layer.__dlpack_device__()[0] != _CPU:
        raise ValueError(
            f"{name} must lie in the memory of the CPU, or of a GPU as an array of torch or CuPy: "
            "move it with .cpu()"
        )
    return layer


def _check_packed(name: str, packed: Any, *, ndim: int) -> None:
    shape = "(l, m)" if ndim == 2 else "(m,)"
    is_array = isinstance(packed, np.ndarray) or is_on_gpu(packed)
    got = dtype_name(packed) if is_array else type(packed).__name__
    if not is_array or got not in ("float32", "float64"):
        raise TypeError(f"{name} must be float32 or float64 of shape {shape}, got {got}")
    if len(packed.shape) != ndim:
        raise ValueError(f"{name} must be of shape {shape}, got {tuple(packed.shape)}")
