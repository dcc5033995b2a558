"""What the viewer computes of a slide of 100,000 patches x 512 features. Goal: nearest patches in 60 ms.

Nearest patches are found in a feature file that is mapped, lengths of features known from the search before,
against all cosines in float32 and a full sort, of features in memory. The first search of a slide, colours and
groups are timed alone: each is asked for once. HISTOFAST_PATCHES is another number of patches.

    pytest benchmarks/bench_view_data.py -s
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from compare import Table

from histofast.features import FeatureWriter, read_features
from histofast.viewer import Catalogue, Entry, Layers
from histofast.viewer.cohort import Cohort

N, D, K = int(os.environ.get("HISTOFAST_PATCHES", "100000")), 512, 24
ROUNDS = 9
GOAL_S = 0.060
TYPES = ("float32", "float16")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """A slide of each type of features; they lie along 20 axes, with noise, as those of networks do."""
    folder: Path = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    axes = rng.standard_normal((20, D), np.float32)
    features = rng.standard_normal((N, 20), np.float32) @ axes
    features += rng.standard_normal((N, D), np.float32)
    side = int(np.ceil(np.sqrt(N)))
    coords = np.stack([np.arange(N) % side, np.arange(N) // side], axis=1) * 256
    entries = []
    for index, dtype in enumerate(TYPES):
        path = folder / f"{dtype}.h5"
        attributes = {"patch_size": 256, "patch_size_level0": 256}
        with FeatureWriter(
            path, coords=coords, d=D, identity={}, attributes=attributes, dtype=dtype
        ) as writer:
            writer.append(features.astype(dtype))
            writer.finish()
        entries.append(
            Entry(index=index, name=dtype, slide=dtype, path=folder / f"{dtype}.tif", features=path)
        )
    return Catalogue(entries)


def sorted_cosines(features: np.ndarray, row: int) -> np.ndarray:
    """The K rows after the first of a whole sort."""
    lengths = np.linalg.norm(features, axis=1)
    return np.argsort(-(features @ features[row]) / lengths)[1 : K + 1]


def rows_of(cohort: Cohort, index: int, row: int) -> list[int]:
    return [item["row"] for item in cohort.similar(index, row, k=K)["items"]]


def seconds(job: Callable[[], object]) -> float:
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


@pytest.mark.parametrize("index", range(len(TYPES)), ids=TYPES)
def test_nearest_patches(catalogue: Catalogue, table: Table, index: int) -> None:
    cohort, row = Cohort(catalogue), N // 3
    path = catalogue.entries[index].features
    assert path is not None
    features = read_features(path).features.astype(np.float32)
    first_s = seconds(lambda: rows_of(cohort, index, row))
    # Cosines of float32 may change places with their neighbours.
    assert len(set(rows_of(cohort, index, row)) ^ set(sorted_cosines(features, row).tolist())) <= 2
    what = f"nearest {K} of {N:,} x {D} {TYPES[index]}"
    rival = "NumPy, float32 in memory, whole sort"
    table.race(
        what,
        lambda: rows_of(cohort, index, row),
        {rival: lambda: sorted_cosines(features, row)},
        goals={},
        work=1,
        unit="searches/s",
        rounds=ROUNDS,
    )
    least_s = min(seconds(lambda: rows_of(cohort, index, row)) for _ in range(ROUNDS))
    table.add(
        what=f"{what}, the best of {ROUNDS}",
        ours=f"{1e3 * least_s:.1f} ms (first {1e3 * first_s:.0f} ms)",
        rival="the goal",
        theirs=f"{1e3 * GOAL_S:.0f} ms",
        ratio=GOAL_S / least_s,
        goal=1.0,
    )


@pytest.mark.parametrize("layer_id", ["colours", "clusters"])
def test_layers_of_features(catalogue: Catalogue, table: Table, layer_id: str) -> None:
    taken = [seconds(lambda: Layers(catalogue).values(0, layer_id)) for _ in range(3)]
    table.add(
        what=f"{layer_id} of {N:,} x {D}, sample and all",
        ours=f"{np.median(taken):.2f} s",
        rival="-",
        theirs="-",
        ratio=1.0,
        goal=None,
    )
