"""How busy the GPU is while something runs: as nvidia-smi samples it, and by the spans of all its kernels.

The first disturbs nothing and is coarse. The second, by torch's profiler, has every kernel of the process,
ONNX Runtime's too, and what the time went to; recording costs time, so no rate is taken beside it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from compare import Table

PAUSE_S = 0.1
FIELDS = ("utilization.gpu", "power.draw", "clocks.sm")
SAMPLER = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
IDLE = "0, 0.0, 0"  # of a dry run: a GPU that does nothing


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Means of what nvidia-smi said: share of time with a kernel at work, W, MHz."""

    samples: int
    share: float
    watts: float
    mhz: float

    def __str__(self) -> str:
        return (
            f"busy {self.share:.0%} by nvidia-smi ({self.samples} samples), "
            f"{self.watts:.0f} W, {self.mhz:.0f} MHz"
        )


def sampled_of(text: str) -> Sampled:
    """Return what lines of nvidia-smi say; lines that are cut short are left out.

    Raises:
        ValueError: there is none.
    """
    rows = []
    for line in text.splitlines():
        try:
            row = [float(value) for value in line.split(",")]
        except ValueError:
            continue
        if len(row) == len(FIELDS):
            rows.append(row)
    if not rows:
        raise ValueError(f"nvidia-smi must give lines of {len(FIELDS)} numbers, got {text[:80]!r}")
    busy, watts, mhz = (statistics.fmean(column) for column in zip(*rows, strict=True))
    return Sampled(samples=len(rows), share=busy / 100, watts=watts, mhz=mhz)


def enter(table: Table, what: str, share: float, *, goal: float | None = None) -> None:
    """Enter a share of time."""
    table.add(
        what=what, ours=f"{share:.0%}", rival="all of the time", theirs="", ratio=share, goal=goal
    )


class Watch:
    """What nvidia-smi says between `begin` and `end`, asked again and again: it buffers what it repeats."""

    def __init__(self, *, dry: bool) -> None:
        self._command = [sys.executable, "-c", f"print({IDLE!r})"] if dry else SAMPLER
        self._ended = threading.Event()
        self._said: list[str] = []
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.found: Sampled | None = None

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        # The first answer is of the time before.
        self.found = sampled_of("\n".join(self._said[1:] or self._said))

    def _ask(self) -> None:
        while not self._said or not self._ended.wait(PAUSE_S):
            answer = subprocess.run(self._command, capture_output=True, text=True, check=False)
            self._said.append(answer.stdout.strip() or answer.stderr.strip())


@contextmanager
def watched(*, dry: bool) -> Iterator[Watch]:
    """Sample while a block runs."""
    watch = Watch(dry=dry)
    watch.begin()
    try:
        yield watch
    finally:
        watch.end()


# --- By the spans of kernels --------------------------------------------------------------------


def union_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return the time that at least one of the spans covers; they may come in any order."""
    covered, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    return covered


@dataclass(kw_only=True)
class Profile:
    """What a GPU did: seconds in which a kernel was at work, and in which only copies were, of all.

    `extent_s` is from the first kernel's begin to the last one's end.
    """

    wall_s: float
    extent_s: float
    kernels_s: float
    copies_s: float
    by_name: dict[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        return self.kernels_s / self.wall_s

    @property
    def share_of_extent(self) -> float:
        return self.kernels_s / self.extent_s if self.extent_s else 0.0

    def lines(self, most: int = 12) -> list[str]:
        """Return it in words, the longest kernels first."""
        total = sum(self.by_name.values()) or 1.0
        copies = self.copies_s / self.wall_s
        said = [
            f"  a kernel at work {self.share:.0%} of {self.wall_s:.3f} s, only copies {copies:.0%}"
        ]
        for name in sorted(self.by_name, key=self.by_name.__getitem__, reverse=True)[:most]:
            said.append(f"  {self.by_name[name] / total:6.1%}  {name[:110]}")
        return said


def profile_of(spans: Iterable[tuple[str, float, float]], *, wall_s: float) -> Profile:
    """Return the profile of spans (name, begin, end) on a GPU, in seconds."""
    kernels: list[tuple[float, float]] = []
    every: list[tuple[float, float]] = []
    by_name: dict[str, float] = defaultdict(float)
    for name, begin, end in spans:
        every.append((begin, end))
        by_name[name] += end - begin
        if not name.startswith(("Memcpy", "Memset")):
            kernels.append((begin, end))
    busy = union_s(kernels)
    moments = [moment for span in kernels for moment in span] or [0.0]
    extent_s = max(moments) - min(moments)
    return Profile(
        wall_s=wall_s,
        extent_s=extent_s,
        kernels_s=busy,
        copies_s=union_s(every) - busy,
        by_name=dict(by_name),
    )


def profiled(function: Callable[[], Any], *, dry: bool) -> Profile:
    """Run a function that waits for the GPU at its end; return what the GPU did meanwhile.

    In a dry run spans are those of torch's operators on the CPU.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    where, activity = (
        (DeviceType.CPU, ProfilerActivity.CPU) if dry else (DeviceType.CUDA, ProfilerActivity.CUDA)
    )
    with profile(activities=[activity]) as recorded:
        began = time.perf_counter()
        function()
        wall_s = time.perf_counter() - began
    spans = (
        (event.name, event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in recorded.events()
        if event.device_type == where
    )
    found = profile_of(spans, wall_s=wall_s)
    assert dry or found.kernels_s, "the profiler saw no kernel"
    return found
