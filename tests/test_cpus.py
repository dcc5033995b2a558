"""How many CPUs a container grants."""

from __future__ import annotations

import os

import pytest

from histofast import _machine


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/"}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/slurm/job",
                "sys/fs/cgroup/cpu.max": "max 100000",
                "sys/fs/cgroup/slurm/cpu.max": "400000 100000",
                "sys/fs/cgroup/slurm/job/cpu.max": "800000 100000",
            },
            4.0,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/\n3:cpu,cpuacct:/docker/x",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        ({}, None),
    ],
)
def test_quota(tmp_path, files, quota):
    for path, text in files.items():
        write(tmp_path, path, text)
    assert _machine._cgroup_quota_cpus(tmp_path) == quota


def test_a_quota_of_one_and_a_half_is_two_and_never_more_than_the_affinity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2}, raising=False)
    for quota, expected in [(1.5, 2), (0.3, 1), (8.0, 3), (None, 3)]:
        monkeypatch.setattr(_machine, "_cgroup_quota_cpus", lambda _root, quota=quota: quota)
        assert _machine.available_cpus() == expected


@pytest.mark.parametrize(("told", "expected"), [("3", 3), ("64", 8), ("", 8), ("2x", 8)])
def test_the_share_that_slurm_gives_counts(told, expected, monkeypatch):
    monkeypatch.setattr(_machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(_machine, "_cgroup_quota_cpus", lambda _: None)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", told)
    assert _machine.available_cpus() == expected


MEMINFO = {
    "proc/meminfo": "MemTotal:       8000 kB\nMemFree:        10 kB\nSwapTotal:      1000 kB"
}
V1 = "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("files", "kb"),
    [
        (MEMINFO, 9000),
        ({"proc/meminfo": "MemTotal:       8000 kB"}, 8000),
        (MEMINFO | {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"}, 9000),
        (
            MEMINFO
            | {
                "proc/self/cgroup": "0::/slurm/job",
                "sys/fs/cgroup/slurm/memory.max": str(4000 * 1024),
                "sys/fs/cgroup/slurm/memory.swap.max": "0",
                "sys/fs/cgroup/slurm/job/memory.max": str(5000 * 1024),
            },
            4000,
        ),
        (
            MEMINFO
            | {
                "proc/self/cgroup": "0::/",
                "sys/fs/cgroup/memory.max": str(4000 * 1024),
                "sys/fs/cgroup/memory.swap.max": "max",
            },
            5000,
        ),
        (
            MEMINFO
            | {
                "proc/self/cgroup": "4:memory:/docker/x\n3:cpu:/",
                f"{V1}/memory.limit_in_bytes": str(3000 * 1024),
                f"{V1}/memory.memsw.limit_in_bytes": str(3500 * 1024),
            },
            3500,
        ),
        (
            MEMINFO
            | {"proc/self/cgroup": "4:memory:/", f"{V1}/memory.limit_in_bytes": str(2**63 - 4096)},
            9000,
        ),
        ({}, None),
    ],
)
def test_memory(tmp_path, files, kb):
    for path, text in files.items():
        write(tmp_path, path, text)
    found = _machine._memory_bytes(tmp_path)
    assert found == (None if kb is None else kb * 1024)


def test_this_machine_has_memory():
    assert _machine.memory_bytes() is None or _machine.memory_bytes() > 1 << 28
