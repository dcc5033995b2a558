"""What a report shows: figures are drawn once for page and print, pages need nothing beside them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
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
    Axis,
    Chart,
    Column,
    Figure,
    Matrix,
    Point,
    Rule,
    Series,
    Table,
    curves,
    number,
    page,
    percent,
    pixels_of,
    round_number,
    save,
    save_figure,
    signed,
    size,
)
from histofast.report.style import range_of, spread
from page_reader import PageReader, decoded
from report_figures import (
    BARS,
    DIAGONAL,
    FIGURES,
    FOREST,
    LINES,
    MATRIX,
    NAMES,
    SPEEDS,
    log,
    picture,
    points,
)

need("matplotlib", "jinja2")

from PIL import Image

from histofast.report.drawing import draw, image, panel_svg
from histofast.report.style import VARIABLES

NAN = float("nan")
BASELINE = Path(__file__).resolve().parent / "baseline"
PANELS = {f"{n}{k}": p for n, figure in FIGURES.items() for k, p in enumerate(figure.panels)}


# --- Pictures ----------------------------------------------------------------------------------


def small(figure: Figure) -> Image.Image:
    """A figure at 50 dots per inch, in few colours."""
    whole = Image.open(io.BytesIO(image(figure, "png"))).convert("RGB")
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
    assert labels == ["net0", "net1", *(r.name for r in LINES.rules), "knee", "95 % interval"]
    assert speeds.get_legend() is None  # all of it is explained above
    assert speeds.get_ylim()[0] == 0
    wide = replace(SPEEDS, series=(Series(name="", points=points([1.0, 100.0], half=NAN)),))
    assert draw(Figure(name="wide", panels=(wide,))).figure.axes[0].get_yscale() == "log"
    forest, scatter = draw(FIGURES["networks"]).figure.axes
    assert [text.get_text() for text in forest.get_yticklabels()] == list(FOREST.places.names)
    assert forest.get_ylim() == (4.6, -0.6)
    assert scatter.get_xscale() == "log"


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


def test_colours_and_letters_are_the_style_sheets():
    svg = panel_svg(DIAGONAL, name="x")
    assert {"--s0", "--null", "--random", "--ink", "--line", "--hatch", "--paper"} <= set(
        re.findall(r"var\((--\w+)\)", svg)
    )
    style = page(answer())
    for variable in VARIABLES.values():
        assert style.count(f" {variable}: #") == 2  # in light and in dark
    assert "prefers-color-scheme: dark" in style


# --- Pages -------------------------------------------------------------------------------------

TABLE = Table(
    name="rows",
    title="Row by row",
    caption="At 95 % of all.",
    columns=(
        Column(title="cut", names=("name",)),
        Column(title="what", under=True),
        Column(title="AUROC", names=("value",), form="number"),
        Column(title="95 % interval", names=("low", "high"), form="interval", missing="— none"),
        Column(
            title="difference", names=("d", "d_low", "d_high"), form="difference", missing="— not"
        ),
        Column(title="finding"),
        Column(title="speed", names=("speed",), form="rate", missing="— not measured"),
        Column(title="depth", names=("depth",), form="share"),
        Column(title="file", names=("bytes",), form="bytes"),
        Column(title="", names=("baseline",), form="whole"),
    ),
    rows=(
        ("a", "net", 0.9, (0.8, 0.95), (-0.1, -0.2, 0.01), "best", 1234.5, 0.1, 40_000, 0),
        ("b", "", NAN, None, None, "bad", None, None, None, 0),
        ("c", "", 0.7, (NAN, NAN), (0.5, NAN, NAN), "", 12.25, 1.0, 5_000_000, 1),
    ),
    highlighted=frozenset({0}),
    aside=frozenset({2}),
)


def answer(**more) -> Answer:
    rest = {
        "name": "study",
        "title": "Where to cut",
        "question": "How much is needed?",
        "basis": "AUROC on 9 slides",
        "findings": ("Best is a (95 % interval).", "b is bad."),
        "figures": (FIGURES["matrix"], FIGURES["depth"]),
        "tables": (TABLE,),
        "commands": (("Run it", "histofast study --out 'a b'"),),
        "method": {"patch_size": "224 px"},
        "links": {"similarity": "similarity/index.html", "paper": "https://example.org/a"},
        "files": {"matrix.csv": "a,b\n"},
    }
    return Answer(**(rest | more))


def test_page_is_whole_and_needs_nothing_else():
    shown = page(answer(links={}))
    reader = PageReader(shown)
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    assert all(reference.startswith(("data:", "#")) for reference in reader.references)
    rest = re.sub(r"data:[^\"]*", "", shown)
    assert "http" not in rest
    assert "//" not in rest
    assert "@import" not in rest
    assert set(re.findall(r"url\((.)", rest)) <= {"#"}
    assert not re.search(r"\bnan\b|\bNone\b|Undefined", re.sub(r"<style>.*</style>", "", rest))
    assert 'name="viewport"' in shown
    assert shown.endswith("</html>\n")
    assert shown == page(answer(links={}))


def test_page_shows_all():
    shown = page(answer()).replace("\u00a0", " ").replace("&#39;", "'")
    for text in (
        *("<h1>Where to cut</h1>", "How much is needed?", "AUROC on 9 slides", "b is bad."),
        *("Best is a (95 % interval).", "patch size", "224 px", "Every layer</h2>"),
        *("AUROC against depth</h2>", "From pixels to the end.", "Row by row", "At 95 % of all."),
    ):
        assert text in shown
    reader = PageReader(shown)
    assert {"similarity/index.html", "https://example.org/a"} <= set(reader.references)
    assert reader.code == ["histofast study --out 'a b'"]
    assert decoded(reader.links["study.json"]) == answer().to_json()
    assert decoded(reader.links["rows.csv"]) == TABLE.to_csv()
    assert decoded(reader.links["matrix.csv"]) == "a,b\n"
    plain = page(answer(figures=(), tables=(), commands=(), links={}, question="", basis=""))
    assert plain.count("<section>") == 2
    assert "<figure>" not in plain


def test_table_of_a_page():
    shown = page(answer())
    rows = re.findall(r"<tr(?: class=\"(\w+)\")?>\n(.*?)</tr>", shown, re.DOTALL)[1:4]
    assert [kind for kind, _ in rows] == ["highlighted", "", "aside"]
    cells = [re.findall(r">([^<>\n]+)<", row.replace("\u00a0", " ")) for _, row in rows]
    assert cells[0] == [
        *("a", "net", "0.900", "0.800 to 0.950", "-0.100 (-0.200 to +0.010)", "best", "1,234"),
        *("10 %", "0.04 MB"),
    ]
    assert cells[1] == ["b", "— undefined", "— none", "— not", "bad", "— not measured"]
    assert cells[2] == ["c", "0.700", "— undefined", "+0.500", "12.2", "100 %", "5.00 MB"]


def test_csv_has_what_is_drawn_and_more():
    found = list(csv.DictReader(io.StringIO(TABLE.to_csv())))
    assert list(found[0]) == [
        *("name", "value", "low", "high", "d", "d_low", "d_high", "speed", "depth", "bytes"),
        "baseline",
    ]
    assert found[1]["value"] == "nan"
    assert found[1]["speed"] == found[1]["low"] == found[1]["d_high"] == ""
    assert (found[0]["d"], found[2]["low"], found[2]["baseline"]) == ("-0.1", "nan", "1")


def test_json_is_the_data_and_nan_is_null():
    values = json.loads(answer().to_json())
    assert values["rows"][1]["value"] is None
    assert values["rows"][0]["d_low"] == -0.2
    assert values["findings"] == list(answer().findings)
    assert values["commands"] == [["Run it", "histofast study --out 'a b'"]]
    text = answer(data={"x": [NAN, 1.0], "y": (2,)}).to_json()
    assert json.loads(text) == {"x": [None, 1.0], "y": [2]}
    assert text.endswith("}\n")


def test_everything_given_is_text():
    evil = "<script>alert(1)</script>\"'&"
    chart = Chart(
        title=evil,
        caption=evil,
        alt=evil,
        places=Axis(label=evil, names=(evil,)),
        values=Axis(label=evil),
        series=(Series(name=evil, points=(Point(place=0, value=1.0, tip=evil, label=evil),)),),
        rules=(Rule(name=evil, value=0.5, tip=evil),),
        labels="right",
    )
    matrix = Matrix(
        rows=(evil,), columns=(evil,), values=((NAN,),), low=0, high=1, alt=evil, blank=evil
    )
    shown = page(
        answer(
            **dict.fromkeys(("title", "question", "basis"), evil),
            findings=(evil,),
            figures=(Figure(name="f", panels=(chart, matrix), title=evil),),
            tables=(
                Table(name="t", columns=(Column(title=evil, names=(evil,)),), rows=((evil,),)),
            ),
            commands=((evil, evil),),
            method={evil: evil},
            links={evil: "a.html?x=\"'"},
        )
    )
    reader = PageReader(shown)
    assert reader.open == []
    assert reader.code == [evil]
    assert "<script" not in shown


def test_a_folder_holds_all_of_an_answer(tmp_path):
    path = save(answer(), tmp_path / "new" / "s")
    assert path == tmp_path / "new" / "s" / "index.html"
    assert {file.name for file in path.parent.iterdir()} == {
        *("index.html", "study.json", "rows.csv", "matrix.csv"),
        *("matrix.png", "matrix.pdf", "depth.png", "depth.pdf"),
    }
    assert (path.parent / "rows.csv").read_bytes().decode() == TABLE.to_csv()
    assert path.read_text(encoding="utf-8") == page(answer())


def test_what_fails_leaves_the_old_files_and_no_page(tmp_path, monkeypatch):
    (tmp_path / "matrix.png").write_bytes(b"old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save(answer(), tmp_path)
    assert (tmp_path / "matrix.png").read_bytes() == b"old"
    assert not (tmp_path / "index.html").exists()
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


# --- What is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "to",
    ["", "javascript:alert(1)", " javascript:alert(1)", "/etc/x", "//x.org", "data:text/html,x"],
)
def test_a_link_to_elsewhere_is_refused(to):
    with pytest.raises(ValueError, match=r"links\['x'\] must be a relative path or a web address"):
        answer(links={"x": to})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: answer(name="a/b"), "name of an answer must be of letters, digits, - and _, got"),
        (lambda: answer(tables=(TABLE, TABLE)), "names of files must differ, got 'rows.csv' twice"),
        (lambda: answer(files={"../x": ""}), "name of a file must be of letters"),
        (
            lambda: answer(figures=(FIGURES["bars"], FIGURES["bars"])),
            "names of figures must differ, got 'bars' twice",
        ),
        (lambda: replace(TABLE, name=""), "name of a table must be of letters"),
        (lambda: replace(TABLE, rows=(("a",),)), "rows of table rows must have 10 cells, got 1"),
        (
            lambda: replace(TABLE, rows=((*TABLE.rows[0][:2], math.inf, *TABLE.rows[0][3:]),)),
            "AUROC must be finite or NaN, got inf in a",
        ),
        (lambda: Figure(name="x", panels=()), "panels of figure x must be at least 1, got none"),
        (lambda: Figure(name="a b", panels=(LINES,)), "name of a figure must be of letters"),
        (
            lambda: Figure(
                name="x", panels=(replace(LINES, rules=(Rule(name="r", value=math.inf),)),)
            ),
            "numbers of a chart must be finite or NaN, got inf",
        ),
        (
            lambda: Figure(name="x", panels=(replace(FOREST, places=Axis(names=("one",))),)),
            r"place of a point must be in 0\.\.0, got 1",
        ),
        (
            lambda: Figure(name="x", panels=(replace(MATRIX, rows=("a",)),)),
            "values of a matrix must be 1 rows of 3 numbers",
        ),
        (
            lambda: Figure(name="x", panels=(replace(MATRIX, low=1.0),)),
            "low must be below high, got 1 and 1",
        ),
        (
            lambda: Figure(name="x", panels=(replace(picture(), pixels=np.zeros((2, 2))),)),
            r"pixels must be \(h, w, 3\) uint8, got float64 of shape \(2, 2\)",
        ),
        (lambda: pixels_of(FIGURES["bars"]), "figure bars must be one picture"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_figure_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"a figure must end in \.png, \.pdf, \.svg, got .*s\.txt"):
        save_figure(FIGURES["bars"], tmp_path / "s.txt")
    with pytest.raises(FileNotFoundError, match=r"no folder .*none to write s\.png in"):
        save_figure(FIGURES["bars"], tmp_path / "none" / "s.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_missing_library_is_named_before_the_work(missing, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, missing, None)
    message = rf"histofast\.report needs {missing}, which is not installed: pip install "
    with pytest.raises(ModuleNotFoundError, match=message + r"'histofast\[train\]'"):
        save(answer(), tmp_path / "s")
    with pytest.raises(ModuleNotFoundError, match=message):
        save_figure(FIGURES["bars"], tmp_path / "f.png")
    assert list(tmp_path.iterdir()) == []


def test_answers_are_made_without_the_libraries():
    code = "import sys, histofast.report, report_figures; print(*sys.modules)"
    tests = str(Path(__file__).resolve().parent)
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r}); {code}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert "report_figures" in loaded
    assert not {"matplotlib", "jinja2"} & set(loaded)


# --- Curves, scales, numbers -------------------------------------------------------------------


def test_curves():
    figure = FIGURES["curves"]
    losses, metric = figure.panels
    assert [point.value for point in losses.series[0].points] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert [series.name for series in losses.series] == ["", "", "", "fold 0", "fold 1", "fold 2"]
    best = [[p.place for p in series.points if p.ringed] for series in metric.series]
    assert best == [[2], [2], [0]]
    low = curves([log()], metric="auroc", higher_is_better=False)
    assert [p.ringed for p in low.panels[1].series[0].points] == [True, False, False, False]
    gaps = [*log(2), {"epoch": 2, "train_loss": "", "validation_loss": None, "auroc": "nan"}]
    last = curves([gaps], metric="auroc").panels[0].series[0].points[-1]
    assert not last.is_defined
    assert last.tip == ""


@pytest.mark.parametrize(
    ("logs", "message"),
    [
        ([], "logs must hold at least one fold, got none"),
        ([log(), []], "logs must have rows for every fold, got none for fold 1"),
        ([[{"epoch": 1}]], "logs must have a column 'train_loss', got epoch in fold 0"),
        ([[{"epoch": "x"}]], "column 'epoch' of logs must hold numbers, got 'x' in fold 0"),
    ],
)
def test_curves_refuse(logs, message):
    with pytest.raises(ValueError, match=message):
        curves(logs, metric="auroc")


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


def test_numbers():
    assert [number(-0.0001), number(0.12345)] == ["0.000", "0.123"]
    assert [signed(0.1), signed(-0.1), signed(0.0001)] == ["+0.100", "-0.100", "0.000"]
    assert [round_number(v) for v in (1234.5, 12.34, 1.234)] == ["1,234", "12.3", "1.23"]
    assert (percent(0.95), size(5_000_000)) == ("95 %", "5.00 MB")
