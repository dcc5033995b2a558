"""What a comparison looks like: every number is the comparison's, every sentence follows a rule."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import sys

import numpy as np
import pytest

from extras import need
from histofast import _core
from histofast.similarity import Comparison
from page_reader import PageReader, decoded

need("matplotlib", "jinja2")

from histofast import report

NAN = float("nan")


def made(
    matrix,
    *,
    names=None,
    names_b=None,
    pairs=None,
    low=None,
    high=None,
    permuted=None,
    random=None,
    **more,
) -> Comparison:
    """A comparison of layers l0, l1, ... with the diagonal as pairs."""
    matrix = np.asarray(matrix, np.float64)
    names = tuple(names or (f"l{i}" for i in range(len(matrix))))
    names_b = tuple(names_b or names)
    if pairs is None:
        pairs = [(i, names_b.index(name)) for i, name in enumerate(names) if name in names_b]

    def array(values):
        return None if values is None else np.asarray(values, np.float64)

    rest = {
        "label_a": "frozen",
        "label_b": "tuned",
        "measure": "debiased linear CKA",
        "convention": {"mode": "flatten", "row_order": "as listed"},
        "n": 512,
        "groups": 12,
        "images_sha256": "ab" * 32,
    }
    return Comparison(
        names_a=names,
        names_b=names_b,
        matrix=matrix,
        pairs=np.array(pairs, np.int64).reshape(-1, 2),
        low=array(low),
        high=array(high),
        permuted=array(permuted),
        random=None if random is None else np.broadcast_to(array(random), (5, len(pairs))),
        **(rest | more),
    )


def diagonal(values, **more) -> Comparison:
    """A comparison whose interval is 0.05 around `values`, with nulls well below."""
    values = np.asarray(values, np.float64)
    matrix = np.full((len(values), len(values)), 0.125)
    np.fill_diagonal(matrix, values)
    known = {
        "low": values - 0.05,
        "high": values + 0.05,
        "permuted": np.full(len(values), 0.02),
        "random": np.full(len(values), 0.1),
    }
    return made(matrix, **(known | more))


def said(comparison) -> str:
    return " ".join(report.describe_comparison(comparison))


ODD = diagonal(
    [0.987, 0.9634, 0.4118, NAN],
    names=("conv1", "layer1", "layer4", "fc"),
    predictions={"agreement": 0.9123, "agreement_by_chance": 0.8011, "error_consistency": NAN},
)
SOME_B = made([[0.9, 0.2, 0.3], [0.1, -0.04, 0.5]], names=("a", "b"), names_b=("a", "c", "b"))
APART = made([[0.9, 0.2], [0.1, 0.5]], names=("a", "b"), names_b=("c", "d"))
ENCODERS = made(
    [[1, 0.8, 0.01], [0.8, 1, 0.3], [0.01, 0.3, 1]],
    names=("uni", "gigapath", "phikon"),
    pairs=[(0, 1), (0, 2), (1, 2)],
    low=[0.7, -0.01, 0.2],
    high=[0.9, 0.03, 0.4],
    permuted=[0.02, 0.02, 0.02],
)
ALL = {
    "odd": ODD,
    "some": SOME_B,
    "apart": APART,
    "encoders": ENCODERS,
    "nothing but NaN": diagonal([NAN, NAN]),
    "one layer": diagonal([0.5]),
    "large": diagonal(np.linspace(1, -0.05, 40)),
}


# --- Words -------------------------------------------------------------------------------------


def test_all_the_same():
    text = said(diagonal([1, 1, 1]))
    assert text == "All 3 layers are the same: debiased linear CKA is 1.000 throughout."


def test_all_nearly_the_same():
    text = said(diagonal([0.99, 0.97, 0.98]))
    assert text == "All 3 layers are nearly the same: debiased linear CKA is at least 0.970."


def test_all_different():
    assert said(diagonal([0.9, 0.5, 0.6])) == (
        "No layer is nearly the same in both (debiased linear CKA of at least 0.95). Most changed "
        "is l1 (0.500, 95 % interval 0.450 to 0.550): above what shuffled images give (0.020) and "
        "above what 5 randomly initialised networks give (0.100)."
    )


def test_what_changed_where():
    text = said(diagonal([0.99, 0.97, 0.96, 0.7, 0.96, 0.41], random=[0.1] * 5 + [0.6]))
    assert text.startswith(
        "Layers l0 to l2 and l4 are nearly the same (debiased linear CKA of at least 0.95). Most "
        "changed is l5 (0.410, 95 % interval 0.360 to 0.460): above what shuffled images give "
        "(0.020) and below what 5 randomly initialised networks give (0.600)."
    )
    assert text.endswith(
        "In tuned, layer l5 is not shown to be closer to frozen's than randomly initialised networks'."
    )


def test_a_random_network_within_the_interval():
    text = said(diagonal([0.9, 0.5], random=[0.1, 0.52]))
    assert "level with what 5 randomly initialised networks give (0.520)" in text


def test_random_networks_are_a_range():
    seeds = np.linspace(0.3, 0.4, 5)[:, None]
    for value, side in ((0.5, "above"), (0.2, "below"), (0.44, "level with"), (0.35, "level with")):
        text = said(diagonal([0.9, value], random=np.hstack([seeds, seeds])))
        assert f"{side} what 5 randomly initialised networks give (0.300 to 0.400)" in text


def test_few_random_networks_say_nothing():
    """One seed may lie anywhere."""
    for seeds, told in (
        (1, "a randomly initialised network gives (0.900)"),
        (4, "4 randomly init"),
    ):
        found = dataclasses.replace(diagonal([0.9, 0.2]), random=np.full((seeds, 2), 0.9))
        assert f"beside what {told}" in said(found)
        assert "shown to be closer" not in said(found)


def test_no_interval_is_above_nothing():
    """One slide had an interval of no width, and was above all."""
    text = said(diagonal([0.9, 0.5], low=None, high=None, groups=1))
    assert "beside what shuffled images give (0.020) and beside what 5 randomly" in text
    assert "above" not in text
    assert text.endswith("No intervals: 5 slides or patients are needed, these are 1.")


def test_below_the_null():
    text = said(diagonal([0.97, 0.06, -0.01]))
    assert "within what shuffled images give (0.020)" in text
    assert (
        "Layers l1 and l2 are indistinguishable from shuffled images: the interval reaches what "
        "those give." in text
    )
    page = report.comparison_page(diagonal([0.97, 0.06, -0.01]))
    assert page.count("not told from shuffled images") == 2


def test_chance_comes_before_likeness():
    """Biased estimates of few images: 0.97, and shuffled images give 0.96."""
    text = said(diagonal([0.97], low=[0.95], high=[0.98], permuted=[0.96]))
    assert "nearly the same in both" in text
    assert text.startswith("No layer")
    assert "Layer l0 is indistinguishable" in text


def test_below_the_null_without_interval():
    text = said(diagonal([0.97, 0.015], low=None, high=None))
    assert "Layer l1 is indistinguishable from shuffled images: the value is within" in text
    assert "No intervals were computed." in text


def test_undefined():
    text = said(ODD)
    assert "Layer fc is undefined: no variation over these 512 images." in text
    assert "Of the 16 cells of the matrix 1 is undefined." in text
    assert "nan" not in text
    assert said(diagonal([NAN, NAN])).startswith("No layer is nearly the same")


def test_cells_that_were_left_out_are_not_called_undefined():
    matrix = np.full((3, 3), NAN)
    np.fill_diagonal(matrix, [0.97, NAN, 0.5])
    text = said(made(matrix))
    assert "Only layers of the same name were compared." in text
    assert "Layer l1 is undefined" in text
    assert "cells" not in text
    page = report.comparison_page(made(matrix))
    assert "<title>l0 / l1: not compared</title>" in page
    assert "<title>l1 / l1: undefined</title>" in page


def test_few_slides_and_no_null_are_said():
    text = said(diagonal([0.97, 0.96], groups=3, permuted=None))
    assert "The intervals rest on only 3 slides or patients: take them as rough." in text
    assert "No images were shuffled, so that chance is not ruled out." in text


def test_long_lists_are_cut():
    values = [0.99, 0.5] * 9
    assert "Layers l0, l2, l4, l6, l8 and 4 more are nearly the same" in said(diagonal(values))


def test_no_common_layers():
    assert said(APART) == (
        "No layer has the same name in both. Most alike are a and c (debiased linear CKA 0.900), "
        "least alike b and c (0.100)."
    )


def test_encoders_with_each_other():
    assert said(ENCODERS) == (
        "Most alike are uni and gigapath (debiased linear CKA 0.800), least alike uni and phikon "
        "(0.010). Pair uni / phikon is indistinguishable from shuffled images: the interval "
        "reaches what those give."
    )
    page = report.comparison_page(ENCODERS)
    assert "<h1>3 encoders</h1>" in page
    assert 'class="halo"' not in page
    two = made([[1, 0.4], [0.4, 1]], names=("uni", "phikon"), pairs=[])
    assert said(two) == "Between uni and phikon debiased linear CKA is 0.400."


def test_a_network_with_itself_is_not_a_set_of_encoders():
    assert said(made(np.eye(3))).startswith("All 3 layers are the same")


def test_text_of_a_terminal():
    lines = report.comparison_text(ODD).splitlines()
    assert lines[:6] == [
        "frozen and tuned: debiased linear CKA, 512 images of 12 slides or patients",
        "        similarity   95 % interval  shuffled  random",
        "conv1        0.987  0.937 to 1.037     0.020   0.100",
        "layer1       0.963  0.913 to 1.013     0.020   0.100",
        "layer4       0.412  0.362 to 0.462     0.020   0.100",
        "fc       undefined                     0.020   0.100",
    ]
    short = report.comparison_text(ODD, most=1).splitlines()
    assert short[3] == "and 3 more"
    assert report.comparison_text(APART).splitlines()[1:] == [*report.describe_comparison(APART)]


# --- Page --------------------------------------------------------------------------------------


class Reader(PageReader):
    cell_tags = frozenset({"td", "text"})  # numbers are written in the heat map too

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        assert tag != "a" or "download" in dict(attrs)
        assert tag != "img"


@pytest.mark.parametrize("comparison", ALL.values(), ids=ALL)
def test_page_is_whole_and_needs_nothing_else(comparison):
    page = report.comparison_page(comparison)
    reader = Reader(page)
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    assert all(reference.startswith("data:") for reference in reader.references)
    rest = re.sub(r"data:[^\"]*", "", page)
    assert "http" not in rest
    assert "//" not in rest
    assert "@import" not in rest
    assert set(re.findall(r"url\((.)", rest)) <= {"#"}
    assert not re.search(r"\bnan\b|\bNone\b|Undefined", re.sub(r"<style>.*</style>", "", rest))
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert page == report.comparison_page(comparison)


@pytest.mark.parametrize("comparison", ALL.values(), ids=ALL)
def test_downloads_are_the_comparison(comparison):
    reader = Reader(report.comparison_page(comparison))
    assert decoded(reader.links["comparison.json"]) == comparison.to_json()
    assert decoded(reader.links["comparison.csv"]) == comparison.to_csv()


@pytest.mark.parametrize("comparison", ALL.values(), ids=ALL)
def test_every_number_drawn_is_in_the_json(comparison):
    page = report.comparison_page(comparison)
    reader = Reader(page)
    values = json.loads(decoded(reader.links["comparison.json"]))
    known = [
        value
        for name in ("matrix", "low", "high", "permuted", "random")
        for value in np.ravel(values[name] or []).tolist()
        if value is not None
    ]
    known += [value for value in values["predictions"].values() if value is not None]
    written = {f"{value:.{digits}f}" for value in known for digits in (2, 3)}
    written |= {text.replace("-0.00", "0.00") for text in written}
    axis = {"0.00", "0.25", "0.50", "0.75", "1.00"}
    drawn = set(re.findall(r"-?\d\.\d{2,3}\b", " ".join(reader.cells + reader.titles)))
    assert drawn - {_core.version} <= written | axis
    tooltips = {title for title in reader.titles if " / " in title and "," not in title}
    la, lb = comparison.matrix.shape
    for i in range(la):
        for j in range(lb):
            value = comparison.matrix[i, j]
            text = "undefined" if np.isnan(value) else f"{value:.3f}".replace("-0.000", "0.000")
            assert f"{comparison.names_a[i]} / {comparison.names_b[j]}: {text}" in tooltips


def test_csv_has_what_is_drawn():
    rows = list(csv.DictReader(io.StringIO(ODD.to_csv())))
    assert len(rows) == 16
    found = {row["a"]: row for row in rows if row["a"] == row["b"]}
    for k, name in enumerate(ODD.pair_names):
        np.testing.assert_equal(float(found[name]["random_high"]), ODD.random_range[1][k])
        for column in ("low", "high", "permuted"):
            np.testing.assert_equal(float(found[name][column]), getattr(ODD, column)[k])
        np.testing.assert_equal(float(found[name]["similarity"]), ODD.diagonal[k])


def test_page_says_what_and_how():
    page = report.comparison_page(ODD)
    assert "<h1>frozen and tuned</h1>" in page
    assert "Debiased linear CKA on 512 images of 12 slides or patients" in page
    for text in (*report.describe_comparison(ODD), "row order", "as listed", "ab" * 32):
        assert text.replace(" %", "\u00a0%") in page.replace("&#39;", "'")
    assert "agreement by chance" in page
    assert "0.801" in page
    assert _core.version in page
    assert page.count('fill="url(#undefined)"') == 1 + 1 + 2  # cell, chart, two legends


def test_names_are_text():
    page = report.comparison_page(
        diagonal([0.9, 0.5], names=("<script>alert(1)</script>", 'a"b&c'), label_a="<b>x</b>")
    )
    Reader(page)
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt; and tuned" in page


# --- Figure ------------------------------------------------------------------------------------


@pytest.mark.parametrize("comparison", ALL.values(), ids=ALL)
def test_figure(comparison, tmp_path):
    report.plot_comparison(comparison, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]


@pytest.mark.parametrize(("name", "head"), [("c.pdf", b"%PDF"), ("c.SVG", b"<?xml")])
def test_figures_of_one_comparison_are_the_same_bytes(name, head, tmp_path):
    report.plot_comparison(ODD, tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert first.startswith(head)
    report.plot_comparison(ODD, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


def test_figure_has_names_and_marks_the_undefined():
    from histofast.report.heatmaps import _figure

    figure = _figure(ODD)
    heat, _, lines = figure.axes
    assert [text.get_text() for text in heat.get_yticklabels()] == list(ODD.names_a)
    assert [text.get_text() for text in heat.get_xticklabels()] == list(ODD.names_b)
    assert [text.get_text() for text in lines.get_xticklabels()] == list(ODD.pair_names)
    assert heat.images[0].get_clim() == (0, 1)
    assert "undefined" in [text.get_text() for text in heat.get_legend().get_texts()]
    assert "undefined" in [text.get_text() for text in lines.texts]
    drawn = {line.get_label(): line.get_ydata() for line in lines.lines}
    np.testing.assert_array_equal(drawn["debiased linear CKA"], ODD.diagonal)
    np.testing.assert_array_equal(drawn["images shuffled"], ODD.permuted)
    np.testing.assert_array_equal(drawn["random initialisation"], ODD.random_range[1])
    assert _figure(SOME_B).axes[0].images[0].get_clim() == (-0.04, 1)


def test_names_are_readable_at_60_by_60():
    from histofast.report.heatmaps import _figure

    comparison = diagonal(
        np.linspace(1, 0.3, 60), names=[f"denseblock3.denselayer{i}" for i in range(60)]
    )
    figure = _figure(comparison)
    figure.canvas.draw()
    heat = figure.axes[0]
    for labels, side in ((heat.get_yticklabels(), "y"), (heat.get_xticklabels(), "x")):
        assert labels[0].get_fontsize() >= 7
        boxes = [label.get_window_extent() for label in labels]
        starts = sorted(getattr(box, f"{side}0") for box in boxes)
        sizes = [box.height if side == "y" else box.width for box in boxes]
        assert min(np.diff(starts)) >= 0.85 * max(sizes)  # boxes have room above the letters
        assert min(box.x0 for box in boxes) >= 0
        assert min(box.y0 for box in boxes) >= 0


def test_long_names_lose_their_middle(tmp_path):
    from histofast.report.heatmaps import _figure

    name = "backbone.stages.3.blocks.11.attention.projection"
    label = _figure(diagonal([0.9], names=[name])).axes[0].get_yticklabels()[0].get_text()
    assert label == "backbone.stage…tion.projection"
    assert f"<title>{name}</title>" in report.comparison_page(diagonal([0.9], names=[name]))


def test_dollars_are_text(tmp_path):
    report.plot_comparison(diagonal([0.9], names=["a$b$^"], label_a="$x"), tmp_path / "c.svg")
    assert (tmp_path / "c.svg").is_file()


def test_figure_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"a figure must end in \.png, \.pdf, \.svg, got .*c\.txt"):
        report.plot_comparison(ODD, tmp_path / "c.txt")
    with pytest.raises(FileNotFoundError, match=r"no folder .*none to write c\.png in"):
        report.plot_comparison(ODD, tmp_path / "none" / "c.png")
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "c.png"
    path.write_bytes(b"old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        report.plot_comparison(diagonal([0.9]), path)
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_missing_library_is_named(missing, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("histofast.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        ModuleNotFoundError,
        match=rf"histofast\.report needs {missing}, which is not installed: pip install "
        r"'histofast\[train\]'",
    ):
        __import__("histofast.report")
