"""What a compressed picture says of its size, read before anything is decoded.

Decoders believe the header of a stream and allocate what it claims: a few bytes can ask for
gigabytes. Each function here reads a stream as its decoder does and returns (width, height), or None
where there is no header that the decoder would accept.
"""

from __future__ import annotations

import lzma
import re

_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)  # libjpeg passes over what is between
_JPEG_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_JPEG_NO_FRAME = {0xC4, 0xC8, 0xCC}  # tables and such, among the numbers of frames
_JPEG_MAX_MARKERS = 1000  # before the frame; a picture with its colour profile has dozens
_JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_J2K_MAX_TILES = 1024  # inside one stream; OpenJPEG prepares for all of them at once
_LZMA_MEMORY_BYTES = 100 << 20  # xz -9 needs 65 MB


def largest_stream(tile_px: int) -> int:
    """How many bytes at most are read for a tile: twice 16-bit RGBA, or a header and nothing else."""
    return 16 * tile_px + (1 << 20)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Size of a JPEG stream, from its frame header."""
    at, end = 2, len(data)
    if data[:2] != b"\xff\xd8":
        return None
    for _ in range(_JPEG_MAX_MARKERS):
        found = _JPEG_MARKER.search(data, at)
        if found is None or found.end() + 7 > end:
            return None
        marker, at = data[found.end() - 1], found.end()
        if marker in _JPEG_STANDALONE:
            continue
        if marker in (0xD8, 0xD9, 0xDA):  # another start, the end, or pixels without a frame
            return None
        if 0xC0 <= marker <= 0xCF and marker not in _JPEG_NO_FRAME:
            return data[at + 5] << 8 | data[at + 6], data[at + 3] << 8 | data[at + 4]
        at += data[at] << 8 | data[at + 1]
    return None


def has_jfif(data: bytes) -> bool:
    """Whether a JPEG stream has a JFIF header: its colours are YCbCr then, whatever the tags say."""
    return data[6:10] == b"JFIF"


def refuse_jpeg(data: bytes, whole: tuple[int, int]) -> None:
    """Refuse a JPEG stream that claims more than the tile, `whole` (width, height), it is for.

    Raises:
        ValueError: it does, or claims nothing that is a size.
    """
    _refuse_other_size(jpeg_size(data), whole, "JPEG")


def refuse_jpeg_2000(data: bytes, whole: tuple[int, int]) -> None:
    """Refuse a JPEG 2000 stream, bare or in a JP2 file, as `refuse_jpeg` does.

    Raises:
        ValueError: it claims more than `whole`, or parts that OpenJPEG would prepare for by the
            gigabyte, or nothing that is a size.
    """
    start = _codestream_at(data)
    header = b"" if start is None else data[start : start + 42]
    if len(header) < 42 or not header.startswith(b"\xff\x4f\xff\x51"):
        return _refuse_other_size(None, whole, "JPEG 2000")
    x, y, x0, y0, tile_x, tile_y, tile_x0, tile_y0 = (
        int.from_bytes(header[i : i + 4], "big") for i in range(8, 40, 4)
    )
    _refuse_other_size((x - x0, y - y0), whole, "JPEG 2000")
    components = int.from_bytes(header[40:42], "big")
    tiles = -(-(x - tile_x0) // max(tile_x, 1)) * -(-(y - tile_y0) // max(tile_y, 1))
    if not 1 <= tiles <= _J2K_MAX_TILES or not 1 <= components <= 4:
        raise ValueError(
            f"its JPEG 2000 data must be of 1 to {_J2K_MAX_TILES} tiles and at most 4 components,"
            f" got {tiles} and {components}"
        )
    return None


def _codestream_at(data: bytes) -> int | None:
    """Where the codestream of a JPEG 2000 file begins."""
    if not data.startswith(_JP2_SIGNATURE):
        return 0
    at = 0
    for _ in range(64):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        head = 8
        if length == 1:  # the true length follows, in 64 bits
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if kind == b"jp2c":
            return at + head
        if length < head:
            return None
        at += length
    return None


def png_size(data: bytes) -> tuple[int, int] | None:
    """Size of a PNG file, from its first chunk."""
    if len(data) < 24 or data[12:16] != b"IHDR":
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def refuse_greedy_lzma(data: bytes) -> None:
    """Refuse xz data whose dictionary alone would take more memory than any preset of xz.

    Raises:
        ValueError: it would, or the data are none of xz's.
    """
    decoder = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY_BYTES)
    try:
        decoder.decompress(data, max_length=1)
    except (lzma.LZMAError, EOFError, MemoryError) as error:
        raise ValueError(f"LZMA: {error}") from error


def _refuse_other_size(size: tuple[int, int] | None, whole: tuple[int, int], codec: str) -> None:
    """Refuse a size that is none, or more than the tile's; at an edge tiles may be cut."""
    if size is None:
        raise ValueError(f"it has no {codec} header that says its size")
    if not (0 < size[0] <= whole[0] and 0 < size[1] <= whole[1]):
        raise ValueError(
            f"its {codec} data are of {size[0]} x {size[1]} px, not {whole[0]} x {whole[1]}"
        )
