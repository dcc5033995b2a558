"""Figures into files, pixels and colours; matplotlib is imported when something is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._files import replacing
from histofast._lazy import is_installed
from histofast.errors import missing_extra
from histofast.report.charts import Figure

_SUFFIXES = (".png", ".pdf", ".svg")


def save_figure(figure: Figure, path: Path, *others: Path) -> None:
    """Write a figure as PNG, PDF or SVG by the suffix of each path, which is overwritten.

    The same figure gives the same bytes, under one version of matplotlib.

    Raises:
        What `check_figure_path` raises.
    """
    paths = (path, *others)
    for each in paths:
        check_figure_path(each)
    from histofast.report.drawing import images

    drawn = images(figure, [each.suffix.lower()[1:] for each in paths])
    for each, content in zip(paths, drawn, strict=True):
        with replacing(each, overwrite=True) as pending:
            pending.write_bytes(content)


def pixels_of(figure: Figure) -> NDArray[np.uint8]:
    """Return a figure of one picture as pixels, none of the picture's own changed.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ModuleNotFoundError: what draws is not installed.
        ValueError: the figure is of anything else.
    """
    check_installed()
    from histofast.report.drawing import pixels

    return pixels(figure)


def colors_of(shares: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Return the colours of values at `shares` (0..1) of the scale.

    Args:
        shares: of any shape.

    Returns:
        (..., 3) uint8 RGB.

    Raises:
        ModuleNotFoundError: what draws is not installed.
    """
    check_installed()
    from histofast.report.draw_matrix import colors

    return colors(shares)


def check_figure_path(path: Path) -> None:
    """Refuse a path that no figure can be written to.

    Raises:
        FileNotFoundError: its folder does not exist.
        ModuleNotFoundError: what draws is not installed.
        ValueError: it is no PNG, PDF or SVG.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"a figure must end in {', '.join(_SUFFIXES)}, got {path}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} in")
    check_installed()


def check_installed() -> None:
    """Refuse to begin minutes of work whose report could not be drawn.

    Raises:
        ModuleNotFoundError: matplotlib or jinja2 is not installed.
    """
    for name in ("matplotlib", "jinja2"):
        if not is_installed(name):
            raise missing_extra(name, by="histofast.report")
