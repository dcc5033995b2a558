"""How many CPUs this process may really use."""

from __future__ import annotations

import os
from pathlib import Path


def available_cpus() -> int:
    """CPUs of this process: its affinity, capped by the control group's quota (containers, SLURM)."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, min(count, int(quota))) if quota else count


def _cgroup_quota(root: Path) -> float | None:
    """CPUs granted by cgroup v2 or v1; None without a limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota = (root / "cpu/cpu.cfs_quota_us").read_text()
        period = (root / "cpu/cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None
