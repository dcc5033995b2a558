"""Images in, one memory-mapped array of their pixels out: each is decoded once, whoever trains on it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast._files import Lock, Temporary, make_folder, path_of, regular_file, write_error
from histofast._notes import noted
from histofast._numbers import whole_number
from histofast._stopping import stop_if_asked
from histofast._words import clipped, counted, one_line
from histofast.datasets.images import Images
from histofast.errors import ModelError, SlideError
from histofast.learning import read_json, write_json
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
        notes: a line where a damaged file was made anew.
    """

    pixels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    sha256: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    path: Path
    notes: tuple[str, ...] = ()

    @property
    def px(self) -> int:
        """Side of the images."""
        return int(self.pixels.shape[1])

    def places_of(self, rows: NDArray[np.int64], *, most: int | None = None) -> NDArray[np.int64]:
        """Return where in `pixels` some images are, in their order; without those that cannot be read.

        Args:
            rows: numbers of images.
            most: of many, so many, evenly taken; None: all.
        """
        at = np.searchsorted(self.rows, rows)
        at = np.minimum(at, len(self.rows) - 1)
        places: NDArray[np.int64] = at[self.rows[at] == rows]
        return places if most is None else evenly(places, most)


def evenly(values: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return values, of more than `most` so many, evenly taken."""
    count = min(most, len(values))
    return values[np.arange(count) * len(values) // max(1, count)]


@noted
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
    share a folder; who comes second waits. Opening reads all of it for its checksum; one that is not as
    it was written is made anew, and a note says so.

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
        WriteError: the folder cannot be written, or its disk is full, which is found before the work.
        ModelError: the file is not as it was written, a moment after.
        Interrupted: asked to stop; what was decoded so far is not kept.

    Determinism: the same bytes on every machine.
    """
    px = None if px is None else whole_number("px", px, at_least=_SMALLEST_PX)
    threads = whole_number("threads", threads, at_least=1)
    folder = path_of("cache", cache)
    make_folder(folder)
    sums = contents_of(images, threads=threads) if contents is None else contents
    identity = hashlib.sha256(json.dumps([_REVISION, px, list(sums)]).encode()).hexdigest()
    path = folder / f"images-{identity[:32]}.u8"
    lock = Lock(path)
    while not lock.acquire(wait_s=3600):
        pass
    try:
        found = _opened(path, images)
        if isinstance(found, Decoded):
            return found
        _write(path, images, sums, px=px, threads=threads, on_progress=on_progress)
        again = _opened(path, images)
    finally:
        lock.release()
    if isinstance(again, str):
        raise ModelError(f"{path} must be as it was written, got another, {again}: check the disk")
    note = f"pixels were decoded anew, {path} cannot be used: {found}"
    return replace(again, notes=(note,)) if found else again


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
        with regular_file(file, kind="image", error=SlideError).open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except (SlideError, OSError):
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
    _index_of(path).unlink(missing_ok=True)
    unreadable: list[tuple[int, str]] = []
    rows: list[int] = []
    sizes: dict[tuple[int, int], str] = {}
    digest = hashlib.sha256()
    needs = side = 0
    pending: Temporary | None = None
    try:
        for i, image in enumerate(decode_each(images, px=px, threads=threads)):
            if on_progress is not None:
                on_progress(i + 1, len(images))
            if isinstance(image, str):
                unreadable.append((i, image))
                continue
            sizes.setdefault(image.shape[:2], images.names[i])
            _refuse_sizes(images, sizes)
            if pending is None:
                side = image.shape[0]
                needs = len(images) * 3 * side * side
                pending = Temporary(path)
                os.ftruncate(pending.raw.fileno(), needs)
                pending.reserve()
            content = np.ascontiguousarray(image)
            pending.write(len(rows) * 3 * side * side, content)
            digest.update(content.data)
            rows.append(i)
        if pending is None:
            raise none_readable(images, [reason for _, reason in unreadable])
        os.ftruncate(pending.raw.fileno(), len(rows) * 3 * side * side)
        pending.sync()
        pending.keep()
    except OSError as error:
        raise write_error(path, error, needs_bytes=needs or None) from error
    finally:
        if pending is not None:
            pending.discard()
    about = {
        "px": side,
        "rows": rows,
        "unreadable": unreadable,
        "contents": [sums[i] for i in rows],
        "pixels": digest.hexdigest(),
    }
    write_json(_index_of(path), about)


def decode_each(
    images: Images, *, px: int | None = None, threads: int = 2
) -> Iterator[NDArray[np.uint8] | str]:
    """Yield the pixels of each image, or the reason why there are none; a few are held at a time.

    Args:
        images: in this order.
        px: as `decode` resamples; None: as they are.
        threads: that decode, ahead of what is asked for.
    """

    def read(i: int) -> NDArray[np.uint8] | str:
        try:
            image = read_image(images.files[i])
        except (SlideError, OSError) as error:
            # Others who share the file have it elsewhere.
            file = images.files[i]
            return clipped(one_line(error).replace(str(file), file.name), 300)
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


def read_in_batches(
    images: Images,
    *,
    px: int,
    size: int,
    threads: int = 2,
    on_unreadable: Callable[[str, str], None],
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """Yield which images can be read, and their pixels, a batch at a time: memory holds no more.

    Args:
        images: in this order.
        px: side that they are resampled to.
        size: of a batch; the last may have fewer.
        threads: that decode.
        on_unreadable: called with the name of an image that cannot be read, and why.
        on_progress: called with the number of images that are done, and of all.

    Yields:
        Numbers of the images, and (n, px, px, 3) uint8, which is written over for the next batch.
    """
    places: list[int] = []
    pixels = np.empty((min(size, len(images)), px, px, 3), np.uint8)
    for i, image in enumerate(decode_each(images, px=px, threads=threads)):
        if isinstance(image, str):
            on_unreadable(images.names[i], image)
        else:
            pixels[len(places)] = image
            places.append(i)
        is_last = i + 1 == len(images)
        if places and (is_last or len(places) == size):
            yield places, pixels[: len(places)]
            places = []
        if on_progress is not None:
            on_progress(i + 1, len(images))


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
            "resample them with px=..., or cut them with dataset standardise"
        )


def _index_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _opened(path: Path, images: Images) -> Decoded | str:
    """Open a file that was decoded before, or say why it cannot be used; "" where there is none."""
    if not path.exists() and not _index_of(path).exists():
        return ""
    try:
        about = read_json(_index_of(path), remedy="it is made anew")
        side, rows = int(about["px"]), np.array(about["rows"], np.int64)
        wanted, size = 3 * side * side * len(rows), path.stat().st_size
        if size != wanted:
            return f"it has {size:,} bytes, not {wanted:,}"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != about["pixels"]:
                return "its pixels are not as they were written"
        return Decoded(
            pixels=np.memmap(path, np.uint8, mode="r", shape=(len(rows), side, side, 3)),
            rows=rows,
            sha256=tuple(about["contents"]),
            unreadable=tuple((images.names[i], str(reason)) for i, reason in about["unreadable"]),
            path=path,
        )
    except (ModelError, OSError, ValueError, LookupError, TypeError) as error:
        return clipped(one_line(error), 300)


# --- What could not be read --------------------------------------------------------------------


def refuse_lost_classes(images: Images, rows: NDArray[np.int64], found: Decoded) -> None:
    """Refuse images of which all of a class cannot be read.

    Args:
        images: all of them.
        rows: those to look at, read or not.
        found: what was read.

    Raises:
        ValueError: there is such a class.
    """
    if not images.has_targets or images.task != "classification" or not found.unreadable:
        return
    reasons = dict(found.unreadable)
    is_read = np.isin(rows, found.rows)
    for number, name in enumerate(images.classes):
        of_class = images.targets[rows] == number
        if of_class.any() and not is_read[of_class].any():
            first = images.names[rows[of_class][0]]
            raise ValueError(
                f"class {name} must have pictures that can be read, got none of "
                f"{int(of_class.sum())}: {first}: {reasons[first]}"
            )


def none_readable(images: Images, reasons: Sequence[str]) -> ValueError:
    """Return what to raise where no picture can be read."""
    return ValueError(
        f"{images.path} must have pictures that can be read, got none of {len(images)}: "
        f"{reasons[0] if reasons else 'it is empty'}"
    )


def unreadable_note(found: Decoded) -> str:
    """Return a line on the pictures that could not be read, "" where all could."""
    if not found.unreadable:
        return ""
    first = found.unreadable[0][1]
    return (
        "left out pictures that cannot be read: "
        f"{counted([name for name, _ in found.unreadable])}: {first}"
    )
