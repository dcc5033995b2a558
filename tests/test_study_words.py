"""What a study says: every sentence follows a rule."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from extras import need

need("histofast.studies")

from histofast.learning import Metric
from histofast.studies import PoolDifference, answer_of, describe_study
from small_studies import ALL, CUTS, NAN, NETWORKS, knee, less, made, row, said, spread_of

# --- Rows --------------------------------------------------------------------------------------


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
        *(
            (lambda more=more: made(row("a", **more)), "numbers of row 'a' must be finite or NaN")
            for more in (
                {"spread": (0.1, math.inf)},
                {"versus": less(-math.inf)},
                {"versus": less(-0.1, adjusted=math.inf)},
                {"patients": Metric(value=0.8, low=-math.inf, high=1.0)},
                {"extra": {"AP": math.inf}},
            )
        ),
        (lambda: made(row("a", depth=math.inf)), "depth of row 'a' must be in"),
        (lambda: made(row("a"), chance=math.inf), "chance must be finite or None, got inf"),
        (
            lambda: made(row("a"), knee=knee("a")),
            "knee must name the chosen row, or None where none is, got 'a'",
        ),
        (
            lambda: made(row("a", chosen=True), row("b"), knee=knee("b")),
            "knee must name the chosen row, or None where none is, got 'b' and 'a'",
        ),
        (
            lambda: made(row("a", 0.7, chosen=True), row("b")),
            "the chosen row must have a difference to the highest, got none for 'a'",
        ),
        (lambda: made(row("a", extra={"spread_low": 1.0})), "must not be called as a column is"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- Words -------------------------------------------------------------------------------------


def findings_of(study) -> str:
    """What the table says of each row."""
    table = answer_of(study).tables[0]
    k = [column.title for column in table.columns].index("finding")
    return "; ".join(cells[k] for cells in table.rows)


def test_cuts_in_words():
    assert describe_study(CUTS) == (
        "The highest of 3 cuts is c (AUROC 0.900, 95 % interval 0.850 to 0.950).",
        "The AUROC of c is optimistic: it was chosen by the patients that it is measured on.",
        (
            "The knee is b (0.884), the cheapest cut that is shown to lose less than 0.050 to the "
            "highest (difference -0.016, 95 % interval -0.036 to +0.004). It is 2.5 times as fast "
            "(250 against 100 patches/s)."
        ),
        "a is worse than the highest, after adjusting for 2 comparisons.",
        "Not told from the highest with 110 patients: b.",
        (
            "The baseline mean pooling (0.700; difference -0.200, 95 % interval -0.220 to -0.180) is "
            "worse than the highest."
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
        "random weights: AUROC 0.440 to 0.560. Every network is above that with its whole interval."
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
    assert (
        "There is no knee: no cheaper cut is shown to lose less than 0.050 to the highest." in text
    )
    assert (
        "About 1,234 patients would be needed to show it of a, if its difference stays as it is; "
        "there are 110." in text
    )
    assert "knee" not in said(made(*rows, knee=None))


def test_more_patients_are_no_remedy_for_a_mean_out_of_tolerance():
    rows = [row("a", 0.71, versus=less(-0.1, 0.2)), row("b", 0.81)]
    text = said(made(*rows, knee=knee(None, closest="a")))
    assert "More patients would not show it of a, if its difference stays as it is." in text
    untold = [row("a", 0.81, versus=less(0.0, NAN)), row("b", 0.81)]  # folds that do not differ
    text = said(made(*untold, knee=knee(None, closest="a")))
    assert "There is no knee: no cheaper cut is shown" in text
    assert "More patients" not in text
    assert "would be needed" not in text


def test_the_highest_may_be_the_knee_itself():
    study = made(row("a", 0.5, versus=less(-0.3)), row("b", 0.8, chosen=True))
    knee_of = "The knee is b as well: every cheaper cut, if there is one, is shown to be worse."
    assert knee_of in said(study)
    assert "highest of 2, and the knee" in findings_of(study)
    assert "the only one, and the knee" in findings_of(made(row("a", chosen=True)))


def test_of_equal_rows_the_highest_is_the_one_that_others_were_held_against():
    study = made(row("a", 1.0, versus=less(0.0, NAN)), row("b", 1.0, chosen=True))
    assert study.highest is study.rows[1]
    assert "The knee is b as well" in said(study)


def test_the_highest_of_many_is_optimistic_and_one_alone_is_not():
    optimistic = (
        "The AUROC of b is optimistic: it was chosen by the patients that it is measured on."
    )
    assert optimistic in said(made(row("a", 0.7), row("b", 0.8)))
    assert "optimistic" not in said(made(row("a")))
    alone = said(made(row("a", 0.8), row("b", NAN)))
    assert "optimistic" not in alone
    assert alone.startswith("a is the only cut whose AUROC is defined (AUROC 0.800")


def test_the_wider_of_two_intervals_is_in_the_sentence():
    methods = Metric(value=0.8, low=0.7, high=0.9), Metric(value=0.8, low=0.45, high=0.9)
    for method, other in (methods, methods[::-1]):
        text = said(made(row("a", method=method, patients=other), chance=0.5))
        assert "(AUROC 0.800, 95 % interval 0.450 to 0.900)" in text
        assert "The interval of a reaches chance" in text


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
    assert "worse" in findings_of(shown)
    hidden = made(row("a", 0.7, versus=among), row("top", 0.8))
    assert hidden.rows[0].versus.high < 0
    assert "a is not told from the highest" in said(hidden)
    assert "not told from the highest" in findings_of(hidden)


def test_one_may_be_better_on_the_folds_of_both():
    study = made(row("a", 0.7, versus=less(0.1)), row("top", 0.8))
    assert "a is better on the folds of both than the highest." in said(study)
    assert "worse" not in said(study)
    assert "better than the highest" in findings_of(study)


def test_all_others_are_worse():
    rows = [row(name, 0.5, versus=less(-0.3)) for name in "ab"]
    text = said(made(row("top", 0.8), *rows, knee=None))
    assert "a and b are worse than the highest, after adjusting for 2 comparisons." in text
    assert "Not told" not in text
    many = [row(name, 0.5, versus=less(-0.3)) for name in "abcde"]
    assert "a, b, c and 2 more are worse" in said(made(row("top", 0.8), *many))


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
    def against(low, high, *rows, **more):
        cuts = rows or (row("a", 0.7, versus=less(-0.1)), row("b", 0.8))
        return said(made(*cuts, spread_of(low, high, "random"), **more))

    every = "random: AUROC 0.400 to 0.600. Every cut is above that with its whole interval."
    assert every in against(0.4, 0.6)
    assert "Of the 2 cuts only b is above that with its whole interval." in against(0.5, 0.7)
    assert "No cut is above that with its whole interval." in against(0.5, 0.78)
    assert "random: AUROC 0.500. Every" in against(0.5, 0.5)  # one seed
    three = [row(name, 0.8) for name in "ab"] + [row("c", 0.5)]
    only = "Of the 3 cuts only a and b are above that with whole intervals."
    assert only in against(0.5, 0.6, *three)
    unknown = against(0.4, 0.6, row("a", 0.8), row("b", NAN))
    assert "Of the 2 cuts only a is above that with its whole interval." in unknown
    fewer = {"higher_is_better": False, "metric": "MAE"}
    assert "MAE 0.900 to 1.000. Every cut is below that" in against(0.9, 1.0, **fewer)
    other = row("x", 0.5, network="other")
    assert "The cut of net is above that" in against(0.5, 0.6, row("a", 0.8), other)


def test_where_slides_count_as_patients_no_word_claims_patients():
    free = [replace(one, chosen=False) for one in CUTS.rows]
    unit = {"unit": "slide", "n_patients": 120, "repeats": 3, "chance": 0.5}
    found = [
        replace(CUTS, unit="slide", n_patients=120),
        made(*free, knee=knee(None, closest="b", needed=5000), **unit),
        made(*free, knee=knee(None, closest="a"), **unit),
        made(row("a", 0.8), row("b", 0.79, versus=less(-0.01)), **unit | {"n_patients": 9}),
        replace(NETWORKS, unit="slide", n_patients=120),
    ]
    for study in found:
        answer = answer_of(study)
        table = answer.tables[0]
        charts = [panel for figure in answer.figures for panel in figure.panels]
        shown = [said(study), answer.basis, table.caption, findings_of(study)]
        shown += [column.title for column in table.columns]
        shown += [f"{chart.title} {chart.caption} {chart.alt}" for chart in charts]
        assert "patient" not in " ".join(shown)
        assert answer.method["patients"] == "not known: slides count as patients"
    assert "AUROC on 120 slides, 3 x 5 folds" in answer_of(found[1]).basis
    assert "it was chosen by the slides that it is measured on" in said(found[0])
    assert "About 5,000 slides would be needed" in said(found[1])
    assert "More slides would not show it of a" in said(found[2])
    assert "The intervals rest on only 9 slides" in said(found[3])


def test_lower_may_be_better():
    text = said(ALL["errors"])
    assert text.startswith("The lowest of 2 cuts is b (MAE 112.300")
    assert "a is worse than the lowest." in text
    assert "highest" not in text
    base = row("mean", 130.0, baseline=True, versus=less(17.7))
    text = said(replace(ALL["errors"], rows=(*ALL["errors"].rows, base)))
    assert "The baseline mean (130.000; difference +17.700" in text
    assert "is worse than the lowest." in text
    assert "lowest of 2" in findings_of(ALL["errors"])


def test_chance_and_missing_are_said():
    text = said(made(row("a", 0.53), chance=0.5))
    assert "The interval of a reaches chance (0.500): it may have learnt nothing." in text
    text = said(made(row("a", 0.47), chance=0.5, higher_is_better=False))
    assert "reaches chance" in text
    assert said(ALL["nothing but NaN"]).startswith("AUROC is undefined for all cuts.")
    only = "AUROC is undefined for all rows: there are baselines only."
    assert said(ALL["only baselines"]).startswith(only)
    text = said(ALL["no depth, no speed"])
    assert "Depth, and so a place in the charts, is not known." in text
    some = said(made(row("a", depth=0.5), row("b", 0.7)))
    assert "Depth, and so a place in the charts, is not known for b." in some
    assert "Speed was not measured for a." in text
    assert "No intervals were computed for a." in said(ALL["no interval"])


def test_remarks_come_last():
    assert describe_study(replace(CUTS, remarks=("It did not help.",)))[-1] == ("It did not help.")


@pytest.mark.parametrize("study", ALL.values(), ids=ALL)
def test_words_are_words(study):
    assert not re.search(r"\bnan\b|\bNone\b|  |\b1 cuts|-0\.000", said(study))
    assert all(sentence.endswith(".") for sentence in describe_study(study))


def test_few_random_seeds_are_shown_and_claim_nothing():
    null = spread_of(0.5, 0.6, seeds=2)
    text = said(made(row("a", 0.9, depth=0.5), null))
    assert "random weights: AUROC 0.500 to 0.600, 2 seeds of 5 that a claim needs." in text
    assert "above that" not in text


# --- Ways of pooling ------------------------------------------------------------------------------


def block(number, pool, value=0.8, **more):
    name = f"block{number}" + ("" if pool == "mean" else f"-{pool}")
    told = {"depth": number / 4, "block": f"block{number}", "pool": pool}
    return row(f"net {name}", value, layer=name, **told | more)


def pooled(*differences, **more):
    """A network of three blocks by class token and mean, and their differences block by block."""
    rows = [block(n, pool) for n in (1, 2, 4) for pool in ("cls", "mean")]
    pairs = [
        PoolDifference(row=f"net block{n}-cls", other=f"net block{n}", difference=difference)
        for n, difference in zip((1, 2, 4), differences, strict=True)
    ]
    return made(*rows, pools=tuple(pairs), **more)


def test_ways_of_pooling_are_held_against_each_other_block_by_block():
    text = said(pooled(less(-0.1), less(0.01), less(0.05)))
    assert (
        "The class token (cls) against the mean of the patches' tokens (mean), at the same block: better at "
        "block4 (difference +0.050, 95 % interval +0.030 to +0.070); worse at block1 (difference -0.100, "
        "95 % interval -0.120 to -0.080); not told apart at block2 (difference +0.010, 95 % interval -0.010 "
        "to +0.030), after adjusting for 3 comparisons."
    ) in text
    assert "that of an early block has seen little: cuts are pooled by mean unless told" in text
    # What is shown is the adjusted interval's to say, and lower is better of some metrics.
    text = said(
        pooled(less(-0.1, adjusted=0.2), less(NAN, NAN), less(0.05), higher_is_better=False)
    )
    assert "mean), at the same block: worse at block4" in text
    assert "not told apart at block1" in text
    assert "without an interval at block2, after adjusting for 2 comparisons." in text


def test_of_several_networks_blocks_are_named_with_theirs():
    rows = [block(1, pool) for pool in ("cls", "mean")]
    pair = PoolDifference(row="net block1-cls", other="net block1", difference=less(-0.1))
    text = said(made(*rows, row("b", 0.7, network="other", depth=1.0), pools=(pair,)))
    assert "worse at net block1 (difference" in text
    assert "comparisons" not in text.split("at the same block")[1].split(".")[0]


def test_the_page_has_a_line_for_each_way_of_pooling():
    study = pooled(less(-0.1), less(0.01), less(0.05))
    answer = answer_of(study)
    assert [series.name for series in answer.figures[0].panels[0].series] == ["cls", "mean"]
    assert "pooled by" in [column.title for column in answer.tables[0].columns]
    assert "pooled by" not in [column.title for column in answer_of(CUTS).tables[0].columns]


def test_only_a_class_token_of_an_early_block_has_seen_little():
    for rows in ([block(4, "cls")], [block(1, "mean")]):
        assert "seen little" not in said(made(*rows))


def test_pools_are_of_rows():
    pair = PoolDifference(row="a", other="z", difference=less(0.1))
    with pytest.raises(ValueError, match="pools must be of rows, got 'z'"):
        made(row("a"), pools=(pair,))
