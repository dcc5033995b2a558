"""The document of a Zarr array in, its chunks' shape, place and coding out. The door to zarr.

zarr checks documents of both formats and knows what chunks are called; chunks are read and decoded as tiles are
(`zarr_chunks`), for its own way through one event loop is slow, and its codecs make room for what a chunk claims.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from histofast._words import clipped, joined, listed, one_line
from histofast.errors import SlideError
from histofast.slides.tiff_directories import MAX_TILE_PX
from histofast.slides.zarr_chunks import CHECKSUM, COMPRESSORS, Coding

Place = tuple[int, ...]  # of a chunk in the grid of chunks, or of a file in that of files
_NO_ZARR = "OME-Zarr needs zarr, which is not installed: pip install 'histofast[zarr]'"
_SHARDED = "sharding_indexed"
MAX_INDEX_CHUNKS = 1 << 20  # of one shard: 16 MB of index


@dataclass(frozen=True, kw_only=True, slots=True)
class Shards:
    """How chunks lie in larger files, each with a table of where they begin and end.

    Attributes:
        chunks: of one shard along each axis.
        at_end: whether the table is at the end of the file.
        checked: whether a checksum of four bytes follows it.
    """

    chunks: tuple[int, ...]
    at_end: bool
    checked: bool

    @property
    def index_bytes(self) -> int:
        return 16 * math.prod(self.chunks) + 4 * self.checked


@dataclass(frozen=True, kw_only=True, slots=True)
class ZarrArray:
    """What the document of an array says.

    Attributes:
        path: of the array in its store.
        shape: of the whole, along its axes.
        dtype: in NumPy's words.
        chunk: shape of what is decoded at a time.
        fill: what chunks show that are not there.
        coding: how chunks become pixels.
        shards: where several chunks share a file.
        key_of: takes the place of a file in the grid of files, gives its key in the store.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...]
    fill: int
    coding: Coding
    shards: Shards | None
    key_of: Callable[[Place], str]

    @property
    def files(self) -> tuple[int, ...]:
        """How many files there are along each axis."""
        inside = self.shards.chunks if self.shards else (1,) * len(self.chunk)
        return tuple(
            -(-n // (c * k)) for n, c, k in zip(self.shape, self.chunk, inside, strict=True)
        )

    def file_of(self, place: Place) -> str:
        """Return the key of the file that a chunk lies in."""
        if self.shards is None:
            return self.key_of(place)
        return self.key_of(tuple(p // n for p, n in zip(place, self.shards.chunks, strict=True)))


def read_array(path: str, document: Mapping[str, Any], *, where: str) -> ZarrArray:
    """Read the document of an array, whichever format it has.

    Args:
        path: of the array in its store.
        document: what its zarr.json or .zarray holds.
        where: what to call it in messages.

    Raises:
        SlideError: zarr is not installed, or does not read it; its chunks are too large or in a
            coding that is not read here.
    """
    try:
        import zarr
        from zarr.storage import MemoryStore, StorePath
    except ModuleNotFoundError as error:
        raise SlideError(_NO_ZARR) from error
    try:
        array: Any = zarr.Array.from_dict(StorePath(MemoryStore()), dict(document))
        said = array.metadata.to_dict()
        key_of = array.metadata.encode_chunk_key
        shape, dtype = tuple(map(int, array.shape)), str(array.dtype)
        outer = tuple(map(int, array.shards or array.chunks))
        fill = array.fill_value
    except Exception as error:
        why = clipped(f"{type(error).__name__}: {one_line(error)}", 200)
        raise SlideError(f"{where} is no array that zarr reads: {why}") from error
    try:
        chunk, coding, shards = (
            _of_format_2(said, outer) if said["zarr_format"] == 2 else _of_format_3(said, outer)
        )
        _refuse_sizes(shape, chunk, shards)
    except ValueError as error:
        raise SlideError(f"{where}: {error}") from None
    return ZarrArray(
        path=path,
        shape=shape,
        dtype=dtype,
        chunk=chunk,
        fill=0 if fill is None else int(fill) if dtype == "uint8" else 0,
        coding=coding,
        shards=shards,
        key_of=lambda place: "/".join(part for part in (path, key_of(place)) if part),
    )


def _refuse_sizes(shape: tuple[int, ...], chunk: tuple[int, ...], shards: Shards | None) -> None:
    if not len(chunk) == len(shape) or min((*shape, *chunk), default=0) < 1:
        raise ValueError(f"its chunks must have as many axes as it has, got {chunk} of {shape}")
    if math.prod(chunk) > 3 * MAX_TILE_PX:
        raise ValueError(
            f"its chunks must be of at most {3 * MAX_TILE_PX:,} samples, got {math.prod(chunk):,}:"
            " write it with smaller ones"
        )
    if shards is not None and math.prod(shards.chunks) > MAX_INDEX_CHUNKS:
        raise ValueError(
            f"its shards must hold at most {MAX_INDEX_CHUNKS:,} chunks, got {math.prod(shards.chunks):,}"
        )


_Found = tuple[tuple[int, ...], Coding, Shards | None]


def _of_format_2(said: Mapping[str, Any], chunk: tuple[int, ...]) -> _Found:
    steps = [*(said["filters"] or ()), *([said["compressor"]] if said["compressor"] else ())]
    names = tuple(str(step["id"]) for step in steps)
    axes = tuple(range(len(chunk)))
    return chunk, _coding(axes if said["order"] == "C" else axes[::-1], names), None


def _of_format_3(said: Mapping[str, Any], outer: tuple[int, ...]) -> _Found:
    codecs = [dict(codec) for codec in said["codecs"]]
    if codecs[0]["name"] != _SHARDED:
        return outer, _coding_of(codecs, len(outer)), None
    about = codecs[0]["configuration"]
    chunk = tuple(map(int, about["chunk_shape"]))
    if len(codecs) > 1 or len(chunk) != len(outer) or any(
        c < 1 or o % c for o, c in zip(outer, chunk, strict=True)
    ):  # fmt: skip
        raise ValueError(f"its shards must hold whole chunks, got {chunk} of {outer}")
    names = [_name(codec) for codec in about["index_codecs"]]
    if _of_enum(about["index_codecs"][0].get("configuration", {}).get("endian", "little")) == "big":
        names[0] = "big-endian bytes"
    if names not in (["bytes"], ["bytes", CHECKSUM]):
        raise ValueError(
            f"tables of its shards must be in bytes and {CHECKSUM}, got {listed(names)}"
        )
    shards = Shards(
        chunks=tuple(o // c for o, c in zip(outer, chunk, strict=True)),
        at_end=_of_enum(about.get("index_location", "end")) == "end",
        checked=len(names) == 2,
    )
    return chunk, _coding_of([dict(codec) for codec in about["codecs"]], len(outer)), shards


def _name(codec: Mapping[str, Any]) -> str:
    return str(codec["name"])


def _of_enum(value: object) -> str:
    return str(getattr(value, "value", value))


def _coding_of(codecs: list[dict[str, Any]], axes: int) -> Coding:
    """The coding that a list of codecs of format 3 stands for."""
    order = tuple(range(axes))
    names = [_name(codec) for codec in codecs]
    while names and names[0] == "transpose":
        turned = codecs[len(codecs) - len(names)]["configuration"]["order"]
        order = tuple(order[int(axis)] for axis in turned)
        del names[0]
    if names[:1] != ["bytes"]:
        raise ValueError(f"its coding must be transpose and bytes, got {listed(names)}")
    return _coding(order, tuple(names[1:]))


def _coding(order: tuple[int, ...], steps: tuple[str, ...]) -> Coding:
    known = (*COMPRESSORS, CHECKSUM)
    if not set(steps) <= set(known) or sum(step in COMPRESSORS for step in steps) > 1:
        raise ValueError(
            f"its chunks are in {listed(steps)}, histofast reads one of"
            f" {joined([*COMPRESSORS])}: write it anew"
        )
    return Coding(order=order, steps=steps)
