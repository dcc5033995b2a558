"""OME-Zarr (NGFF 0.4 in Zarr 2, 0.5 in Zarr 3): zarr checks the documents, imagecodecs decodes the chunks.

A tile is what a chunk covers of y and x, of all three channels, which may lie in chunks of their own. A chunk
that the store does not have shows the array's fill value, as the format says.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._remote import Address, Place
from histofast._words import clipped, one_line
from histofast.errors import SlideError, StoreError, TileError
from histofast.slides.associated import Associated
from histofast.slides.images import MAX_IMAGE_PX
from histofast.slides.metadata import resolve_mpp
from histofast.slides.slide import Slide
from histofast.slides.zarr_arrays import ZarrArray
from histofast.slides.zarr_files import ChunkFiles, folders_of
from histofast.slides.zarr_layout import read_zarr_layout
from histofast.slides.zarr_nodes import Documents, find_picture
from histofast.slides.zarr_remote import RemoteStore
from histofast.slides.zarr_store import FolderStore, slide_name

_IDENTIFYING, _IDENTIFYING_REMOTE = 64, 8  # files of the coarsest level
_ASKED_AT_A_TIME = 16


class ZarrSlide(Slide):
    """An OME-Zarr whose chunks are decoded one by one."""

    def __init__(self, path: Place, *, mpp: float | None = None) -> None:
        """Open the image in a folder, or below an address; `mpp` overrides what it says.

        Raises:
            SlideError: it is broken, holds several images or none of 8-bit RGB; its mpp is missing or absurd;
                zarr is not installed, or its store does not give it.
            ValueError: `mpp` is out of range.
        """
        self.path = path
        self.name = slide_name(path)
        store = RemoteStore(path) if isinstance(path, Address) else FolderStore(path)
        self._documents = Documents(path, store)
        picture = find_picture(self._documents)
        layout = read_zarr_layout(self._documents, picture)
        for array in layout.arrays:
            if not self._documents.store.has_chunks(array.path):
                where = self._documents.where(array.path)
                raise SlideError(f"{where} must hold chunks, got none: copy the slide again")
        self._arrays, self._axes = layout.arrays, layout.axes
        self._beside = picture.beside
        self._chunks: ChunkFiles | None = ChunkFiles(self._documents.store)
        self.levels, self.properties = layout.levels, layout.properties
        source = "its coordinateTransformations"
        self.mpp = resolve_mpp(path, found=layout.mpp, source=source, given=mpp)

    @property
    def files(self) -> tuple[Place, ...]:
        """Its documents, and the folders of its chunks: one that is written or replaced changes its folder's time.

        There may be a million chunks, of which none is looked at; of more than 10,000 folders those above them.
        In a bucket there are no folders: there those chunks tell that `identity` looks at.
        """
        at = self._documents.place_of
        if isinstance(self.path, Address):
            marked = [at(key) for key in dict.fromkeys(self._identifying())]
            return (*map(at, self._documents.seen), *marked)
        folders = (key for array in self._arrays for key in folders_of(array))
        return (self.path, *map(at, self._documents.seen), *map(at, folders))

    @property
    def identity(self) -> str:
        """Over all documents, the coarsest level (64 files of it) and three files of level 0.

        In a bucket over the versions of all these (of eight files of the coarsest level).
        """
        if not self._identity:
            digest, store = hashlib.sha256(), self._documents.store
            keys = self._identifying()
            if store.reads_ahead:
                keys = [*self._documents.seen, *keys]
            for key, text in sorted(self._documents.seen.items()):
                digest.update(f"{key}:{len(text)}\n".encode() + text)
            try:
                with ThreadPoolExecutor(_ASKED_AT_A_TIME) as pool:
                    for key, mark in zip(keys, pool.map(store.mark, keys), strict=True):
                        digest.update(f"{key}:{len(mark)}\n".encode() + mark)
            except (OSError, ValueError) as error:
                raise SlideError(f"{self.path} cannot be read: {one_line(error)}") from error
            where = f"address:{self.path};" if isinstance(self.path, Address) else ""
            self._identity = f"{where}zarr;sha256:{digest.hexdigest()}"
        return self._identity

    def _identifying(self) -> list[str]:
        """Keys of the files whose bytes tell this picture from others."""
        coarse, base = self._arrays[-1], self._arrays[0]
        most = _IDENTIFYING_REMOTE if self._documents.store.reads_ahead else _IDENTIFYING
        n = min(math.prod(coarse.files), most)
        places = [np.unravel_index(i, coarse.files) for i in range(n)]
        keys = [coarse.key_of(tuple(map(int, place))) for place in places]
        for part in (0, 1, 2):
            keys.append(base.key_of(tuple((count - 1) * part // 2 for count in base.files)))
        return keys

    @property
    def associated(self) -> Mapping[str, NDArray[np.uint8]]:
        return Associated(tuple(self._beside), self._read_beside)

    def _read_beside(self, name: str) -> NDArray[np.uint8]:
        self._open_chunks()
        path = self._documents.place_of(self._beside[name])
        with ZarrSlide(path, mpp=self.mpp) as other:
            width, height = other.dimensions
            if width * height > MAX_IMAGE_PX:
                raise SlideError(
                    f"{path} must have at most {MAX_IMAGE_PX:,} pixels, got {width} x {height}"
                )
            return other.read_region((0, 0), 0, (width, height))

    def _open_chunks(self) -> ChunkFiles:
        if self._chunks is None:
            raise ValueError(f"{self.path} is closed")
        return self._chunks

    def read_tile(self, level: int, column: int, row: int, out: NDArray[np.uint8]) -> None:
        info = self.levels[level]
        shape = (info.tile_height, info.tile_width, 3)
        if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            check("out", out, "uint8", shape)
        chunks = self._open_chunks()
        try:
            if not (0 <= column < info.columns and 0 <= row < info.rows):
                raise ValueError("there is no such tile")
            self._read(chunks, self._arrays[level], column, row, out)
        except (StoreError, MemoryError):  # no damage to the tile
            raise
        except Exception as error:
            why = getattr(error, "strerror", None) or error
            raise TileError(
                f"{self.path}: tile (column {column}, row {row}) of level {level} cannot be"
                f" decoded: {clipped(one_line(why), 200)}"
            ) from error

    def prefetch(self, level: int, tiles: NDArray[np.int64]) -> None:
        chunks, array = self._open_chunks(), self._arrays[level]
        if chunks.reads_ahead:
            places = [place for tile in tiles.tolist() for place in self._places(array, *tile)]
            chunks.prefetch(array, places)

    def _places(self, array: ZarrArray, column: int, row: int) -> list[tuple[int, ...]]:
        """Where the chunks of a tile are in the grid of chunks, by channels."""
        axes = self._axes
        place = [0] * len(array.shape)
        place[axes.y], place[axes.x] = row, column
        places = []
        for i in range(-(-3 // array.chunk[axes.channel])):
            place[axes.channel] = i
            places.append(tuple(place))
        return places

    def _read(
        self, chunks: ChunkFiles, array: ZarrArray, column: int, row: int, out: NDArray[np.uint8]
    ) -> None:
        axes, step = self._axes, array.chunk[self._axes.channel]
        for i, place in enumerate(self._places(array, column, row)):
            samples = chunks.samples(array, place)
            part = out[..., i * step : (i + 1) * step]
            if samples is None:
                part[...] = array.fill
                continue
            plane = samples.transpose(axes.to_the_end)[(0,) * (len(place) - 3)]
            if plane.strides[2] == 1:
                part[...] = plane[..., : part.shape[2]]
            else:  # at once NumPy would go from pixel to pixel, three times slower
                for channel in range(part.shape[2]):
                    part[..., channel] = plane[..., channel]

    def close(self) -> None:
        chunks, self._chunks = self._chunks, None
        if chunks is not None:
            chunks.close()
