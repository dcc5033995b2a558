"""Feature file, 10,000 x 1024 float32, written and read: ours against (1, d) chunks. Goal: 8 x.

The other file is what the field's tools write: resizable datasets in chunks of one row, appended to
in batches of 64, without a checksum. It is timed as they leave it, in the operating system's cache,
and once more until it is on the disk, as ours is. Reading ends when every number has been summed.
All are timed in turn, so that a busy moment of the machine hits all.

    pytest benchmarks/bench_features.py -s
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from compare import Table

from histofast.features import FeatureWriter, problems_of, read_features

N, D, BATCH = 10_000, 1024, 64
ROUNDS = 11
GOAL = 8.0


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, D), np.float32), rng.integers(0, 90_000, (N, 2))


def write_ours(path: Path, features: np.ndarray, coords: np.ndarray) -> None:
    with FeatureWriter(path, coords=coords, d=D, identity={}, attributes={"mpp": 0.5}) as writer:
        for start in range(0, N, BATCH):
            writer.append(features[start : start + BATCH])
        writer.finish()


def write_rows(path: Path, features: np.ndarray, coords: np.ndarray) -> None:
    for start in range(0, N, BATCH):
        with h5py.File(path, "w" if start == 0 else "a") as file:
            for name, array in (("features", features), ("coords", coords)):
                rows = array[start : start + BATCH]
                if start == 0:
                    file.create_dataset(
                        name, data=rows, chunks=(1, rows.shape[1]), maxshape=(None, rows.shape[1])
                    )
                else:
                    file[name].resize(start + len(rows), axis=0)
                    file[name][start:] = rows


def sync(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def read_ours(path: Path) -> float:
    return float(read_features(path, mmap=True).features.sum())


def read_rows(path: Path) -> float:
    with h5py.File(path) as file:
        file["coords"][:]
        return float(file["features"][:].sum())


def timed(job: Callable[..., object], *arguments: object) -> float:
    """Seconds of one call, with nothing left to write from what came before."""
    if job is not sync:
        os.sync()
    start = time.perf_counter()
    job(*arguments)
    return time.perf_counter() - start


def test_write_and_read(
    arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path, table: Table, benchmark: Any
) -> None:
    ours, rows = tmp_path / "ours.h5", tmp_path / "rows.h5"
    rounds = []
    for _ in range(ROUNDS):
        ours.unlink(missing_ok=True)
        write = [timed(write_ours, ours, *arrays)]
        rows.unlink(missing_ok=True)
        write += [timed(write_rows, rows, *arrays), timed(sync, rows)]
        rounds.append([*write, timed(read_ours, ours), timed(read_rows, rows)])
    assert read_ours(ours) == read_rows(rows)
    assert problems_of(ours) == []

    seconds = np.median(rounds, axis=0)
    names = ("write, ours", "write, rows", "sync, rows", "read, ours", "read, rows")
    for name, low, middle in zip(names, np.min(rounds, axis=0), seconds, strict=True):
        print(f"\n{name}: min {low * 1e3:.1f} ms, median {middle * 1e3:.1f} ms", end="")
    our_write, row_write, row_sync, our_read, row_read = seconds
    ours_s = our_write + our_read
    unsafe, safe = (row_write + row_read) / ours_s, (row_write + row_sync + row_read) / ours_s
    print(f"\nread {row_read / our_read:.1f} x")
    rate = N * D * 4 / 1e6
    for rival, theirs_s, ratio in (
        ("(1, d) chunks, left in the cache", row_write + row_read, unsafe),
        ("(1, d) chunks, synced to disk as ours is", row_write + row_sync + row_read, safe),
    ):
        table.add(
            what="feature file 10,000 x 1024, write and read",
            ours=f"{rate / ours_s:.0f} MB/s",
            rival=rival,
            theirs=f"{rate / theirs_s:.0f} MB/s",
            ratio=ratio,
            goal=GOAL,
        )
    benchmark.pedantic(read_ours, args=(ours,), rounds=3)
