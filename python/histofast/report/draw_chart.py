"""Values at places: axes, lines, intervals, names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from histofast.report.charts import Axis, Chart, Point, Series
from histofast.report.sheet import SMALL, Sheet
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

_WIDTH, _HEIGHT, _NARROW, _MAP = 4.7, 2.8, 3.4, 4.2  # inches
_LINE = 0.17  # of a line of letters
_PER_NAME, _MOST_PER_NAME, _PER_ROW = 0.15, 0.7, 0.27
_NAME, _KEY = 24, 48  # letters of a label beside the chart, and in the legend
_POINTS: dict[str, dict[str, Any]] = {
    "point": {"ms": 5},
    "dot": {"ms": 3.5, "mew": 0, "alpha": 0.7},
}
_RING: dict[str, Any] = {"ls": "none", "marker": "o", "mfc": "none", "mec": INK, "mew": 1.6}


def draw_chart(sheet: Sheet, chart: Chart) -> None:
    """Draw a chart as a new panel of a sheet."""
    width, height = _size(chart)
    axes = sheet.axes(width, height)
    _frame(axes, chart)
    keys = [
        key
        for k, series in enumerate(chart.series)
        for key in _draw_series(sheet, axes, chart, series, zorder=4 - k / 100)
    ]
    keys += _draw_rules(sheet, axes, chart)
    keys += _draw_intervals(axes, chart)
    if chart.ring and any(point.ringed for point in chart.points):
        keys.append(Line2D([], [], ms=10, label=chart.ring, **_RING))
    _draw_blanks(axes, chart)
    if chart.labels == "above":
        _label_above(sheet, axes, chart, width)
    elif chart.labels == "right":
        _label_right(sheet, axes, chart, height)
    if chart.places.names:
        side, longest = ("y", LONGEST) if chart.sideways else ("x", 2 * LONGEST)
        sheet.name_ticks(axes, side, chart.places.names, longest=longest)
    sheet.explain(axes, keys)


def _size(chart: Chart) -> tuple[float, float]:
    if chart.is_map:
        return _MAP, _MAP
    n, labels = len(chart.places.names), sum(bool(point.label) for point in chart.points)
    if chart.sideways:
        return (_NARROW if n else _WIDTH), max(_PER_ROW * n, 1.2)
    if n:
        return max(_PER_NAME * n, min(_WIDTH, _MOST_PER_NAME * n), 2.4), _HEIGHT
    if chart.labels == "right":
        return 3.4, max(_HEIGHT, _LINE * labels)
    return max(_WIDTH, _LINE * labels if chart.labels == "above" else 0.0), _HEIGHT


def _across(chart: Chart, place: Any, value: Any) -> tuple[Any, Any]:
    return (value, place) if chart.sideways else (place, value)


# --- Axes --------------------------------------------------------------------------------------


def _frame(axes: Any, chart: Chart) -> None:
    if chart.is_map:
        _frame_map(axes, chart)
        return
    of_place, of_value = ("y", "x") if chart.sideways else ("x", "y")
    points, n = chart.points, len(chart.places.names)
    values = [v for p in points for v in (p.value, p.low, p.high)]
    values += [rule.value for rule in chart.rules]
    values += [0.0] if any(series.mark == "bar" for series in chart.series) else []
    _scale(axes, of_value, chart.values, values)
    if n:
        axes.set(**{f"{of_place}lim": (n - 0.4, -0.6) if chart.sideways else (-0.5, n - 0.5)})
        axes.spines["left"].set_visible(not chart.sideways)
    else:
        _scale(axes, of_place, chart.places, [point.place for point in points])
    if any(point.note for point in points):
        axes.set_xlim(right=axes.get_xlim()[1] * 1.5)  # room for the notes
    axes.grid(axis=of_value, color=FAINT, lw=0.8)
    for separator in chart.separators:
        (axes.axhline if chart.sideways else axes.axvline)(separator, color=FAINT, lw=0.8)


def _frame_map(axes: Any, chart: Chart) -> None:
    """Give both sides one scale, and no numbers."""
    places = [p.place for p in chart.points] or [0.0]
    values = [p.value for p in chart.points] or [0.0]
    half = 0.53 * max(max(places) - min(places), max(values) - min(values), 1e-9)
    for side, axis, drawn in (("x", chart.places, places), ("y", chart.values, values)):
        middle = (max(drawn) + min(drawn)) / 2
        axes.set(**{f"{side}lim": (middle - half, middle + half), f"{side}ticks": []})
        getattr(axes, f"set_{side}label")(axis.label, fontsize=10, color=INK)


def _scale(axes: Any, side: str, axis: Axis, drawn: Sequence[float]) -> None:
    known = [value for value in drawn if not math.isnan(value)] or [0.0, 1.0]
    log = min(known) > 0 and (
        axis.scale == "log" or (axis.scale == "auto" and max(known) > LOG_FROM * min(known))
    )
    of_side = getattr(axes, f"{side}axis")
    if log:
        low, high = min(known) / 1.4, max(known) * 1.4
        axes.set(**{f"{side}scale": "log"})
        of_side.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1e3 * low else (1.0,)))
        of_side.set_minor_formatter(NullFormatter())
        of_side.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,g}"))
    else:
        low, high = (0.0, 1.08 * max(known)) if axis.scale == "auto" else range_of(known)
        of_side.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=axis.form == "whole"))
    if axis.form == "share":
        of_side.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    low = low if axis.low is None else min(axis.low, *known)
    high = high if axis.high is None else max(axis.high, *known)
    axes.set(**{f"{side}lim": (low, high)})
    label = f"{axis.label}, logarithmic" if log and axis.label else axis.label
    getattr(axes, f"set_{side}label")(label, fontsize=10, color=INK)


# --- Values ------------------------------------------------------------------------------------


def _draw_series(
    sheet: Sheet, axes: Any, chart: Chart, series: Series, *, zorder: float
) -> list[Any]:
    """Draw line and points of a series, and return what the legend explains of them."""
    color, marker, dashes = look_of(series.look)
    if series.mark == "bar":
        _draw_bars(sheet, axes, chart, series, color=color)
        return []
    shown = [point for point in series.points if point.is_defined]
    pointed = series.mark in _POINTS or len(shown) == 1  # one point has no line
    drawn = axes.plot(
        *_across(chart, [p.place for p in series.points], [p.value for p in series.points]),
        ls="none" if series.line == "none" else "--" if series.dashed else dashes,
        drawstyle="steps-post" if series.line == "steps" else "default",
        marker=marker if pointed else "none",
        color=color,
        lw=1.8,
        **_POINTS.get(series.mark, _POINTS["point"]),
        zorder=zorder,
        clip_on=False,
        gid=sheet.group("line", [point.tip for point in shown] if pointed else ()),
        label=shorten(series.name, _KEY),
    )
    for point in (point for point in shown if point.ringed):
        at = _across(chart, [point.place], [point.value])
        axes.plot(*at, ms=12, zorder=5, clip_on=False, gid=sheet.group("ring"), **_RING)
    return drawn if series.name else []


def _draw_rules(sheet: Sheet, axes: Any, chart: Chart) -> list[Any]:
    draw, strong, drawn = axes.axvline if chart.sideways else axes.axhline, 0, []
    for rule in chart.rules:
        style: dict[str, Any] = {"ls": ":", "lw": 1.0}
        if not rule.faint:
            style = {"ls": DASHES[strong % len(DASHES)], "lw": 1.3}
            strong += 1
        group = sheet.group("rule", [rule.tip or rule.name])
        label = shorten(rule.name, _KEY)
        drawn.append(draw(rule.value, color=NULL, zorder=2, gid=group, label=label, **style))
    return drawn


def _draw_intervals(axes: Any, chart: Chart) -> list[Any]:
    """Draw the intervals of all series, and return one for the legend."""
    draw, drawn = axes.hlines if chart.sideways else axes.vlines, []
    for series in chart.series:
        color, ends = look_of(series.look)[0], [p for p in series.points if p.has_interval]
        if ends:
            places, lows, highs = zip(*((p.place, p.low, p.high) for p in ends), strict=True)
            style = {"color": color, "alpha": 0.6, "lw": 1.4, "zorder": 3}
            drawn.append(draw(places, lows, highs, label=chart.interval, **style))
        if ends and series.interval == "band":
            known = [(p.low, p.high) if p.has_interval else (math.nan,) * 2 for p in series.points]
            style = {"color": color, "alpha": 0.2, "lw": 0, "zorder": 2.9}
            along = [point.place for point in series.points]
            band = axes.fill_between(along, *zip(*known, strict=True), **style)
            band.set_label(chart.interval)
            drawn.insert(0, band)
    return drawn[:1] if chart.interval else []


def _draw_bars(sheet: Sheet, axes: Any, chart: Chart, series: Series, *, color: str) -> None:
    draw = axes.barh if chart.sideways else axes.bar
    beside: dict[str, Any] = {"xytext": (0, 5), "ha": "center", "va": "bottom"}
    if chart.sideways:
        beside = {"xytext": (5, 0), "ha": "left", "va": "center"}
    for point in (point for point in series.points if point.is_defined):
        (bar,) = draw([point.place], [point.value], 0.62, color=color)
        bar.set_gid(sheet.group("bar", [point.tip]))
        at = _across(chart, point.place, point.value)
        style = {"textcoords": "offset points", "fontsize": SMALL, "color": INK}
        axes.annotate(point.note, at, **beside, **style)


def _draw_blanks(axes: Any, chart: Chart) -> None:
    span, to = axes.axvspan, axes.get_xaxis_transform()
    if chart.sideways:
        span, to = axes.axhspan, axes.get_yaxis_transform()
    look = {"fontsize": 8, "color": INK, "zorder": 5, "ha": "center", "va": "center"}
    for k in chart.blanks:
        span(k - 0.5, k + 0.5, fc="none", ec=HATCH, hatch="////", lw=0, zorder=1)
        box = {"fc": PAPER, "ec": "none", "pad": 1.2}
        turn = 0 if chart.sideways else 90
        axes.text(
            *_across(chart, k, 0.5), "undefined", transform=to, rotation=turn, bbox=box, **look
        )


# --- Labels ------------------------------------------------------------------------------------


def _labelled(axes: Any, chart: Chart) -> list[tuple[Point, str, float, float]]:
    """Return the points with a label, their colours, and where they are in shares of the axes."""
    into = axes.transData + axes.transAxes.inverted()
    return [
        (point, look_of(series.look)[0], *into.transform((point.place, point.value)).tolist())
        for series in chart.series
        for point in series.points
        if point.label and point.is_defined
    ]


def _label_above(sheet: Sheet, axes: Any, chart: Chart, width: float) -> None:
    """Write the labels above the axes, with a line from each down to its place."""
    labelled = _labelled(axes, chart)
    gap = _LINE / width
    moved = spread([x for _, _, x, _ in labelled], gap=gap, low=0, high=1 + gap)
    look = {"rotation": 90, "ha": "center", "va": "bottom"}
    for (point, color, x, _), to in zip(labelled, moved, strict=True):
        _write_label(sheet, axes, point, color, at=(x, 1.0), to=(to, 1.06), leave=(0.5, 0), **look)
        axes.axvline(point.place, color=color, alpha=0.2, lw=0.7, zorder=1)


def _label_right(sheet: Sheet, axes: Any, chart: Chart, height: float) -> None:
    """Write the labels to the right of the axes, with a line from each to its point."""
    labelled = _labelled(axes, chart)
    moved = spread([y for _, _, _, y in labelled], gap=_LINE / height, low=0, high=1)
    last = axes.get_xlim()[1]
    for (point, color, _, y), to in zip(labelled, moved, strict=True):
        _write_label(
            sheet, axes, point, color, at=(1.0, y), to=(1.07, to), leave=(0, 0.5), va="center"
        )
        axes.hlines(point.value, point.place, last, color=color, alpha=0.2, lw=0.7, zorder=1)


def _write_label(
    sheet: Sheet,
    axes: Any,
    point: Point,
    color: str,
    *,
    at: tuple[float, float],
    to: tuple[float, float],
    leave: tuple[float, float],
    **look: Any,
) -> None:
    """Write a label at `to`, with a line that leaves it at a share of its box and ends `at`."""
    line = {"arrowstyle": "-", "color": color, "alpha": 0.45, "lw": 0.7, "relpos": leave}
    text = axes.annotate(
        shorten(point.label, _NAME),
        xy=at,
        xytext=to,
        xycoords="axes fraction",
        **{"fontsize": SMALL, "color": color, **look},
        arrowprops={**line, "shrinkA": 1, "shrinkB": 0},
    )
    sheet.name(text, point.label)
