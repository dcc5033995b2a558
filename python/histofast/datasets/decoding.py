"""Images in, one memory-mapped array of their pixels out: each is decoded once, whoever trains on it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast._files import Lock, replacing, write_error
from histofast._numbers import whole_number
from histofast._stopping import stop_if_asked
from histofast._words import clipped, counted, one_line
from histofast.datasets.images import Images
from histofast.errors import ModelError, SlideError
from histofast.slides import read_image
from histofast.tiling import cut_patches

_REVISION = 1  # raised when the same pictures would give other pixels
_SMALLEST_PX = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Decoded:
    """The pixels of a set of images.

    Attributes:
        pixels: (m, px, px, 3) uint8, mapped from a file and read-only.
        rows: (m,) int64 which images these are of; the others could not be read.
        sha256: (m) checksum of the content of each image's file.
        unreadable: name and reason of each of the others.
        path: of the file.
    """

    pixels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    sha256: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    path: Path

    @property
    def px(self) -> int:
        """Side of the images."""
        return int(self.pixels.shape[1])


def decode(
    images: Images,
    *,
    cache: str | Path,
    px: int | None = None,
    contents: Sequence[str] | None = None,
    threads: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> Decoded:
    """Decode the images of a set into one file, or open it where it was done before.

    A file is known by the content of the pictures, their order and `px`: several data sets and processes
    share a folder; who comes second waits. A file that is not as it was written is made anew.

    Args:
        images: what is decoded. Pictures that cannot be read are left out and told.
        cache: folder, made where there is none.
        px: side; the largest centred square is resampled to it by area averaging, or by linear
            interpolation where it is smaller. None: all are squares of one size, which stays.
        contents: what `contents_of` said of them; None: it is asked.
        threads: that decode.
        on_progress: called with the number of images that are done, and of all.

    Returns:
        Their pixels; memory does not grow with them.

    Raises:
        ValueError: sizes that differ, or are no squares, without `px`; no image can be read.
        WriteError: the folder cannot be written, or its disk is full.

    Determinism: the same bytes on every machine.
    """
    px = None if px is None else whole_number("px", px, at_least=_SMALLEST_PX)
    threads = whole_number("threads", threads, at_least=1)
    folder = Path(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    sums = contents_of(images, threads=threads) if contents is None else contents
    identity = hashlib.sha256(json.dumps([_REVISION, px, list(sums)]).encode()).hexdigest()
    path = folder / f"images-{identity[:32]}.u8"
    lock = Lock(path)
    while not lock.acquire(wait_s=3600):
        pass
    try:
        found = _opened(path, images)
        if found is None:
            _write(path, images, sums, px=px, threads=threads, on_progress=on_progress)
            found = _opened(path, images)
    finally:
        lock.release()
    if found is None:
        raise ModelError(f"{path} must be as it was written, got another: is the disk sound?")
    return found


def contents_of(images: Images, *, threads: int = 2) -> tuple[str, ...]:
    """Return the sha256 of each image's file, "" of one that cannot be read."""
    with ThreadPoolExecutor(threads, thread_name_prefix="checksums") as pool:
        found = []
        for value in pool.map(_checksum, images.files):
            stop_if_asked()
            found.append(value)
        return tuple(found)


def _checksum(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""


# --- The file ----------------------------------------------------------------------------------


def _write(
    path: Path,
    images: Images,
    sums: Sequence[str],
    *,
    px: int | None,
    threads: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Decode all into `path`; its index is written last."""
    index = _index_of(path)
    index.unlink(missing_ok=True)
    unreadable: list[tuple[int, str]] = []
    rows: list[int] = []
    sizes: dict[tuple[int, int], str] = {}
    digest = hashlib.sha256()
    side = px
    with replacing(path, overwrite=True) as pending, pending.open("wb") as out:
        for i, image in enumerate(_decoded(images, px, threads)):
            if on_progress is not None:
                on_progress(i + 1, len(images))
            if isinstance(image, str):
                unreadable.append((i, image))
                continue
            sizes.setdefault(image.shape[:2], images.names[i])
            side = side or image.shape[0]
            _refuse_sizes(images, sizes)
            if not rows:
                _reserve(path, out.fileno(), len(images) * 3 * side * side)
            content = np.ascontiguousarray(image)
            try:
                out.write(content.data)
            except OSError as error:
                raise write_error(path, error) from error
            digest.update(content.data)
            rows.append(i)
        if not rows:
            raise ValueError(
                f"{images.path} must have pictures that can be read, got none of {len(images)}: "
                f"{unreadable[0][1] if unreadable else 'it is empty'}"
            )
        out.flush()
        out.truncate(len(rows) * 3 * int(side or 0) ** 2)
    about = {
        "px": side,
        "rows": rows,
        "unreadable": unreadable,
        "sha256": [sums[i] for i in rows],
        "pixels": digest.hexdigest(),
    }
    with replacing(index, overwrite=True) as pending:
        pending.write_text(json.dumps(about))


def _decoded(images: Images, px: int | None, threads: int) -> Iterator[NDArray[np.uint8] | str]:
    """Yield the pixels of each image, or the reason why there are none."""

    def read(i: int) -> NDArray[np.uint8] | str:
        try:
            image = read_image(images.files[i])
        except (SlideError, OSError) as error:
            return clipped(one_line(error), 300)
        return image if px is None else resampled(image, px)

    todo = iter(range(len(images)))
    with ThreadPoolExecutor(threads, thread_name_prefix="pictures") as pool:
        waiting = deque(pool.submit(read, i) for i in islice(todo, 2 * threads))
        try:
            while waiting:
                stop_if_asked()
                image = waiting.popleft().result()
                waiting.extend(pool.submit(read, i) for i in islice(todo, 1))
                yield image
        finally:
            for future in waiting:
                future.cancel()


def resampled(image: NDArray[np.uint8], px: int) -> NDArray[np.uint8]:
    """Return the largest centred square of an image as (px, px, 3) uint8, by area averaging."""
    h, w, _ = image.shape
    side = min(h, w)
    if h == w == px:
        return image
    out = np.empty((1, px, px, 3), np.uint8)
    box = np.array([[(w - side) / 2, (h - side) / 2, side, side]])
    tile = np.ascontiguousarray(image)[None]
    cut_patches(tile, np.zeros((1, 1), np.int32), box, width=w, height=h, out=out)
    found: NDArray[np.uint8] = out[0]
    return found


def _refuse_sizes(images: Images, sizes: dict[tuple[int, int], str]) -> None:
    told = [f"{w} x {h} px ({name})" for (h, w), name in sizes.items()]
    if len(sizes) > 1 or any(h != w for h, w in sizes):
        raise ValueError(
            f"{images.path} must have square pictures of one size, got {' and '.join(told)}: "
            "resample them with px, or cut them with dataset standardise"
        )


def _reserve(path: Path, descriptor: int, length: int) -> None:
    """Find a full disk before the work."""
    try:
        os.posix_fallocate(descriptor, 0, length)
    except OSError as error:
        raise write_error(path, error, needs_bytes=length) from error


def _index_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _opened(path: Path, images: Images) -> Decoded | None:
    """Open a file that was decoded before; None where there is none, or not as it was written."""
    try:
        about = json.loads(_index_of(path).read_text())
        px, rows = int(about["px"]), np.array(about["rows"], np.int64)
        shape = (len(rows), px, px, 3)
        if not len(rows) or path.stat().st_size != 3 * px * px * len(rows):
            return None
        pixels = np.memmap(path, np.uint8, mode="r", shape=shape)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != about["pixels"]:
                return None
        return Decoded(
            pixels=pixels,
            rows=rows,
            sha256=tuple(about["sha256"]),
            unreadable=tuple((images.names[i], str(reason)) for i, reason in about["unreadable"]),
            path=path,
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def unreadable_note(found: Decoded) -> str:
    """Return a line on the pictures that could not be read, "" where all could."""
    if not found.unreadable:
        return ""
    first = found.unreadable[0][1]
    return f"left out pictures that cannot be read: {counted([n for n, _ in found.unreadable])}: {first}"
