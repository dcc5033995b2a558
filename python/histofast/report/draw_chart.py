"""Values at places: axes, lines, intervals, names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from histofast.report.charts import Axis, Chart, Point, Series
from histofast.report.sheet import Sheet
from histofast.report.style import (
    DASHES,
    FAINT,
    HATCH,
    INK,
    LOG_FROM,
    LONGEST,
    NULL,
    PAPER,
    look_of,
    range_of,
    shorten,
    spread,
)

_WIDTH, _HEIGHT, _NARROW = 5.2, 2.9, 3.6
_LINE = 0.17  # inches; height of a line of letters
_NAME = 24  # letters of a label beside the chart
_PER_NAME, _MOST_PER_NAME = 0.15, 0.7  # inches
_PER_ROW = 0.27
_SMALL = 8.5  # points


def draw_chart(sheet: Sheet, chart: Chart) -> None:
    """Draw a chart as a new panel of a sheet."""
    width, height = _size(chart)
    axes = sheet.axes(width, height)
    _frame(axes, chart)
    for rule, style in zip(chart.rules, _rule_styles(chart), strict=True):
        across = axes.axvline if chart.sideways else axes.axhline
        across(rule.value, zorder=2, gid=sheet.group("rule", [rule.tip or rule.name]), **style)
    for separator in chart.separators:
        (axes.axhline if chart.sideways else axes.axvline)(separator, color=FAINT, lw=0.8)
    for k, series in enumerate(chart.series):
        _draw_series(sheet, axes, chart, series, zorder=4 - k / 100)
    _draw_blanks(axes, chart)
    if chart.labels == "above":
        _label_above(sheet, axes, chart, width)
    elif chart.labels == "right":
        _label_right(sheet, axes, chart, height)
    _name_places(sheet, axes, chart)
    sheet.explain(axes, _keys(chart))


def _size(chart: Chart) -> tuple[float, float]:
    n, labels = len(chart.places.names), sum(bool(point.label) for point in chart.points)
    if chart.sideways:
        return (_WIDTH if n == 0 else _NARROW), max(_PER_ROW * n, 1.2)
    if n:
        return min(max(_PER_NAME * n, min(_WIDTH, _MOST_PER_NAME * n), 2.4), 60.0), _HEIGHT
    if chart.labels == "right":
        return 3.4, max(_HEIGHT, _LINE * labels)
    return max(_WIDTH, _LINE * labels if chart.labels == "above" else 0.0), _HEIGHT


# --- Axes --------------------------------------------------------------------------------------


def _frame(axes: Any, chart: Chart) -> None:
    at, value = ("y", "x") if chart.sideways else ("x", "y")
    points = chart.points
    drawn = [v for p in points for v in (p.value, p.low, p.high)]
    bars = [0.0] if any(series.mark == "bar" for series in chart.series) else []
    _scale(axes, value, chart.values, [*drawn, *bars, *(rule.value for rule in chart.rules)])
    n = len(chart.places.names)
    if n:
        axes.set(**{f"{at}lim": (n - 0.4, -0.6) if chart.sideways else (-0.5, n - 0.5)})
        axes.tick_params(axis=at, length=0)
        if chart.sideways:
            axes.spines["left"].set_visible(False)
    else:
        _scale(axes, at, chart.places, [point.place for point in points])
    axes.grid(axis=value, color=FAINT, lw=0.8)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
    axes.tick_params(color=INK, labelcolor=INK)
    if any(point.note for point in points):
        axes.set_xlim(right=axes.get_xlim()[1] * 1.5)  # room for the notes


def _scale(axes: Any, side: str, axis: Axis, drawn: Sequence[float]) -> None:
    known = [value for value in drawn if not math.isnan(value)]
    positive = [value for value in known if value > 0]
    log = axis.scale == "log" and bool(positive)
    if axis.scale == "auto" and known and len(positive) == len(known):
        log = max(known) > LOG_FROM * min(known)
    of_side = getattr(axes, f"{side}axis")
    if log:
        low, high = min(positive) / 1.4, max(positive) * 1.4
        axes.set(**{f"{side}scale": "log"})
        of_side.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1e3 * low else (1.0,)))
        of_side.set_minor_formatter(NullFormatter())
        of_side.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,g}"))
    elif axis.scale == "auto":
        low, high = 0.0, 1.08 * max([*known, 1e-9])
        of_side.set_major_locator(MaxNLocator(6))
    else:
        low, high = range_of(known)
        of_side.set_major_locator(MaxNLocator(6, integer=axis.form == "whole"))
    if axis.form == "share":
        of_side.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    low, high = low if axis.low is None else axis.low, high if axis.high is None else axis.high
    axes.set(**{f"{side}lim": (low, high)})
    label = f"{axis.label}, logarithmic" if log and axis.label else axis.label
    getattr(axes, f"set_{side}label")(label, fontsize=10, color=INK)


def _name_places(sheet: Sheet, axes: Any, chart: Chart) -> None:
    names = chart.places.names
    if not names:
        return
    longest = LONGEST if chart.sideways else 2 * LONGEST
    short = [shorten(name, longest) for name in names]
    if chart.sideways:
        axes.set_yticks(range(len(names)), short, fontsize=_SMALL, color=INK)
        name_ticks(sheet, axes.get_yticklabels(), names)
    else:
        axes.set_xticks(range(len(names)), short, fontsize=_SMALL, color=INK, rotation=90)
        name_ticks(sheet, axes.get_xticklabels(), names)


def name_ticks(sheet: Sheet, labels: Sequence[Any], names: Sequence[str]) -> None:
    """Let names that were shortened say all of themselves when pointed at."""
    for label, name in zip(labels, names, strict=True):
        if label.get_text() != name:
            label.set_gid(sheet.group("name", [name]))


# --- Values ------------------------------------------------------------------------------------


def _draw_series(sheet: Sheet, axes: Any, chart: Chart, series: Series, *, zorder: float) -> None:
    color, marker, dashes = look_of(series.look)
    points = series.points
    place = np.array([point.place for point in points], float)
    value = np.array([point.value for point in points], float)
    _draw_intervals(axes, chart, series, color=color, zorder=zorder - 0.5)
    if series.mark == "bar":
        _draw_bars(sheet, axes, chart, series, color=color)
        return
    if series.line != "none" and np.isfinite(value).any():
        axes.plot(
            *_across(chart, place, value),
            ls="--" if series.dashed else dashes,
            color=color,
            lw=1.8,
            zorder=zorder,
            drawstyle="steps-post" if series.line == "steps" else "default",
            solid_joinstyle="round",
            clip_on=False,
            gid=sheet.group("line"),
        )
    shown = [point for point in points if point.is_defined]
    if not shown:
        return
    alone = len(shown) == 1  # one point has no line
    if series.mark == "point" or alone:
        axes.plot(
            *_across(chart, *_coordinates(shown)),
            ls="none",
            marker=marker,
            color=color,
            ms=5.5 if series.line == "none" else 5,
            zorder=zorder + 0.01,
            clip_on=False,
            gid=sheet.group("mark", [point.tip for point in shown]),
        )
    ringed = [point for point in shown if point.ringed]
    if ringed:
        axes.plot(
            *_across(chart, *_coordinates(ringed)),
            ls="none",
            marker="o",
            mfc="none",
            mec=INK,
            mew=1.6,
            ms=12,
            zorder=5,
            clip_on=False,
            gid=sheet.group("ring"),
        )


def _coordinates(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.place for point in points], [point.value for point in points]


def _across(chart: Chart, place: Any, value: Any) -> tuple[Any, Any]:
    return (value, place) if chart.sideways else (place, value)


def _draw_intervals(axes: Any, chart: Chart, series: Series, *, color: str, zorder: float) -> None:
    shown = [point for point in series.points if point.has_interval]
    if not shown:
        return
    draw = axes.hlines if chart.sideways else axes.vlines
    draw(
        [point.place for point in shown],
        [point.low for point in shown],
        [point.high for point in shown],
        color=color,
        alpha=0.6,
        lw=1.4,
        zorder=zorder,
    )
    if series.interval == "band":
        known = [
            p if p.has_interval else Point(place=p.place, value=math.nan) for p in series.points
        ]
        axes.fill_between(
            [point.place for point in known],
            [point.low for point in known],
            [point.high for point in known],
            color=color,
            alpha=0.2,
            lw=0,
            zorder=zorder - 0.1,
        )


def _draw_bars(sheet: Sheet, axes: Any, chart: Chart, series: Series, *, color: str) -> None:
    for point in series.points:
        if not point.is_defined:
            continue
        draw = axes.barh if chart.sideways else axes.bar
        (bar,) = draw([point.place], [point.value], 0.62, color=color)
        bar.set_gid(sheet.group("bar", [point.tip]))
        if point.note:
            axes.annotate(
                point.note,
                _across(chart, point.place, point.value),
                xytext=(5, 0) if chart.sideways else (0, 5),
                textcoords="offset points",
                va="center" if chart.sideways else "bottom",
                color=INK,
                ha="left" if chart.sideways else "center",
                fontsize=_SMALL,
            )


def _draw_blanks(axes: Any, chart: Chart) -> None:
    span = axes.axhspan if chart.sideways else axes.axvspan
    for k in chart.blanks:
        span(k - 0.5, k + 0.5, fc="none", ec=HATCH, hatch="////", lw=0, zorder=1)
        axes.text(
            *_across(chart, k, 0.5),
            "undefined",
            transform=axes.get_yaxis_transform() if chart.sideways else axes.get_xaxis_transform(),
            rotation=0 if chart.sideways else 90,
            ha="center",
            va="center",
            fontsize=8,
            color=INK,
            zorder=5,
            bbox={"fc": PAPER, "ec": "none", "pad": 1.2},
        )


# --- Labels and legend -------------------------------------------------------------------------


def _labelled(chart: Chart) -> list[tuple[Point, str]]:
    """Return the points with a label, and their colours."""
    return [
        (point, look_of(series.look)[0])
        for series in chart.series
        for point in series.points
        if point.label and point.is_defined
    ]


def _share(axes: Any, point: Point) -> tuple[float, float]:
    """Return where a point is, in shares of the axes."""
    x, y = axes.transAxes.inverted().transform(axes.transData.transform((point.place, point.value)))
    return float(x), float(y)


def _label_above(sheet: Sheet, axes: Any, chart: Chart, width: float) -> None:
    """Write the labels above the axes, with a line from each down to its place."""
    labelled = _labelled(chart)
    wanted = [_share(axes, point)[0] for point, _ in labelled]
    moved = spread(wanted, gap=_LINE / width, low=0, high=1 + _LINE / width)
    for (point, color), x, to in zip(labelled, moved, wanted, strict=True):
        text = axes.annotate(
            shorten(point.label, _NAME),
            xy=(to, 1.0),
            xytext=(x, 1.06),
            xycoords="axes fraction",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=_SMALL,
            color=color,
            arrowprops=_leader(color, (0.5, 0)),
        )
        name_ticks(sheet, [text], [point.label])
        axes.axvline(point.place, color=color, alpha=0.2, lw=0.7, zorder=1)


def _label_right(sheet: Sheet, axes: Any, chart: Chart, height: float) -> None:
    """Write the labels to the right of the axes, with a line from each to its point."""
    labelled = _labelled(chart)
    wanted = [_share(axes, point)[1] for point, _ in labelled]
    moved = spread(wanted, gap=_LINE / height, low=0, high=1)
    last = axes.get_xlim()[1]
    for (point, color), y, to in zip(labelled, moved, wanted, strict=True):
        text = axes.annotate(
            shorten(point.label, _NAME),
            xy=(1.0, to),
            xytext=(1.07, y),
            xycoords="axes fraction",
            va="center",
            fontsize=_SMALL,
            color=color,
            arrowprops=_leader(color, (0, 0.5)),
        )
        name_ticks(sheet, [text], [point.label])
        axes.hlines(point.value, point.place, last, color=color, alpha=0.2, lw=0.7, zorder=1)


def _leader(color: str, begin: tuple[float, float]) -> dict[str, Any]:
    """Return the style of a line from a place on a name, as shares of it, to what it names."""
    thin = {"arrowstyle": "-", "color": color, "alpha": 0.45, "lw": 0.7}
    return {**thin, "relpos": begin, "shrinkA": 1, "shrinkB": 0}


def _rule_styles(chart: Chart) -> list[dict[str, Any]]:
    strong = iter(range(len(chart.rules)))
    return [
        {"color": NULL, "ls": ":", "lw": 1.0}
        if rule.faint
        else {"color": NULL, "ls": DASHES[next(strong) % len(DASHES)], "lw": 1.3}
        for rule in chart.rules
    ]


def _keys(chart: Chart) -> list[Any]:
    """Return what the legend explains."""
    keys: list[Any] = []
    for series in chart.series:
        color, marker, dashes = look_of(series.look)
        if series.name:
            keys.append(
                Line2D(
                    [],
                    [],
                    color=color,
                    marker=marker if series.mark == "point" else "none",
                    ls="none" if series.line == "none" else "--" if series.dashed else dashes,
                    lw=1.8,
                    ms=5,
                    label=shorten(series.name, 48),
                )
            )
    for rule, style in zip(chart.rules, _rule_styles(chart), strict=True):
        keys.append(Line2D([], [], **style, label=shorten(rule.name, 48)))
    if chart.ring and any(point.ringed for point in chart.points):
        ring: dict[str, Any] = {
            "ls": "none",
            "marker": "o",
            "mfc": "none",
            "mec": INK,
            "mew": 1.6,
            "ms": 10,
        }
        keys.append(Line2D([], [], **ring, label=chart.ring))
    if chart.interval and any(point.has_interval for point in chart.points):
        band = any(series.interval == "band" for series in chart.series)
        color = look_of(chart.series[0].look)[0] if band else INK
        keys.append(
            Patch(fc=color, alpha=0.2, lw=0, label=chart.interval)
            if band
            else Line2D([], [], color=color, alpha=0.6, lw=1.4, label=chart.interval)
        )
    return keys
