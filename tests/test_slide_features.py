"""One vector of each slide: pooled as defined, streamed, in files that others read."""

from __future__ import annotations

import csv
import json

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histofast.errors import FeatureError
from histofast.features import FeatureFile, find_features
from histofast.summaries import pool, slide_vectors
from toy_bags import D, write_features


def rows(n, *, seed=0, dtype="float32", d=D):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


DEFINED = {
    "mean": lambda x: x.astype(np.float64).mean(axis=0),
    "max": lambda x: x.astype(np.float64).max(axis=0),
    "mean+max": lambda x: np.concatenate([DEFINED["mean"](x), DEFINED["max"](x)]),
}


@pytest.fixture
def folder(tmp_path):
    """Three slides, one without a patch."""
    (tmp_path / "f").mkdir()
    for name, n in (("b", 7), ("a", 3), ("none", 0)):
        write_features(tmp_path / "f" / f"{name}.h5", rows(n, seed=n))
    return tmp_path / "f"


@pytest.mark.parametrize("pooling", DEFINED)
@given(cuts=st.lists(st.integers(0, 9), max_size=3), seed=st.integers(0, 9))
@settings(max_examples=20)
def test_pooled_in_chunks_as_at_once(pooling, cuts, seed):
    x = rows(9, seed=seed)
    found = pool(np.split(x, sorted(cuts)), pooling)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, DEFINED[pooling](x), rtol=1e-6, atol=1e-7)


def test_half_precision_is_summed_without_loss():
    x = np.full((70_000, 2), 1.5, "float16")
    assert pool([x[:65_000], x[65_000:]]).tolist() == [1.5, 1.5]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(value):
    x = rows(5)
    x[1, 2], x[3, 2] = value, -value
    with pytest.raises(ValueError, match="features must be finite, got NaN or infinity"):
        pool([x], "max")


def test_no_rows():
    with pytest.raises(ValueError, match="features must have a row, got none"):
        pool([rows(0)])
    with pytest.raises(ValueError, match=r"pooling must be one of mean, max, mean\+max, got 'sum'"):
        pool([rows(2)], "sum")


def test_slides_by_name_and_what_is_left_out(folder, monkeypatch):
    read = []
    chunks = FeatureFile.iter_chunks
    monkeypatch.setattr(
        FeatureFile, "iter_chunks", lambda self: read.append(type(self.features)) or chunks(self, 2)
    )
    found = slide_vectors(folder, pooling="mean+max")
    assert read == [np.memmap] * 2  # none is read whole
    assert (found.names, found.n_patches) == (("a", "b"), (3, 7))
    for vector, n in zip(found.vectors, (3, 7), strict=True):
        np.testing.assert_allclose(vector, DEFINED["mean+max"](rows(n, seed=n)), rtol=1e-6)
    assert found.columns[0] == "mean_0"
    assert found.columns[-1] == f"max_{D - 1}"
    assert found.notes == ("left out, without a patch: 1 (none)",)


def test_the_table(folder, tmp_path):
    found = slide_vectors(folder)
    found.save(tmp_path / "s.csv")
    with (tmp_path / "s.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["slide", "n_patches", *(f"mean_{i}" for i in range(D))]
    assert [line[:2] for line in lines] == [["a", "3"], ["b", "7"]]
    assert np.array_equal(np.array([line[2:] for line in lines], np.float32), found.vectors)
    with pytest.raises(FileExistsError):
        found.save(tmp_path / "s.csv")


def test_the_hdf5_file(folder, tmp_path):
    found = slide_vectors(folder, pooling="max")
    for name in ("one.h5", "two.h5"):
        found.save(tmp_path / name)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    with h5py.File(tmp_path / "one.h5") as file:
        assert file["slides"].asstr()[()].tolist() == ["a", "b"]
        assert file["n_patches"][()].tolist() == [3, 7]
        assert np.array_equal(file["features"][()], found.vectors)
        assert dict(file["features"].attrs) == {
            "pooling": "max",
            "encoder_name": "uni",
            "encoder_sha256": "ab" * 32,
            "feat_type": "slide",
        }
    # It may lie among feature files: it is none.
    found.save(folder / "slides.h5")
    assert [path.name for path in find_features(folder).others] == ["slides.h5"]
    assert slide_vectors(folder, pooling="max").names == ("a", "b")


def test_names_of_any_script(tmp_path):
    write_features(tmp_path / "Ü 癌.h5", rows(2))
    found = slide_vectors(tmp_path)
    found.save(tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["slides"].asstr()[()].tolist() == ["Ü 癌"]


def test_files_that_do_not_go_together(folder, tmp_path):
    write_features(folder / "c.h5", rows(4, d=D + 1))
    with pytest.raises(FeatureError, match=f"same options, got d {D} in .* and d {D + 1} in"):
        slide_vectors(folder)
    (folder / "c.h5").unlink()
    write_features(folder / "c.h5", rows(4), encoder={"name": "other", "sha256": "cd" * 32})
    with pytest.raises(FeatureError, match=r"encoder\.name uni.* and encoder\.name other"):
        slide_vectors(folder)
    (tmp_path / "g").mkdir()
    write_features(tmp_path / "g" / "a.h5", rows(4))
    with pytest.raises(ValueError, match="features must be one file of each slide, got "):
        slide_vectors([folder / "a.h5", tmp_path / "g"])


def test_broken_files(folder, tmp_path):
    with h5py.File(folder / "c.h5", "w") as file:  # ours cannot be written so
        file["features"] = np.full((2, D), np.nan, "float32")
    with pytest.raises(FeatureError, match=r"c\.h5: features must be finite, got NaN"):
        slide_vectors(folder)
    (tmp_path / "e").mkdir()
    with pytest.raises(FileNotFoundError):
        slide_vectors(tmp_path / "e")
    write_features(tmp_path / "e" / "none.h5", rows(0))
    with pytest.raises(
        ValueError, match="features must have a slide with patches, got 1 empty one"
    ):
        slide_vectors(tmp_path / "e")


def test_the_command(cli, folder, tmp_path):
    out = tmp_path / "s.csv"
    answer = cli("slide-features", folder, "--out", out, "--pool", "mean+max")
    assert (answer.code, answer.err) == (0, ["note: left out, without a patch: 1 (none)"])
    assert answer.out == f"{out}: mean+max of 2 slides, {2 * D} numbers each\n"
    answer = cli("slide-features", folder, "--out", out)
    assert answer.code == 1
    assert "exists" in answer.err[0]
    answer = cli("slide-features", folder, "--out", out, "--overwrite", "--json", "--quiet")
    assert json.loads(answer.out) == {"path": str(out), "slides": 2, "numbers": D}
    answer = cli("slide-features", folder, "--out", tmp_path / "s.npz")
    assert (answer.code, answer.err) == (
        2,
        [f"histofast: --out must end in .csv or .h5, got {tmp_path}/s.npz"],
    )
    answer = cli("slide-features", folder, "--out", out, "--pool", "sum")
    assert answer.code == 2
