"""Feature file, 10,000 x 1024 float32, written and read: ours against (1, d) chunks. Goal: 8 x.

The other file is what the field's tools write: resizable datasets in chunks of one row, appended to
in batches of 64, without fsync and without a checksum; ours has both. Reading ends when every
number has been summed. All are timed in turn, so that a busy moment of the machine hits all.

    pytest benchmarks/bench_features.py -s
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from histofast.features import FeatureWriter, read_features, verify

N, D, BATCH = 10_000, 1024, 64
ROUNDS = 7
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


def read_ours(path: Path) -> float:
    return float(read_features(path, mmap=True).features.sum())


def read_rows(path: Path) -> float:
    with h5py.File(path) as file:
        file["coords"][:]
        return float(file["features"][:].sum())


def timed(job: Callable[..., object], *arguments: object) -> float:
    """Seconds of one call, with nothing left to write from what came before."""
    os.sync()
    start = time.perf_counter()
    job(*arguments)
    return time.perf_counter() - start


def test_write_and_read(arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    ours, rows = tmp_path / "ours.h5", tmp_path / "rows.h5"
    seconds = []
    for _ in range(ROUNDS):
        ours.unlink(missing_ok=True)
        write = [timed(write_ours, ours, *arrays)]
        rows.unlink(missing_ok=True)
        write.append(timed(write_rows, rows, *arrays))
        seconds.append([*write, timed(read_ours, ours), timed(read_rows, rows)])
    assert read_ours(ours) == read_rows(rows)
    assert verify(ours) == []

    least, median = np.min(seconds, axis=0), np.median(seconds, axis=0)
    for name, low, middle in zip(
        ("write, ours", "write, rows", "read, ours", "read, rows"), least, median, strict=True
    ):
        print(f"\n{name}: min {low * 1e3:.1f} ms, median {middle * 1e3:.1f} ms", end="")
        print(f", {N * D * 4 / middle / 1e6:.0f} MB/s", end="")
    ratio = (median[1] + median[3]) / (median[0] + median[2])
    print(
        f"\nwrite {median[1] / median[0]:.1f} x, read {median[3] / median[2]:.1f} x, "
        f"both {ratio:.1f} x (goal {GOAL:g} x)"
    )
    assert ratio >= GOAL
