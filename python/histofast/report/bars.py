"""Speeds as bars, with what each costs written beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from histofast._files import replacing
from histofast.report.style import FAINT, INK

_BAR = "#3b6ea5"
_SUFFIXES = (".png", ".pdf", ".svg")


def check_figure_path(path: Path) -> None:
    """Refuse a path that no figure can be written to.

    Raises:
        FileNotFoundError: its folder does not exist.
        ValueError: it is no PNG, PDF or SVG.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"a figure must end in {', '.join(_SUFFIXES)}, got {path}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} in")


def plot_speeds(
    names: Sequence[str],
    patches_per_s: Sequence[float],
    notes: Sequence[str],
    *,
    title: str,
    path: Path,
) -> None:
    """Draw one horizontal bar per encoder into an image file (PNG, PDF or SVG by its suffix).

    Args:
        names: of the encoders, top to bottom.
        patches_per_s: their speeds.
        notes: a few words each, written behind the bars.
        title: of the figure: machine, patch size, threads.
        path: of the image.

    Raises:
        What `check_figure_path` raises.
    """
    check_figure_path(path)
    figure = Figure(figsize=(9, 1.3 + 0.42 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(names))
    axes.barh(rows, patches_per_s, color=_BAR, height=0.62)
    most = max(patches_per_s)
    for row, speed, note in zip(rows, patches_per_s, notes, strict=True):
        axes.text(
            speed + most * 0.012,
            row,
            f"{speed:.1f}   {note}",
            va="center",
            fontsize=8.5,
            color=INK,
        )
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlim(0, most * 1.55)  # room for the notes
    axes.set_xlabel("patches per second")
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(axis="x", color=FAINT)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    with replacing(path, overwrite=True) as pending:
        figure.savefig(pending, dpi=150, format=path.suffix.lower()[1:])
