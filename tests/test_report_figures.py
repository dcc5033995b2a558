"""Figures as they look: one drawing for the page and for print, with the numbers it was given."""

from __future__ import annotations

import base64
import io
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extras import need
from histofast.report import (
    Answer,
    Figure,
    Matrix,
    Series,
    number,
    page,
    save_figure,
)
from report_figures import (
    BARS,
    DIAGONAL,
    FIGURES,
    FOREST,
    GRID,
    LINES,
    MATRIX,
    NAMES,
    SPEEDS,
    picture,
    points,
)

need("matplotlib", "jinja2")

from PIL import Image

from histofast.report.drawing import draw, images, panel_svg
from histofast.report.style import BLACK, VARIABLES, WHITE, range_of, spread

NAN = float("nan")
BASELINE = Path(__file__).resolve().parent / "baseline"
PANELS = {f"{n}{k}": p for n, figure in FIGURES.items() for k, p in enumerate(figure.panels)}


# --- Pictures ----------------------------------------------------------------------------------


def small(figure: Figure) -> Image.Image:
    """A figure at 50 dots per inch, in few colours."""
    whole = Image.open(io.BytesIO(images(figure, ["png"])[0])).convert("RGB")
    reduced = whole.resize((whole.width // 4, whole.height // 4), Image.Resampling.BOX)
    return reduced.quantize(64, dither=Image.Dither.NONE)


def difference(one: Image.Image, other: Image.Image) -> float:
    """How far two pictures are apart, 0..255: the mean over the 2 % of places that differ most.

    Letters move by a pixel or two between versions of matplotlib and FreeType; places of 12 px do
    not see much of that, but they see a line, a bar or a colour that is not there.
    """
    if any(abs(a - b) > 0.05 * b for a, b in zip(one.size, other.size, strict=True)):
        return 255.0
    places = (round(other.width / 12), round(other.height / 12))
    a, b = (
        np.asarray(p.convert("RGB").resize(places, Image.Resampling.BOX), float)
        for p in (one, other)
    )
    apart = np.sort(np.abs(a - b).mean(-1).ravel())
    return float(apart[-max(1, apart.size // 50) :].mean())


MOST = (
    21.0  # of `difference`; other hinting of the letters, or a shift by one pixel, gives up to 20
)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_look_as_they_did(name):
    path = BASELINE / f"{name}.png"
    assert path.stat().st_size < 40_000
    assert difference(small(FIGURES[name]), Image.open(path)) < MOST


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bars", lambda p: replace(p, series=(replace(p.series[0], points=p.points[:2]),))),
        ("depth", lambda p: replace(p, series=p.series[:1])),
        ("matrix", lambda p: replace(p, values=(p.values[1], *p.values[1:]))),
    ],
)
def test_what_is_missing_would_be_seen(name, change):
    first, *others = FIGURES[name].panels
    changed = replace(FIGURES[name], panels=(change(first), *others))
    assert difference(small(changed), Image.open(BASELINE / f"{name}.png")) > MOST


@pytest.mark.parametrize(("suffix", "head"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("SVG", b"<")])
@pytest.mark.parametrize("name", FIGURES)
def test_one_figure_is_the_same_bytes(name, suffix, head, tmp_path):
    path = tmp_path / f"f.{suffix}"
    save_figure(FIGURES[name], path)
    first = path.read_bytes()
    assert first.startswith(head)
    save_figure(FIGURES[name], path)
    assert path.read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_or_covered(name):
    sheet = draw(FIGURES[name])
    whole = sheet.box.transformed(sheet.figure.dpi_scale_trans)
    for axes in (axes for axes in sheet.figure.axes if axes.axison):
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            shown = [text for at, text in ticks if min(limits) <= at <= max(limits)]
            boxes = [text.get_window_extent() for text in shown if text.get_text()]
            assert all((b.min >= whole.min).all() and (b.max <= whole.max).all() for b in boxes)
            assert not any(a.padded(-1.5).overlaps(b.padded(-1.5)) for a, b in pairwise(boxes))
        boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
        assert all((box.min >= whole.min).all() and (box.max <= whole.max).all() for box in boxes)


def test_names_are_readable_at_60_by_60():
    names = tuple(f"denseblock3.denselayer{k}" for k in range(60))
    values = tuple(map(tuple, np.linspace(0, 1, 3600).reshape(60, 60).tolist()))
    matrix = replace(MATRIX, rows=names, columns=names, values=values, words={})
    axes = draw(Figure(name="large", panels=(matrix,))).figure.axes[0]
    for labels, side in ((axes.get_yticklabels(), "height"), (axes.get_xticklabels(), "width")):
        assert labels[0].get_fontsize() >= 7
        boxes = [label.get_window_extent() for label in labels]
        starts = sorted(box.y0 if side == "height" else box.x0 for box in boxes)
        assert min(np.diff(starts)) >= 0.85 * max(getattr(box, side) for box in boxes)
    assert not axes.texts  # cells are too small to be written in


def test_a_chart_draws_its_numbers():
    values, speeds = draw(FIGURES["depth"]).figure.axes
    lines = [line.get_xydata().tolist() for line in values.lines]
    for series in LINES.series:
        assert [[p.place, p.value] for p in series.points] in lines
    assert [[0.42, LINES.series[0].points[2].value]] in lines  # the ring
    assert {text.get_text() for text in values.texts} == {f"block{k}" for k in range(6)}
    labels = [text.get_text() for text in values.get_legend().get_texts()]
    assert labels == ["net0", "net1", *(r.name for r in LINES.rules), "95 % interval", "knee"]
    assert speeds.get_legend() is None  # all of it is explained above
    assert speeds.get_ylim()[0] == 0
    wide = replace(SPEEDS, series=(Series(name="", points=points([1.0, 100.0], half=NAN)),))
    assert draw(Figure(name="wide", panels=(wide,))).figure.axes[0].get_yscale() == "log"
    short = replace(LINES, values=replace(LINES.values, low=0.7, high=0.75), rules=())
    low, high = draw(Figure(name="short", panels=(short,))).figure.axes[0].get_ylim()
    assert low == min(p.low for p in LINES.points)  # nothing is left out
    assert high == max(p.high for p in LINES.points)
    forest, scatter = draw(FIGURES["networks"]).figure.axes
    assert [text.get_text() for text in forest.get_yticklabels()] == list(FOREST.places.names)
    assert forest.get_ylim() == (4.6, -0.6)
    assert scatter.get_xscale() == "log"


def test_a_matrix_of_differences_has_signs_and_parts_at_its_middle():
    differences = Matrix(
        rows=("a", "b"),
        columns=("x", "y"),
        values=((0.1, -0.1), (0.004, 0.0)),
        low=-0.1,
        high=0.1,
        form="difference",
        alt="differences",
    )
    heat = draw(Figure(name="differences", panels=(differences,))).figure.axes[0]
    assert [text.get_text() for text in heat.texts] == ["+0.10", "-0.10", "0.00", "0.00"]
    ((above, below, _, middle),) = [c.get_facecolor() for c in heat.collections]
    assert above[2] > above[0]  # blue
    assert below[0] > below[2]  # red
    assert min(middle[:3]) > 0.9
    assert [text.get_color() for text in heat.texts] == [WHITE, WHITE, BLACK, BLACK]
    titles = titles_of(panel_svg(differences, name="x"))
    assert "a / x: +0.100" in titles
    assert "a / y: -0.100" in titles


def test_a_matrix_draws_its_numbers():
    heat, _, lines = draw(FIGURES["matrix"]).figure.axes
    assert [text.get_text() for text in heat.get_xticklabels()] == ["a", "b", "$c$"]
    assert heat.get_yticklabels()[2].get_text() == "backbone.stage…tion.projection"
    written = [text.get_text() for text in heat.texts]
    assert written == [
        "0.98",
        "0.20",
        "0.31",
        "0.30",
        "-0.04",
        "0.50",
        "0.10",
        "0.60",
        "0.70",
        "1.00",
    ]
    explained = [text.get_text() for text in heat.get_legend().get_texts()]
    assert explained == ["the same", "not compared"]
    assert [text.get_text() for text in lines.texts] == ["undefined"]
    np.testing.assert_array_equal(lines.lines[0].get_ydata(), [0.98, 0.7, NAN, 0.4])


# --- SVG of a page -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PANELS)
def test_svg_is_of_the_page(name):
    panel = PANELS[name]
    svg = panel_svg(panel, name=name)
    assert svg == panel_svg(panel, name=name)
    root = ET.fromstring(svg)
    assert root.tag == "svg"
    assert (root.get("role"), root.get("aria-label")) == ("img", panel.alt)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert all(identity.startswith(f"{name}-") for identity in ids)
    assert len(set(ids)) == len(ids)
    used = set(re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)\"", svg))
    assert {a or b for a, b in used} == set(ids)
    assert not re.search(r"http|//|DejaVu|<style|@import", re.sub(r"data:[^\"]*", "", svg))
    for color in VARIABLES:
        assert color not in svg
    assert {"--ink", "--line"} & set(re.findall(r"var\((--\w+)\)", svg)) or "picture" in name


def texts_of(svg):
    return [element.text for element in ET.fromstring(svg).iter("text")]


def titles_of(svg):
    return [element.text for element in ET.fromstring(svg).iter("title")]


def test_svg_has_text_as_text_and_says_what_it_points_at():
    svg = panel_svg(LINES, name="x")
    assert {"AUROC", "depth", "knee", "chance", "block0", "20 %"} <= set(texts_of(svg))
    marks = [f"net{k} block{i}" for k in range(2) for i in range(6)]
    assert sorted(title for title in titles_of(svg) if title.startswith("net")) == marks
    assert {"mean pooling: 0.700", "chance"} <= set(titles_of(svg))
    assert svg.count('class="ring"') == 1
    assert titles_of(panel_svg(BARS, name="x")) == ["bar 0", "bar 1", "bar 2"]
    titles = titles_of(panel_svg(MATRIX, name="x"))
    for i, row in enumerate(NAMES):
        for j, column in enumerate("ab"):
            value = MATRIX.values[i][j]
            said = "not compared" if math.isnan(value) else number(value)
            assert f"{row} / {column}: {said}" in titles
    assert f"{NAMES[2]} / $c$: undefined" in titles
    assert NAMES[2] in titles  # a name that was shortened
    assert "data:image/png;base64," in panel_svg(picture(), name="x")


def test_pictures_of_a_grid_keep_their_own_pixels_and_say_what_they_are():
    svg = panel_svg(GRID, name="x")
    assert titles_of(svg) == ["found", *(f"p{k}: 0.{k}" for k in range(9))]
    held = re.findall(r"data:image/png;base64,\s*([^\"]+)", svg)
    sizes = [Image.open(io.BytesIO(base64.b64decode(text))).size for text in held]
    assert sizes == [(32, 32)] + [(8, 8)] * 9


def test_colours_and_letters_are_the_style_sheets():
    svg = panel_svg(DIAGONAL, name="x")
    assert {"--s0", "--null", "--random", "--ink", "--line", "--hatch", "--paper"} <= set(
        re.findall(r"var\((--\w+)\)", svg)
    )
    style = page(Answer(name="a", title="", findings=()))
    for variable in VARIABLES.values():
        assert style.count(f" {variable}: #") == 2  # in light and in dark
    assert "prefers-color-scheme: dark" in style


# --- Scales ------------------------------------------------------------------------------------


@given(wanted=st.lists(st.floats(0, 1), max_size=20), gap=st.floats(0.001, 0.2))
def test_names_are_spread(wanted, gap):
    moved = spread(wanted, gap=gap, low=0, high=1)
    assert all(-1e-9 <= position <= 1 + 1e-9 for position in moved)
    least = min(gap, 1 / max(len(wanted) - 1, 1))
    ordered = sorted(moved)
    assert all(b - a >= least - 1e-9 for a, b in pairwise(ordered))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert [moved[i] for i in order] == pytest.approx(ordered)
    if all(b - a >= gap for a, b in pairwise(sorted(wanted))):
        assert moved == pytest.approx(wanted)


def test_range():
    assert range_of([0.9, 1.0]) == pytest.approx((0.88, 1.0))
    assert range_of([-1.0, NAN, 1.0]) == pytest.approx((-1.12, 1.12))
    assert range_of([]) == (0.0, 1.0)
