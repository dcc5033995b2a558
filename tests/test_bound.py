"""Encoders on a GPU: batches in flight, their memory, and what goes wrong.

On an emulated GPU ONNX Runtime's CPU provider computes in its memory, so that everything around
the graph is what runs on a real one.
"""

from __future__ import annotations

import numpy as np
import pytest

import conftest
from histofast import encoders
from histofast.encoders import bound, runtime
from histofast.errors import ModelError
from tiny_encoder import write_encoder

pytestmark = pytest.mark.gpu
make_session = runtime.make_session


class CudaSession:
    """A session of the CPU that says it is CUDA's and keeps CUDA graphs' rules."""

    captures_allowed = True

    def __init__(self, model, captures):
        self._session = make_session(model)
        self._captures, self._bindings = captures, {}
        if captures and not self.captures_allowed:
            raise runtime.runtime_errors()[0]("[ONNXRuntimeError] : 1 : FAIL : nodes on the CPU")

    def __getattr__(self, name):
        return getattr(self._session, name)

    def get_providers(self):
        return [runtime.CUDA, runtime.CPU]

    def run_with_iobinding(self, binding, options):
        graph = int(options.get_run_config_entry("gpu_graph_id"))
        assert (graph > 0) == self._captures
        if graph > 0:  # a captured graph reads and writes where it was captured
            assert self._bindings.setdefault(graph, binding) is binding
        self._session.run_with_iobinding(binding, options)


@pytest.fixture
def on_gpu(monkeypatch):
    if not conftest.has_emulated_gpu():
        if runtime.why_no_cuda() is not None:
            pytest.skip("needs a GPU that ONNX Runtime can use")
        return
    monkeypatch.setattr(runtime, "why_no_cuda", lambda: None)
    monkeypatch.setattr(runtime, "driver_gpu_count", lambda: 1)
    monkeypatch.setattr(runtime, "MEMORY", "cpu")

    def make(model, *, provider=runtime.CPU, captures=False, **_):
        return make_session(model) if provider == runtime.CPU else CudaSession(model, captures)

    monkeypatch.setattr(runtime, "make_session", make)


@pytest.fixture
def pair(tmp_path, on_gpu):
    path = write_encoder(tmp_path / "tiny.onnx")
    with (
        encoders.load(path, device="cuda") as there,
        encoders.load(path, device="cpu") as here,
    ):
        yield there, here


def test_where_it_runs(pair):
    there, here = pair
    assert (there.device, there.provider, there.in_flight) == ("cuda:0", runtime.CUDA, 3)
    assert (here.device, here.in_flight, there.device_note) == ("cpu", 1, "")


@pytest.mark.parametrize("n", [0, 1, 8, 9, 127, 128, 129, 1000])
def test_gpu_agrees_with_the_cpu(pair, rng, n):
    there, here = pair
    pixels = rng.integers(0, 256, (n, 16, 16, 3), np.uint8)
    np.testing.assert_allclose(there.encode(pixels), here.encode(pixels), atol=1e-5)


def test_batches_of_any_size_and_patches_of_any_size_in_turn(pair, rng):
    there, here = pair
    for n, side in [(5, 16), (40, 16), (3, 24), (100, 16), (8, 16), (17, 31)]:
        pixels = rng.integers(0, 256, (n, side, side, 3), np.uint8)
        np.testing.assert_allclose(there.encode(pixels), here.encode(pixels), atol=1e-5)


def test_several_in_flight_come_back_in_order(pair, rng):
    there, here = pair
    batches = [rng.integers(0, 256, (n, 16, 16, 3), np.uint8) for n in (9, 30, 4, 64, 2, 2, 9)]
    wanted = [here.encode(batch) for batch in batches]
    open_now, got = [], []
    for batch in batches:
        if len(open_now) == there.in_flight:
            got.append(open_now.pop(0).result()[0])
        mine = batch.copy()
        open_now.append(there.submit(mine))
        mine[...] = 0  # the caller may use it again at once
    got += [pending.result()[0] for pending in open_now]
    for features, right in zip(got, wanted, strict=True):
        np.testing.assert_allclose(features, right, atol=1e-5)
    assert there.busy_s > 0


def test_what_came_before_changes_no_bit(pair, rng):
    there, _ = pair
    pixels = rng.integers(0, 256, (11, 16, 16, 3), np.uint8)
    first = there.encode(pixels)
    there.encode(rng.integers(0, 256, (500, 16, 16, 3), np.uint8))
    np.testing.assert_array_equal(there.encode(pixels), first)


def test_discarded_batches_give_their_memory_back(pair, rng):
    there, here = pair
    pixels = rng.integers(0, 256, (9, 16, 16, 3), np.uint8)
    for _ in range(3):
        for pending in [there.submit(pixels) for _ in range(there.in_flight)]:
            pending.discard()
    np.testing.assert_allclose(there.encode(pixels), here.encode(pixels), atol=1e-5)


def test_too_many_open_is_a_fault_of_the_caller(pair, rng):
    there, _ = pair
    pixels = rng.integers(0, 256, (9, 16, 16, 3), np.uint8)
    pending = [there.submit(pixels) for _ in range(there.in_flight)]
    with pytest.raises(AssertionError, match="at most 3 batches may be open"):
        there.submit(pixels)
    for one in pending:
        one.discard()


def test_nan_is_told_where_it_is_asked_for(tmp_path, on_gpu):
    path = write_encoder(tmp_path / "infinite.onnx", scale=float("inf"))
    with encoders.load(path, device="cuda") as encoder:
        pending = encoder.submit(np.full((9, 16, 16, 3), 7, np.uint8))
        with pytest.raises(ModelError, match="gave NaN or infinity for 9 of 9 patches"):
            pending.result()


def test_failing_graph_is_one_line_and_the_next_batch_goes_on(pair, rng, monkeypatch):
    there, here = pair
    pixels = rng.integers(0, 256, (300, 16, 16, 3), np.uint8)
    fail = runtime.runtime_errors()[0]

    def run(*_):
        raise fail("[ONNXRuntimeError] : 1 : FAIL : out of memory\nat line 7")

    there.encode(pixels)
    with monkeypatch.context() as patched:
        patched.setattr(there._runner._session, "run_with_iobinding", run)
        with pytest.raises(
            ModelError, match=r"failed on 300 patches of 16 x 16 px: out of memory$"
        ):
            there.encode(pixels)
    np.testing.assert_allclose(there.encode(pixels), here.encode(pixels), atol=1e-5)


def test_graph_that_cannot_be_captured_runs_without_and_says_so(tmp_path, on_gpu, monkeypatch, rng):
    if not conftest.has_emulated_gpu():
        pytest.skip("needs a session that refuses")
    monkeypatch.setattr(CudaSession, "captures_allowed", False)
    path = write_encoder(tmp_path / "tiny.onnx")
    with encoders.load(path, device="cuda") as encoder:
        assert encoder.device_note == "CUDA graphs are not used: nodes on the CPU"
        encoder.encode(rng.integers(0, 256, (9, 16, 16, 3), np.uint8))


def test_many_cuts_from_one_run(tmp_path, on_gpu, rng):
    path = write_encoder(tmp_path / "tiny.onnx")
    with encoders.load_all(path, device="cuda") as there, encoders.load(path) as here:
        pixels = rng.integers(0, 256, (9, 16, 16, 3), np.uint8)
        (features,) = there.submit(pixels).result()
        np.testing.assert_allclose(features, here.encode(pixels), atol=1e-5)


def test_closed_encoder_is_refused(pair, rng):
    there, _ = pair
    there.submit(rng.integers(0, 256, (9, 16, 16, 3), np.uint8))
    there.close()
    there.close()
    with pytest.raises(ValueError, match="encoder is closed"):
        there.submit(np.zeros((1, 16, 16, 3), np.uint8))


def test_sizes_depend_on_the_batch_alone():
    sizes = [bound.filled_up(n) for n in range(1, 1000)]
    assert sizes == sorted(sizes)
    assert all(n <= size <= max(8, 1.5 * n) for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) <= 16
