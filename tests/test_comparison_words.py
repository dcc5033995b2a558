"""What a comparison says: every number is the comparison's, every sentence follows a rule."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re

import numpy as np
import pytest

from extras import need
from histofast import _core
from histofast.comparison import answer_of, comparison_text, describe_comparison
from histofast.report import number, page
from histofast.similarity import MEASURES, Comparison
from page_reader import PageReader, decoded

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
    return " ".join(describe_comparison(comparison))


ODD = diagonal(
    [0.987, 0.9634, 0.4118, NAN],
    names=("conv1", "layer1", "layer4", "fc"),
    predictions={
        MEASURES["agreement"].title: 0.9123,
        MEASURES["chance-agreement"].title: 0.8011,
        MEASURES["error-consistency"].title: NAN,
    },
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
    rows = answer_of(diagonal([0.97, 0.06, -0.01])).tables[0].rows
    assert [row[-1] for row in rows[1:]] == ["not told from shuffled images"] * 2


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
    drawn = answer_of(made(matrix)).figures[0].panels[0]
    assert drawn.blank == "not compared"
    assert drawn.words[1, 1] == "undefined"


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
    two = made([[1, 0.4], [0.4, 1]], names=("uni", "phikon"), pairs=[])
    assert said(two) == "Between uni and phikon debiased linear CKA is 0.400."


def test_a_network_with_itself_is_not_a_set_of_encoders():
    assert said(made(np.eye(3))).startswith("All 3 layers are the same")


def test_text_of_a_terminal():
    lines = comparison_text(ODD).splitlines()
    assert lines[:6] == [
        "frozen and tuned: debiased linear CKA, 512 images of 12 slides or patients",
        "        similarity   95 % interval  shuffled  random",
        "conv1        0.987  0.937 to 1.037     0.020   0.100",
        "layer1       0.963  0.913 to 1.013     0.020   0.100",
        "layer4       0.412  0.362 to 0.462     0.020   0.100",
        "fc       undefined                     0.020   0.100",
    ]
    short = comparison_text(ODD, most=1).splitlines()
    assert short[3] == "and 3 more"
    assert comparison_text(APART).splitlines()[1:] == [*describe_comparison(APART)]


# --- Answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("comparison", ALL.values(), ids=ALL)
def test_the_answers_numbers_are_the_comparisons(comparison):
    answer = answer_of(comparison)
    assert answer.to_json() == comparison.to_json()
    assert answer.files == {"comparison.csv": comparison.to_csv()}
    matrix, *charts = answer.figures[0].panels
    np.testing.assert_array_equal(matrix.values, comparison.matrix)
    assert (matrix.rows, matrix.columns) == (comparison.names_a, comparison.names_b)
    assert matrix.low == min(0, *comparison.matrix[~np.isnan(comparison.matrix)], 0)
    assert len(charts) == (len(comparison.pairs) > 0)
    most = None if comparison.random is None else comparison.random_range[1]
    for chart in charts:
        names = comparison.pair_names
        drawn = {series.name: [p.value for p in series.points] for series in chart.series}
        for name, values in (
            (comparison.measure, comparison.diagonal),
            ("images shuffled", comparison.permuted),
            ("random initialisation", most),
        ):
            assert (name in drawn) == (values is not None and not np.isnan(values).all())
            if name in drawn:
                np.testing.assert_array_equal(drawn[name], values)
        assert [k in chart.blanks for k in range(len(names))] == np.isnan(
            comparison.diagonal
        ).tolist()
        table = answer.tables[0]
        found = table.records()
        np.testing.assert_array_equal([r["similarity"] for r in found], comparison.diagonal)
        assert not re.search(r"\bnan\b|None", " ".join(p.tip for p in chart.points))


def test_csv_has_what_is_drawn():
    rows = list(csv.DictReader(io.StringIO(ODD.to_csv())))
    assert len(rows) == 16
    found = {row["a"]: row for row in rows if row["a"] == row["b"]}
    for k, name in enumerate(ODD.pair_names):
        np.testing.assert_equal(float(found[name]["random_high"]), ODD.random_range[1][k])
        for column in ("low", "high", "permuted"):
            np.testing.assert_equal(float(found[name][column]), getattr(ODD, column)[k])
        np.testing.assert_equal(float(found[name]["similarity"]), ODD.diagonal[k])


def test_the_answer_says_what_and_how():
    answer = answer_of(ODD)
    assert answer.title == "frozen and tuned"
    assert answer.basis == "Debiased linear CKA on 512 images of 12 slides or patients"
    assert answer.findings == describe_comparison(ODD)
    assert answer.method == {
        "measure": "debiased linear CKA",
        "mode": "flatten",
        "row_order": "as listed",
        "number of images": "512",
        "number of slides or patients": "12",
        "sha256 of the images' ids": "ab" * 32,
    }
    matrix, chart = answer.figures[0].panels
    assert (matrix.row_label, matrix.column_label) == ("frozen", "tuned")
    assert matrix.outlined == ((0, 0), (1, 1), (2, 2), (3, 3))
    assert "Outlined: the same layer in both." in matrix.caption
    assert "Band: 95 % interval." in chart.caption
    assert (
        "of frozen and of 5 networks that have learnt nothing, the most of them, and"
        in chart.caption
    )
    layers, predictions = answer.tables
    assert layers.aside == {3}
    verdicts = [row[-1] for row in layers.rows]
    assert verdicts == ["nearly the same", "nearly the same", "changed", "undefined"]
    assert predictions.rows[:2] == (
        ("both right or both wrong", 0.9123, MEASURES["agreement"].formula),
        ("the same by chance", 0.8011, MEASURES["chance-agreement"].formula),
    )
    assert math.isnan(predictions.rows[2][1])


def test_encoders_are_pairs_without_order():
    answer = answer_of(ENCODERS)
    matrix, chart = answer.figures[0].panels
    assert (answer.title, matrix.outlined, matrix.row_label) == ("3 encoders", (), "")
    assert {series.line for series in chart.series} == {"none"}
    assert chart.caption.startswith("Bars: 95 % interval.")
    assert answer.tables[0].name == "pairs"
    assert answer.tables[0].rows[0][-1] == "different"


@pytest.mark.parametrize("comparison", ALL.values(), ids=ALL)
def test_the_page_shows_every_cell(comparison):
    need("matplotlib", "jinja2")
    reader = PageReader(page(answer_of(comparison)))
    assert reader.open == []
    tooltips = set(reader.titles)
    known = re.findall(r"-?\d+\.\d+(?:e-\d+)?", decoded(reader.links["comparison.json"]))
    written = {number(float(text)) for text in known}
    drawn = " ".join(reader.cells + reader.titles).replace(_core.version, "")
    assert set(re.findall(r"-?\d\.\d{3}\b", drawn)) <= written | {"1.000", "0.000"}
    for i, a in enumerate(comparison.names_a):
        for j, b in enumerate(comparison.names_b):
            value = comparison.matrix[i, j]
            assert f"{a} / {b}: {'undefined' if np.isnan(value) else number(value)}" in tooltips
    assert decoded(reader.links["comparison.json"]) == comparison.to_json()
    assert decoded(reader.links["comparison.csv"]) == comparison.to_csv()
