"""Broken copies of feature files, ours and those of other tools: read or refused in one line."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest

import fuzzing
from histofast.errors import FeatureError
from histofast.features import (
    FeatureWriter,
    content_sha256,
    opening,
    problems_of,
    pt_path,
    read_features,
    read_summary,
)

pytestmark = pytest.mark.slow
N, D = 40, 16
LAYOUTS = ("trident", "clam", "stamp")


def read(path: Path) -> None:
    """All that is done with a feature file; what one reader refuses another may read."""
    read_summary(path)
    assert all("\n" not in problem for problem in problems_of(path))
    refusals = []
    for reader in (content_sha256, read_features, read_mapped):
        try:
            reader(path)
        except FeatureError as error:
            refusals.append(error)
    if refusals and "to be mapped" not in str(refusals[0]):
        raise refusals[0]


def read_ours(path: Path) -> None:
    """A change of a file of ours is found by `verify`."""
    problems = [
        problem for problem in problems_of(path) if "no whole" not in problem
    ]  # no .pt there
    assert problems or path.read_bytes() in whole_files()
    read(path)


@cache
def whole_files() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return [write(Path(folder, kind, "h5", "a.h5"), kind).read_bytes() for kind in LAYOUTS]


def read_looking_for_bombs(path: Path) -> None:
    """As in big files, where every chunk that may grow is looked at first."""
    with mock.patch.object(opening, "_MOST_BYTES", 0):
        read_features(path)


def read_mapped(path: Path) -> None:
    read_features(path, mmap=True).features.sum(dtype=np.float64)


def read_tensor(path: Path) -> None:
    """Hold a tensor file against its feature file, which is whole."""
    beside = path.parent / str(os.getpid()) / "h5_files" / "a.h5"  # originals are read side by side
    if not beside.exists():
        write(beside, layout="clam")
    whole, broken = pt_path(beside).read_bytes(), path.read_bytes()
    changed = broken != whole
    twin = beside.with_name("b.h5")
    twin.write_bytes(beside.read_bytes())
    pt_path(twin).write_bytes(broken)
    problems, summary = problems_of(twin), read_summary(twin)
    assert bool(problems) is changed
    assert all(".pt" in problem and "\n" not in problem for problem in problems)
    assert summary is not None
    assert changed or summary.is_complete
    if problems:
        raise FeatureError(problems[0])


def write(path: Path, layout: str) -> Path:
    rng = np.random.default_rng(0)
    with FeatureWriter(
        path,
        coords=rng.integers(0, 9999, (N, 2)),
        d=D,
        identity={"slide": {"name": "a"}, "encoder": {"name": "e"}},
        attributes={
            "name": "a",
            "encoder": "e",
            "patch_size": 256,
            "patch_size_level0": 512,
            "mpp": 0.5,
            "level0_mpp": 0.25,
        },
        layout=layout,
    ) as writer:
        writer.append(rng.standard_normal((N, D), np.float32))
        writer.finish()
    return path


@pytest.fixture
def foreign(tmp_path: Path) -> list[Path]:
    """As TRIDENT, CLAM and STAMP write them, and the odd ones."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((N, D), np.float32)
    coords = rng.integers(0, 9999, (N, 2))
    paths = [
        tmp_path / f"{name}.h5"
        for name in ("trident", "clam", "stamp", "latest", "odd", "deflated")
    ]
    with h5py.File(paths[0], "w") as file:
        file.create_dataset("features", data=features)
        made = file.create_dataset("coords", data=coords)
        made.attrs.update(patch_size=256, patch_size_level0=512, name="a", overlap=0)
        file["features"].attrs["encoder"] = "e"
    with h5py.File(paths[1], "w") as file:
        made = file.create_dataset("features", data=features, chunks=(1, D), maxshape=(None, D))
        made = file.create_dataset(
            "coords", data=coords.astype(np.int32), chunks=(1, 2), maxshape=(None, 2)
        )
        made.attrs.update(patch_size=256, patch_level=0, downsample=[1.0, 1.0], save_path="/a/b")
    with h5py.File(paths[2], "w") as file:
        file["feats"], file["coords"] = features.astype(np.float16), coords * 0.25
        file.attrs.update(unit="um", extractor="e", tile_size_um=128.0, tile_size_px=224)
        file.attrs["level0_mpp"] = 0.25
    with h5py.File(paths[3], "w", libver="latest") as file:
        file.create_dataset(
            "features", data=features, chunks=(8, D), compression="gzip", shuffle=True
        )
        file.create_dataset("coords", data=coords, fletcher32=True)
        for number in range(12):  # so many lie in a heap of their own
            file["coords"].attrs[f"note {number}"] = "text" * number
        file["coords"].attrs["patch_size"] = 256
    with h5py.File(paths[4], "w") as file:
        file.create_dataset("features", data=features[None], chunks=(1, 4, D), compression="lzf")
        file.create_dataset("coords", data=coords.astype(np.float64), compression="gzip")
        file.attrs["unit"] = np.bytes_("px")
    with h5py.File(paths[5], "w") as file:
        file.create_dataset("features", data=features, chunks=(4, D), compression="gzip")
        file.create_dataset("coords", data=coords, chunks=(4, 2), compression="gzip")
    return paths


def test_files_of_other_tools(foreign: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    strays = fuzzing.attack(read, foreign, folder)
    assert not strays, fuzzing.told(strays)


def test_plain_arrays(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((N, D), np.float32)
    np.save(tmp_path / "a.npy", features)
    tensor = pt_path(write(tmp_path / "x" / "h5_files" / "a.h5", "clam"))
    folder = tmp_path / "broken"
    folder.mkdir()
    strays = fuzzing.attack(read, [tmp_path / "a.npy", tensor], folder)
    assert not strays, fuzzing.told(strays)


def test_deflated_chunks(foreign: list[Path], tmp_path: Path) -> None:
    deflated = [path for path in foreign if path.stem in {"latest", "odd", "deflated"}]
    folder = tmp_path / "broken"
    folder.mkdir()
    strays = fuzzing.attack(read_looking_for_bombs, deflated, folder, mutants=fuzzing.MUTANTS // 4)
    assert not strays, fuzzing.told(strays)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_ours(layout: str, tmp_path: Path) -> None:
    path = write(tmp_path / "h5_files" / "a.h5", layout)
    folder = tmp_path / "broken"
    folder.mkdir()
    strays = fuzzing.attack(read_ours, [path], folder, mutants=fuzzing.MUTANTS // 3)
    assert not strays, fuzzing.told(strays)


def test_tensors(tmp_path: Path) -> None:
    path = pt_path(write(tmp_path / "x" / "h5_files" / "a.h5", "clam"))
    folder = tmp_path / "broken"
    folder.mkdir()
    strays = fuzzing.attack(read_tensor, [path], folder, mutants=fuzzing.MUTANTS // 4)
    assert not strays, fuzzing.told(strays)
