"""`features export`: one table of all patches, for Parquet's and AnnData's readers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from extras import need
from histofast.errors import FeatureError
from histofast.features import FeatureWriter, export_features, read_features

D = 5
PAGE = Path(__file__).resolve().parent.parent / "docs/coming-from.md"


def write(path, n, *, d=D, seed=0, labels=(), side=64, **options):
    """A feature file of ours of n patches in a row."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)).astype(np.float32)
    with FeatureWriter(
        path,
        coords=np.stack([64 * np.arange(n), np.full(n, 7)], axis=1).astype(np.int64),
        d=d,
        identity={"encoder": {"name": "uni", "sha256": "ab" * 32}, **options},
        attributes={"patch_size": 32, "patch_size_level0": side},
        tissue_fraction=np.linspace(0.5, 1, n, dtype=np.float32),
        labels=labels,
    ) as writer:
        writer.append(features)
        writer.finish()
    return features


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "f" / "b.h5", 3, seed=1)
    write(tmp_path / "f" / "a.h5", 4, seed=2, side=65)
    write(tmp_path / "f" / "none.h5", 0)
    return tmp_path / "f"


def test_parquet(cli, folder, tmp_path, monkeypatch):
    need("pyarrow")
    import pyarrow.parquet as pq

    monkeypatch.setattr("histofast.features.exporting._ROWS", 2)
    answer = cli("features", "export", folder, "--out", tmp_path / "p.parquet")
    assert answer.code == 0, answer.err
    assert answer.out == f"{tmp_path / 'p.parquet'}: 7 patches of 2 slides, 5 features each\n"
    assert "note: slides without a patch: 1 (none)" in answer.err
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["slide", "x", "y", "tissue_fraction", "features"]
    assert table["slide"].to_pylist() == ["a"] * 4 + ["b"] * 3
    files = [read_features(folder / f"{name}.h5") for name in "ab"]
    features = np.concatenate([file.features for file in files])
    assert np.array_equal(np.array(table["features"].to_pylist(), np.float32), features)
    coords = np.concatenate([file.coords for file in files])
    assert np.array_equal(np.stack([table["x"], table["y"]], axis=1), coords)
    fractions = np.concatenate([file.tissue_fraction for file in files])
    assert np.array_equal(table["tissue_fraction"].to_numpy(), fractions)
    assert table.schema.metadata[b"histofast.encoder.name"] == b"uni"
    assert str(table.schema.field("features").type).startswith("fixed_size_list<")


@pytest.mark.filterwarnings("default")  # anndata's of its own dependencies
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_anndata(folder, tmp_path, monkeypatch, suffix):
    anndata = need("anndata", "pandas")
    monkeypatch.setattr("histofast.features.exporting._ROWS", 2)
    told, out = [], tmp_path / f"p.{suffix}"
    made = export_features(folder, out, on_count=lambda *each: told.append(each))
    assert (made.slides, made.patches, made.d) == (2, 7, D)
    assert told == [(1, 2), (2, 2)]
    table = (anndata.read_h5ad if suffix == "h5ad" else anndata.read_zarr)(out)
    files = [read_features(folder / f"{name}.h5") for name in "ab"]
    assert np.array_equal(table.X, np.concatenate([file.features for file in files]))
    assert table.X.dtype == np.float32
    assert [*table.obs_names] == [f"a:{i}" for i in range(4)] + [f"b:{i}" for i in range(3)]
    assert [*table.obs["slide"]] == [*table.obs["library_id"]] == ["a"] * 4 + ["b"] * 3
    coords = np.concatenate([file.coords for file in files])
    assert np.array_equal(table.obs[["x", "y"]].to_numpy(), coords)
    halves = np.repeat([32.5, 32.0], [4, 3])[:, None]
    assert np.array_equal(table.obsm["spatial"], coords + halves)
    factors = table.uns["spatial"]["a"]["scalefactors"]
    assert factors["spot_diameter_fullres"] == 65
    assert table.uns["histofast"]["encoder.name"] == "uni"
    assert [*table.var_names] == [f"f{i}" for i in range(D)]
    # Tables of SpatialData say which shape of which element a row is.
    keys = table.uns["spatialdata_attrs"]
    assert [*keys["region"]] == ["a", "b"]
    assert [*table.obs[keys["region_key"]]] == [*table.obs["slide"]]
    assert [*table.obs[keys["instance_key"]]] == [0, 1, 2, 3, 0, 1, 2]


@pytest.mark.filterwarnings("default")
def test_anndata_is_read_from_the_disk(folder, tmp_path):
    anndata = need("anndata", "pandas")
    export_features(folder, tmp_path / "p.h5ad")
    whole = anndata.read_h5ad(tmp_path / "p.h5ad")
    backed = anndata.read_h5ad(tmp_path / "p.h5ad", backed="r")
    assert np.array_equal(backed.X[2:5], whole.X[2:5])
    backed.file.close()


@pytest.mark.filterwarnings("default")
def test_a_folder_of_anndata_is_replaced_and_no_other(cli, folder, tmp_path):
    anndata = need("anndata", "pandas")
    out = tmp_path / "p.zarr"
    assert cli("features", "export", folder, "--out", out).code == 0
    (out / "stray").write_text("of before")
    answer = cli("features", "export", folder, "--out", out)
    assert answer.code == 1
    assert answer.err == [f"histofast: {out} exists: choose another name, or ask to overwrite it"]
    (folder / "b.h5").unlink()
    assert cli("features", "export", folder, "--out", out, "--overwrite").code == 0
    assert anndata.read_zarr(out).shape == (4, D)
    assert not (out / "stray").exists()
    for name, text in ((".zattrs", '{"multiscales": []}'), ("zarr.json", '{"attributes": {}}')):
        slide = tmp_path / f"{name[-5:]}.zarr"
        slide.mkdir()
        (slide / name).write_text(text)
        answer = cli("features", "export", folder, "--out", slide, "--overwrite")
        assert answer.code == 1
        assert answer.err == [f"histofast: {slide} exists and is no AnnData: choose another name"]
        assert (slide / name).read_text() == text
    assert not [*tmp_path.glob(".*.tmp")]


@pytest.mark.filterwarnings("default")
def test_a_folder_that_cannot_be_finished_leaves_what_was_there(folder, tmp_path):
    need("anndata", "pandas")
    out = tmp_path / "p.zarr"
    export_features(folder, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def stop(done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_features(folder, out, overwrite=True, on_count=stop)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not [*tmp_path.glob(".*.tmp")]


@pytest.mark.filterwarnings("default")
def test_labels_of_patches_are_a_column(tmp_path):
    anndata = need("anndata", "pyarrow")
    import pyarrow.parquet as pq

    write(tmp_path / "f" / "a.h5", 2, labels=("no", "ja ü"))
    export_features(tmp_path / "f", tmp_path / "p.h5ad")
    export_features(tmp_path / "f", tmp_path / "p.parquet")
    assert [*anndata.read_h5ad(tmp_path / "p.h5ad").obs["label"]] == ["no", "ja ü"]
    assert pq.read_table(tmp_path / "p.parquet")["label"].to_pylist() == ["no", "ja ü"]


def test_what_some_files_do_not_tell_is_left_out_and_said(tmp_path):
    need("pyarrow")
    import pyarrow.parquet as pq

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.ones((2, D), np.float32)
        file["coords"] = np.array([[0, 0], [9, 9]])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["features"] = np.ones((1, D), np.float16)
    made = export_features([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "p.parquet")
    assert made.notes == (
        "some files do not tell x: left out",
        "some files do not tell y: left out",
    )
    assert pq.read_table(tmp_path / "p.parquet").column_names == ["slide", "features"]


def test_files_that_do_not_go_together_are_refused(tmp_path):
    need("pyarrow")
    write(tmp_path / "f" / "a.h5", 2, mpp=0.5)
    write(tmp_path / "f" / "b.h5", 2, mpp=1.0)
    with pytest.raises(FeatureError, match="must be made with the same options, got mpp"):
        export_features(tmp_path / "f", tmp_path / "p.parquet")
    write(tmp_path / "g" / "a.h5", 2)
    write(tmp_path / "g" / "b.h5", 2, d=6)
    with pytest.raises(FeatureError, match="must be of one width, got 5, and 6 in"):
        export_features(tmp_path / "g", tmp_path / "p.parquet")
    write(tmp_path / "h" / "1" / "a.h5", 2)
    write(tmp_path / "h" / "2" / "a.h5", 2)
    with pytest.raises(ValueError, match="must hold one file per slide, got two of a"):
        export_features(tmp_path / "h", tmp_path / "p.parquet")
    write(tmp_path / "i" / "a.h5", 0)
    with pytest.raises(FeatureError, match=r"must have patches, got none in 1 \(a\)"):
        export_features(tmp_path / "i", tmp_path / "p.parquet")
    assert not list(tmp_path.glob("p.*"))


@pytest.mark.parametrize(
    ("suffix", "module", "extra"),
    [
        ("parquet", "pyarrow", "parquet"),
        ("h5ad", "anndata", "anndata"),
        ("zarr", "anndata", "anndata"),
    ],
)
def test_what_is_not_installed_is_said(cli, folder, tmp_path, monkeypatch, suffix, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    answer = cli("features", "export", folder, "--out", tmp_path / f"p.{suffix}")
    assert answer.code == 2
    (line,) = answer.err
    wanted = (
        f"a file .{suffix} needs {module}, which is not installed: pip install 'histofast[{extra}]'"
    )
    assert line == f"histofast: {wanted}"


def test_mistakes_are_answered_in_one_line(cli, folder, tmp_path):
    answer = cli("features", "export", folder, "--out", tmp_path / "p.csv")
    assert (answer.code, len(answer.err)) == (2, 1)
    assert "--out must end in .parquet, .h5ad, .zarr, got " in answer.err[0]
    assert cli("features", "export", tmp_path / "no", "-o", tmp_path / "p.csv").code == 2


@pytest.mark.filterwarnings("default")
def test_the_page_says_how_spatialdata_takes_it(folder, tmp_path):
    spatialdata = need("spatialdata")
    export_features(folder, tmp_path / "patches.zarr")
    (code,) = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    store = spatialdata.read_zarr(tmp_path / "cohort.zarr")
    table = store.tables["patches"]
    assert np.array_equal(table.X[:4], read_features(folder / "a.h5").features)
    corners = read_features(folder / "a.h5").coords
    bounds = store.shapes["a"].geometry.bounds.to_numpy()
    assert np.array_equal(bounds, np.concatenate([corners, corners + 65], axis=1))
    shapes, rows = spatialdata.join_spatialelement_table(
        sdata=store, spatial_element_names="b", table_name="patches", how="left"
    )
    assert [*shapes["b"].index] == [*rows.obs["row"]] == [0, 1, 2]
    assert np.array_equal(rows.X, read_features(folder / "b.h5").features)
