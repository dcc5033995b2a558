"""The native library's knowledge of the machine: instruction sets and GPUs."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

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
    if _core.cuda_is_compiled():
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
