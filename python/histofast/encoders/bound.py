"""A session on a GPU, fed from memory that is allocated once.

    submit    pixels -> pinned memory -> (upload stream) -> GPU       the caller's thread
    run       graph on the compute stream, captured once per bucket   a thread of the runner
    result    GPU -> (download stream) -> pinned memory -> features   the caller's thread

While the GPU computes one batch, the pixels of the next are on their way and the caller writes the
features of the one before. The graph is run from one thread of its own, because ONNX Runtime may
wait for the GPU inside a run, and keeps its captured graphs per thread.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast import _core
from histofast.encoders import runtime
from histofast.encoders.spec import INPUT, EncoderSpec

SLOTS = 3  # one batch being copied, one computed, one read
_FEWEST = 8  # rows of the smallest bucket


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A GPU, and the stream that a session was told to compute on."""

    gpu: int
    stream: _core.CudaStream
    captures: bool  # the session captures CUDA graphs


def filled_up(n: int) -> int:
    """Return the size that a batch of `n` is filled up to: 8, 12, 16, 24, 32, 48 ...

    Every size costs a choice of algorithms and a captured graph, so there are few; and it depends
    on nothing but `n`, so that what else was encoded before changes no bits.

    Example:
        >>> [filled_up(n) for n in (1, 13, 97, 128, 200)]
        [8, 16, 128, 128, 256]
    """
    size = _FEWEST
    while size < n:
        size = size // 2 * 3 if size & (size - 1) == 0 else size // 3 * 4
    return size


class _Slot:
    """The memory of one batch on both sides, and when what happened to it."""

    def __init__(
        self, place: Place, rows: int, patch_bytes: int, specs: Sequence[EncoderSpec]
    ) -> None:
        self.host_in = _core.CudaBuffer(rows * patch_bytes)
        self.gpu_in = _core.CudaBuffer(rows * patch_bytes, device=place.gpu)
        sizes = [4 * rows * spec.d for spec in specs]
        self.host_out = [_core.CudaBuffer(size) for size in sizes]
        self.gpu_out = [_core.CudaBuffer(size, device=place.gpu) for size in sizes]
        self.uploaded, self.begun, self.computed, self.downloaded = (
            _core.CudaEvent(place.gpu) for _ in range(4)
        )
        self.graphs: dict[int, tuple[Any, Any]] = {}  # of a bucket: binding and run options


@dataclass(frozen=True, slots=True)
class _Task:
    slot: _Slot
    rows: int
    bucket: int
    future: Future[None]


class Ticket:
    """A batch that was submitted."""

    def __init__(self, runner: BoundRunner, task: _Task) -> None:
        self._runner, self._task = runner, task

    def result(self) -> tuple[NDArray[np.float32], ...]:
        """Wait for the features; ask once.

        Raises:
            What ONNX Runtime raised, CudaError.
        """
        return self._runner._collect(self._task)

    def discard(self) -> None:
        """Wait for the work and forget it; for whoever does not want the features any more."""
        with contextlib.suppress(Exception):
            self.result()


class BoundRunner:
    """Runs one session on one GPU. Used by one thread; `close` it."""

    def __init__(self, session: Any, specs: Sequence[EncoderSpec], place: Place) -> None:
        self._session, self._specs, self._place = session, tuple(specs), place
        self._upload = _core.CudaStream(place.gpu)
        self._download = _core.CudaStream(place.gpu)
        self._shape = (0, 0, 0)  # rows, height, width that the slots are made for
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        self._open: list[_Task] = []
        self._graph_ids = itertools.count(1)  # 0 is what ONNX Runtime takes by itself
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="histofast-gpu", daemon=True)
        self._thread.start()
        self.busy_s = 0.0

    def submit(self, pixels: NDArray[np.uint8]) -> Ticket:
        """Start on (n, h, w, 3) uint8 patches, n >= 1; `pixels` may be reused at once.

        At most `SLOTS` may be open. A batch larger than all before waits for those under way.
        """
        n, h, w = pixels.shape[:3]
        if n > self._shape[0] or (h, w) != self._shape[1:]:
            self._make_slots(filled_up(n), h, w)
        if len(self._open) == SLOTS:
            raise AssertionError(f"at most {SLOTS} batches may be open: read a result first")
        slot = self._free.get()
        bucket = filled_up(n)
        patch_bytes = 3 * h * w
        memory = slot.host_in.array[: bucket * patch_bytes].reshape(bucket, h, w, 3)
        memory[:n] = pixels
        memory[n:] = 0  # the same company whatever was there before: the same bits
        _core.cuda_copy(
            slot.gpu_in.address, slot.host_in.address, bucket * patch_bytes, self._upload
        )
        slot.uploaded.record(self._upload)
        task = _Task(slot, n, bucket, Future())
        self._open.append(task)
        self._tasks.put(task)
        return Ticket(self, task)

    def close(self) -> None:
        """Wait for what is under way and end the thread."""
        self._tasks.put(None)
        self._thread.join()
        for stream in (self._upload, self._place.stream, self._download):
            stream.synchronize()
        self._session = None

    def _make_slots(self, rows: int, h: int, w: int) -> None:
        for task in self._open:  # their graphs are made for the shape of now
            task.future.exception()
        self._shape = (rows, h, w)
        # Slots that are still open are read where they are and then dropped.
        self._free = queue.SimpleQueue()
        for _ in range(SLOTS):
            self._free.put(_Slot(self._place, rows, 3 * h * w, self._specs))

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._run(task)
            except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
                task.future.set_exception(error)
            else:
                task.future.set_result(None)

    def _run(self, task: _Task) -> None:
        slot, stream = task.slot, self._place.stream
        binding, options = self._graph(task)
        slot.uploaded.hold(stream)
        slot.begun.record(stream)
        self._session.run_with_iobinding(binding, options)
        slot.computed.record(stream)
        slot.computed.hold(self._download)
        for spec, there, here in zip(self._specs, slot.gpu_out, slot.host_out, strict=True):
            _core.cuda_copy(here.address, there.address, 4 * task.rows * spec.d, self._download)
        slot.downloaded.record(self._download)

    def _graph(self, task: _Task) -> tuple[Any, Any]:
        """Return the binding of a slot's memory for a bucket: a captured graph keeps addresses."""
        slot, bucket = task.slot, task.bucket
        if bucket not in slot.graphs:
            _, h, w = self._shape
            where = (runtime.MEMORY, self._place.gpu)
            binding = self._session.io_binding()
            shape = (bucket, h, w, 3)
            binding.bind_input(INPUT, *where, np.uint8, shape, slot.gpu_in.address)
            for spec, there in zip(self._specs, slot.gpu_out, strict=True):
                shape_out = (bucket, spec.d)
                binding.bind_output(spec.output, *where, np.float32, shape_out, there.address)
            graph = next(self._graph_ids) if self._place.captures else None
            slot.graphs[bucket] = binding, runtime.run_options(graph=graph, waits=False)
        return slot.graphs[bucket]

    def _collect(self, task: _Task) -> tuple[NDArray[np.float32], ...]:
        self._open.remove(task)
        slot = task.slot
        try:
            task.future.result()
            slot.downloaded.synchronize()
            self.busy_s += slot.computed.seconds_since(slot.begun)
            return tuple(
                here.array[: 4 * task.rows * spec.d]
                .view(np.float32)
                .reshape(task.rows, spec.d)
                .copy()
                for spec, here in zip(self._specs, slot.host_out, strict=True)
            )
        finally:
            self._free.put(slot)
