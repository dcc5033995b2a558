"""What an OME-Zarr (NGFF 0.4 and 0.5) says of its picture: levels, axes, scale; no chunk is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from histofast._words import clipped, joined, one_line
from histofast.errors import SlideError
from histofast.slides.metadata import pyramid_downsample, shown_size
from histofast.slides.slide import Level
from histofast.slides.tiff_directories import MAX_TILE_PX
from histofast.slides.tiff_scale import UM_PER
from histofast.slides.zarr_arrays import ZarrArray, read_array
from histofast.slides.zarr_nodes import Documents, Picture, is_inside

_MOST_LEVELS = 64
_MAX_PX = 10**12  # of level 0; a glass slide at 0.05 um/px has as many
_MAX_TILES = 1 << 22  # of a level
_READ = "histofast reads bright-field RGB, three channels of uint8"


@dataclass(frozen=True, kw_only=True, slots=True)
class Axes:
    """Which axis of an array is which.

    Attributes:
        names: of all of them, as the file has them.
        y, x, channel: their places.
        um: um per unit of y and x; None where no unit is said that is known.
    """

    names: tuple[str, ...]
    y: int
    x: int
    channel: int
    um: tuple[float, float] | None

    @property
    def to_the_end(self) -> tuple[int, ...]:
        """The axes with y, x, channel last, in this order."""
        pixel = (self.y, self.x, self.channel)
        return (*(i for i in range(len(self.names)) if i not in pixel), *pixel)


@dataclass(frozen=True, kw_only=True, slots=True)
class ZarrLayout:
    """What the documents of a picture say.

    Attributes:
        levels: finest first.
        arrays: those of the levels.
        axes: of all of them.
        mpp: um per pixel along x and y, where it is said.
        properties: strings.
    """

    levels: tuple[Level, ...]
    arrays: tuple[ZarrArray, ...]
    axes: Axes
    mpp: tuple[float, float] | None
    properties: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Placed:
    """An array and where it lies: scale and shift along y and x, in the units of the axes, if it says them."""

    array: ZarrArray
    says: bool
    scale: tuple[float, float]
    shift: tuple[float, float]


def read_zarr_layout(documents: Documents, picture: Picture) -> ZarrLayout:
    """Read what a picture says of itself.

    Raises:
        SlideError: something is missing, broken, asks for too much, or is no 8-bit RGB.
    """
    where = documents.where(picture.key)
    axes = _axes(picture.multiscale.get("axes"), where)
    datasets = picture.multiscale.get("datasets")
    if not isinstance(datasets, list) or not 1 <= len(datasets) <= _MOST_LEVELS:
        raise SlideError(
            f"datasets of {where} must name 1 to {_MOST_LEVELS} levels, got {_said(datasets)}"
        )
    of_all = _scale_and_shift(picture.multiscale.get("coordinateTransformations"), axes, where)
    placed = [_placed(documents, picture.key, each, axes, of_all) for each in datasets]
    placed.sort(key=lambda each: -each.array.shape[axes.x])
    base = placed[0]
    levels, arrays = [_level(base.array, axes, 1.0, base.array)], [base.array]
    for each in placed[1:]:
        downsample = _downsample(base, each, axes)
        if downsample is not None and downsample > 1.1 * levels[-1].downsample:
            levels.append(_level(each.array, axes, downsample, base.array))
            arrays.append(each.array)
    um = axes.um
    return ZarrLayout(
        levels=tuple(levels),
        arrays=tuple(arrays),
        axes=axes,
        mpp=(base.scale[1] * um[1], base.scale[0] * um[0]) if um and base.says else None,
        properties=_properties(picture, base.array),
    )


def _properties(picture: Picture, base: ZarrArray) -> dict[str, str]:
    properties = {
        "door": "zarr",
        "vendor": "ome-zarr",
        "ome-zarr.version": clipped(one_line(picture.version), 20),
        "compression": base.coding.compression,
    }
    if picture.objective_power:
        properties["objective_power"] = picture.objective_power
    return properties


def _axes(said: object, where: str) -> Axes:
    """Read the axes, as 0.4 and 0.5 have them: objects with a name, in any order."""
    if not isinstance(said, list) or not all(
        isinstance(axis, dict) and isinstance(axis.get("name"), str) for axis in said
    ):
        raise SlideError(
            f"axes of {where} must be objects with names, as OME-Zarr 0.4 and 0.5 have them, got"
            f" {_said(said)}: convert it"
        )
    names = tuple(axis["name"] for axis in said)
    channels = [
        i for i, axis in enumerate(said) if axis.get("type") == "channel" or axis["name"] == "c"
    ]
    named_well = len(set(names)) == len(names) and {"x", "y"} <= set(names) and len(channels) == 1
    if not named_well or names[channels[0]] in ("x", "y"):
        raise SlideError(
            f"axes of {where} must be y, x and one of channels among others, got {_said(names)}: {_READ}"
        )
    y, x = names.index("y"), names.index("x")
    um = [
        UM_PER.get(said[i].get("unit")) if isinstance(said[i].get("unit"), str) else None
        for i in (y, x)
    ]
    return Axes(
        names=names,
        y=y,
        x=x,
        channel=channels[0],
        um=None if um[0] is None or um[1] is None else (um[0], um[1]),
    )


def _placed(
    documents: Documents,
    key: str,
    dataset: object,
    axes: Axes,
    of_all: tuple[list[float], list[float]],
) -> _Placed:
    path = dataset.get("path") if isinstance(dataset, dict) else None
    if not isinstance(dataset, dict) or not isinstance(path, str) or not is_inside(path):
        raise SlideError(
            f"datasets of {documents.where(key)} must have the path of a level, got {_said(dataset)}"
        )
    full = f"{key}/{path}" if key else path
    where = documents.where(full)
    array = read_array(full, documents.array(full), where=where)
    _refuse_other_pixels(array, axes, where)
    steps = dataset.get("coordinateTransformations")
    scale, shift = _scale_and_shift(steps, axes, where)
    at = (axes.y, axes.x)
    return _Placed(
        array=array,
        says=bool(steps),
        scale=(scale[at[0]] * of_all[0][at[0]], scale[at[1]] * of_all[0][at[1]]),
        shift=(
            shift[at[0]] * of_all[0][at[0]] + of_all[1][at[0]],
            shift[at[1]] * of_all[0][at[1]] + of_all[1][at[1]],
        ),
    )


def _refuse_other_pixels(array: ZarrArray, axes: Axes, where: str) -> None:
    shape = array.shape
    if len(shape) != len(axes.names):
        raise SlideError(
            f"{where} must have the axes {joined(axes.names)}, got {len(shape)} of {_said(shape)}"
        )
    others = [i for i in range(len(shape)) if i not in (axes.y, axes.x, axes.channel)]
    if array.dtype != "uint8" or shape[axes.channel] != 3 or any(shape[i] != 1 for i in others):
        sizes = ", ".join(f"{name} {n}" for name, n in zip(axes.names, shape, strict=True))
        raise SlideError(
            f"{where} must be one plane of three channels of uint8, got {array.dtype} of {sizes}:"
            f" {_READ}; export it as that"
        )
    height, width = shape[axes.y], shape[axes.x]
    if height * width > _MAX_PX:
        raise SlideError(f"{where} must have at most {_MAX_PX:,} pixels, got {width} x {height}")
    tile = array.chunk[axes.x], array.chunk[axes.y]
    if tile[0] * tile[1] > MAX_TILE_PX:
        raise SlideError(
            f"{where} must have chunks of at most {MAX_TILE_PX:,} px, got {tile[0]} x {tile[1]}: write it with"
            " smaller ones"
        )
    tiles = -(-height // array.chunk[axes.y]) * -(-width // array.chunk[axes.x])
    if tiles > _MAX_TILES:
        raise SlideError(
            f"{where} must have at most {_MAX_TILES:,} chunks, got {tiles:,}: write it with larger ones"
        )


def _scale_and_shift(said: object, axes: Axes, where: str) -> tuple[list[float], list[float]]:
    """What a list of coordinateTransformations does to each axis: times the first, plus the second."""
    n = len(axes.names)
    scale, shift = [1.0] * n, [0.0] * n
    for step in said if isinstance(said, list) else [] if said is None else [said]:
        kind = step.get("type") if isinstance(step, dict) else None
        values = step.get(kind) if isinstance(step, dict) and isinstance(kind, str) else None
        if kind == "identity":
            continue
        if (
            kind not in ("scale", "translation")
            or not isinstance(values, list)
            or len(values) != n
            or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        ):
            raise SlideError(
                f"coordinateTransformations of {where} must be scale and translation, a number for each of"
                f" {joined(axes.names)}, got {_said(step)}"
            )
        try:
            numbers = [float(value) for value in values]
        except OverflowError:
            numbers = [math.inf] * n
        if kind == "scale":
            scale = [a * b for a, b in zip(scale, numbers, strict=True)]
            shift = [a * b for a, b in zip(shift, numbers, strict=True)]
        else:
            shift = [a + b for a, b in zip(shift, numbers, strict=True)]
    return scale, shift


def _downsample(base: _Placed, level: _Placed, axes: Axes) -> float | None:
    """Level-0 pixels per pixel of a level; None where it is said to show something else.

    Its size decides, as for TIFF. What it says of its scale and shift must put both of its corners right to
    within a pixel of the level: centres of pixels are what is shifted, so a mean of four lies half a pixel off.
    """
    sizes = [(each.array.shape[axes.x], each.array.shape[axes.y]) for each in (base, level)]
    found = pyramid_downsample(
        sizes[0], sizes[1], (level.array.chunk[axes.x], level.array.chunk[axes.y])
    )
    if found is None or not (base.says and level.says):
        return found
    shown = shown_size(sizes[0], sizes[1], found)
    for place, size_l0, size in zip((1, 0), sizes[0], shown, strict=True):  # of x, of y
        fine, coarse = base.scale[place], level.scale[place]
        if not (0 < fine < math.inf and 0 < coarse < math.inf):
            return None
        near = (level.shift[place] - base.shift[place]) / coarse
        far = near + size - size_l0 * fine / coarse
        if not (abs(near) <= 1 and abs(far) <= 1):
            return None
    return found


def _level(array: ZarrArray, axes: Axes, downsample: float, base: ZarrArray) -> Level:
    width, height = shown_size(
        (base.shape[axes.x], base.shape[axes.y]),
        (array.shape[axes.x], array.shape[axes.y]),
        downsample,
    )
    return Level(
        width=width,
        height=height,
        downsample=downsample,
        tile_width=array.chunk[axes.x],
        tile_height=array.chunk[axes.y],
    )


def _said(value: object) -> str:
    return clipped(one_line(json.dumps(value)), 100)
