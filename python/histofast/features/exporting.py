"""Feature files in, one table of all their patches out: Parquet, or AnnData for scanpy and squidpy.

The door to pyarrow, anndata with its zarr, and pandas, which are imported when something is exported.
Features are written file by file and rows by rows, so memory holds what is said of patches and no more.

SpatialData's stores are not written: they want shapes of the slides beside the table, and a hundred packages
(dask, numba, geopandas) to be made. The table says what SpatialData asks of one (`spatialdata_attrs`), and
docs/coming-from.md has the lines that add the shapes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from histofast._files import check_target, path_of, replacing, replacing_folder, write_error
from histofast._words import counted
from histofast.errors import FeatureError, missing_extra
from histofast.features.file import FeatureFile, open_features
from histofast.features.listing import list_features
from histofast.features.options import options_of, shared_options

# What a suffix needs: module, extra.
_NEEDS = {
    ".parquet": ("pyarrow", "parquet"),
    ".h5ad": ("anndata", "anndata"),
    ".zarr": ("anndata", "anndata"),
}
_ROWS = 4096  # written at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What `export_features` has written.

    Attributes:
        path: of the file, or of the folder `.zarr`.
        slides, patches: how many.
        d: features of each patch.
        notes: what was passed over.
    """

    path: Path
    slides: int
    patches: int
    d: int
    notes: tuple[str, ...] = ()


def export_features(
    features: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    on_count: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write the features of many slides as one file, a row for each patch.

    `.parquet`: slide, x, y (level-0 top-left corner), tissue_fraction and label, as far as the files tell them, and
    features, a list of d float32. `.h5ad` and `.zarr`: AnnData with features as X, the same columns as obs, with
    `library_id` for squidpy and `row` in the slide's file; obsm["spatial"] the centres of patches in level-0
    pixels, as squidpy has spots in full-resolution pixels, and
    uns["spatial"][slide]["scalefactors"]["spot_diameter_fullres"] their side; uns["spatialdata_attrs"] says that a
    row is the shape `row` of the element `slide`, as tables of SpatialData do. Names of obs are `<slide>:<row>`.

    Args:
        features: folders and files of one encoder and scale, also of TRIDENT, CLAM and STAMP.
        out: the file, or the folder `.zarr`.
        overwrite: replace it; of folders those alone that hold AnnData.
        on_count: called with the slides written and all of them.

    Raises:
        ModuleNotFoundError: pyarrow (extra `parquet`) or anndata (extra `anndata`) is not installed.
        FileExistsError: `out` is there, and `overwrite` False, or it is a folder of something else.
        FileNotFoundError, FeatureError: no feature files, broken ones, or such that do not go together.
        ValueError: `out` of another suffix, two files of one slide.
        WriteError: it cannot be written, or the disk is full.
    """
    out = path_of("out", out)
    if out.suffix not in _NEEDS:
        raise ValueError(f"out must end in {', '.join(_NEEDS)}, got {out}")
    module, extra = _NEEDS[out.suffix]
    try:
        import_module(module)
    except ModuleNotFoundError:
        raise missing_extra(module, by=f"a file {out.suffix}", extra=extra) from None
    check_target(out, overwrite=overwrite)
    if out.suffix == ".zarr":
        _check_replaced(out)
    found = _Found(features)
    write = {".parquet": _write_parquet, ".h5ad": _write_h5ad, ".zarr": _write_zarr}[out.suffix]
    kept = replacing_folder if out.suffix == ".zarr" else replacing
    with kept(out, overwrite=overwrite) as pending:
        try:
            write(pending, found, on_count)
        except (OSError, RuntimeError) as error:  # h5py reports a failed flush as RuntimeError
            if isinstance(error, FeatureError | FileNotFoundError):
                raise
            raise write_error(out, error) from error
    return Exported(
        path=out,
        slides=len(found.names),
        patches=int(sum(found.sizes)),
        d=found.d,
        notes=found.notes,
    )


class _Found:
    """Feature files that go together, and what is told of their patches."""

    def __init__(self, features: object) -> None:
        paths, notes = list_features(features)
        self.paths, self.names, self.sizes = list[Path](), list[str](), list[int]()
        self.told: dict[str, list[NDArray[Any]]] = {}
        self.sides: list[int | None] = []
        options, empty, self.d = [], [], 0
        for path in paths:
            file = open_features(path)
            options.append((path, options_of(file)))
            n, d = file.features.shape
            if self.d not in (0, d):
                raise FeatureError(
                    f"features must be of one width, got {self.d}, and {d} in {path}"
                )
            self.d = d
            if not n:
                empty.append(path.stem)
                continue
            if path.stem in self.names:
                raise ValueError(
                    f"features must hold one file per slide, got two of {path.stem}: name the folder of one scale"
                )
            self.paths.append(path)
            self.names.append(path.stem)
            self.sizes.append(n)
            self.sides.append(file.patch_l0)
            for name, column in _columns(file).items():
                self.told.setdefault(name, []).append(column)
        if not self.names:
            raise FeatureError(f"features must have patches, got none in {counted(empty)}")
        self.options = shared_options(options)
        # What some files do not tell would have to be made up for their rows.
        lacking = [name for name, parts in self.told.items() if len(parts) < len(self.names)]
        for name in lacking:
            del self.told[name]
        notes += [f"some files do not tell {name}: left out" for name in lacking]
        if empty:
            notes.append(f"slides without a patch: {counted(empty)}")
        self.notes = tuple(notes)

    def chunks(self, i: int) -> Iterator[NDArray[np.float32]]:
        """Yield the features of a file, (<= rows, d) float32."""
        file = open_features(self.paths[i])
        if file.features.shape != (self.sizes[i], self.d):
            raise FeatureError(f"{self.paths[i]} must be as when opened, got other features")
        for chunk in file.iter_chunks(_ROWS):
            yield np.ascontiguousarray(chunk, np.float32)

    @property
    def encoder(self) -> str:
        """Its name, "" where the files do not tell."""
        return str(self.options.get("encoder.name", ""))


def _columns(file: FeatureFile) -> dict[str, NDArray[Any]]:
    """What a file tells of its patches."""
    columns: dict[str, NDArray[Any]] = {}
    if file.coords is not None and file.attributes.get("coords_known", True):
        columns |= {"x": file.coords[:, 0], "y": file.coords[:, 1]}
    if file.tissue_fraction is not None:
        columns["tissue_fraction"] = file.tissue_fraction
    if file.labels:
        columns["label"] = np.array(file.labels, object)
    return columns


# --- Parquet -----------------------------------------------------------------------------------


def _write_parquet(path: Path, found: _Found, on_count: Callable[[int, int], None] | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "x": pa.int64(),
        "y": pa.int64(),
        "tissue_fraction": pa.float32(),
        "label": pa.string(),
    }
    fields = [pa.field("slide", pa.string())]
    fields += [pa.field(name, kinds[name]) for name in found.told]
    fields.append(pa.field("features", pa.list_(pa.float32(), found.d)))
    told = {f"histofast.{name}": str(value) for name, value in found.options.items()}
    schema = pa.schema(fields, metadata=told)
    texts = [name for name in ("slide", "label") if name in schema.names]
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=texts) as writer:
        for i, name in enumerate(found.names):
            start = 0
            for chunk in found.chunks(i):
                stop = start + len(chunk)
                columns = [pa.array([name] * len(chunk))]
                columns += [
                    pa.array(parts[i][start:stop], schema.field(column).type)
                    for column, parts in found.told.items()
                ]
                flat = pa.array(chunk.reshape(-1))
                columns.append(pa.FixedSizeListArray.from_arrays(flat, found.d))
                writer.write_table(pa.table(columns, schema=schema))
                start = stop
            if on_count is not None:
                on_count(i + 1, len(found.names))


# --- AnnData -----------------------------------------------------------------------------------


def _check_replaced(out: Path) -> None:
    """Refuse to take the place of a folder that anndata has not written: slides are such folders, too."""
    if out.exists() and _attributes_of(out).get("encoding-type") != "anndata":
        raise FileExistsError(f"{out} exists and is no AnnData: choose another name")


def _attributes_of(folder: Path) -> dict[str, Any]:
    """What a Zarr group says of itself, in format 2 or 3; nothing of a folder that is none."""
    try:
        if (folder / ".zattrs").is_file():
            said = json.loads((folder / ".zattrs").read_bytes())
        else:
            said = json.loads((folder / "zarr.json").read_bytes())["attributes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _write_h5ad(path: Path, found: _Found, on_count: Callable[[int, int], None] | None) -> None:
    from anndata.io import write_elem

    with h5py.File(path, "w", locking=False) as file:  # whose path we hold a lock on
        write_elem(file, "/", _table_of(found))
        if "X" in file:
            del file["X"]
        x = file.create_dataset("X", dtype=np.float32, **_room(found))
        _fill(x, found, on_count)


def _write_zarr(path: Path, found: _Found, on_count: Callable[[int, int], None] | None) -> None:
    import zarr
    from anndata.io import write_elem

    group = zarr.open_group(path, mode="w", zarr_format=2)  # which most readers know
    write_elem(group, "/", _table_of(found))
    if "X" in group:
        del group["X"]
    # Numbers as networks give them hardly shrink.
    x = group.create_array("X", dtype=np.float32, compressors=None, **_room(found))
    _fill(x, found, on_count)


def _room(found: _Found) -> dict[str, Any]:
    """The shape of X and of its chunks."""
    total = sum(found.sizes)
    return {"shape": (total, found.d), "chunks": (min(_ROWS, total), found.d)}


def _fill(x: Any, found: _Found, on_count: Callable[[int, int], None] | None) -> None:
    """Write the features by anndata's layout on disk, chunk by chunk."""
    x.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    start = 0
    for i in range(len(found.names)):
        for part in found.chunks(i):
            x[start : start + len(part)] = part
            start += len(part)
        if on_count is not None:
            on_count(i + 1, len(found.names))


def _table_of(found: _Found) -> Any:
    """What is said of patches and of all, as AnnData without X."""
    import anndata
    import pandas as pd

    slides = np.repeat(found.names, found.sizes)
    rows = np.concatenate([np.arange(n) for n in found.sizes])
    columns: dict[str, Any] = {
        "slide": pd.Categorical(slides),
        "row": rows,
        "library_id": pd.Categorical(slides),
    }
    for name, parts in found.told.items():
        whole = np.concatenate(parts)
        columns[name] = pd.Categorical(whole) if name == "label" else whole
    index = [f"{slide}:{row}" for slide, row in zip(slides, rows.tolist(), strict=True)]
    obs = pd.DataFrame(columns, index=pd.Index(index, dtype=object))
    var = pd.DataFrame(index=pd.Index([f"f{i}" for i in range(found.d)], dtype=object))
    table = anndata.AnnData(obs=obs, var=var)
    sides = [1 if side is None else side for side in found.sides]
    if "x" in found.told:
        corners = np.stack([np.concatenate(found.told[axis]) for axis in "xy"], axis=1)
        table.obsm["spatial"] = corners + np.repeat(sides, found.sizes)[:, None] / 2
        table.uns["spatial"] = {
            name: {"images": {}, "scalefactors": {"spot_diameter_fullres": float(side)}}
            for name, side in zip(found.names, sides, strict=True)
        }
    table.uns["histofast"] = {
        name.replace("/", "_"): str(value) for name, value in found.options.items()
    }
    table.uns["spatialdata_attrs"] = {
        "region": found.names,
        "region_key": "slide",
        "instance_key": "row",
    }
    return table
