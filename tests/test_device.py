"""The native library's knowledge of the machine: instruction sets and GPUs."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import conftest
from histofast import _core, encoders
from histofast.errors import CudaError


@pytest.fixture
def restored_isa():
    before = _core.current_isa()
    yield
    _core.set_isa(before)


# --- Instruction sets ----------------------------------------------------------------------------


def test_the_best_isa_is_used_unless_told_otherwise():
    assert _core.current_isa() == _core.best_isa()


def flags_of_this_cpu() -> set[str]:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def test_the_best_isa_is_what_linux_says_of_the_processor():
    """Whatever compiler built the library: one whose run-time library knows no CPUs is slow."""
    flags = flags_of_this_cpu()
    if not flags:
        pytest.skip("no /proc/cpuinfo with the flags of an x86 processor")
    avx2 = {"avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "popcnt"}
    avx512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}
    best = _core.Isa.avx512 if avx2 | avx512 <= flags else _core.Isa.avx2
    assert _core.best_isa() == (best if avx2 <= flags else _core.Isa.baseline)
    assert _core.int8_is_exact() == bool({"avx512_vnni", "avx_vnni"} & flags)


@pytest.mark.usefixtures("restored_isa")
@pytest.mark.parametrize("isa", list(_core.Isa), ids=lambda isa: isa.name)
def test_an_isa_up_to_the_best_is_used_and_one_above_refused(isa):
    best = _core.best_isa()
    if isa.value <= best.value:
        _core.set_isa(isa)
        assert _core.current_isa() == isa
    else:
        message = f"isa must be at most {best.name} on this machine, got {isa.name}"
        with pytest.raises(ValueError, match=f"^{message}$"):
            _core.set_isa(isa)
        assert _core.current_isa() == best


@pytest.mark.usefixtures("restored_isa")
def test_the_isa_is_that_of_all_threads():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(_core.current_isa).result() == _core.best_isa()
        _core.set_isa(_core.Isa.baseline)
        assert pool.submit(_core.current_isa).result() == _core.Isa.baseline


@pytest.mark.parametrize("isa", ["avx2", 3, None])
def test_an_isa_is_one_of_the_enum(isa):
    with pytest.raises(TypeError, match="set_isa"):
        _core.set_isa(isa)


# --- GPUs ----------------------------------------------------------------------------------------


def test_device_count_is_the_drivers():
    if conftest.has_emulated_gpu():
        assert _core.cuda_device_count() == 1
    elif _core.cuda_is_compiled():
        assert _core.cuda_device_count() == (encoders.driver_gpu_count() or 0)
    else:
        with pytest.raises(CudaError, match=r"no CUDA kernels: reinstall with nvcc on the path$"):
            _core.cuda_device_count()


@pytest.mark.parametrize("device", [-1, 4096])
def test_name_of_a_device_that_is_not_there(device):
    # Built with CUDA, the line names the call; without, it says how to get CUDA.
    wanted = (
        r"^cudaGetDeviceProperties\(.*\): \w+"
        if _core.cuda_is_compiled()
        else r"no CUDA kernels: reinstall with nvcc on the path$"
    )
    with pytest.raises(CudaError, match=wanted) as caught:
        _core.cuda_device_name(device)
    assert isinstance(caught.value, RuntimeError)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_copies_go_through_the_gpu_and_back():
    there, back = _core.CudaBuffer(1000), _core.CudaBuffer(1000)
    there.array[:] = np.arange(1000) % 251
    back.array[:] = 0
    memory, stream = _core.CudaBuffer(1000, device=0), _core.CudaStream(0)
    _core.cuda_copy(memory.address, there.address, 1000, stream)
    _core.cuda_copy(back.address, memory.address, 1000, stream)
    stream.synchronize()
    np.testing.assert_array_equal(back.array, there.array)
    with pytest.raises(ValueError, match="must be pinned memory of the host, got memory of GPU 0"):
        _ = memory.array


@pytest.mark.gpu
def test_events_hold_a_stream_and_tell_the_time():
    first, second = _core.CudaStream(0), _core.CudaStream(0)
    begin, end = _core.CudaEvent(0), _core.CudaEvent(0)
    begin.record(first)
    begin.hold(second)
    end.record(second)
    end.synchronize()
    assert end.seconds_since(begin) >= 0


@pytest.mark.parametrize("make", [_core.CudaStream, _core.CudaEvent])
def test_nothing_is_made_on_a_gpu_that_is_not_there(make):
    wanted = r"cuda\w+\(.*\): \w+" if _core.cuda_is_compiled() else "no CUDA kernels"
    with pytest.raises(CudaError, match=wanted):
        make(4096)


@pytest.mark.gpu
def test_device_name():
    for device in range(_core.cuda_device_count()):
        assert re.search(r"^\S.*, compute \d+\.\d+, \d+ GiB$", _core.cuda_device_name(device))


def test_without_a_gpu_a_test_marked_gpu_is_skipped_or_fails(monkeypatch):
    monkeypatch.setattr(conftest, "why_no_gpu", lambda: "no driver")
    monkeypatch.setenv("HISTOFAST_REQUIRE_GPU", "0")
    with pytest.raises(pytest.skip.Exception, match="needs a GPU: no driver"):
        conftest.need_gpu()
    monkeypatch.setenv("HISTOFAST_REQUIRE_GPU", "1")
    with pytest.raises(pytest.fail.Exception, match="HISTOFAST_REQUIRE_GPU=1, but no driver"):
        conftest.need_gpu()
