"""What a study says: every number is the study's, every sentence follows a rule."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace

import pytest

from extras import need
from histofast import _core
from histofast.report import page
from page_reader import PageReader, decoded

need("histofast.studies")

from histofast.learning import Difference, Knee, Metric
from histofast.studies import Study, StudyRow, answer_of, describe_study

NAN = float("nan")
NONE = Metric(value=NAN, low=NAN, high=NAN)


def row(name, value=0.8, *, half=0.05, **more) -> StudyRow:
    rest = {
        "network": "net",
        "layer": name,
        "depth": None,
        "d": 64,
        "method": Metric(value=value, low=value - half, high=value + half),
        "patients": Metric(value=value, low=value - half / 2, high=value + half / 2),
        "patches_per_s": 100.0,
        "size_bytes": 5_000_000,
    }
    return StudyRow(name=name, **(rest | more))


def less(value, half=0.02, *, adjusted=None) -> Difference:
    wide = half if adjusted is None else adjusted
    return Difference(
        value=value,
        low=value - half,
        high=value + half,
        p=0.01,
        p_adjusted=0.02,
        low_adjusted=value - wide,
        high_adjusted=value + wide,
        confidence=0.95,
        n=15,
    )


def knee(name, *, closest=None, needed=None) -> Knee:
    return Knee(name=name, closest=closest, patients_needed=needed, tolerance=0.05)


def made(*rows, **more) -> Study:
    chosen = next((one.name for one in rows if one.chosen), None)
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
        "knee": knee(chosen),
        "convention": {"patch_size": "224 px"},
        "commands": (("Run it", "histofast study truncation --out 'a b'"),),
    }
    return Study(rows=rows, **(rest | more))


BASE = row(
    "mean pooling",
    0.7,
    baseline=True,
    layer="c",
    versus=less(-0.2),
    notes="logistic regression",
)
CUTS = made(
    row("a", 0.712, depth=0.1, versus=less(-0.188), patches_per_s=1234.5, size_bytes=40_000),
    row(
        "b",
        0.884,
        depth=0.42,
        versus=less(-0.016),
        chosen=True,
        patches_per_s=250.25,
        extra={"AUROC after fine-tuning": 0.901, "attention AUROC": NAN},
    ),
    row("c", 0.9, depth=0.8),
    row("d", NAN, depth=1.0, patches_per_s=None, size_bytes=None, notes="diverged"),
    BASE,
    chance=0.5,
    repeats=3,
)
NETWORKS = made(
    row("resnet", 0.8, network="resnet", versus=less(-0.1), size_bytes=None),
    row("uni", 0.9, network="uni", patches_per_s=12.0),
    row("vit", 0.89, network="vit", versus=less(-0.01), chosen=True, patches_per_s=480.0),
    BASE,
    row(
        "random weights",
        0.5,
        baseline=True,
        patches_per_s=None,
        method=Metric(value=0.5, low=NAN, high=NAN),
        patients=NONE,
        spread=(0.44, 0.56),
    ),
    kind="networks",
)
ALL = {
    "cuts": CUTS,
    "networks": NETWORKS,
    "nothing but NaN": made(row("a", NAN, depth=0.5), row("b", NAN)),
    "NaN networks": made(row("a", NAN), kind="networks"),
    "one cut": made(row("a", 0.5, depth=0.5)),
    "one network": made(row("a", 1.0, half=0.0), kind="networks", metric="accuracy"),
    "no depth, no speed": made(row("a", 0.6, patches_per_s=None), row("b", 0.6)),
    "no interval": made(row("a", 0.9, depth=0.0, half=NAN), row("b", 0.8, depth=1.0)),
    "only baselines": made(BASE),
    "errors": made(
        row("a", 123.4, depth=0.1, versus=less(11.1)),
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
    return " ".join(describe_study(study))


# --- Rows --------------------------------------------------------------------------------------


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
    assert set(values) == set(Study.__dataclass_fields__)


def test_csv_has_a_line_per_row():
    text = answer_of(CUTS).tables[0].to_csv()
    assert text.endswith("\n")
    found = list(csv.DictReader(io.StringIO(text)))
    assert [line["name"] for line in found] == [one.name for one in CUTS.rows]
    assert found[1]["difference"] == "-0.016"
    assert float(found[1]["low"]) < float(found[1]["patients_low"]) < float(found[1]["value"])
    assert found[1]["attention AUROC"] == "nan"
    assert found[2]["difference"] == ""
    assert found[3]["value"] == "nan"
    assert found[3]["patches_per_s"] == ""
    assert [line["chosen"] for line in found] == ["0", "1", "0", "0", "0"]


def test_the_highest_is_a_candidate():
    assert CUTS.highest is CUTS.rows[2]
    assert made(row("a", 0.5), row("x", 0.9, baseline=True)).highest.name == "a"
    assert ALL["errors"].highest.name == "b"
    assert ALL["nothing but NaN"].highest is None


def test_sentences_use_the_wider_interval():
    narrow = Metric(value=0.8, low=0.79, high=0.81)
    wide = Metric(value=0.8, low=0.7, high=0.9)
    assert row("a", method=narrow, patients=wide).interval == wide
    assert row("a", method=wide, patients=narrow).interval == wide
    assert row("a", method=Metric(value=0.8, low=NAN, high=NAN), patients=narrow).has_interval


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
        (
            lambda: made(row("a", spread=(0.1, math.inf))),
            "numbers of row 'a' must be finite or NaN",
        ),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- Words -------------------------------------------------------------------------------------


def test_cuts_in_words():
    assert describe_study(CUTS) == (
        "Highest of 4 cuts is c (AUROC 0.900, 95 % interval 0.850 to 0.950).",
        "Chosen by the patients that it is measured on, it looks better than it is.",
        (
            "The knee is b (0.884), the cheapest cut that is shown to lose less than 0.050 to the "
            "highest (difference -0.016, 95 % interval -0.036 to +0.004). It is 2.5 times as fast "
            "(250 against 100 patches/s)."
        ),
        "a is worse than the highest, after adjusting for 2 comparisons.",
        "Not told from it with 110 patients: b.",
        (
            "The baseline mean pooling (0.700; difference -0.200, 95 % interval -0.220 to -0.180) is "
            "below the highest."
        ),
        "AUROC is undefined for d.",
        "Speed was not measured for d.",
        "The encoder's size is not known for d.",
        "AUROC after fine-tuning was measured for b only.",
        "Attention AUROC was measured for b only.",
    )


def test_networks_in_words():
    text = said(NETWORKS)
    assert "The choice is vit (0.890), the cheapest network that is shown to lose less" in text
    assert "It is 40 times as fast (480 against 12.0 patches/s)." in text
    assert "The baseline mean pooling (0.700; difference -0.200" in text
    assert (
        "random weights reach 0.440 to 0.560. Every network is above them with its whole interval."
        in text
    )


@pytest.mark.parametrize("study", ALL.values(), ids=ALL)
def test_nothing_is_called_the_best(study):
    assert not re.search(r"\bbest\b", said(study), re.IGNORECASE)


def test_the_whole_network_and_the_file():
    study = made(
        row("a", depth=0.1, chosen=True, versus=less(-0.01), patches_per_s=300.0),
        row("b", 0.81, depth=0.5, size_bytes=20_000_000),
        row("c", depth=1.0, patches_per_s=50.0, versus=less(-0.01)),
    )
    text = said(study)
    assert "It is 6.0 times as fast as the deepest cut of net (50.0 patches/s)." in text
    assert "Its file is smaller (5.00 MB against 20.0 MB)." in text
    slower = made(row("a", chosen=True, patches_per_s=50.0, versus=less(0)), row("b", 0.9))
    assert "It is slower (50.0 against 100 patches/s)." in said(slower)


def test_without_a_knee_it_is_said_what_it_would_take():
    rows = [row("a", 0.79, versus=less(-0.02, 0.1)), row("b", 0.81)]
    text = said(made(*rows, knee=knee(None, closest="a", needed=1234)))
    assert "There is no knee: of no cheaper cut the interval of the difference shows that" in text
    assert (
        "About 1234 patients would be needed to show it of a, if its difference stays as it is; "
        "there are 110." in text
    )
    text = said(made(*rows, knee=knee(None, closest="a")))
    assert "There is no knee" in text
    assert "would be needed" not in text
    assert "knee" not in said(made(*rows, knee=None))


def test_the_highest_may_be_the_knee_itself():
    rows = [row("a", 0.5, versus=less(-0.3)), row("b", 0.8, chosen=True)]
    text = said(made(*rows))
    assert "It is the knee as well: no cut is cheaper, or each that is has been shown" in text


def test_few_patients():
    rows = [row(name, 0.8, versus=less(-0.01)) for name in "ab"]
    text = said(made(row("top", 0.81), *rows, n_patients=9, knee=None))
    assert (
        "None of the other 2 is told from the highest, after adjusting for 2 comparisons: with 9 "
        "patients the order of the cuts says little." in text
    )
    assert "The intervals rest on only 9 patients: take them as rough." in text
    text = said(made(row("top", 0.81), rows[0]))
    assert "a is not told from the highest: with 110 patients" in text
    unpaired = said(made(row("top", 0.81), row("a", 0.8), knee=None))
    assert "No differences to the highest were computed." in unpaired


def test_findings_are_adjusted_for_the_number_of_comparisons():
    alone, among = less(-0.1, 0.09), less(-0.1, 0.09, adjusted=0.12)
    shown = made(row("a", 0.7, versus=alone), row("top", 0.8))
    assert "a is worse than the highest." in said(shown)
    hidden = made(row("a", 0.7, versus=among), row("top", 0.8))
    assert "a is not told from the highest" in said(hidden)


def test_all_others_are_worse():
    rows = [row(name, 0.5, versus=less(-0.3)) for name in "ab"]
    text = said(made(row("top", 0.8), *rows, knee=None))
    assert "a, b are worse than the highest, after adjusting for 2 comparisons." in text
    assert "Not told" not in text


def test_a_baseline_that_wins_is_named():
    def against(value, versus, **more):
        base = row("mean", value, baseline=True, versus=versus)
        return said(made(row("a", 0.8, chosen=True), base, **more))

    text = against(0.9, less(0.1))
    assert "The baseline mean (0.900) beats the highest cut (difference +0.100" in text
    text = against(0.81, less(0.01))
    assert "The baseline mean (0.810) is ahead of the highest, though that is not shown" in text
    text = against(0.79, less(-0.01))
    assert "is not told from the highest" in text
    assert "what the cuts add to it cannot be shown with 110 patients" in text
    assert "The baseline mean (0.600) was not compared in pairs." in against(0.6, None)
    text = against(0.6, less(-0.2), higher_is_better=False)
    assert "The baseline mean (0.600) beats the lowest cut (difference -0.200" in text
    assert "No baseline was run: what the cuts add to one is not known." in said(made(row("a")))


def test_random_networks_are_held_against_whole_intervals():
    def against(*spread):
        null = row(
            "random",
            sum(spread) / 2,
            baseline=True,
            method=Metric(value=sum(spread) / 2, low=NAN, high=NAN),
            patients=NONE,
            spread=spread,
        )
        return said(made(row("a", 0.7, versus=less(-0.1)), row("b", 0.8), null))

    every = "random reach 0.400 to 0.600. Every cut is above them with its whole interval."
    assert every in against(0.4, 0.6)
    assert "Above them with their whole interval: b." in against(0.5, 0.7)
    assert "No cut is above them with its whole interval." in against(0.5, 0.78)


def test_where_slides_count_as_patients_no_word_claims_patients():
    study = replace(CUTS, unit="slide", n_patients=120, knee=knee(None, closest="a", needed=500))
    study = replace(study, rows=tuple(replace(one, chosen=False) for one in study.rows))
    answer = answer_of(study)
    table = answer.tables[0]
    words = " ".join([said(study), answer.basis, table.caption, *(c.title for c in table.columns)])
    assert "patient" not in words
    assert "AUROC on 120 slides, 3 x 5 folds" in words
    assert answer.method["patients"] == "not known: slides count as patients"


def test_lower_may_be_better():
    text = said(ALL["errors"])
    assert text.startswith("Lowest of 2 cuts is b (MAE 112.300")
    assert "a is worse than the lowest." in text


def test_chance_and_missing_are_said():
    text = said(made(row("a", 0.53), chance=0.5))
    assert "Its interval reaches chance (0.500): it may have learnt nothing." in text
    assert said(ALL["nothing but NaN"]).startswith("AUROC is undefined for all cuts.")
    text = said(ALL["no depth, no speed"])
    assert "Depth is not known, and no place in the charts." in text
    assert "Speed was not measured for a." in text
    assert "No intervals were computed for a." in said(ALL["no interval"])


def test_remarks_come_last():
    assert describe_study(replace(CUTS, remarks=("It did not help.",)))[-1] == ("It did not help.")


@pytest.mark.parametrize("study", ALL.values(), ids=ALL)
def test_words_are_words(study):
    assert not re.search(r"\bnan\b|\bNone\b|  |\b1 cuts|-0\.000", said(study))
    assert all(sentence.endswith(".") for sentence in describe_study(study))


# --- Answer ------------------------------------------------------------------------------------


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
    assert [rule.name for rule in scatter.rules] == ["baseline: random weights"]
    for chart in (values, speeds, forest, scatter):
        assert sum(point.ringed for point in chart.points) == 1
    assert charts_of(ALL["nothing but NaN"]) == []
    assert len(charts_of(ALL["no depth, no speed"])) == 0
