"""Writes small slides of every kind that tests need, with tifffile and imagecodecs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

APERIO = "Aperio Image Library v11.2.1\n46000x32914 JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990|Left = 1"


def picture(height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth, colourful picture with no symmetry, (height, width, 3) uint8."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = ndimage.gaussian_filter(noise, (12, 12, 0))
    scaled = 128 + smooth / smooth.std() * 50
    ramp = np.linspace(-40, 40, width)[None, :, None] + np.linspace(-30, 30, height)[:, None, None]
    return (scaled + ramp).clip(0, 255).astype(np.uint8)


def half(image: NDArray[Any], times: int = 1) -> NDArray[Any]:
    """The picture at 2 ** -times of its size: means of blocks, the cut-off rest left out."""
    for _ in range(times):
        h, w = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        blocks = image[:h, :w].astype(np.float64).reshape(h // 2, 2, w // 2, 2, -1).mean((1, 3))
        image = np.rint(blocks).astype(image.dtype)
    return image


def write_tiff(
    path: Path,
    levels: Sequence[NDArray[Any]],
    *,
    subifds: bool = False,
    mpp: float | tuple[float, float] | None = 0.5,
    tile_px: int | tuple[int, int] = 64,
    **options: Any,
) -> Path:
    """Write a tiled TIFF pyramid; `options` go to tifffile's write."""
    tile = (tile_px, tile_px) if isinstance(tile_px, int) else tile_px
    options = {"photometric": "rgb", "metadata": None, **options}
    if mpp is not None:
        x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        options |= {"resolution": (1e4 / x, 1e4 / y), "resolutionunit": "CENTIMETER"}
    bigtiff = options.pop("bigtiff", False)
    ome = options.pop("ome", False)
    with tifffile.TiffWriter(path, bigtiff=bigtiff, ome=ome) as tiff:
        for i, level in enumerate(levels):
            own = dict(options)
            if i == 0 and subifds:
                own["subifds"] = len(levels) - 1
            elif i > 0:
                own["subfiletype"] = 1
                own.pop("description", None)
                if ome:
                    own["metadata"] = None
            tiff.write(level, tile=tile, **own)
    return path


def write_encoded(
    path: Path, tiles: Sequence[bytes], *, shape: tuple[int, int, int], tile_px: int, **options: Any
) -> Path:
    """Write a tiled TIFF from tiles that are compressed already; empty ones are left out."""
    options = {"photometric": "rgb", "metadata": None, **options}
    tifffile.imwrite(
        path, iter(tiles), shape=shape, dtype=np.uint8, tile=(tile_px, tile_px), **options
    )
    return path


def tiles_of(image: NDArray[np.uint8], tile_px: int) -> list[NDArray[np.uint8]]:
    """Cut a picture into whole tiles, row by row, the edge replicated."""
    h, w = image.shape[:2]
    padded = np.pad(image, ((0, -h % tile_px), (0, -w % tile_px), (0, 0)), mode="edge")
    return [
        np.ascontiguousarray(padded[y : y + tile_px, x : x + tile_px])
        for y in range(0, h, tile_px)
        for x in range(0, w, tile_px)
    ]


def rgb_to_ycbcr(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """JFIF's full-range YCbCr, (..., 3) uint8."""
    r, g, b = (rgb[..., i].astype(np.float64) for i in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    ycbcr = np.stack([y, 128 + 0.564 * (b - y), 128 + 0.713 * (r - y)], axis=-1)
    return np.rint(ycbcr).clip(0, 255).astype(np.uint8)


def jpeg(image: NDArray[np.uint8], **options: Any) -> bytes:
    """A JPEG stream."""
    return bytes(imagecodecs.jpeg8_encode(image, **{"level": 95, **options}))


def overwrite(path: Path, at: int, data: bytes) -> None:
    """Put other bytes into a file."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def tile_extent(path: Path, index: int, *, page: int = 0) -> tuple[int, int]:
    """(offset, bytes) of a tile in the file."""
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[page]
        return found.dataoffsets[index], found.databytecounts[index]


def split_tables(stream: bytes) -> tuple[bytes, bytes]:
    """Part a JPEG stream into the tables (as TIFF's JPEGTables) and what refers to them."""
    tables, rest, at = b"", b"", 2
    while stream[at + 1] != 0xDA:
        marker, end = stream[at + 1], at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker in (0xDB, 0xC4):
            tables += stream[at:end]
        elif not 0xE0 <= marker <= 0xEF:
            rest += stream[at:end]
        at = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + stream[at:]


QUADRANTS = np.repeat(
    np.repeat(
        np.array([[[200, 60, 120], [250, 250, 250]], [[40, 90, 180], [120, 200, 40]]], np.uint8),
        32,
        axis=0,
    ),
    32,
    axis=1,
)
# QUADRANTS as a JPEG 2000 codestream in YCbCr 4:2:2, lossless, by FFmpeg's encoder: imagecodecs
# cannot write subsampled chroma, which Aperio's compression 33003 has.
QUADRANTS_422 = base64.b85decode(
    "|4;u>051Rl0000$0000$00000000000003100031000000000000RdB0S5vB2Lb{AQUDA9000311_A;A0smY879c"
    "=KNKi;fP)JBnNJvmfNKi;fQ2%5A5dZ;9VRmCSGA=SWE-^4N|BwI*000000&4&P|C7MzAOXYV0t3&e2n0XRv<e?MD"
    "1AUc0iOwf1>eKx1Oy+?v<L?~&$JdFI7lBLFa^UW=zk2Jw-*U)tIxC!50Df-pdbuO0}1N^PtUXtKA<>0a9{@pe*qX"
    "D37$XCv?e~Fm>(cu7ZGQN3|C4o9U#}6bg*LSZ?6^nDv*TZ$J7xYP%IxfPzdePie;XUe+;C;C&&yi^=5m=)Da(0G!"
    "Kv{4@>He^)duM4^_Qm7V8e+`y3z7v_d|h=ss}ZA#De1#P}uSS|$J|d4SQcDIo0kD<&XF@&Xq*dQT+XI<&;)zt6Nj"
    "KA@;RaNsL1Gw^G}ZNzD620iG%A0!-MVcF+e8Wvv~me~X8ie|^u86QwgA2?ta*Get3P=0rfjaYvJTNVpdyymfg8R="
    "G8&704(Qa+(LK5*bQ@;9cROwYU6C>Obs<*?W|c+lm9ASJ@04IV9SRd--Jh~(aS-k*a1I<ox%f6uf|KA{MGK;UxL0"
    "OJ0iIQ3nTF7fQA%rLGzPff^@XjHs2WxKSOO|$H+p-tstGCZDt$J8SqP;4JKU?LgwoSV?3PK>6H)UOiNcYi&jn)gV"
    "Fpo+;BFowfTG)u}?SLf{wUr<{U<PG|Q%paT}Ui-y}uRrES2GI3>6<+(ri087rkKoFaovbNYV$YqdDL_8STowQ@f3"
    "2L=f8st7zfe{`P;&?82&E12aCrqbo<XbAWd;F*8K*#{gXs!(PiP!4w_(4f4~Vbh^#wzs<MjrxesF*`o<ZY=+`m)?"
    "4>nvqk-wd+9?gKb{ON^2J}%FtBy*4d*#"
)
