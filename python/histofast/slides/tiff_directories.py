"""What the directories of a TIFF file must keep to, before tifffile reads them and after.

A few bytes of a TIFF can ask a reader for gigabytes and hours: directories in a loop or by the
hundred thousand, tags of billions of values, tiles of any size. So the directories are walked first,
with nothing read but their entries.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import tifffile

from histofast._remote import Place
from histofast.errors import SlideError

MAX_DIRECTORIES = 2000
MAX_TAGS = 1000  # of one directory
MAX_TAG_BYTES = 64 << 20  # of all of them: the tables of three million tiles
MAX_TILE_PX = 1 << 25  # 100 MB of RGB

# Bytes of one value, by the number of its type; types that are not known are passed over.
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_VALUE_BYTES |= {13: 4, 16: 8, 17: 8, 18: 8}
_SUB_DIRECTORIES = 330
_NUMBERS: tuple[str, ...] = (
    "imagewidth",
    "imagelength",
    "imagedepth",
    "tilewidth",
    "tilelength",
    "rowsperstrip",
)
_NUMBERS += ("samplesperpixel", "planarconfig", "compression", "photometric", "predictor")
_NUMBERS += ("subfiletype",)
REDUCED, MASK = 1, 4  # bits of NewSubfileType
_IMAGEJ_IMAGES = re.compile(r"^images=(\d{1,9})\s*$", re.MULTILINE)
_TIFFFILE_SHAPE = re.compile(r'"shape": \[([\d, ]{1,99})\]')


class _Entry(NamedTuple):
    """A tag: how long its value is, and where in the file it begins."""

    code: int
    value_bytes: int
    length: int
    at: int


def check_directories(place: Place, file: BinaryIO, *, for_openslide: bool = False) -> None:
    """Refuse a TIFF file whose directories are cut off, form a loop or ask for too much.

    Args:
        place: of the file, for messages.
        file: itself, open.
        for_openslide: whether OpenSlide is to read it. It asks for the memory even of tags that lie
            past the end of the file, and where there is not as much it ends the process.

    Raises:
        SlideError: they do; a bound is in the message.
        OSError: the file cannot be read.
    """
    directories = _Directories(place, file, for_openslide)
    chain: set[int] = set()
    below: list[int] = []
    at = directories.first
    while at:
        if at in chain:
            raise SlideError(f"{place} is not a readable TIFF file: its directories form a loop")
        chain.add(at)
        entries, at = directories.read(at)
        below += directories.below(entries)
    seen = set(chain)
    while below:
        at = below.pop()
        if at not in seen:
            seen.add(at)
            below += directories.below(directories.read(at)[0])


class _Directories:
    """Reads the directories of one file, and counts what they ask for."""

    def __init__(self, path: Place, file: BinaryIO, for_openslide: bool) -> None:
        self._path, self._file, self._for_openslide = path, file, for_openslide
        self._size_bytes = file.seek(0, 2)
        self._read = self._tag_bytes = 0
        file.seek(0)
        header = file.read(16).ljust(16, b"\0")
        self._order: Literal["little", "big"] = "little" if header[:2] == b"II" else "big"
        big_tiff = 43 in (header[2], header[3])
        self._offset_bytes, self._count_bytes = (8, 8) if big_tiff else (4, 2)
        self.first = self._number(header[self._offset_bytes : 2 * self._offset_bytes])

    def read(self, at: int) -> tuple[list[_Entry], int]:
        """Return the tags of the directory at byte `at`, and where the next one is (0: none)."""
        self._read += 1
        if self._read > MAX_DIRECTORIES:
            raise self._refused(f"at most {MAX_DIRECTORIES:,} directories, got more")
        count = self._number(self._take(at, self._count_bytes, of=at))
        if count > MAX_TAGS:
            raise self._refused(f"at most {MAX_TAGS:,} tags in a directory, got {count:,}")
        width = 4 + 2 * self._offset_bytes
        start = at + self._count_bytes
        data = self._take(start, count * width + self._offset_bytes, of=at)
        entries = []
        for i in range(count):
            entry = self._entry(data[i * width : (i + 1) * width], start + i * width)
            is_there = entry.at + entry.length <= self._size_bytes
            if is_there or self._for_openslide:
                self._tag_bytes += entry.length
            if is_there:
                entries.append(entry)
        if self._tag_bytes > MAX_TAG_BYTES:
            raise self._refused(f"at most {MAX_TAG_BYTES >> 20} MB of tags, got more")
        return entries, self._number(data[count * width :])

    def _entry(self, data: bytes, at: int) -> _Entry:
        code, kind, count = (
            self._number(part) for part in (data[:2], data[2:4], data[4 : 4 + self._offset_bytes])
        )
        value_bytes = _VALUE_BYTES.get(kind, 0)
        place = 4 + self._offset_bytes
        inline = count * value_bytes <= self._offset_bytes
        return _Entry(
            code=code,
            value_bytes=value_bytes,
            length=count * value_bytes,
            at=at + place if inline else self._number(data[place:]),
        )

    def below(self, entries: Sequence[_Entry]) -> list[int]:
        """Where the directories are that hang on one with these tags."""
        found: list[int] = []
        for entry in entries:
            if entry.code == _SUB_DIRECTORIES and entry.value_bytes in (4, 8):
                data, step = self._take(entry.at, entry.length, of=entry.at), entry.value_bytes
                found += (self._number(data[i : i + step]) for i in range(0, len(data), step))
                if len(found) > MAX_DIRECTORIES:
                    raise self._refused(f"at most {MAX_DIRECTORIES:,} directories, got more")
        return [at for at in found if at]

    def _take(self, at: int, length: int, *, of: int) -> bytes:
        data = b""
        if at + length <= self._size_bytes:
            self._file.seek(at)
            data = self._file.read(length)
        if len(data) < length:
            raise SlideError(
                f"{self._path} is truncated: a directory should be at byte {of:,}, the file ends at"
                f" byte {self._size_bytes:,}: copy it again"
            )
        return data

    def _number(self, data: bytes) -> int:
        return int.from_bytes(data, self._order)

    def _refused(self, bound: str) -> SlideError:
        return SlideError(
            f"{self._path} must have {bound}: write the picture alone to a tiled TIFF"
        )


def what_is_broken(path: Place, page: tifffile.TiffPage) -> str:
    """Say why a page shows nothing: a number that is none, or no pixel; empty where it may."""
    # tifffile hands on whatever the tag holds
    if name := next((name for name in _NUMBERS if not isinstance(getattr(page, name), int)), ""):
        return f"{path} is not a readable TIFF file: its {name} is no number"
    if not (page.imagewidth > 0 and page.imagelength > 0):
        return (
            f"{path} must have pixels, got a picture of {page.imagewidth} x {page.imagelength}:"
            " copy or export it again"
        )
    return ""


def check_pages(path: Place, pages: Sequence[tifffile.TiffPage]) -> None:
    """Refuse pages whose sizes are no numbers, or some of whose tiles lie past the file's end.

    Raises:
        SlideError: they are, or do.
    """
    size_bytes = stored_bytes(pages[0]) if pages else 0
    end = np.uint64(size_bytes)
    for page in pages:
        if reason := what_is_broken(path, page):
            raise SlideError(reason)
        offsets = np.array(page.dataoffsets, np.uint64)
        sizes = np.array(page.databytecounts, np.uint64)
        if offsets.shape != sizes.shape:
            raise SlideError(
                f"{path} is truncated: {offsets.size} tile offsets, {sizes.size} tile sizes:"
                " copy it again"
            )
        lost = int(np.count_nonzero((sizes > 0) & ((offsets > end) | (sizes > end - offsets))))
        if lost:
            raise SlideError(
                f"{path} is truncated: {lost} of {sizes.size} tiles of a {page.imagewidth} x"
                f" {page.imagelength} picture lie past its end at byte {size_bytes:,}: copy it again"
            )


def stored_bytes(page: tifffile.TiffPage) -> int:
    """Return how long the file of a page is."""
    return int(page.parent.filehandle.size)


def check_picture(path: Place, page: tifffile.TiffPage, pages: Sequence[tifffile.TiffPage]) -> None:
    """Refuse a page that holds no whole picture, or tiles of any size.

    Args:
        path: of the file.
        page: what is to be shown.
        pages: all of the file; colours in pages of their own would pass for grey, and one plane of a
            stack for all there is.

    Raises:
        SlideError: it does.
    """
    check_depth(path, page)
    check_tiles(path, page)
    if (count := _pictures_of_one_size(page, pages)) == 1:
        return
    if page.samplesperpixel <= 2:
        raise SlideError(
            f"{path}: pixels must be grey or RGB in one page, got {count} grey pages of one size:"
            " write the colours interleaved (raw2ometiff --rgb)"
        )
    raise SlideError(
        f"{path} must hold one picture, got {count} of one size: write the one that is wanted (of a"
        " stack, the plane in focus) to a file of its own"
    )


def check_depth(path: Place, page: tifffile.TiffPage) -> None:
    """Refuse a page that is no plane.

    Raises:
        SlideError: it is none.
    """
    if page.imagedepth != 1:
        raise SlideError(f"{path}: pixels must lie in a plane, got a depth of {page.imagedepth}")


def check_tiles(path: Place, page: tifffile.TiffPage) -> None:
    """Refuse tiles or strips that no decoder should be asked for.

    Raises:
        SlideError: they are larger than `MAX_TILE_PX`, of no pixel, or fewer than the picture needs.
    """
    tiled = page.is_tiled
    width, height = (
        (page.tilewidth, page.tilelength) if tiled else (page.imagewidth, page.rowsperstrip)
    )
    # A strip may be the whole picture: strips are decoded together, and bounded together.
    if width <= 0 or height <= 0 or (tiled and width * height > MAX_TILE_PX):
        raise SlideError(
            f"{path} must have tiles of 1 to {MAX_TILE_PX:,} px, got {width} x {height}: write it"
            " again with tiles of 512 x 512"
        )
    wanted = -(-page.imagewidth // width) * -(-page.imagelength // height)
    wanted *= page.samplesperpixel if page.planarconfig == 2 else 1
    listed = min(len(page.dataoffsets), len(page.databytecounts))
    if tiled and listed < wanted:
        raise SlideError(
            f"{path} is truncated: a level of {wanted} tiles lists only {listed}: copy it again"
        )


def _pictures_of_one_size(page: tifffile.TiffPage, pages: Sequence[tifffile.TiffPage]) -> int:
    """How many channels or planes there are of a picture, by all that the file says."""
    count = sum(
        other.shape == page.shape
        and other.is_tiled == page.is_tiled
        and not int(other.subfiletype) & MASK
        for other in pages
        if other is not page
    )
    count += 1  # the page itself, whatever it is marked as
    # ImageJ, and tifffile where asked to, write one directory for all.
    if page.is_imagej and (match := _IMAGEJ_IMAGES.search(page.description)):
        count = max(count, int(match[1]))
    if page.is_shaped and (match := _TIFFFILE_SHAPE.search(page.description)):
        values = math.prod(int(size) for size in match[1].split(",") if size.strip())
        count = max(count, values // (page.imagewidth * page.imagelength * page.samplesperpixel))
    return int(count)
