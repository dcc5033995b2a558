"""What this machine offers: the CPUs and the memory this process may really use, names of devices."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from histofast._numbers import whole_number

TORCH = ("cuda",)
ONNX_RUNTIME = ("cuda", "tensorrt")


def available_cpus() -> int:
    """Return the number of CPUs this process may use, at least 1.

    The smallest of the scheduler's affinity mask, the CPU quota of the process's control groups
    (versions 1 and 2, every ancestor counts) and the CPUs that Slurm gives to a task, which not every site
    enforces. A quota of 1.5 CPUs counts as 2: two throttled threads do more work than one.
    """
    # macOS and Windows have neither this call nor control groups.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota_cpus(Path("/"))
    told = os.environ.get("SLURM_CPUS_PER_TASK", "")
    given = [cpus] if quota is None else [cpus, math.ceil(quota)]
    if told.isdecimal():
        given.append(int(told))
    return max(1, min(given))


def _cgroup_quota_cpus(root: Path) -> float | None:
    """Return the tightest CPU quota above this process, in CPUs, or None where there is none."""
    groups = _read(root / "proc/self/cgroup")
    if groups is None:
        return None
    mounts = ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct")
    quotas = [_quota_v2(folder / "cpu.max") for folder in _groups_v2(root, groups)]
    quotas += [_quota_v1(folder) for folder in _groups_v1(root, groups, "cpu", mounts)]
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_bytes() -> int | None:
    """Return the memory that this process may use, swap included; None where that is not known.

    The machine's, or the tightest limit of the process's control groups (versions 1 and 2, every
    ancestor counts).
    """
    return _memory_bytes(Path("/"))


def _memory_bytes(root: Path) -> int | None:
    about = _read(root / "proc/meminfo")
    if about is None:
        if root != Path("/") or not hasattr(os, "sysconf"):  # Windows
            return None
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    kb = {key: int(value) for key, value in re.findall(r"^(\w+): +(\d+) kB$", about, re.MULTILINE)}
    swap = kb.get("SwapTotal", 0) * 1024
    limits = [kb["MemTotal"] * 1024 + swap] if "MemTotal" in kb else []
    groups = _read(root / "proc/self/cgroup") or ""
    for folder in _groups_v2(root, groups):
        limit = _number(folder / "memory.max")
        of_swap = _number(folder / "memory.swap.max")
        if limit is not None:
            limits.append(limit + (swap if of_swap is None else min(of_swap, swap)))
    for folder in _groups_v1(root, groups, "memory", ("sys/fs/cgroup/memory",)):
        limit, with_swap = (
            _number(folder / f"memory.{kind}limit_in_bytes") for kind in ("", "memsw.")
        )
        if limit is not None:
            limits.append(limit + swap if with_swap is None else min(limit + swap, with_swap))
    return min(limits, default=None)


def _groups_v2(root: Path, groups: str) -> Iterator[Path]:
    """Yield the folders of the control groups of version 2 that hold for a process."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified") if controllers == "" else ():
            yield from _ancestors(root / mount, path)


def _groups_v1(root: Path, groups: str, controller: str, mounts: tuple[str, ...]) -> Iterator[Path]:
    """Yield those of version 1, of one controller."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        for mount in mounts if controller in controllers.split(",") else ():
            yield from _ancestors(root / mount, path)


def _ancestors(mount: Path, path: str) -> Iterator[Path]:
    # Inside a container the path may be the host's and not exist here: the mount's root still does.
    parts = PurePosixPath(path).parts[1:]
    for n in range(len(parts) + 1):
        yield mount.joinpath(*parts[:n])


def _quota_v2(file: Path) -> float | None:
    text = _read(file)
    if text is None:
        return None
    quota_us, period_us = text.split()
    return None if quota_us == "max" else int(quota_us) / int(period_us)


def _quota_v1(folder: Path) -> float | None:
    quota_us, period_us = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if quota_us is None or period_us is None or int(quota_us) <= 0:
        return None
    return int(quota_us) / int(period_us)


def _number(file: Path) -> int | None:
    text = _read(file)
    return int(text) if text is not None and text.isdecimal() else None


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return None


def gpu_indices(gpus: Sequence[int]) -> list[int]:
    """Return the indices of GPUs that somebody names, each once.

    Raises:
        TypeError, ValueError: none, or what is no list of different whole numbers of 0 and above.
    """
    if not isinstance(gpus, Iterable):
        raise TypeError(f"gpus must be a list of whole numbers, got {gpus!r}")
    indices = [whole_number("gpus", index) for index in gpus]
    if not indices:
        raise ValueError("gpus must name at least one GPU, got none")
    if min(indices) < 0:
        raise ValueError(f"gpus must not be negative, got {min(indices)}")
    if len(set(indices)) < len(indices):
        raise ValueError(f"gpus must be given once each, got {', '.join(map(str, indices))}")
    return indices


def check_device(device: str, gpus: tuple[str, ...]) -> tuple[str, int | None]:
    """Refuse a device that is not auto, cpu, or one of `gpus`, with the index of a GPU or without.

    Whether it is there is found where it is used.

    Returns:
        Its kind, and its index where it has one.

    Raises:
        ValueError: another device.
    """
    found = re.fullmatch(rf"(auto|cpu|{'|'.join(gpus)})(?::([0-9]+))?", str(device))
    if found is None or (found[2] is not None and found[1] not in gpus):
        known = ", ".join(("auto", "cpu", *gpus))
        raise ValueError(f"device must be one of {known}, or such as cuda:1, got {device!r}")
    return found[1], None if found[2] is None else int(found[2])
