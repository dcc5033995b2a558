"""Arrays on the GPU that the tests run on: torch's on a real one, fakes on an emulated one.

An emulated GPU (a build with HISTOFAST_CUDA=EMULATE) works in the memory of the host; its arrays
say by DLPack that they lie on a GPU. Each is surrounded by bytes that no kernel may touch.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from histofast import _arrays, _core

GUARD = 256
BFLOAT16 = "bfloat16"  # NumPy has none: its bits as uint16


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    pass


_DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _DELETER))
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_CODES = {"i": 0, "u": 1, "f": 2}
_alive: dict[int, Any] = {}


@_DELETER
def _forget(managed: Any) -> None:
    _alive.pop(ctypes.addressof(managed.contents), None)


class EmulatedArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on the emulated GPU."""

    def __init__(self, values: np.ndarray, dtype: str | None = None) -> None:
        self.dtype = dtype or values.dtype.name
        size = -(-values.nbytes // 16) * 16
        self._memory = np.full(size + 2 * GUARD, 0xA5, np.uint8)
        self._used = slice(GUARD, GUARD + values.nbytes)
        self.values = self._memory[self._used].view(values.dtype).reshape(values.shape)
        self.values[...] = values
        self.shape = values.shape
        self.flags = self.values.flags

    def __getitem__(self, key: Any) -> EmulatedArray:
        part = object.__new__(EmulatedArray)
        part.__dict__ = {**self.__dict__, "values": self.values[_bare(key)]}
        part.shape, part.flags = part.values.shape, part.values.flags
        return part

    def __setitem__(self, key: Any, value: EmulatedArray) -> None:
        self.values[_bare(key)] = _bare(value)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        assert method == "__call__", "a GPU's arrays are not NumPy's"
        return EmulatedArray(ufunc(*_bare(inputs), **options))

    def sum(self, axis: Any) -> EmulatedArray:
        return EmulatedArray(self.values.sum(axis))

    def mean(self, axis: Any) -> EmulatedArray:
        return EmulatedArray(self.values.mean(axis))

    def permute(self, *axes: int) -> EmulatedArray:
        return EmulatedArray(self.values.transpose(*axes))

    def reshape(self, *sizes: int) -> EmulatedArray:
        return EmulatedArray(self.values.reshape(*sizes))

    def stride(self) -> tuple[int, ...]:
        return tuple(step // self.values.itemsize for step in self.values.strides)

    @property
    def ndim(self) -> int:
        return self.values.ndim

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **_: Any) -> Any:
        values = self.values
        sizes = (ctypes.c_int64 * values.ndim)(*values.shape)
        steps = (ctypes.c_int64 * values.ndim)(*(s // values.itemsize for s in values.strides))
        code = 4 if self.dtype == BFLOAT16 else _CODES[values.dtype.kind]
        managed = _Managed()
        managed.tensor = _Tensor(
            values.ctypes.data, 2, 0, values.ndim, code, 8 * values.itemsize, 1, sizes, steps, 0
        )
        managed.deleter = _forget
        _alive[ctypes.addressof(managed)] = (managed, self, sizes, steps)
        return _new_capsule(ctypes.addressof(managed), b"dltensor", None)

    def check_guards(self) -> None:
        outside = np.ones(len(self._memory), bool)
        outside[self._used] = False
        assert (self._memory[outside] == 0xA5).all(), "a kernel wrote outside of an array"


def _bare(value: Any) -> Any:
    """NumPy's array inside of an array, also of those in a tuple."""
    if isinstance(value, tuple):
        return tuple(_bare(one) for one in value)
    return value.values if isinstance(value, EmulatedArray) else value


class EmulatedGpu:
    """Puts arrays on the emulated GPU and gets them back."""

    name = "emulated"

    def __init__(self) -> None:
        self._arrays: list[EmulatedArray] = []

    def put(self, values: np.ndarray, dtype: str | None = None) -> EmulatedArray:
        array = EmulatedArray(np.ascontiguousarray(values), dtype)
        self._arrays.append(array)
        return array

    def get(self, array: EmulatedArray) -> np.ndarray:
        return array.values

    def empty(self, shape: tuple[int, ...], dtype: str, like: Any = None) -> EmulatedArray:
        bits = "uint16" if dtype == BFLOAT16 else dtype
        values = np.frombuffer(b"\xa5" * (int(np.prod(shape)) * np.dtype(bits).itemsize), bits)
        return self.put(values.reshape(shape), dtype)

    def check_guards(self) -> None:
        for array in self._arrays:
            array.check_guards()

    def library(self) -> _arrays.Library:
        return _arrays.Library(
            empty=self.empty,
            stream=lambda array: 0,
            to_numpy=lambda array: array.values,
            from_numpy=lambda array, like: self.put(array),
            products=_products,
            symmetric=_symmetric,
        )


def _products(a: EmulatedArray, b: EmulatedArray) -> EmulatedArray:
    return EmulatedArray(a.values.astype(np.float64) @ b.values.astype(np.float64).T)


def _symmetric(values: EmulatedArray, n: int, diagonal: int, factor: float) -> EmulatedArray:
    matrix = np.zeros((n, n), values.values.dtype)
    matrix[np.tril_indices(n, diagonal)] = values.values
    matrix += np.tril(matrix, -1).T
    matrix[np.diag_indices(n)] *= factor
    return EmulatedArray(matrix)


class TorchGpu:
    """Puts arrays on GPU 0 as torch tensors and gets them back."""

    name = "torch"

    def __init__(self) -> None:
        import torch

        self._torch = torch

    def put(self, values: np.ndarray, dtype: str | None = None) -> Any:
        array = self._torch.from_numpy(np.array(values)).cuda()
        return array.view(self._torch.bfloat16) if dtype == BFLOAT16 else array

    def get(self, array: Any) -> np.ndarray:
        if array.dtype == self._torch.bfloat16:
            array = array.view(self._torch.uint16)
        return array.cpu().numpy()

    def empty(self, shape: tuple[int, ...], dtype: str, like: Any = None) -> Any:
        array = self._torch.empty(shape, dtype=getattr(self._torch, dtype), device="cuda")
        array.view(self._torch.uint8).fill_(0xA5)  # what a kernel leaves out shows
        return array

    def check_guards(self) -> None:
        self._torch.cuda.synchronize()


def is_emulated() -> bool:
    return _core.cuda_device_name(0).startswith("emulated")
