"""What the benchmarks on a GPU share: where arrays lie, timing by events, the machine's ceilings.

With HISTOFAST_BENCH_TINY=1 every line of theirs runs without a GPU, on tiny sizes: our kernels on an
emulated one (a build with HISTOFAST_CUDA=EMULATE), torch and ONNX Runtime on the CPU. The figures of
such a run mean nothing. With HISTOFAST_BENCH_OUT=STEM the table is in STEM.json and STEM.md after
every test, so that a run which is cut short leaves what it has found.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from compare import Table, by_the_clock, in_turns, machine, merge

import gpu_arrays
from histofast import _arrays, _core

TINY = os.environ.get("HISTOFAST_BENCH_TINY") == "1"
DEVICE = "cpu" if TINY else "cuda"
ROUNDS = 2 if TINY else 20
FLUSH_BYTES = 1 << 30  # many times the L2, and long enough that what comes next is enqueued by then

T = TypeVar("T")

# Rivals and torch itself warn of what they will change one day; that must not end a borrowed hour.
MARKS = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


def sized(real: T, tiny: T) -> T:
    """Return the size of a real run, or that of a dry one."""
    return tiny if TINY else real


@pytest.fixture(scope="session", autouse=True)
def _place(table):
    """A GPU, or the emulated one of a dry run; torch's products without TF32, as ours."""
    reason = _why_not()
    if reason and os.environ.get("HISTOFAST_REQUIRE_GPU") == "1":
        pytest.fail(reason, pytrace=False)
    if reason:
        pytest.skip(reason)
    if TINY:
        table.prefix = "DRY RUN, no GPU: "
        _arrays.LIBRARIES["gpu_arrays"] = gpu_arrays.EmulatedGpu().library()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)


def _why_not() -> str:
    if not _core.cuda_is_compiled():
        return "this build has no CUDA kernels"
    try:
        emulated = gpu_arrays.is_emulated()
    except _core.CudaError as error:
        return str(error)
    return "" if emulated == TINY else "HISTOFAST_BENCH_TINY=1 and an emulated GPU go together"


@pytest.fixture(autouse=True)
def _saved(table):
    """Write the table after every test, beside what earlier processes have written."""
    yield
    if not TINY:
        torch.cuda.empty_cache()
    stem = os.environ.get("HISTOFAST_BENCH_OUT")
    if stem is None or not table.rows:
        return
    whole, own = Path(stem), Path(stem).with_name(f".{Path(stem).name}-{os.getpid()}")
    dry = {"DRY RUN": "no GPU, tiny sizes: these figures mean nothing"} if TINY else {}
    table.write(own, dry | machine())
    runs = (whole.with_suffix(".json"), own.with_suffix(".json"))
    merge(whole, [path for path in runs if path.exists()])
    for suffix in (".json", ".md"):
        own.with_suffix(suffix).unlink()


def kernel_array(tensor: torch.Tensor) -> Any:
    """Return the array that our kernels take: the tensor, or its copy on the emulated GPU."""
    if not TINY:
        return tensor
    if tensor.dtype == torch.bfloat16:
        return gpu_arrays.EmulatedArray(tensor.view(torch.uint16).numpy(), gpu_arrays.BFLOAT16)
    return gpu_arrays.EmulatedArray(tensor.numpy())


def fetched(array: Any) -> np.ndarray:
    """Return what an array holds, once the work on it is done."""
    if isinstance(array, torch.Tensor):
        return array.cpu().numpy()
    return _arrays.to_numpy(array)


def synchronize() -> None:
    """Wait for the GPU."""
    if not TINY:
        torch.cuda.synchronize()


def to_the_end(function: Callable[[], Any]) -> Callable[[], None]:
    """Return the function that also waits for the GPU, for timing by the clock."""

    def run() -> None:
        function()
        synchronize()

    return run


@cache
def _flushed() -> torch.Tensor:
    return torch.empty(FLUSH_BYTES, dtype=torch.int8, device=DEVICE)


def by_events(function: Callable[[], Any]) -> float:
    """Return the seconds from the first to the last work that a call enqueues, caches cold.

    The flush keeps the GPU busy while Python enqueues, so that gaps between launches stay out.
    """
    if TINY:
        return by_the_clock(function)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    _flushed().zero_()
    begin.record()
    function()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def race(
    table: Table,
    what: str,
    ours: Callable[[], Any],
    rivals: Mapping[str, Callable[[], Any]],
    **options: Any,
) -> dict[str, float]:
    """`Table.race` of work on the GPU, timed by events."""
    options = {"rounds": ROUNDS, "seconds_of": by_events, "settle_s": 0.0, **options}
    return table.race(what, ours, rivals, **options)


def medians(functions: Mapping[str, Callable[[], Any]], **options: Any) -> dict[str, float]:
    """Return the median seconds of functions in turns, timed by events unless told otherwise."""
    options = {"rounds": ROUNDS, "seconds_of": by_events, "settle_s": 0.0, **options}
    return {name: float(np.median(s)) for name, s in in_turns(functions, **options).items()}


def attempted(name: str, make: Callable[[], Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    """Return one rival, made and run once, or none if it cannot be: that is no failure of ours."""
    began = time.perf_counter()
    try:
        function = make()
        function()
        synchronize()
    except Exception as error:
        if TINY:
            raise  # a dry run is there to find mistakes of ours
        print(f"\nleft out: {name}: {type(error).__name__}: {str(error).splitlines()[:1]}")
        return {}
    print(f"\n{name}: ready after {time.perf_counter() - began:.1f} s")
    return {name: function}


# --- Ceilings of this machine, measured as the kernels are ---------------------------------------


def copy_of(bytes_moved: float) -> Callable[[], Any]:
    """Return a device-to-device copy that reads and writes so many bytes in all."""
    source = torch.randint(
        0, 256, (max(1, round(bytes_moved / 2)),), dtype=torch.uint8, device=DEVICE
    )
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def product(dtype: torch.dtype) -> tuple[Callable[[], Any], float]:
    """Return a large square product of random matrices, and its operations."""
    side = sized(8192, 64)
    a, b = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))
    return lambda: a @ b, 2.0 * side**3
