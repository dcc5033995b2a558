"""What a report holds: pages that need nothing beside them, folders, tables, numbers."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extras import need
from histofast.errors import WriteError
from histofast.report import (
    Answer,
    Axis,
    Chart,
    Column,
    Figure,
    Grid,
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
from page_reader import PageReader, decoded
from report_figures import (
    FIGURES,
    FOREST,
    GRID,
    LINES,
    MATRIX,
    log,
    picture,
)

need("matplotlib", "jinja2")


NAN = float("nan")
BASELINE = Path(__file__).resolve().parent / "baseline"
PANELS = {f"{n}{k}": p for n, figure in FIGURES.items() for k, p in enumerate(figure.panels)}


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
        "limits": ("Other slides may say otherwise.",),
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
        *("What this does not show</h2>", "<li>Other slides may say otherwise.</li>"),
    ):
        assert text in shown
    reader = PageReader(shown)
    assert {"similarity/index.html", "https://example.org/a"} <= set(reader.references)
    assert reader.code == ["histofast study --out 'a b'"]
    assert decoded(reader.links["study.json"]) == answer().to_json()
    assert decoded(reader.links["rows.csv"]) == TABLE.to_csv()
    assert decoded(reader.links["matrix.csv"]) == "a,b\n"
    plain = page(
        answer(figures=(), tables=(), commands=(), links={}, limits=(), question="", basis="")
    )
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
    assert values["limits"] == list(answer().limits)
    assert values["commands"] == [["Run it", "histofast study --out 'a b'"]]
    text = answer(data={"x": [NAN, 1.0], "y": (2,)}).to_json()
    assert json.loads(text) == {"x": [None, 1.0], "y": [2]}
    assert text.endswith("}\n")


def test_everything_given_is_text():
    evil = "<script>alert(1)</script>\"'&\x0b名"
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


def test_a_table_shows_its_first_rows_and_one_without_rows_to_show_is_a_file_only(tmp_path):
    rows = tuple((f"row {k}", float(k)) for k in range(1200))
    columns = (Column(title="name", names=("name",)), Column(title="k", names=("k",), form="whole"))
    long = Table(name="long", title="Long", columns=columns, rows=rows, shown=2)
    none = Table(name="none", title="Nothing of this", columns=columns, rows=())
    hidden = replace(long, name="hidden", title="In a file", shown=0)
    made = replace(answer(), tables=(long, none, hidden))
    text = page(made)
    assert "row 1</th>" in text
    assert "row 2</th>" not in text
    assert "The first 2 of 1,200 rows: all are in long.csv." in text
    assert "Nothing of this" not in text
    assert "In a file" not in text
    save(made, tmp_path)
    assert len((tmp_path / "hidden.csv").read_text().splitlines()) == 1201
    assert len((tmp_path / "long.csv").read_text().splitlines()) == 1201
    assert (tmp_path / "none.csv").read_text() == "name,k\n"


def test_pictures_without_letters_shrink_to_the_page():
    def least(panel):
        made = replace(answer(), figures=(Figure(name="one", panels=(panel,)),), tables=())
        return int(re.search(r"min-width:(\d+)px", page(made))[1])

    plain = picture(40, 900, title="Above")
    assert least(plain) == 0
    assert least(replace(plain, um_per_px=0.5)) > 0  # letters must stay readable


def test_what_fails_leaves_the_old_files_and_no_page(tmp_path, monkeypatch):
    (tmp_path / "matrix.png").write_bytes(b"old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(WriteError, match=r"no space left on .*: matrix\.png"):
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
        (lambda: Figure(name="x", panels=(replace(GRID, tiles=()),)), "tiles of a grid must be"),
        (
            lambda: Figure(name="x", panels=(replace(GRID, tiles=GRID.tiles[:1] * 2),)),
            r"tiles must not overlap, got two at \(0, 0\)",
        ),
        (
            lambda: Figure(
                name="x", panels=(Grid(tiles=(replace(GRID.tiles[0], side=0),), alt=""),)
            ),
            "places of tiles must not be negative, and sides at least 1, got row 0, column 0, side 0",
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


# --- Curves, numbers ---------------------------------------------------------------------------


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


def test_numbers():
    assert [number(-0.0001), number(0.12345)] == ["0.000", "0.123"]
    assert [signed(0.1), signed(-0.1), signed(0.0001)] == ["+0.100", "-0.100", "0.000"]
    assert [round_number(v) for v in (1234.5, 12.34, 1.234)] == ["1,234", "12.3", "1.23"]
    assert (percent(0.95), size(5_000_000)) == ("95 %", "5.00 MB")
