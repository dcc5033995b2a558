"""Writes small OME-Zarr slides of every kind that tests need, with zarr."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from extras import need

zarr = need("zarr")

TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def laid_out(image: NDArray[Any], axes: str) -> NDArray[Any]:
    """A picture (h, w, c) along the axes; those besides y, x and c have one place."""
    at = image.transpose(["yxc".index(axis) for axis in axes if axis in "yxc"])
    return at.reshape([image.shape["yxc".index(a)] if a in "yxc" else 1 for a in axes])


def described(
    axes: str, scales: Sequence[Sequence[float]], *, unit: str | None = "micrometer"
) -> dict[str, Any]:
    """A multiscales entry: levels called 0, 1 ... of these scales."""
    named: list[dict[str, str]] = [{"name": axis, "type": TYPES[axis]} for axis in axes]
    for axis in named:
        if axis["type"] == "space" and unit is not None:
            axis["unit"] = unit
    datasets = [
        {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": list(scale)}]}
        for i, scale in enumerate(scales)
    ]
    return {"axes": named, "datasets": datasets, "name": "slide"}


def write_zarr(
    path: Path,
    levels: Sequence[NDArray[Any]],
    *,
    version: str = "0.4",
    axes: str = "tczyx",
    tile_px: int | tuple[int, int] = 64,
    channels: int = 3,
    shard: int = 0,
    mpp: float | tuple[float, float] = 0.5,
    unit: str | None = "micrometer",
    **options: Any,
) -> Path:
    """Write levels (h, w, c), finest first; `options` go to zarr's create_array.

    `channels` is how many a chunk holds, `shard` how many chunks along y and x a shard does.
    """
    x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    w, h = (tile_px, tile_px) if isinstance(tile_px, int) else tile_px
    zarr_format: Any = 2 if version == "0.4" else 3
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    chunk = {"y": h, "x": w, "c": channels}
    for i, level in enumerate(levels):
        array = laid_out(level, axes)
        chunks = tuple(chunk.get(axis, 1) for axis in axes)
        if shard:
            many = {"y": shard, "x": shard, "c": -(-3 // channels)}
            options["shards"] = tuple(c * many.get(a, 1) for c, a in zip(chunks, axes, strict=True))
        group.create_array(
            str(i), shape=array.shape, chunks=chunks, dtype=array.dtype, **options
        )[...] = array  # fmt: skip
    scales = [
        [{"y": y, "x": x}.get(axis, 1.0) * (2.0**i if axis in "yx" else 1.0) for axis in axes]
        for i in range(len(levels))
    ]
    say(path, {"multiscales": [described(axes, scales, unit=unit)]}, version=version)
    return path


def say(path: Path, attributes: dict[str, Any], *, version: str = "0.4") -> None:
    """Put attributes of OME into a group."""
    group = zarr.open_group(path, mode="a", zarr_format=2 if version == "0.4" else 3)
    if version == "0.4":
        for each in attributes.get("multiscales", ()):
            each["version"] = version
        group.attrs.put(attributes)
    else:
        group.attrs.put({"ome": {"version": version, **attributes}})


def change(path: Path, how: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a JSON document says."""
    document = json.loads(path.read_text())
    how(document)
    path.write_text(json.dumps(document))
