"""A study as one HTML page that needs nothing beside itself.

Positions are CSS pixels at full size; the page shrinks the charts on narrow screens, and lets them
scroll where letters would become too small to read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from histofast import _core
from histofast.report.findings import count, number, percent
from histofast.report.pages import data_url, render, undash
from histofast.report.scales import log_ticks, range_of, spread, ticks
from histofast.report.study_types import Study, StudyRow
from histofast.report.study_wording import (
    chosen_word,
    describe_study,
    finding_of,
    in_order,
    megabytes,
    noun_of,
    signed,
    speed,
    study_basis,
)
from histofast.report.style import LOG_FROM, SERIES, SHAPES, shorten

_FONT, _LEAST_FONT = 12.0, 8.0  # px; below the least a drawing scrolls instead of shrinking
_NAME = 24  # letters of a name beside a chart
_LETTER = 0.6 * _FONT
_PLOT_WIDTH, _PLOT_HEIGHT = 410.0, 250.0


def study_page(
    study: Study,
    *,
    figures: Mapping[str, str] | None = None,
    links: Mapping[str, str] | None = None,
) -> str:
    """Return an HTML page that shows all of a study, and says in words what it found.

    The page opens offline and holds the numbers as JSON and CSV to download. The same study gives
    the same page.

    Args:
        study: what to show. Its charts are drawn by the page itself.
        figures: further pictures by their captions: SVG text, or data:image/png;base64 addresses.
        links: places to read on by their names: paths relative to the page, or web addresses.

    Raises:
        ValueError: a figure that is neither, a link to anything else.
    """
    rows = in_order(study)
    return render(
        "study.html",
        s=study,
        noun=noun_of(study, 1),
        knee=chosen_word(study),
        basis=study_basis(study),
        findings=describe_study(study),
        charts=_charts(study),
        rows=[_cells(study, row) for row in rows],
        extras=[undash(name) for name in study.extras],
        has={
            "depth": any(row.depth is not None for row in study.candidates),
            "versus": any(row.versus_best is not None for row in rows),
        },
        confidence=percent(study.confidence),
        figures=[(text, _picture(text, data)) for text, data in (figures or {}).items()],
        links=[(text, _address(text, to)) for text, to in (links or {}).items()],
        convention=[(undash(key), value) for key, value in study.convention.items()],
        version=_core.version,
        json_url=data_url("application/json", study.to_json()),
        csv_url=data_url("text/csv", study.to_csv()),
    )


def _picture(caption: str, data: str) -> str:
    """Return an address for an img, in which nothing of an SVG can run."""
    if re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=\s]+", data):
        return data
    if re.match(r"\s*<(\?xml|!DOCTYPE svg|svg)\b", data):
        return data_url("image/svg+xml", data)
    got = data if len(data) <= 40 else f"{data[:40]}…"
    raise ValueError(
        f"figures[{caption!r}] must be SVG text or a data:image/png;base64 address, got {got!r}"
    )


def _address(name: str, to: str) -> str:
    if re.fullmatch(r"https?://[^\s]+|[\w.#][^:\\\s]*", to):
        return to
    raise ValueError(f"links[{name!r}] must be a relative path or a web address, got {to!r}")


# --- The table ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cells:
    """A row of the table, in words; `what` is the network and layer where the name lacks them."""

    kind: str
    name: str
    what: str
    depth: str
    d: int
    value: str
    interval: str
    difference: str
    speed: str
    size: str
    extra: list[str]
    finding: str
    notes: str


def _cells(study: Study, row: StudyRow) -> _Cells:
    versus = row.versus_best
    difference = ""
    if versus is not None and math.isnan(versus.difference):
        difference = "— undefined"
    elif versus is not None:
        difference = signed(versus.difference)
        if not math.isnan(versus.low + versus.high):
            difference += f" ({signed(versus.low)} to {signed(versus.high)})"
    elif row is not study.best:
        difference = "— not compared"
    interval = f"{number(row.low)} to {number(row.high)}" if row.has_interval else "— none"
    kind = "baseline" if row.baseline else "chosen" if row.chosen else ""
    return _Cells(
        kind=kind,
        name=row.name,
        what=", ".join(text for text in (row.network, row.layer) if text not in row.name),
        depth="— not known" if row.depth is None else f"{100 * row.depth:.0f} %",
        d=row.d,
        value=_defined(row.value),
        interval=interval,
        difference=difference,
        speed="— not measured" if row.patches_per_s is None else speed(row.patches_per_s),
        size="— not known" if row.size_bytes is None else megabytes(row.size_bytes),
        extra=[
            _defined(row.extra[name]) if name in row.extra else "— not measured"
            for name in study.extras
        ],
        finding=finding_of(study, row),
        notes=row.notes,
    )


def _defined(value: float) -> str:
    return "— undefined" if math.isnan(value) else number(value)


# --- Charts ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    """Values of an axis to positions on the page."""

    low: float
    high: float
    start: float
    end: float
    marks: list[tuple[float, str]]
    log: bool = False

    def at(self, value: float) -> float:
        low, high = (math.log(v) if self.log else v for v in (self.low, self.high))
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Point:
    x: float
    y: float
    title: str
    chosen: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Series:
    """Points of one colour and shape, the lines between them, and their intervals as x, y, x, y."""

    kind: str
    shape: str
    name: str
    line: str
    points: list[_Point]
    whiskers: list[tuple[float, float, float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    """A baseline, or chance, across the whole chart."""

    kind: str
    name: str
    position: float
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Name:
    """A name beside the chart, and the line from there to its point."""

    kind: str
    x: float
    y: float
    text: str
    full: str
    leader: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chart:
    heading: str
    caption: str
    width: float
    height: float
    x: _Scale
    y: _Scale
    x_label: str
    y_label: str
    series: list[_Series]
    alt: str
    rules: list[_Rule] = field(default_factory=list)
    rules_upright: bool = False
    names: list[_Name] = field(default_factory=list)
    names_upright: bool = False
    separator: float | None = None
    font: float = _FONT

    @property
    def least_width(self) -> float:
        return self.width * _LEAST_FONT / self.font


def _charts(study: Study) -> list[_Chart]:
    if study.best is None:
        return []
    if study.kind == "networks":
        return [_forest(study), *_value_by_speed(study)]
    rows = [row for row in study.candidates if row.depth is not None]
    return [*_value_by_depth(study, rows), *_speed_by_depth(study, rows)]


def _kind_of(study: Study, row: StudyRow) -> int:
    return study.networks.index(row.network) % len(SERIES)


def _value_scale(
    study: Study, rows: Iterable[StudyRow], *, start: float, end: float, most: int = 6
) -> _Scale:
    drawn = [
        value
        for row in rows
        for value in (row.value, row.low, row.high)
        if row.is_defined and not math.isnan(value)
    ]
    low, high = range_of([*drawn, *([] if study.chance is None else [study.chance])])
    found = ticks(low, high, most=most)
    digits = max(2, *(len(f"{tick:.6f}".rstrip("0").partition(".")[2]) for tick in found))
    marks = [(tick, f"{tick:.{digits}f}") for tick in found]
    return _Scale(low=low, high=high, start=start, end=end, marks=marks)


def _speed_scale(speeds: Sequence[float], *, start: float, end: float, most: int = 6) -> _Scale:
    log = max(speeds) > LOG_FROM * min(speeds)
    low, high = (min(speeds) / 1.4, max(speeds) * 1.4) if log else (0.0, 1.08 * max(speeds))
    found = log_ticks(low, high) if log else ticks(low, high, most=most)
    if len(found) > 7:
        found = tuple(tick for tick in found if f"{tick:e}".startswith("1"))
    marks = [(tick, f"{tick:,g}") for tick in found]
    return _Scale(low=low, high=high, start=start, end=end, marks=marks, log=log)


def _depth_scale(left: float) -> _Scale:
    marks = [(k / 5, f"{20 * k} %") for k in range(6)]
    return _Scale(low=0, high=1, start=left, end=left + _PLOT_WIDTH, marks=marks)


def _title(study: Study, row: StudyRow) -> str:
    if not row.is_defined:
        return f"{row.name}: undefined"
    text = f"{row.name}: {study.metric} {number(row.value)}"
    return f"{text} ({number(row.low)} to {number(row.high)})" if row.has_interval else text


def _rules(study: Study, rows: Iterable[StudyRow], scale: _Scale) -> list[_Rule]:
    """Return what is drawn across the chart: baselines without a place of their own, and chance."""
    rules = [
        _Rule(
            kind=f"rule{k % 3}",
            name=f"baseline: {row.name}",
            position=scale.at(row.value),
            title=_title(study, row),
        )
        for k, row in enumerate(row for row in rows if row.is_defined)
    ]
    if study.chance is not None:
        said = f"chance: {number(study.chance)}"
        rules.append(
            _Rule(kind="chance", name="chance", position=scale.at(study.chance), title=said)
        )
    return rules


def _by_depth(
    study: Study,
    rows: Sequence[StudyRow],
    *,
    x: _Scale,
    y: _Scale,
    value: Callable[[StudyRow], float | None],
    title: Callable[[StudyRow], str],
    whiskers: bool,
) -> list[_Series]:
    """Return one line per network, broken where a cut has no value."""
    series = []
    for network in study.networks:
        of_one = sorted((r for r in rows if r.network == network), key=lambda r: r.depth or 0.0)
        path, points, bars, pen = [], [], [], "M"
        for row in of_one:
            drawn = value(row)
            if drawn is None or row.depth is None:
                pen = "M"
                continue
            px, py = x.at(row.depth), y.at(drawn)
            path.append(f"{pen}{px:.1f} {py:.1f}")
            pen = "L"
            points.append(_Point(x=px, y=py, title=title(row), chosen=row.chosen))
            if whiskers and row.has_interval:
                bars.append((px, y.at(row.low), px, y.at(row.high)))
        k = study.networks.index(network) % len(SERIES)
        if points:
            series.append(
                _Series(
                    kind=f"s{k}",
                    shape=SHAPES[k % len(SHAPES)],
                    name=network,
                    line="".join(path),
                    points=points,
                    whiskers=bars,
                )
            )
    return series


def _names_above(
    study: Study, rows: Sequence[StudyRow], x: _Scale, top: float, ends: Callable[[StudyRow], float]
) -> tuple[list[_Name], float]:
    """Return the layers' names above the chart, and their font."""
    gap = _FONT * 1.12
    last = x.end + gap
    font = _FONT * min(1.0, (last - x.start) / max(len(rows) - 1, 1) / gap)
    wanted = [x.at(row.depth or 0.0) for row in rows]
    moved = spread(wanted, gap=gap, low=x.start, high=last)
    names = [
        _Name(
            kind=f"s{_kind_of(study, row)}",
            x=px,
            y=top - 18,
            text=shorten(row.layer, _NAME),
            full=row.name,
            leader=f"M{px:.1f} {top - 14:.1f}L{at:.1f} {top - 2:.1f}V{ends(row):.1f}",
        )
        for row, at, px in zip(rows, wanted, moved, strict=True)
    ]
    return names, font


def _by_depth_frame(rows: Sequence[StudyRow]) -> tuple[float, float, float]:
    """Return the left, the top and the bottom of a chart with names above it."""
    top = 24.0 + _LETTER * max(len(shorten(row.layer, _NAME)) for row in rows)
    return 66.0, top, top + _PLOT_HEIGHT


def _value_by_depth(study: Study, rows: Sequence[StudyRow]) -> list[_Chart]:
    rows = [row for row in rows if row.is_defined]
    if not rows:
        return []
    left, top, bottom = _by_depth_frame(rows)
    x = _depth_scale(left)
    y = _value_scale(study, [*rows, *study.baselines], start=bottom, end=top)
    names, font = _names_above(study, rows, x, top, lambda row: y.at(row.value))
    bars = any(row.has_interval for row in rows)
    return [
        _Chart(
            heading=f"{study.metric} against depth",
            caption="From pixels to the end."
            + (f" Bars: {percent(study.confidence)} interval." if bars else ""),
            width=x.end + 24,
            height=bottom + 46,
            x=x,
            y=y,
            x_label="depth: share of the network's operations",
            y_label=study.metric,
            series=_by_depth(
                study,
                rows,
                x=x,
                y=y,
                value=lambda row: row.value,
                title=lambda row: _title(study, row),
                whiskers=True,
            ),
            rules=_rules(study, study.baselines, y),
            names=names,
            names_upright=True,
            font=font,
            alt=f"Chart of {study.metric} at {count(len(rows), 'cut', 'cuts')} against depth. The "
            "table below it has the numbers.",
        )
    ]


def _speed_by_depth(study: Study, rows: Sequence[StudyRow]) -> list[_Chart]:
    rows = [row for row in rows if row.patches_per_s is not None]
    if not rows:
        return []
    left, top, bottom = _by_depth_frame(rows)
    x = _depth_scale(left)
    speeds = {row.name: row.patches_per_s or 0.0 for row in rows}
    y = _speed_scale([*speeds.values()], start=bottom, end=top)
    names, font = _names_above(study, rows, x, top, lambda row: y.at(speeds[row.name]))
    return [
        _Chart(
            heading="Speed against depth",
            caption="Measured, not counted: patches per second up to each cut."
            + (" Logarithmic scale." if y.log else ""),
            width=x.end + 24,
            height=bottom + 46,
            x=x,
            y=y,
            x_label="depth: share of the network's operations",
            y_label="patches per second",
            series=_by_depth(
                study,
                rows,
                x=x,
                y=y,
                value=lambda row: row.patches_per_s,
                title=lambda row: f"{row.name}: {speed(speeds[row.name])} patches/s",
                whiskers=False,
            ),
            names=names,
            names_upright=True,
            font=font,
            alt=f"Chart of patches per second at {count(len(rows), 'cut', 'cuts')} against depth. "
            "The table below it has the numbers.",
        )
    ]


def _groups(rows: Sequence[StudyRow]) -> list[tuple[str, str, str, list[StudyRow]]]:
    """Return candidates and baselines as (kind, shape, name, rows)."""
    groups = [
        ("value", "circle", "networks", [row for row in rows if not row.baseline]),
        ("baseline", "square", "baselines", [row for row in rows if row.baseline]),
    ]
    return [group for group in groups if group[3]]


def _forest(study: Study) -> _Chart:
    rows, step, top = in_order(study), 24.0, 8.0
    longest = max(len(shorten(row.name)) for row in rows)
    left = 14.0 + _LETTER * longest
    width = max(_PLOT_WIDTH - left, 240.0)
    bottom = top + step * len(rows)
    x = _value_scale(study, rows, start=left, end=left + width, most=5)
    places = {row.name: top + (i + 0.5) * step for i, row in enumerate(rows)}
    y = _Scale(low=0, high=1, start=bottom, end=top, marks=[])
    series = [
        _Series(
            kind=kind,
            shape=shape,
            name=name,
            line="",
            points=[
                _Point(
                    x=x.at(row.value),
                    y=places[row.name],
                    title=_title(study, row),
                    chosen=row.chosen,
                )
                for row in group
                if row.is_defined
            ],
            whiskers=[
                (x.at(row.low), places[row.name], x.at(row.high), places[row.name])
                for row in group
                if row.has_interval
            ],
        )
        for kind, shape, name, group in _groups(rows)
    ]
    candidates = len(study.candidates)
    return _Chart(
        heading="From the best on",
        caption=f"Bars: {percent(study.confidence)} interval."
        if any(s.whiskers for s in series)
        else "",
        width=x.end + 16,
        height=bottom + 46,
        x=x,
        y=y,
        x_label=study.metric,
        y_label="",
        series=series,
        rules=_rules(study, [], x),
        rules_upright=True,
        names=[
            _Name(
                kind="baseline" if row.baseline else "value",
                x=left - 8,
                y=places[row.name],
                text=shorten(row.name) + ("" if row.is_defined else " (undefined)"),
                full=row.name,
                leader="",
            )
            for row in rows
        ],
        separator=top + step * candidates if 0 < candidates < len(rows) else None,
        alt=f"Chart of {study.metric} of {count(len(rows), 'row', 'rows')} with intervals. The "
        "table below it has the numbers.",
    )


def _value_by_speed(study: Study) -> list[_Chart]:
    rows = [row for row in in_order(study) if row.is_defined and row.patches_per_s is not None]
    if not rows:
        return []
    left, top = 56.0, 10.0
    bottom = top + max(_PLOT_HEIGHT, 17.0 * len(rows))
    longest = max(len(shorten(row.name, _NAME)) for row in rows)
    margin = 30.0 + _LETTER * longest
    right = left + 276.0
    speeds = {row.name: row.patches_per_s or 0.0 for row in rows}
    rest = [row for row in study.baselines if row.patches_per_s is None]
    x = _speed_scale([*speeds.values()], start=left, end=right, most=5)
    y = _value_scale(study, [*rows, *rest], start=bottom, end=top)
    wanted = [y.at(row.value) for row in rows]
    moved = spread(wanted, gap=15.0, low=top + 6, high=bottom - 6)
    return [
        _Chart(
            heading=f"{study.metric} against speed",
            caption=f"{'Up' if study.higher_is_better else 'Down'} and to the right is better.",
            width=right + margin,
            height=bottom + 46,
            x=x,
            y=y,
            x_label="patches per second" + (", logarithmic" if x.log else ""),
            y_label=study.metric,
            series=[
                _Series(
                    kind=kind,
                    shape=shape,
                    name=name,
                    line="",
                    points=[
                        _Point(
                            x=x.at(speeds[row.name]),
                            y=y.at(row.value),
                            title=f"{_title(study, row)}, {speed(speeds[row.name])} patches/s",
                            chosen=row.chosen,
                        )
                        for row in group
                    ],
                    whiskers=[
                        (
                            x.at(speeds[row.name]),
                            y.at(row.low),
                            x.at(speeds[row.name]),
                            y.at(row.high),
                        )
                        for row in group
                        if row.has_interval
                    ],
                )
                for kind, shape, name, group in _groups(rows)
            ],
            rules=_rules(study, rest, y),
            names=[
                _Name(
                    kind="baseline" if row.baseline else "value",
                    x=right + 24,
                    y=py,
                    text=shorten(row.name, _NAME),
                    full=row.name,
                    leader=f"M{right + 20:.1f} {py:.1f}L{right + 4:.1f} {at:.1f}"
                    f"H{x.at(speeds[row.name]):.1f}",
                )
                for row, at, py in zip(rows, wanted, moved, strict=True)
            ],
            alt=f"Chart of {study.metric} against patches per second. The table below it has the "
            "numbers.",
        )
    ]
