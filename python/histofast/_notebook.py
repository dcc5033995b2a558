"""What notebooks show of things: small pictures and tables, without a library of images or of notebooks."""

from __future__ import annotations

import base64
import struct
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._words import count, printable

SIDE_PX = 512  # longer side of a picture
WHITE, FRAME = 255, 190
_ROWS = 20  # of a table
_UP = 2  # filter of PNG: a row less the one above


class Pictured:
    """What has a picture; a notebook shows it above its `repr`."""

    __slots__ = ()

    @abstractmethod
    def _picture(self) -> NDArray[np.uint8]:
        """Return (h, w, 3) uint8 RGB, at most `SIDE_PX` on a side."""

    def _repr_png_(self) -> bytes:
        return png(self._picture())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Return picture, page and text at once: the picture may take a while to make."""
        data = base64.b64encode(self._repr_png_()).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{escape(repr(self))}">'
        return {
            "text/plain": repr(self),
            "text/html": f"<figure>{image}<figcaption>{_escaped(repr(self))}</figcaption></figure>",
            "image/png": data,
        }


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return a PNG file of (h, w, 3) uint8 RGB, h and w at least 1."""
    h, w, _ = pixels.shape
    rows = np.full((h, 1 + 3 * w), _UP, np.uint8)
    rows[:, 1:] = pixels.reshape(h, -1)
    rows[1:, 1:] -= pixels[:-1].reshape(h - 1, 3 * w)  # modulo 256
    chunks = (
        (b"IHDR", struct.pack(">2I5B", w, h, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes())),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def shown_size(width: float, height: float) -> tuple[int, int]:
    """Return (w, h) of a picture of something so wide and high, in any unit."""
    longest = max(width, height)
    return max(1, round(SIDE_PX * width / longest)), max(1, round(SIDE_PX * height / longest))


def nearest(side_px: int, n: int) -> NDArray[np.int64]:
    """Return (side_px,) which of n equal parts the middle of each pixel lies in."""
    return ((np.arange(side_px) + 0.5) * n / side_px).astype(np.int64)


def framed(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw a grey frame, one pixel wide, into a picture."""
    for side in np.s_[0, :], np.s_[-1, :], np.s_[:, 0], np.s_[:, -1]:
        pixels[side] = FRAME
    return pixels


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as HTML, of which the first rows are shown."""
    every = list(rows)
    lines = [_line("th", header)]
    lines += [_line("td", row) for row in every[:_ROWS]]
    more = f"<p>{count(len(every) - _ROWS, 'row')} more</p>" if len(every) > _ROWS else ""
    body = f"<table>{''.join(lines)}</table>{more}" if every else ""
    return f"<p>{_escaped(caption)}</p>{body}"


def _line(kind: str, cells: Sequence[object]) -> str:
    inner = "".join(f"<{kind} align=left>{_escaped(str(cell))}</{kind}>" for cell in cells)
    return f"<tr>{inner}</tr>"


def _escaped(text: str) -> str:
    return escape(printable(text))
