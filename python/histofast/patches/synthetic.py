"""A seed in, a plausible stained slide out: for tests, benchmarks and the demo, never for science.

The pixels depend on the seed only; compressed bytes also on the JPEG library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from histofast._files import replacing
from histofast._machine import available_cpus
from histofast._numbers import real_number, whole_number
from histofast.patches.painting import LOOKS, Bytes, Painter
from histofast.slides import average_blocks, encode_tile, write_averaged_pyramid, write_pyramid

Stain = Literal["he", "ihc", "pale"]
Pen = Literal["blue", "green", "black"]


def make_slide(
    path: Path | str,
    *,
    width_px: int = 4096,
    height_px: int = 4096,
    seed: int = 0,
    tissue_fraction: float = 0.4,
    mpp: float = 0.25,
    levels: int = 4,
    factor: int = 4,
    tile_px: int = 256,
    quality: int = 80,
    stain: Stain = "he",
    pen: Pen | None = None,
    repeat_px: int | None = None,
) -> None:
    """Write a synthetic slide as a pyramidal JPEG TIFF.

    Args:
        path: the file to make; replaced if it is there.
        width_px: of level 0.
        height_px: of level 0.
        seed: of everything random.
        tissue_fraction: share of the area inside tissue outlines, 0..1.
        mpp: um per level-0 pixel; structures have their natural size in um.
        levels: of the pyramid.
        factor: between neighbouring levels, 4 as in Aperio slides.
        tile_px: side of a tile.
        quality: of JPEG, 1..100.
        stain: haematoxylin and eosin, immunohistochemistry (brown), or a pale H&E.
        pen: colour of a marker's loop on the glass.
        repeat_px: paint only a square of this side and repeat it: a slide of 60,000 px takes
            seconds. `repeat_px`, `tile_px` and `factor` must then be powers of two.

    Raises:
        ValueError: malformed arguments.
        SlideError: the file cannot be written.

    Determinism: pixels before compression depend on the arguments only.
    """
    _check_slide(
        stain=stain,
        pen=pen,
        tissue_fraction=tissue_fraction,
        mpp=mpp,
        repeat_px=repeat_px,
        tile_px=tile_px,
        factor=factor,
        levels=levels,
    )
    painter = Painter(
        width_px=repeat_px or width_px,
        height_px=repeat_px or height_px,
        seed=seed,
        tissue_fraction=tissue_fraction,
        mpp=mpp,
        stain=stain,
        pen=pen,
        is_periodic=repeat_px is not None,
        tile_px=tile_px,
    )
    pyramid: dict[str, Any] = {
        "width": width_px,
        "height": height_px,
        "mpp": mpp,
        "tile_px": tile_px,
        "levels": levels,
        "factor": factor,
        "quality": quality,
        "description": f"histofast synthetic slide, seed {seed}, stain {stain}: no patient",
        "workers": available_cpus(),
    }
    if repeat_px is not None:
        bank = _Bank(painter, repeat_px, tile_px=tile_px, factor=factor, quality=quality)
        write_pyramid(path, bank.tile, **pyramid)
        return

    sheet = _Sheet(painter, tile_px=tile_px, quality=quality)
    write_averaged_pyramid(path, sheet.tile, **pyramid)


def _check_slide(
    *,
    stain: str,
    pen: str | None,
    tissue_fraction: float,
    mpp: float,
    repeat_px: int | None,
    tile_px: int,
    factor: int,
    levels: int,
) -> None:
    if stain not in LOOKS:
        raise ValueError(f"stain must be one of {', '.join(LOOKS)}, got {stain!r}")
    if pen is not None and pen not in get_args(Pen):
        raise ValueError(f"pen must be None or one of {', '.join(get_args(Pen))}, got {pen!r}")
    real_number("tissue_fraction", tissue_fraction, at_least=0, at_most=1)
    real_number("mpp", mpp, above=0)
    if repeat_px is not None:
        smallest = max(tile_px, factor ** (levels - 1))
        powers = [n & (n - 1) == 0 for n in (repeat_px, tile_px, factor)]
        if repeat_px < smallest or not all(powers):
            raise ValueError(
                f"repeat_px must be a power of two, as tile_px and factor, and at least {smallest}, "
                f"got {repeat_px} (tile_px {tile_px}, factor {factor})"
            )


def make_demo_slides(folder: Path | str, *, seed: int = 0) -> list[Path]:
    """Write three small pyramidal slides: H&E, immunohistochemistry, and pale with a pen mark.

    Args:
        folder: where; made if missing.
        seed: of everything random.

    Returns:
        The three files.
    """
    folder = Path(folder)
    slides: dict[str, dict[str, Any]] = {
        "demo-he": {"stain": "he", "width_px": 3072, "height_px": 2560},
        "demo-ihc": {"stain": "ihc", "width_px": 2560, "height_px": 2560, "factor": 2},
        "demo-pale-pen": {"stain": "pale", "width_px": 2816, "height_px": 2304, "pen": "blue"},
    }
    paths = []
    for i, (name, options) in enumerate(slides.items()):
        paths.append(folder / f"{name}.tif")
        make_slide(paths[-1], seed=seed + i, mpp=0.5, levels=3, **options)
    return paths


def make_labelled_slides(folder: Path | str, *, n: int, seed: int = 0) -> tuple[list[Path], Path]:
    """Write small slides of two kinds and a table of which is which, to try training with.

    Every second slide is stained palely, which any network can see: models of these slides say
    nothing about real ones.

    Args:
        folder: where; made if missing. The table, `labels.csv`, lies beside it.
        n: slides, >= 4.
        seed: of everything random.

    Returns:
        The files, and the table (slide, label, patient).

    Raises:
        ValueError: fewer than 4 slides.
    """
    n = whole_number("n", n, at_least=4)
    folder = Path(folder)
    paths, lines = [], ["slide,label,patient"]
    for i in range(n):
        paths.append(folder / f"demo-{i:02}.tif")
        make_slide(
            paths[-1],
            stain="pale" if i % 2 else "he",
            width_px=1536,
            height_px=1280,
            seed=seed + i,
            mpp=0.5,
            levels=2,
        )
        lines.append(f"demo-{i:02},{'pale' if i % 2 else 'strong'},patient-{i:02}")
    table = folder.parent / "labels.csv"
    with replacing(table, overwrite=True) as pending:
        pending.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths, table


class _Sheet:
    """The tiles of level 0, each painted once; of empty glass there are few, compressed ahead."""

    def __init__(self, painter: Painter, *, tile_px: int, quality: int) -> None:
        self._painter, self._tile_px = painter, tile_px
        self._glass = [painter.glass(i, tile_px) for i in range(8)]
        self._encoded = [encode_tile(tile, quality=quality) for tile in self._glass]

    def tile(self, column: int, row: int) -> tuple[Bytes, bytes | None]:
        """Return pixels, and their compressed bytes where they are known; a `Level0Source`."""
        x, y = column * self._tile_px, row * self._tile_px
        if self._painter.is_glass(x, y, self._tile_px):
            i = (3 * column + 5 * row) % len(self._glass)
            return self._glass[i], self._encoded[i]
        return self._painter.paint(x, y, self._tile_px), None


class _Bank:
    """All distinct tiles of a slide that repeats one square, compressed when first asked for."""

    def __init__(
        self, painter: Painter, period_px: int, *, tile_px: int, factor: int, quality: int
    ) -> None:
        self._tile_px, self._factor, self._quality = tile_px, factor, quality
        self._squares: dict[int, Bytes] = {}
        self._tiles: dict[tuple[int, int, int], bytes] = {}
        whole = np.empty((period_px, period_px, 3), np.uint8)
        for y in range(0, period_px, tile_px):
            for x in range(0, period_px, tile_px):
                whole[y : y + tile_px, x : x + tile_px] = painter.paint(x, y, tile_px)
        self._squares[0] = whole

    def _square(self, level: int) -> Bytes:
        if level not in self._squares:
            self._squares[level] = average_blocks(self._square(level - 1), self._factor)
        return self._squares[level]

    def tile(self, level: int, column: int, row: int) -> bytes:
        """The compressed tile of any level; a `TileSource`."""
        square = self._square(level)
        tiles = max(1, len(square) // self._tile_px)
        key = (level, column % tiles, row % tiles)
        if key not in self._tiles:
            if len(square) < self._tile_px:
                copies = self._tile_px // len(square)
                pixels = np.tile(square, (copies, copies, 1))
            else:
                x, y = key[1] * self._tile_px, key[2] * self._tile_px
                pixels = square[y : y + self._tile_px, x : x + self._tile_px]
            self._tiles[key] = encode_tile(np.ascontiguousarray(pixels), quality=self._quality)
        return self._tiles[key]
