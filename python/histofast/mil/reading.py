"""Bags from their files to the device, the next ones read while one is in use."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histofast._stopping import stop_if_asked
from histofast.mil.bags import Bags

T = TypeVar("T")

_AHEAD = 2  # bags read ahead of the one in use, the one being read among them


@contextlib.contextmanager
def forked_generators(device: torch.device) -> Iterator[None]:
    """Let torch be seeded, and give its generators back to the caller as they were."""
    with torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def threads_of_torch(threads: int | None) -> Iterator[None]:
    """Let torch compute with so many threads, and give it back as many as it had; None: as it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_ahead(read: Callable[[int], T], rows: Iterable[int]) -> Generator[T, None, None]:
    """Yield `read(row)` in order; a thread reads the next ones while one is in use."""
    todo = iter(rows)
    with ThreadPoolExecutor(1, thread_name_prefix="bags") as pool:
        waiting = deque(pool.submit(read, row) for row in itertools.islice(todo, _AHEAD))
        try:
            while waiting:
                stop_if_asked()
                found = waiting.popleft().result()
                waiting.extend(pool.submit(read, row) for row in itertools.islice(todo, 1))
                yield found
                del found
        finally:
            for future in waiting:
                future.cancel()


class _Slots:
    """Page-locked buffers that are reused; a GPU copies from them while other work goes on."""

    def __init__(self) -> None:
        count = _AHEAD + 2  # a slot is filled while the copy of the oldest may still run
        self._buffers = [torch.empty(0, dtype=torch.uint8) for _ in range(count)]
        self._copied = [torch.cuda.Event() for _ in range(count)]
        self._next = 0

    def fill(self, features: NDArray[Any]) -> tuple[Tensor, torch.cuda.Event]:
        """Copy (n, d) to the slot that was filled longest ago."""
        i, self._next = self._next, (self._next + 1) % len(self._buffers)
        self._copied[i].synchronize()
        if self._buffers[i].numel() < features.nbytes:
            self._buffers[i] = torch.empty(features.nbytes, dtype=torch.uint8, pin_memory=True)
        kind = torch.float16 if features.dtype == np.float16 else torch.float32
        pinned = self._buffers[i][: features.nbytes].view(kind).view(features.shape)
        np.copyto(pinned.numpy(), features)
        return pinned, self._copied[i]


@contextlib.contextmanager
def bags_on(
    device: torch.device,
    bags: Bags,
    rows: Sequence[int] | NDArray[np.int64],
    *,
    draw: Callable[[int], NDArray[np.int64] | None] = lambda row: None,
) -> Iterator[Iterator[Tensor]]:
    """Yield an iterator over bags (n, d) float32 on a device; the reading ends with the context.

    Args:
        device: where to.
        bags: to read from.
        rows: which, in order.
        draw: (k,) patches to take of a bag; None: all.
    """

    def features_of(row: int) -> NDArray[Any]:
        features, drawn = bags.read(row), draw(row)
        return features if drawn is None else features[drawn]

    def read(row: int) -> Tensor:
        return torch.from_numpy(np.array(features_of(row), np.float32, order="C"))

    if device.type == "cpu":
        with contextlib.closing(read_ahead(read, map(int, rows))) as found:
            yield found
        return
    slots = _Slots()

    def moved(pinned: Iterator[tuple[Tensor, torch.cuda.Event]]) -> Iterator[Tensor]:
        for tensor, copied in pinned:
            on_device = tensor.to(device, non_blocking=True).float()
            copied.record()
            yield on_device
            del on_device

    ahead = read_ahead(lambda row: slots.fill(features_of(row)), map(int, rows))
    with contextlib.closing(ahead) as pinned:
        yield moved(pinned)
