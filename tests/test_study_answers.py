"""What a study shows: every number of its page and its files is the study's."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from extras import need
from histofast import _core
from histofast.report import page
from page_reader import PageReader, decoded

need("histofast.studies")

from histofast.studies import Study, answer_of, describe_study
from small_studies import ALL, CUTS, NETWORKS, made, row


def test_json_has_all_and_nan_is_null():
    text = answer_of(CUTS).to_json()
    assert text.endswith("}\n")
    values = json.loads(text)
    assert "NaN" not in text
    versus = values["rows"][0]["versus"]
    assert (versus["value"], versus["low"], versus["high"]) == (-0.188, -0.208, -0.168)
    assert values["rows"][1]["extra"]["attention AUROC"] is None
    assert values["rows"][3]["method"]["value"] is None
    assert values["rows"][4]["baseline"] is True
    assert values["commands"] == [["Run it", "histofast study truncation --out 'a b'"]]
    assert values["knee"]["name"] == "b"
    assert json.loads(answer_of(NETWORKS).to_json())["rows"][4]["spread"] == [0.44, 0.56]
    assert set(values) == set(Study.__dataclass_fields__)


def test_csv_has_a_line_per_row():
    text = answer_of(CUTS).tables[0].to_csv()
    assert text.endswith("\n")
    found = list(csv.DictReader(io.StringIO(text)))
    assert [line["name"] for line in found] == [one.name for one in CUTS.rows]
    assert found[1]["difference"] == "-0.016"
    assert float(found[1]["low"]) < float(found[1]["patients_low"]) < float(found[1]["value"])
    assert found[1]["attention AUROC"] == "nan"
    assert [line["p_adjusted"] for line in found] == ["0.02", "0.02", "", "", "0.02"]
    assert found[2]["difference"] == ""
    assert found[3]["value"] == "nan"
    assert found[3]["patches_per_s"] == ""
    assert [line["chosen"] for line in found] == ["0", "1", "0", "0", "0"]
    nets = list(csv.DictReader(io.StringIO(answer_of(NETWORKS).tables[0].to_csv())))
    assert (nets[4]["spread_low"], nets[4]["spread_high"]) == ("0.44", "0.56")
    assert (nets[4]["low"], nets[4]["patients_value"]) == ("", "nan")


def charts_of(study):
    return [panel for figure in answer_of(study).figures for panel in figure.panels]


@pytest.mark.parametrize("study", ALL.values(), ids=ALL)
def test_the_page_shows_every_row(study):
    need("matplotlib", "jinja2")
    shown = page(answer_of(study))
    reader = PageReader(shown)
    assert reader.open == []
    assert not re.search(r"\bnan\b|\bNone\b", re.sub(r"data:[^\"]*", "", shown))
    known = [
        float(text)
        for text in re.findall(r"-?\d+(?:\.\d+)?(?:e-\d+)?", decoded(reader.links["study.json"]))
    ]
    known.append(len(study.candidates))  # "highest of 2"
    written = {f"{v * f:.{k}f}" for v in known for k in range(4) for f in (1, 100, 1e-6)}
    drawn = " ".join(reader.cells + reader.titles).replace(_core.version, "").replace(",", "")
    drawn = re.sub(r"[a-z]\w*", "", drawn)
    assert set(re.findall(r"\d+(?:\.\d+)?", drawn)) - {"95"} <= {w.lstrip("-") for w in written}
    for one in study.rows:
        if one.is_defined:
            assert f"{one.value:.3f}" in reader.cells
            if one.depth is not None:
                said = f"{one.name}: {study.metric} {one.value:.3f}"
                assert any(title.startswith(said) for title in reader.titles)
    assert decoded(reader.links["study.json"]) == answer_of(study).to_json()


def test_what_is_not_there_is_a_dash_with_a_word():
    table = answer_of(CUTS).tables[0]
    written = {
        column.write(cell)
        for row in table.rows
        for column, cell in zip(table.columns, row, strict=True)
    }
    for word in ("undefined", "none", "not measured", "not known", "not compared"):
        assert f"\u2014 {word}" in written
    assert {"diverged", "knee: not told from the highest", "80 %", "0.04 MB"} <= written
    assert table.highlighted == {1}
    assert table.aside == {4}
    only = answer_of(made(row("net a", layer="a"))).tables[0]
    assert only.rows[0][:2] == ("net a", "")  # network and layer are in the name


def test_the_answer_says_what_and_how():
    answer = answer_of(CUTS, links={"similarity": "similarity/index.html"})
    assert (answer.title, answer.question) == ("Where to cut", "How much of a network is needed?")
    assert answer.basis == "AUROC on 120 slides of 110 patients, 3 x 5 folds"
    assert answer.findings == describe_study(CUTS)
    assert answer.method == {
        "metric": "AUROC, more is better",
        "patch_size": "224 px",
        "slides": "120",
        "patients": "110",
        "folds": "3 x 5",
    }
    assert answer.links == {"similarity": "similarity/index.html"}
    assert "findings are adjusted for the number of comparisons" in answer.tables[0].caption


def test_charts_are_of_the_rows():
    values, speeds = charts_of(CUTS)
    assert [(p.place, p.value, p.label) for p in values.points] == [
        *((0.1, 0.712, "a"), (0.42, 0.884, "b"), (0.8, 0.9, "c")),
    ]
    assert [p.value for p in speeds.points] == [1234.5, 250.25, 100.0]
    assert [(rule.name, rule.value, rule.faint) for rule in values.rules] == [
        ("baseline: mean pooling", 0.7, False),
        ("chance", 0.5, True),
    ]
    forest, scatter = charts_of(NETWORKS)
    assert forest.places.names == ("uni", "vit", "resnet", "mean pooling", "random weights")
    assert [p.place for p in forest.points] == [0, 1, 2, 3, 4]
    assert {p.label: p.place for p in scatter.points} == {
        "uni": 12.0,
        "vit": 480.0,
        "resnet": 100.0,
        "mean pooling": 100.0,
    }
    assert [rule.name for rule in scatter.rules] == ["baseline: random weights (0.440 to 0.560)"]
    for chart in (values, speeds, forest, scatter):
        assert sum(point.ringed for point in chart.points) == 1
    assert charts_of(ALL["nothing but NaN"]) == []
    assert len(charts_of(ALL["no depth, no speed"])) == 0


def test_random_networks_are_drawn_as_their_range():
    forest, _ = charts_of(NETWORKS)
    drawn = next(point for point in forest.points if point.place == 4)
    assert (drawn.value, drawn.low, drawn.high) == (0.5, 0.44, 0.56)
    assert drawn.tip == "random weights: AUROC 0.500 (0.440 to 0.560)"
    assert "of random networks, their range" in forest.caption
    assert all("random" not in chart.caption for chart in charts_of(CUTS))


def test_bars_are_the_wider_interval():
    values, _ = charts_of(CUTS)
    stated = [one.interval for one in CUTS.rows[:3]]
    assert [(p.low, p.high) for p in values.points] == [(m.low, m.high) for m in stated]
