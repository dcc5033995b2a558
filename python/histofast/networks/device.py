"""Where networks run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from histofast._machine import TORCH, check_device, gpu_indices
from histofast.jobs import Feed, Worker, work

_AUTO = "auto"
_meant: ContextVar[str] = ContextVar("device", default=_AUTO)  # by auto, in this worker


def pick_device(device: str) -> torch.device:
    """Return the device that is asked for; "auto" is the worker's own, else CUDA where there is some.

    Raises:
        ValueError: an unknown device; a GPU is asked for that torch does not find.
    """
    check_device(device, TORCH)
    if device == _AUTO:
        device = _meant.get()
    found = _gpus_found()
    if device == _AUTO:
        device = "cuda" if found else "cpu"
    elif device != "cpu" and not found:
        raise ValueError(f"device must be auto or cpu where torch finds no GPU, got {device!r}")
    chosen = torch.device(device)
    if (chosen.index or 0) >= max(found, 1):
        raise ValueError(
            f"device must be one of cuda:0 to cuda:{found - 1}, the GPUs that torch finds, "
            f"got {device!r}"
        )
    return chosen


def workers_on(
    gpus: Sequence[int] | None, *, device: str = _AUTO, jobs: int | None = None
) -> tuple[Worker, ...]:
    """Return workers that each have a GPU, which "auto" means to the jobs that they do.

    Args:
        gpus: indices of GPUs, in turn for each worker; None: there are no such workers.
        device: of the jobs; auto or cuda.
        jobs: how many workers, one at least for each GPU; None: one for each.

    Raises:
        TypeError, ValueError: GPUs that cannot be meant, or that torch does not find; another device; too
            few jobs.
    """
    if gpus is None:
        return ()
    if device not in (_AUTO, "cuda"):
        raise ValueError(f"device must be auto or cuda with gpus, got {device!r}: leave it out")
    indices = gpu_indices(gpus)
    found = _gpus_found()
    if not found:
        named = ", ".join(map(str, indices))
        raise ValueError(f"gpus must be left out where torch finds no GPU, got {named}")
    if max(indices) >= found:
        raise ValueError(
            f"gpus must be within 0..{found - 1}, the GPUs that torch finds, got {max(indices)}"
        )
    count = len(indices) if jobs is None else jobs
    if count < len(indices):
        raise ValueError(
            f"jobs must be at least {len(indices)}, one for each GPU, got {count}: name fewer GPUs"
        )
    devices = [f"cuda:{indices[k % len(indices)]}" for k in range(count)]
    return tuple(Worker(function=work_on, arguments={"device": d}, name=d) for d in devices)


def work_on(feed: Feed, *, device: str) -> None:
    """Do one job after the other on one device, where they ask for "auto"."""
    with _auto_is(device):
        work(feed)


@contextmanager
def _auto_is(device: str) -> Iterator[None]:
    token = _meant.set(device)
    try:
        yield
    finally:
        _meant.reset(token)


def _gpus_found() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
