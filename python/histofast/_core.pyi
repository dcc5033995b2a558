"""
Native kernels of histofast. The Python modules of the same names document them.
"""

from collections.abc import Sequence
import enum
from typing import Annotated, overload

import numpy
from numpy.typing import NDArray


version: str = '0.2.0'

def augment_images(images: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cpu', writable=False)], turns: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], maps: Annotated[NDArray[numpy.float64], dict(shape=(None, 6), order='C', device='cpu', writable=False)], stains: Annotated[NDArray[numpy.float32], dict(shape=(None, 12), order='C', device='cpu', writable=False)], tints: Annotated[NDArray[numpy.float32], dict(shape=(None, 3), order='C', device='cpu', writable=False)], shifts: Annotated[NDArray[numpy.float32], dict(shape=(None, 3), order='C', device='cpu', writable=False)], sigmas: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], holes: Annotated[NDArray[numpy.int32], dict(shape=(None, 3), order='C', device='cpu', writable=False)], threads: int, out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cpu')]) -> None:
    """Write the images, changed as drawn, into out."""

def map_cones(images: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cpu', writable=False)], thirty: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], threads: int, out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cpu')]) -> None:
    """Write the images, by one map of the logarithms of cones, into out."""

def map_colours(images: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cpu', writable=False)], table: Annotated[NDArray[numpy.uint8], dict(shape=(256, 256, 256, 3), order='C', device='cpu', writable=False)], threads: int, out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cpu')]) -> None:
    """Write the images, by a table of all colours, into out."""

class CudaError(RuntimeError):
    pass

def cuda_is_compiled() -> bool:
    """True when this build has CUDA kernels."""

def cuda_device_count() -> int:
    """Number of usable GPUs."""

def cuda_device_name(device: int) -> str:
    """Name, compute capability and memory."""

class CudaStream:
    """A stream of a GPU that waits for no other."""

    def __init__(self, device: int) -> None: ...

    @property
    def address(self) -> int: ...

    def synchronize(self) -> None: ...

class CudaEvent:
    """A point in the work of a stream."""

    def __init__(self, device: int) -> None: ...

    def record(self, stream: CudaStream) -> None: ...

    def hold(self, stream: CudaStream) -> None:
        """Let the stream's further work wait for it."""

    def synchronize(self) -> None: ...

    def seconds_since(self, begin: CudaEvent) -> float: ...

class CudaBuffer:
    """Memory of a GPU, or pinned memory of the host."""

    def __init__(self, nbytes: int, device: int = -1) -> None: ...

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def array(self) -> Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C')]:
        """The bytes of pinned memory."""

def cuda_copy(to: int, source: int, nbytes: int, stream: CudaStream) -> None:
    """
    Enqueue a copy between addresses of pinned memory and of the stream's GPU.
    """

class Isa(enum.Enum):
    """Instruction sets the CPU kernels are compiled for."""

    baseline = 0

    avx2 = 1

    avx512 = 2

def best_isa() -> Isa:
    """Best instruction set of this processor and this build."""

def current_isa() -> Isa:
    """The instruction set the kernels use."""

def set_isa(isa: Isa) -> None:
    """Use this instruction set from now on, in all threads."""

def int8_is_exact() -> bool:
    """
    False on x86 processors without VNNI, where sums of 8-bit products saturate.
    """

@overload
def glcm_sums(images: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int32], dict(shape=(None, 2), order='C', device='cpu', writable=False)], threads: int, differences: Annotated[NDArray[numpy.int32], dict(shape=(None, None, None), order='C', device='cpu')], sums: Annotated[NDArray[numpy.int64], dict(shape=(None, None, 3), order='C', device='cpu')]) -> None:
    """Write sums of the grey level co-occurrence matrices of images."""

@overload
def glcm_sums(images: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cuda', writable=False)], offsets: Annotated[NDArray[numpy.int32], dict(shape=(None, 2), order='C', device='cpu', writable=False)], differences: Annotated[NDArray[numpy.int32], dict(shape=(None, None, None), order='C', device='cuda')], sums: Annotated[NDArray[numpy.int64], dict(shape=(None, None, 3), order='C', device='cuda')], *, stream: int) -> None:
    """As above, for arrays on one GPU; enqueued on the given CUDA stream."""

@overload
def packed_grams(layers: list[object], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], squares: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu')], problems: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')], rbf: bool, rbf_scale: float, debiased: bool, threads: int) -> None: ...

@overload
def packed_grams(layers: list[object], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cuda')], squares: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cuda')], problems: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cuda')], rbf: bool, rbf_scale: float, debiased: bool, *, scratch: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cuda')], stream: int) -> None: ...

@overload
def packed_grams(layers: list[object], out: Annotated[NDArray[numpy.float64], dict(shape=(None, None), order='C', device='cpu')], squares: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu')], problems: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')], rbf: bool, rbf_scale: float, debiased: bool, threads: int) -> None:
    """Write the packed centred Gram of every layer into out."""

@overload
def packed_grams(layers: list[object], out: Annotated[NDArray[numpy.float64], dict(shape=(None, None), order='C', device='cuda')], squares: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cuda')], problems: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cuda')], rbf: bool, rbf_scale: float, debiased: bool, *, scratch: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cuda')], stream: int) -> None:
    """As above, for arrays on one GPU; enqueued on the given CUDA stream."""

def packed_grams_scratch_bytes(layers: list[object], rbf: bool) -> int:
    """Bytes of scratch that packed_grams needs on a GPU."""

def resize_image(image: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, 3), order='C', device='cpu', writable=False)], box: Sequence[float], bicubic: bool, out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, 3), order='C', device='cpu')]) -> None:
    """Write a box of an image, resized as Pillow does, into out."""

@overload
def cut_patches(pool: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cpu', writable=False)], slot_of: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], boxes: Annotated[NDArray[numpy.float64], dict(shape=(None, 4), order='C', device='cpu', writable=False)], width: int, height: int, fill: Sequence[int], out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cpu')]) -> None: ...

@overload
def cut_patches(pool: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cuda', writable=False)], slot_of: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cuda', writable=False)], boxes: Annotated[NDArray[numpy.float64], dict(shape=(None, 4), order='C', device='cuda', writable=False)], width: int, height: int, fill: Sequence[int], out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cuda')], *, stream: int) -> None: ...

@overload
def cut_patches(pool: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cpu', writable=False)], slot_of: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], boxes: Annotated[NDArray[numpy.float64], dict(shape=(None, 4), order='C', device='cpu', writable=False)], width: int, height: int, fill: Sequence[int], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, 3), order='C', device='cpu')]) -> None:
    """Write the resampled boxes of a tiled level into out."""

@overload
def cut_patches(pool: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cuda', writable=False)], slot_of: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cuda', writable=False)], boxes: Annotated[NDArray[numpy.float64], dict(shape=(None, 4), order='C', device='cuda', writable=False)], width: int, height: int, fill: Sequence[int], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, 3), order='C', device='cuda')], *, stream: int) -> None:
    """As above, for arrays on one GPU; enqueued on the given CUDA stream."""

@overload
def tissue_mask(image: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, 3), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu')], threshold: int, exclude_foreign: bool, close_px: int, max_hole_px: int, min_area_px: int) -> list[int]:
    """
    Write the tissue mask of an overview into out; return the threshold used, how many pixels score above it, and how many of them remain without ink.
    """

@overload
def tissue_mask(image: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, 3), order='C', device='cuda', writable=False)], out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cuda')], threshold: int, exclude_foreign: bool, close_px: int, max_hole_px: int, min_area_px: int, *, found: Annotated[NDArray[numpy.int32], dict(shape=(3), order='C', device='cuda')], scratch: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cuda')], stream: int) -> None:
    """Enqueue it on a GPU's stream; what the other returns goes to `found`."""

def tissue_mask_scratch_bytes(height: int, width: int, threshold: int, exclude_foreign: bool, close_px: int, max_hole_px: int, min_area_px: int) -> int:
    """Bytes of scratch that tissue_mask needs on a GPU."""
