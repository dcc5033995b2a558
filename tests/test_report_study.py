"""What a study looks like: every number is the study's, every sentence follows a rule."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extras import need
from histofast import _core
from page_reader import PageReader, decoded

need("matplotlib", "jinja2")

from histofast import report
from histofast.report import Difference, Study, StudyRow, log_ticks, range_of, spread, ticks

NAN = float("nan")


def row(name, value=0.8, **more) -> StudyRow:
    rest = {
        "network": "net",
        "layer": name,
        "depth": None,
        "d": 64,
        "low": value - 0.05,
        "high": value + 0.05,
        "patches_per_s": 100.0,
        "size_bytes": 5_000_000,
    }
    return StudyRow(name=name, value=value, **(rest | more))


def less(difference, half=0.02) -> Difference:
    return Difference(difference=difference, low=difference - half, high=difference + half)


def made(*rows, **more) -> Study:
    rest = {
        "kind": "truncation",
        "title": "Where to cut",
        "question": "How much of a network is needed?",
        "metric": "AUROC",
        "higher_is_better": True,
        "confidence": 0.95,
        "n_slides": 120,
        "n_patients": 110,
        "folds": 5,
        "convention": {"patch_size": "224 px"},
        "commands": (("Run it", "histofast study truncation --out 'a b'"),),
    }
    return Study(rows=rows, **(rest | more))


BASE = row(
    "mean pooling",
    0.7,
    baseline=True,
    layer="c",
    versus_best=less(-0.2),
    notes="logistic regression",
)
CUTS = made(
    row("a", 0.712, depth=0.1, versus_best=less(-0.188), patches_per_s=1234.5, size_bytes=40_000),
    row(
        "b",
        0.884,
        depth=0.42,
        versus_best=less(-0.016),
        chosen=True,
        patches_per_s=250.25,
        extra={"AUROC after fine-tuning": 0.901, "attention AUROC": NAN},
    ),
    row("c", 0.9, depth=0.8),
    row("d", NAN, depth=1.0, patches_per_s=None, size_bytes=None, notes="diverged"),
    BASE,
    chance=0.5,
)
NETWORKS = made(
    row("resnet", 0.8, network="resnet", versus_best=less(-0.1), size_bytes=None),
    row("uni", 0.9, network="uni", patches_per_s=12.0),
    row("vit", 0.89, network="vit", versus_best=less(-0.01), chosen=True, patches_per_s=480.0),
    BASE,
    row("random weights", 0.5, baseline=True, patches_per_s=None, versus_best=less(-0.4)),
    kind="networks",
)
ALL = {
    "cuts": CUTS,
    "networks": NETWORKS,
    "nothing but NaN": made(row("a", NAN, depth=0.5), row("b", NAN)),
    "NaN networks": made(row("a", NAN), kind="networks"),
    "one cut": made(row("a", 0.5, depth=0.5)),
    "one network": made(row("a", 1.0, low=1.0, high=1.0), kind="networks", metric="accuracy"),
    "no depth, no speed": made(row("a", 0.6, patches_per_s=None), row("b", 0.6)),
    "no interval": made(row("a", 0.9, depth=0.0, low=NAN, high=NAN), row("b", 0.8, depth=1.0)),
    "only baselines": made(BASE),
    "errors": made(
        row("a", 123.4, depth=0.1, versus_best=less(11.1)),
        row("b", 112.3, depth=0.2, network="other"),
        metric="MAE",
        higher_is_better=False,
    ),
    "many": made(
        *(
            row(f"n{k}-b{i}", 0.5 + i / 100, depth=(i + 1) / 6, network=f"n{k}")
            for k in range(8)
            for i in range(6)
        )
    ),
}


def said(study) -> str:
    return " ".join(report.describe_study(study))


# --- Rows --------------------------------------------------------------------------------------


def test_json_has_all_and_nan_is_null():
    text = CUTS.to_json()
    assert text.endswith("}\n")
    values = json.loads(text)
    assert "NaN" not in text
    assert values["rows"][0]["versus_best"] == {"difference": -0.188, "low": -0.208, "high": -0.168}
    assert values["rows"][1]["extra"]["attention AUROC"] is None
    assert values["rows"][3]["value"] is None
    assert values["rows"][4]["baseline"] is True
    assert values["commands"] == [["Run it", "histofast study truncation --out 'a b'"]]
    assert set(values) == set(Study.__dataclass_fields__)


def test_csv_has_a_line_per_row():
    text = CUTS.to_csv()
    assert text.endswith("\n")
    found = list(csv.DictReader(io.StringIO(text)))
    assert [line["name"] for line in found] == [one.name for one in CUTS.rows]
    assert found[1]["difference"] == "-0.016"
    assert found[1]["attention AUROC"] == "nan"
    assert found[2]["difference"] == ""
    assert found[3]["value"] == "nan"
    assert found[3]["patches_per_s"] == ""
    assert [line["chosen"] for line in found] == ["0", "1", "0", "0", "0"]


def test_best_is_a_candidate():
    assert CUTS.best is CUTS.rows[2]
    assert made(row("a", 0.5), row("x", 0.9, baseline=True)).best.name == "a"
    assert ALL["errors"].best.name == "b"
    assert ALL["nothing but NaN"].best is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: made(), "rows must not be empty"),
        (lambda: made(row("a"), kind="x"), "kind must be one of truncation, networks, got 'x'"),
        (lambda: made(row("a"), confidence=1.0), "confidence must be between 0 and 1, got 1.0"),
        (lambda: made(row("a"), row("a")), "names of rows must differ, got 'a' twice"),
        (
            lambda: made(row("a", chosen=True), row("b", chosen=True)),
            "at most one row can be chosen, got 'a' and 'b'",
        ),
        (
            lambda: made(row("a", chosen=True, baseline=True)),
            "a baseline cannot be chosen, got 'a'",
        ),
        (lambda: made(row("a", math.inf)), "numbers of row 'a' must be finite or NaN, got inf"),
        (lambda: made(row("a", depth=1.5)), r"depth of row 'a' must be in \[0, 1\] or None"),
        (lambda: made(row("a", patches_per_s=NAN)), "patches_per_s of row 'a' must be positive"),
        (lambda: made(row("a", size_bytes=0)), "size_bytes of row 'a' must be positive"),
        (lambda: made(row("a", extra={"low": 1.0})), "must not be called as a column is"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- Words -------------------------------------------------------------------------------------


def test_cuts_in_words():
    assert report.describe_study(CUTS) == (
        "Best is c (AUROC 0.900, 95 % interval 0.850 to 0.950).",
        (
            "The knee is b (0.884), the cheapest cut that cannot be told from the best (difference "
            "-0.016, 95 % interval -0.036 to +0.004). It is 2.5 times as fast as the best (250 "
            "against 100 patches/s)."
        ),
        "Of the other 2 cuts 1 cannot be told from the best: b.",
        "The baseline mean pooling (0.700) is below the best.",
        "AUROC is undefined for d.",
        "Speed was not measured for d.",
        "The encoder's size is not known for d.",
        "AUROC after fine-tuning was measured for b only.",
        "Attention AUROC was measured for b only.",
    )


def test_networks_in_words():
    text = said(NETWORKS)
    assert "The choice is vit (0.890), the cheapest network that cannot be told" in text
    assert "It is 40 times as fast as the best (480 against 12.0 patches/s)." in text
    assert "The baselines mean pooling (0.700) and random weights (0.500) are below" in text


def test_the_whole_network_and_the_file():
    study = made(
        row("a", depth=0.1, chosen=True, versus_best=less(-0.01), patches_per_s=300.0),
        row("b", 0.81, depth=0.5, size_bytes=20_000_000),
        row("c", depth=1.0, patches_per_s=50.0, versus_best=less(-0.01)),
    )
    text = said(study)
    assert "It is 6.0 times as fast as the deepest cut of net (50.0 patches/s)." in text
    assert "Its file is smaller (5.00 MB against 20.0 MB)." in text
    slower = made(row("a", chosen=True, patches_per_s=50.0, versus_best=less(0)), row("b", 0.9))
    assert "It is slower (50.0 against 100 patches/s)." in said(slower)


def test_nothing_can_be_said_of_few_patients():
    rows = [row(name, 0.8, versus_best=less(-0.01)) for name in "ab"]
    text = said(made(row("best", 0.81, chosen=True), *rows, n_patients=9))
    assert (
        "None of the other 2 cuts can be told from the best: every paired difference has an "
        "interval that reaches 0, so with 9 patients the order of the cuts says little." in text
    )
    assert "The intervals rest on only 9 patients: take them as rough." in text
    assert "It is the knee as well: no cheaper cut has a paired difference" in text
    unpaired = said(made(row("best", 0.81), row("a", 0.8)))
    assert "All intervals overlap with that of the best: with 110 patients" in unpaired
    assert "No paired differences to the best were computed." in unpaired
    assert "No knee was named." in unpaired


def test_all_others_are_worse():
    rows = [row(name, 0.5, versus_best=less(-0.3)) for name in "ab"]
    assert "The other 2 cuts are worse than the best." in said(made(row("best", 0.8), *rows))


def test_a_baseline_that_wins_is_named():
    def against(value, versus, **more):
        base = row("mean", value, baseline=True, versus_best=versus)
        return said(made(row("a", 0.8, chosen=True), base, **more))

    text = against(0.9, less(0.1))
    assert "The baseline mean (0.900) beats the best cut (difference +0.100" in text
    text = against(0.81, less(0.01))
    assert "The baseline mean (0.810) is ahead of the best, though not beyond chance" in text
    text = against(0.79, less(-0.01))
    assert "cannot be told from the best" in text
    assert "what the cuts add to it cannot be shown with 110 patients" in text
    assert "The baseline mean (0.600) is below the best." in against(0.6, None)
    text = against(0.82, None)
    assert "is ahead of the best, though not beyond chance (not compared in pairs)" in text
    text = against(0.6, less(-0.2), higher_is_better=False)
    assert "The baseline mean (0.600) beats the best cut (difference -0.200" in text
    assert "No baseline was run: what the cuts add to one is not known." in said(made(row("a")))


def test_a_baseline_ahead_of_the_knee():
    study = made(
        row("a", 0.8, chosen=True, versus_best=less(-0.1, 0.11)),
        row("b", 0.9),
        row("mean", 0.85, baseline=True, versus_best=less(-0.05)),
    )
    assert "The baseline mean (0.850) is ahead of the knee." in said(study)


def test_a_chosen_row_that_is_worse_is_called_so():
    study = made(row("a", 0.6, chosen=True, versus_best=less(-0.2)), row("b", 0.8))
    assert "The knee is a (0.600), although it is not level with the best" in said(study)
    study = made(row("a", 0.6, chosen=True), row("b", 0.8))
    assert "The knee is a (0.600); its paired difference to the best was not computed." in said(
        study
    )


def test_chance_and_missing_are_said():
    text = said(made(row("a", 0.53), chance=0.5))
    assert "Its interval reaches chance (0.500): it may have learnt nothing." in text
    assert said(ALL["nothing but NaN"]).startswith("AUROC is undefined for all cuts.")
    text = said(ALL["no depth, no speed"])
    assert "Depth is not known, and no place in the charts." in text
    assert "Speed was not measured for a." in text
    assert "No intervals were computed for a." in said(ALL["no interval"])


def test_remarks_come_last():
    assert report.describe_study(replace(CUTS, remarks=("It did not help.",)))[-1] == (
        "It did not help."
    )


@pytest.mark.parametrize("study", ALL.values(), ids=ALL)
def test_words_are_words(study):
    assert not re.search(r"\bnan\b|\bNone\b|  |\b1 cuts|-0\.000", said(study))
    assert all(sentence.endswith(".") for sentence in report.describe_study(study))


# --- Page --------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", ALL.values(), ids=ALL)
def test_page_is_whole_and_needs_nothing_else(study):
    page = report.study_page(study)
    reader = PageReader(page)
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    assert all(reference.startswith("data:") for reference in reader.references)
    rest = re.sub(r"data:[^\"]*", "", page)
    assert "http" not in rest
    assert "//" not in rest
    assert "@import" not in rest
    assert "url(" not in rest
    assert not re.search(r"\bnan\b|\bNone\b|Undefined", re.sub(r"<style>.*</style>", "", rest))
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert page.endswith("</html>\n")
    assert page == report.study_page(study)


@pytest.mark.parametrize("study", ALL.values(), ids=ALL)
def test_downloads_are_the_study(study):
    reader = PageReader(report.study_page(study))
    assert decoded(reader.links["study.json"]) == study.to_json()
    assert decoded(reader.links["study.csv"]) == study.to_csv()


def numbers_in(value) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for inner in value for number in numbers_in(inner)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.parametrize("study", ALL.values(), ids=ALL)
def test_every_number_drawn_is_in_the_json(study):
    reader = PageReader(report.study_page(study))
    known = numbers_in(json.loads(decoded(reader.links["study.json"])))
    written = {f"{value * f:.{k}f}" for value in known for k in range(4) for f in (1, 100, 1e-6)}
    written |= {text.removeprefix("-") for text in written}
    drawn = " ".join(reader.cells + reader.titles).replace(_core.version, "").replace(",", "")
    drawn = re.sub(r"[a-z]\w*", "", drawn)
    assert set(re.findall(r"\d+(?:\.\d+)?", drawn)) <= written | {"224", "95"}
    tooltips = [title for title in reader.titles if title.startswith(tuple(study.networks))]
    for one in study.rows:
        if one.is_defined:
            assert f"{one.value:.3f}" in reader.cells
            if one.depth is not None:
                assert any(
                    f"{one.name}: {study.metric} {one.value:.3f}" in t for t in reader.titles
                )
    assert "nan" not in " ".join(tooltips)


def test_what_is_not_there_is_a_dash_with_a_word():
    page = report.study_page(CUTS)
    for word in ("undefined", "none", "not measured", "not known", "not compared"):
        assert f">\u2014 {word}<" in page
    assert "diverged" in page


def test_page_says_what_and_how():
    page = report.study_page(CUTS).replace("&#39;", "'").replace("\u00a0", " ")
    assert "<h1>Where to cut</h1>" in page
    assert "How much of a network is needed?" in page
    assert "AUROC on 120 slides of 110 patients, 5 folds" in page
    assert all(sentence in page for sentence in report.describe_study(CUTS))
    assert "patch size" in page
    assert ">knee: not told from the best<" in page
    assert page.count("AUROC against depth</h2>") == 1
    assert page.count("Speed against depth</h2>") == 1
    networks = report.study_page(NETWORKS)
    assert networks.count("AUROC against speed</h2>") == 1
    assert networks.index(">uni<") < networks.index(">vit<") < networks.index(">resnet<")
    assert "<small>" not in report.study_page(made(row("net a", layer="a")))


def test_the_chosen_row_is_ringed_in_every_chart():
    for study in (CUTS, NETWORKS):
        page = report.study_page(study)
        figures = re.findall(r'<div class="scroll".*?</svg>', page, re.DOTALL)
        assert len(figures) == 2
        assert all(figure.count("chosen-ring") == 1 for figure in figures)


def test_everything_given_is_text():
    evil = "<script>alert(1)</script>\"'&"
    study = made(
        row(evil, 0.8, depth=0.5, layer=evil, network=evil, notes=evil, extra={evil: 0.5}),
        row("x" + evil, 0.7, baseline=True, layer=evil),
        title=evil,
        question=evil,
        metric=evil,
        convention={evil: evil},
        commands=((evil, evil),),
        remarks=(evil,),
    )
    for kind in ("truncation", "networks"):
        page = report.study_page(
            replace(study, kind=kind),
            figures={evil: "<svg onload='alert(1)'/>"},
            links={evil: "a.html?x=\"'"},
        )
        reader = PageReader(page)
        assert reader.code == [evil]
        assert "<script" not in page
        assert "<svg onload" not in page


def test_figures_and_links():
    svg, png = "<?xml version='1.0'?><svg/>", "data:image/png;base64,iVBORw0KGgo="
    page = report.study_page(
        CUTS,
        figures={"curves": svg, "map": png},
        links={"similarity": "similarity/index.html", "paper": "https://example.org/a"},
    )
    reader = PageReader(page)
    assert png in reader.references
    assert svg in [decoded(r) for r in reader.references if r.startswith("data:image/svg")]
    assert {"similarity/index.html", "https://example.org/a"} <= set(reader.references)


@pytest.mark.parametrize("data", ["", "curves.png", "<p>", "data:text/html;base64,AAAA"])
def test_a_figure_that_is_none_is_refused(data):
    with pytest.raises(ValueError, match=r"figures\['x'\] must be SVG text or a data:image/png"):
        report.study_page(CUTS, figures={"x": data})


@pytest.mark.parametrize(
    "to",
    ["", "javascript:alert(1)", " javascript:alert(1)", "/etc/x", "//x.org", "data:text/html,x"],
)
def test_a_link_to_elsewhere_is_refused(to):
    with pytest.raises(ValueError, match=r"links\['x'\] must be a relative path or a web address"):
        report.study_page(CUTS, links={"x": to})


# --- Figure ------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", ALL.values(), ids=ALL)
def test_figure(study, tmp_path):
    report.plot_study(study, tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["s.png"]


@pytest.mark.parametrize("study", [CUTS, NETWORKS])
@pytest.mark.parametrize(("name", "head"), [("s.pdf", b"%PDF"), ("s.SVG", b"<?xml")])
def test_figures_of_one_study_are_the_same_bytes(study, name, head, tmp_path):
    report.plot_study(study, tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert first.startswith(head)
    report.plot_study(study, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


def test_figure_draws_the_rows():
    from histofast.report.study_plots import _figure

    values, speeds = _figure(CUTS).axes
    lines = [
        line
        for line in values.lines
        if line.get_color() == "#0072b2" and len(line.get_xdata()) == 3
    ]
    np.testing.assert_array_equal(lines[0].get_xydata(), [[0.1, 0.712], [0.42, 0.884], [0.8, 0.9]])
    assert [0.42, 0.884] in [line.get_xydata()[0].tolist() for line in values.lines]
    assert 0.7 in [line.get_ydata()[0] for line in values.lines]
    np.testing.assert_array_equal(speeds.lines[0].get_ydata(), [1234.5, 250.25, 100.0])
    assert {text.get_text() for text in values.texts} == {"a", "b", "c", "d"}
    labels = [text.get_text() for text in values.get_legend().get_texts()]
    assert labels == ["net", "baseline: mean pooling", "chance", "knee", "95 % interval"]
    forest, scatter = _figure(NETWORKS).axes
    names = [text.get_text() for text in forest.get_yticklabels()]
    assert names == ["uni", "vit", "resnet", "mean pooling", "random weights"]
    assert scatter.get_xscale() == "log"


@pytest.mark.parametrize("study", [CUTS, NETWORKS, ALL["many"]], ids=["cuts", "networks", "many"])
def test_nothing_in_a_figure_is_cut_off(study):
    from histofast.report.study_plots import _figure

    figure = _figure(study)
    figure.canvas.draw()
    whole = figure.bbox
    for axes in figure.axes:
        for text in [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()]:
            box = text.get_window_extent()
            assert box.x0 >= whole.x0
            assert box.x1 <= whole.x1
            assert box.y0 >= whole.y0
            assert box.y1 <= whole.y1


def test_figure_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"a figure must end in \.png, \.pdf, \.svg, got .*s\.txt"):
        report.plot_study(CUTS, tmp_path / "s.txt")
    with pytest.raises(FileNotFoundError, match=r"no folder .*none to write s\.png in"):
        report.plot_study(CUTS, tmp_path / "none" / "s.png")
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "s.png"
    path.write_bytes(b"old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        report.plot_study(CUTS, path)
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"old"]


# --- Curves ------------------------------------------------------------------------------------


def log(epochs=4, shift=0.0):
    return [
        {
            "epoch": str(e),
            "train_loss": f"{1 / (e + 1)}",
            "validation_loss": 1 / (e + 1) + shift,
            "auroc": 0.5 + 0.1 * min(e, 2),
        }
        for e in range(epochs)
    ]


def test_curves(tmp_path):
    from histofast.report.curves import _column, _figure

    logs = [log(), log(7, 0.1), log(1)]
    for name in ("c.png", "c.pdf", "c.svg"):
        report.plot_curves(logs, tmp_path / name, metric="auroc", title="$x$")
        first = (tmp_path / name).read_bytes()
        report.plot_curves(logs, tmp_path / name, metric="auroc", title="$x$")
        assert (tmp_path / name).read_bytes() == first
    losses = ("train_loss", "validation_loss")
    folds = [{c: _column(rows, c, 0) for c in ("epoch", *losses, "auroc")} for rows in logs]
    figure = _figure(folds, metric="auroc", losses=losses, higher_is_better=True, title="")
    left, right = figure.axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [1, 1 / 2, 1 / 3, 1 / 4])
    assert [line.get_xydata().tolist() for line in right.lines[1::2]] == [
        [[2, 0.7]],
        [[2, 0.7]],
        [[0, 0.5]],
    ]
    low = _figure(folds, metric="auroc", losses=losses, higher_is_better=False, title="")
    assert low.axes[1].lines[1].get_xydata().tolist() == [[0, 0.5]]


def test_curves_with_gaps(tmp_path):
    rows = [*log(2), {"epoch": 2, "train_loss": "", "validation_loss": None, "auroc": "nan"}]
    report.plot_curves([rows], tmp_path / "c.png", metric="auroc")
    assert (tmp_path / "c.png").is_file()


@pytest.mark.parametrize(
    ("logs", "message"),
    [
        ([], "logs must hold at least one fold, got none"),
        ([log(), []], "logs must have rows for every fold, got none for fold 1"),
        ([[{"epoch": 1}]], "logs must have a column 'train_loss', got epoch in fold 0"),
        ([[{"epoch": "x"}]], "column 'epoch' of logs must hold numbers, got 'x' in fold 0"),
    ],
)
def test_curves_refuse(logs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        report.plot_curves(logs, tmp_path / "c.png", metric="auroc")
    with pytest.raises(ValueError, match="a figure must end in"):
        report.plot_curves([log()], tmp_path / "c.txt", metric="auroc")
    assert list(tmp_path.iterdir()) == []


# --- Scales ------------------------------------------------------------------------------------


@given(
    wanted=st.lists(st.floats(0, 1), max_size=20),
    gap=st.floats(0.001, 0.2),
)
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


@given(low=st.floats(-1e3, 1e3), size=st.floats(1e-3, 1e4), most=st.integers(3, 8))
def test_ticks_are_few_round_and_inside(low, size, most):
    found = ticks(low, low + size, most=most)
    assert 1 <= len(found) <= most
    assert all(low - 1e-6 * size <= tick <= low + size * (1 + 1e-6) for tick in found)
    assert len({round(b - a, 6) for a, b in pairwise(found)}) <= 1


def test_scales():
    assert ticks(0.5, 1.0) == (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert log_ticks(3, 120) == (5, 10, 20, 50, 100)
    assert range_of([0.9, 1.0]) == pytest.approx((0.88, 1.0))
    assert range_of([-1.0, 1.0]) == pytest.approx((-1.12, 1.12))
