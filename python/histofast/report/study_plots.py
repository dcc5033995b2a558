"""A study as a figure for print: value and speed against depth, or networks from the best on.

All lengths are inches, so that names stay readable however many rows there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from histofast.report.figure_files import save_figure
from histofast.report.findings import percent
from histofast.report.scales import range_of, spread
from histofast.report.study_types import Study, StudyRow
from histofast.report.study_wording import chosen_word, in_order, study_basis
from histofast.report.style import (
    DIAGONAL,
    FAINT,
    INK,
    LOG_FROM,
    PERMUTED,
    SERIES,
    SHAPES,
    draw_legend,
    shorten,
)

_LETTER, _LINE = 0.075, 0.17  # width and height of a letter of 8.5 points
_NAME = 24  # letters of a name beside a chart
_EDGE, _HEAD = 0.25, 0.7
_MARKERS = dict(zip(SHAPES, ("o", "s", "^", "D"), strict=True))
_HANDLE = 2.6  # length of a line in the legend, in letters
_DASHES = ("--", "-.", (0, (3, 3)))


def plot_study(study: Study, path: Path) -> None:
    """Draw the values with their intervals, and what they cost in speed.

    Cuts: the metric against depth, one line per network, and patches per second below it.
    Networks: one row each from the best on, and beside it the metric against patches per second.
    Baselines are grey, the chosen row is ringed; rows without value, depth or speed are left out
    where they would need it. The same study gives the same file.

    Args:
        study: what to draw.
        path: of the image (PNG, PDF or SVG by its suffix), overwritten, whole or not at all.

    Raises:
        What `check_figure_path` raises.
    """
    save_figure(lambda: _figure(study), path)


def _figure(study: Study) -> Figure:
    return _truncation(study) if study.kind == "truncation" else _networks(study)


class _Sheet:
    """A figure whose axes are placed by inches from its top left corner."""

    def __init__(self, study: Study, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height))
        self._width, self._height = width, height
        for down, text, size, weight in (
            (0.28, study.title, 12, "bold"),
            (0.52, study_basis(study), 9, "normal"),
        ):
            x, y = _EDGE / width, 1 - down / height
            self.figure.text(x, y, text, fontsize=size, color=INK, va="center", weight=weight)

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        w, h = self._width, self._height
        axes = self.figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.tick_params(labelsize=9)
        axes.set_axisbelow(True)
        return axes


# --- Cuts --------------------------------------------------------------------------------------


def _truncation(study: Study) -> Figure:
    cuts = [row for row in study.candidates if row.depth is not None]
    valued = [row for row in cuts if row.is_defined]
    timed = [row for row in cuts if row.patches_per_s is not None]
    keys = _keys(study)
    strip = 0.25 + _LETTER * max((len(shorten(row.layer, _NAME)) for row in cuts), default=0)
    legend = 0.1 + 0.2 * math.ceil(len(keys) / 2)
    plot = max(6.4, _LINE * len(cuts))
    top, left = _HEAD + legend + strip, 0.95
    below = 2.0 if timed else 0.0
    bottom = top + 3.4 + (0.25 + below if timed else 0.0)
    sheet = _Sheet(study, left + plot + 0.5, bottom + 0.65)
    values = sheet.axes(left, top, plot, 3.4)
    _draw_values_by_depth(values, study, valued)
    _draw_layers(values, study, cuts, plot)
    draw_legend(values, keys, handle_length=_HANDLE, lift=1 + strip / 3.4)
    last = values
    if timed:
        last = sheet.axes(left, top + 3.65, plot, below)
        _draw_speeds_by_depth(last, study, timed)
        values.tick_params(labelbottom=False)
    last.set_xlabel("depth: share of the network's operations", fontsize=10)
    return sheet.figure


def _draw_values_by_depth(axes: Any, study: Study, rows: Sequence[StudyRow]) -> None:
    for network in study.networks:
        of_one = _of(network, rows)
        for row in of_one:
            if row.has_interval:
                color = _color(study, network)
                axes.vlines(row.depth, row.low, row.high, color=color, alpha=0.55, lw=1.3, zorder=3)
        _draw_line(axes, study, network, [(row.depth, row.value) for row in of_one])
    _draw_rules(axes.axhline, study, study.baselines)
    _ring(axes, [(row.depth, row.value) for row in rows if row.chosen])
    _frame_depth(axes, study.metric)
    axes.set_ylim(*_bounds(study, [*rows, *study.baselines]))


def _draw_speeds_by_depth(axes: Any, study: Study, rows: Sequence[StudyRow]) -> None:
    for network in study.networks:
        points = [(row.depth, row.patches_per_s) for row in _of(network, rows)]
        _draw_line(axes, study, network, points)
    _ring(axes, [(row.depth, row.patches_per_s) for row in rows if row.chosen])
    _frame_depth(axes, "patches per second")
    _scale_speeds(axes, "y", rows)


def _of(network: str, rows: Sequence[StudyRow]) -> list[StudyRow]:
    found = [row for row in rows if row.network == network]
    return sorted(found, key=lambda row: row.depth or 0.0)


def _draw_line(axes: Any, study: Study, network: str, points: Sequence[tuple[Any, Any]]) -> None:
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, "-", lw=1.8, ms=5, zorder=4, **_look(study, network))


def _frame_depth(axes: Any, label: str) -> None:
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    axes.set_ylabel(label, fontsize=10)
    axes.grid(axis="y", color=FAINT, lw=0.8)
    for line in axes.lines:
        line.set_clip_on(False)


def _draw_layers(axes: Any, study: Study, rows: Sequence[StudyRow], plot: float) -> None:
    """Write the layers' names above the axes, with a line from each down to its depth."""
    wanted = [row.depth or 0.0 for row in rows]
    moved = spread(wanted, gap=_LINE / plot, low=0, high=1 + _LINE / plot)
    for row, depth, x in zip(rows, wanted, moved, strict=True):
        color = _color(study, row.network)
        axes.annotate(
            shorten(row.layer, _NAME),
            xy=(depth, 1.0),
            xytext=(x, 1.05),
            xycoords="axes fraction",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=8.5,
            color=color,
            arrowprops=_leader(color, (0.5, 0)),
        )
        axes.axvline(depth, color=color, alpha=0.2, lw=0.7, zorder=1)


# --- Networks ----------------------------------------------------------------------------------


def _networks(study: Study) -> Figure:
    rows = in_order(study)
    timed = [row for row in rows if row.is_defined and row.patches_per_s is not None]
    keys = _keys(study)
    names = [shorten(row.name) + ("" if row.is_defined else " (undefined)") for row in rows]
    left = 0.45 + _LETTER * max(map(len, names))
    top = _HEAD + 0.15 + 0.2 * math.ceil(len(keys) / 2)
    height = max(0.27 * len(rows), 2.6)
    second = left + 3.6 + 0.85
    margin = 0.4 + _LETTER * max((len(shorten(row.name, _NAME)) for row in timed), default=0)
    width = second + 3.4 + margin if timed else left + 3.6 + 0.3
    sheet = _Sheet(study, max(width, 6.5), top + height + 0.65)
    forest = sheet.axes(left, top, 3.6, height)
    _draw_forest(forest, study, rows, names)
    draw_legend(forest, keys, handle_length=_HANDLE, left=-(left - _EDGE) / 3.6)
    if timed:
        _draw_value_by_speed(sheet.axes(second, top, 3.4, height), study, timed, height)
    return sheet.figure


def _draw_forest(axes: Any, study: Study, rows: Sequence[StudyRow], names: Sequence[str]) -> None:
    for place, row in enumerate(rows):
        color, marker = _look_of(row)
        if row.has_interval:
            axes.hlines(place, row.low, row.high, color=color, alpha=0.6, lw=1.5, zorder=3)
        if row.is_defined:
            axes.plot(row.value, place, marker, color=color, ms=5.5, zorder=4)
    _ring(axes, [(row.value, place) for place, row in enumerate(rows) if row.chosen])
    if study.baselines and study.candidates:
        axes.axhline(len(study.candidates) - 0.5, color=FAINT, lw=0.8)
    _draw_rules(axes.axvline, study, ())
    axes.set_yticks(range(len(rows)), names, fontsize=8.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if study.best is not None:
        axes.set_xlim(*_bounds(study, rows))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FAINT, lw=0.8)
    axes.set_xlabel(study.metric, fontsize=10)


def _draw_value_by_speed(axes: Any, study: Study, rows: Sequence[StudyRow], height: float) -> None:
    rest = [row for row in study.baselines if row.patches_per_s is None]
    for row in rows:
        color, marker = _look_of(row)
        if row.has_interval:
            axes.vlines(
                row.patches_per_s, row.low, row.high, color=color, alpha=0.45, lw=1.3, zorder=3
            )
        axes.plot(row.patches_per_s, row.value, marker, color=color, ms=5.5, zorder=4)
    _ring(axes, [(row.patches_per_s, row.value) for row in rows if row.chosen])
    _draw_rules(axes.axhline, study, rest)
    low, high = _bounds(study, [*rows, *rest])
    axes.set_ylim(low, high)
    _scale_speeds(axes, "x", rows)
    axes.set_xlabel("patches per second", fontsize=10)
    axes.set_ylabel(study.metric, fontsize=10)
    axes.grid(axis="y", color=FAINT, lw=0.8)
    wanted = [(row.value - low) / (high - low) for row in rows]
    moved = spread(wanted, gap=_LINE / height, low=0, high=1)
    for row, share, y in zip(rows, wanted, moved, strict=True):
        color, _ = _look_of(row)
        axes.annotate(
            shorten(row.name, _NAME),
            xy=(1.0, share),
            xytext=(1.07, y),
            xycoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=color,
            arrowprops=_leader(color, (0, 0.5)),
        )
        last = axes.get_xlim()[1]
        axes.hlines(row.value, row.patches_per_s, last, color=color, alpha=0.2, lw=0.7, zorder=1)


# --- Both --------------------------------------------------------------------------------------


def _color(study: Study, network: str) -> str:
    return SERIES[study.networks.index(network) % len(SERIES)]


def _look(study: Study, network: str) -> dict[str, Any]:
    shape = SHAPES[study.networks.index(network) % len(SHAPES)]
    return {"color": _color(study, network), "marker": _MARKERS[shape]}


def _look_of(row: StudyRow) -> tuple[str, str]:
    return (PERMUTED, "s") if row.baseline else (DIAGONAL, "o")


def _bounds(study: Study, rows: Sequence[StudyRow]) -> tuple[float, float]:
    drawn = [
        value
        for row in rows
        for value in (row.value, row.low, row.high)
        if row.is_defined and not math.isnan(value)
    ]
    chance = [] if study.chance is None else [study.chance]
    return range_of([*drawn, *chance] or [0.0, 1.0])


def _draw_rules(draw: Any, study: Study, baselines: Sequence[StudyRow]) -> None:
    for k, row in enumerate(row for row in baselines if row.is_defined):
        draw(row.value, color=PERMUTED, ls=_DASHES[k % len(_DASHES)], lw=1.3, zorder=2)
    if study.chance is not None:
        draw(study.chance, color=PERMUTED, ls=":", lw=0.9, zorder=2)


def _ring(axes: Any, points: Sequence[tuple[Any, Any]]) -> None:
    for x, y in points:
        axes.plot(x, y, "o", mfc="none", mec=INK, mew=1.6, ms=12, zorder=5, clip_on=False)


def _leader(color: str, begin: tuple[float, float]) -> dict[str, Any]:
    """Return the style of a line from a place on a name, as shares of it, to what it names."""
    thin = {"arrowstyle": "-", "color": color, "alpha": 0.45, "lw": 0.7}
    return {**thin, "relpos": begin, "shrinkA": 1, "shrinkB": 0}


def _scale_speeds(axes: Any, side: Literal["x", "y"], rows: Sequence[StudyRow]) -> None:
    speeds = [row.patches_per_s or 0.0 for row in rows]
    axis = getattr(axes, f"{side}axis")
    if max(speeds) > LOG_FROM * min(speeds):
        axes.set(**{f"{side}scale": "log"})
        axes.set(**{f"{side}lim": (min(speeds) / 1.4, max(speeds) * 1.4)})
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_minor_formatter(NullFormatter())
    else:
        axes.set(**{f"{side}lim": (0, 1.08 * max(speeds))})
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,g}"))


def _keys(study: Study) -> list[Any]:
    """Return what the legend explains."""
    keys: list[Any] = []

    def key(label: str, color: str, ls: Any = "-", lw: float = 1.8, **more: Any) -> None:
        keys.append(Line2D([], [], color=color, ls=ls, lw=lw, label=label, **more))

    if study.kind == "truncation":
        for network in study.networks:
            key(network, ms=5, **_look(study, network))
        rules = [row for row in study.baselines if row.is_defined]
    else:
        key("networks", DIAGONAL, "none", marker="o", ms=5.5)
        if study.baselines:
            key("baselines", PERMUTED, "none", marker="s", ms=5.5)
        rules = [row for row in study.baselines if row.is_defined and row.patches_per_s is None]
    for k, row in enumerate(rules):
        key(f"baseline: {shorten(row.name, 40)}", PERMUTED, _DASHES[k % len(_DASHES)], 1.3)
    if study.chance is not None:
        key("chance", PERMUTED, ":", 0.9)
    if study.chosen is not None:
        key(chosen_word(study), INK, "none", marker="o", mfc="none", mew=1.6, ms=10)
    if any(row.has_interval for row in study.rows):
        key(f"{percent(study.confidence)} interval", INK, lw=1.3, alpha=0.55)
    return keys
