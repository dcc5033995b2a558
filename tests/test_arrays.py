"""Checks of arrays, and arrays of torch and CuPy on a GPU."""

from __future__ import annotations

import re

import numpy as np
import pytest

import conftest
from extras import need
from histofast import _arrays
from histofast.similarity import packed_grams


@pytest.mark.parametrize(
    ("array", "error", "got"),
    [
        ([1, 2], TypeError, "list"),
        (np.zeros((2, 3), np.float64), TypeError, "float64 of shape (2, 3)"),
        (np.zeros((2, 4), np.float32), ValueError, "float32 of shape (2, 4)"),
        (np.zeros(3, np.float32), ValueError, "float32 of shape (3,)"),
        (np.zeros((2, 6), np.float32)[:, ::2], ValueError, "strided float32 of shape (2, 3)"),
    ],
)
def test_check_says_what_was_wanted_and_what_came(array, error, got):
    message = f"x must be C-contiguous float32 of shape (n, 3), got {got}"
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        _arrays.check("x", array, "float32", ("n", 3))


def test_a_letter_that_comes_twice_must_agree():
    assert _arrays.check("x", np.zeros((4, 2, 2)), "float64", ("n", "p", "p")) == (4, 2)
    with pytest.raises(ValueError, match=r"of shape \(n, p, p\), got float64 of shape \(4, 2, 3\)"):
        _arrays.check("x", np.zeros((4, 2, 3)), "float64", ("n", "p", "p"))


def test_arrays_of_the_cpu_stay_what_they_are():
    x = np.arange(3)
    assert not _arrays.is_on_gpu(x)
    assert _arrays.to_numpy(x) is x
    assert _arrays.beside(x, np.zeros(2)) is x
    assert _arrays.one_place(a=x, b=x) is None
    assert _arrays.empty((2, 5), "uint8", like=x).shape == (2, 5)


def test_a_tensor_of_the_cpu_is_on_no_gpu():
    torch = need("torch")
    assert not _arrays.is_on_gpu(torch.zeros(2))


@pytest.mark.gpu
def test_there_and_back(gpu, rng):
    x = rng.integers(0, 256, (5, 7, 3), np.uint8)
    there = gpu.put(x)
    assert _arrays.is_on_gpu(there)
    assert _arrays.check("x", there, "uint8", ("h", "w", 3)) == (5, 7)
    np.testing.assert_array_equal(_arrays.to_numpy(there), x)
    np.testing.assert_array_equal(_arrays.to_numpy(_arrays.beside(x, there)), x)
    made = _arrays.empty((4, 2), "float64", like=there)
    assert _arrays.is_on_gpu(made)
    assert (tuple(made.shape), _arrays.dtype_name(made)) == ((4, 2), "float64")
    assert _arrays.one_place(a=there, b=made) is not None


@pytest.mark.gpu
def test_arrays_in_two_places_are_refused(gpu):
    message = r"^arrays must be in one place, got a on GPU 0 \(\w+\), b on the CPU$"
    with pytest.raises(ValueError, match=message):
        _arrays.one_place(a=gpu.put(np.zeros(2)), b=np.zeros(2))


@pytest.mark.gpu
def test_cupy_gives_what_numpy_gives(rng):
    if conftest.has_emulated_gpu():
        pytest.skip("CuPy needs a real GPU")
    cupy = need("cupy")
    x = rng.normal(size=(20, 300)).astype(np.float32)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        found, squares = packed_grams([cupy.asarray(x)])
        assert isinstance(found, cupy.ndarray)
        stream.synchronize()
        wanted, wanted_squares = packed_grams([x])
        np.testing.assert_allclose(found.get(), wanted, atol=1e-4)
        np.testing.assert_allclose(squares, wanted_squares, rtol=1e-4)
        np.testing.assert_array_equal(_arrays.beside(x, cupy.zeros(1)).get(), x)


@pytest.mark.gpu
def test_torch_works_on_its_current_stream(rng):
    if conftest.has_emulated_gpu():
        pytest.skip("torch needs a real GPU")
    torch = need("torch")
    x = rng.normal(size=(20, 300)).astype(np.float32)
    wanted, _ = packed_grams([x])
    with torch.cuda.stream(torch.cuda.Stream()):
        there = torch.from_numpy(x).cuda()
        torch.cuda._sleep(10_000_000)  # what comes before on the stream must be waited for
        there.mul_(2).sub_(1)
        found, _ = packed_grams([there])
    np.testing.assert_allclose(found.cpu().numpy(), 4 * wanted, atol=4e-4)
