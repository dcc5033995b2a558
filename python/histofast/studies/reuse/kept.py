"""What a part of the study leaves in its folder for the study's page: pictures and numbers, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histofast._files import make_folder
from histofast.jobs import Job
from histofast.learning import Metric, read_json, with_nan, write_json
from histofast.report import Grid, Picture, Tile
from histofast.slides import read_image, write_png

Shown = Picture | Grid

_FILE, _PICTURES = "kept.json", "pictures"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kept:
    """What a part has left.

    Attributes:
        numbers: as JSON holds them.
        panels: to show, in order.
    """

    numbers: Mapping[str, Any]
    panels: tuple[Shown, ...]


def keep(numbers: Mapping[str, Any], panels: Sequence[Shown], *, out: Path) -> None:
    """Write what the study's page needs of a part; NaN must not be among the numbers."""
    make_folder(out / _PICTURES)
    told = [_told(panel, f"{k:03d}", out / _PICTURES) for k, panel in enumerate(panels)]
    write_json(out / _FILE, {"numbers": dict(numbers), "panels": told})


def _told(panel: Shown, name: str, folder: Path) -> dict[str, Any]:
    words = {"title": panel.title, "caption": panel.caption, "alt": panel.alt}
    if isinstance(panel, Picture):
        write_png(folder / f"{name}.png", panel.pixels)
        return {**words, "picture": f"{name}.png", "heads": list(panel.heads)}
    tiles = []
    for k, tile in enumerate(panel.tiles):
        file = f"{name}-{k:03d}.png"
        write_png(folder / file, tile.pixels)
        place = {"row": tile.row, "column": tile.column, "side": tile.side}
        tiles.append({"picture": file, **place, "tip": tile.tip})
    return {**words, "tiles": tiles}


def read_kept(job: Job) -> Kept:
    """Return what a part that is done has left.

    Raises:
        ModelError: its file was changed since.
    """
    assert job.folder is not None
    told = read_json(job.folder / _FILE, remedy=f"remove {job.folder} to make it anew")
    return Kept(
        numbers=told["numbers"], panels=tuple(_panels(told["panels"], job.folder / _PICTURES))
    )


def _panels(told: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[Shown]:
    for panel in told:
        words = {name: panel[name] for name in ("title", "caption", "alt")}
        if "picture" in panel:
            pixels = read_image(folder / panel["picture"])
            yield Picture(pixels=pixels, heads=tuple(panel["heads"]), **words)
        else:
            yield Grid(tiles=tuple(_tile(tile, folder) for tile in panel["tiles"]), **words)


def _tile(told: Mapping[str, Any], folder: Path) -> Tile:
    place = {name: told[name] for name in ("row", "column", "side", "tip")}
    return Tile(pixels=read_image(folder / told["picture"]), **place)


def metric_of(told: Mapping[str, float | None]) -> Metric:
    """Return a metric of what `learning.plain` made of it."""
    return Metric(**with_nan(told))
