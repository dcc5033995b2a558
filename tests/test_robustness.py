"""Dependence of features on a centre: definitions, another package's numbers, laws, feature files, words."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_robustness as reference
from extras import need
from histofast.errors import FeatureError
from histofast.features import FeatureWriter
from histofast.learning import LabelsOfPatients
from histofast.robustness import (
    check_column,
    compare_robustness,
    describe_robustness,
    robustness_of,
)

QUICK = {"resamples": 0, "permutations": 0}
SEEDS = st.integers(0, 99)


def made(seed, *, n=240, of_class=1.5, of_level=1.0):
    """Rows of three classes at four centres, six of a patient, who is of one centre."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n) // 6
    levels = groups % 4
    classes = rng.integers(3, size=n)
    x = rng.normal(size=(n, 8)) + 0.3
    x = x + of_class * np.eye(8)[classes] + of_level * np.eye(8)[3 + levels]
    return x, {"classes": classes, "confounder": levels, "groups": groups}


# --- Definitions and another package's numbers -----------------------------------------------------


@given(seed=SEEDS, k=st.integers(1, 12), m=st.integers(1, 6), of_level=st.floats(0, 3))
@settings(max_examples=20)
def test_is_as_defined(seed, k, m, of_level):
    x, given = made(seed, n=60, of_level=of_level)
    found = robustness_of(x, **given, k=k, m=m, **QUICK)
    c, v, g = given["classes"], given["confounder"], given["groups"]
    assert found.index.value == pytest.approx(reference.robustness_index(x, c, v, g, k))
    margins = reference.margins(x, c, v, g, m)
    assert found.margin.value == pytest.approx(np.nanmedian(margins))
    assert found.tail == pytest.approx(reference.lower_tail(margins))
    assert found.share.value == pytest.approx(reference.explained_share(x, c, v))
    assert found.share_of_groups == pytest.approx(reference.adjusted_share(x, c, g))
    assert found.support[1] == np.mean(~np.isnan(margins))


@pytest.mark.parametrize(
    ("seed", "index", "margin", "tail"),
    [
        (0, 0.7485119047619048, 0.19027931556368655, -0.24738756410124205),
        (1, 0.7083015993907082, 0.15707773206700487, -0.2624622434391161),
        (2, 0.7681713848508034, 0.20882118445608444, -0.17302913017291446),
    ],
)
def test_index_margin_and_tail_are_those_of_croma_1_0_1(seed, index, margin, tail):
    """RI.compute(k_candidates=[10]) and CRoMa.compute() of croma 1.0.1 on the same rows."""
    x, given = made(seed)
    found = robustness_of(x, **given, **QUICK)
    assert found.index.value == pytest.approx(index, abs=1e-12)
    assert found.margin.value == pytest.approx(margin, abs=1e-12)
    assert found.tail == pytest.approx(tail, abs=1e-12)


def test_margins_look_beyond_the_first_neighbours():
    """Own rows are the farthest of 700: they are found all the same."""
    rng = np.random.default_rng(0)
    n = 700
    classes = np.where(np.arange(n) < 14, "rare", "common")
    levels = np.where(np.arange(n) % 2 == 0, "here", "there")
    x = rng.normal(size=(n, 5)) + np.where(np.arange(n)[:, None] < 14, 0, 3)
    x[:7] *= -1
    found = robustness_of(x, classes=classes, confounder=levels, groups=np.arange(n), **QUICK)
    margins = reference.margins(x, classes, levels, np.arange(n), 5)
    assert found.margin.value == pytest.approx(np.nanmedian(margins))
    assert found.tail == pytest.approx(reference.lower_tail(margins))


def test_intervals_are_bootstraps_of_groups():
    x, given = made(1, n=60)
    c, v, g = given["classes"], given["confounder"], given["groups"]
    found = robustness_of(x, **given, m=7, resamples=40, permutations=0, seed=5, confidence=0.8)
    margins = reference.margins(x, c, v, g, 7)
    assert 0 < np.isnan(margins).sum() < 30
    draws = np.random.default_rng(5).multinomial(10, np.full(10, 0.1), size=40)
    medians = [np.nanmedian(np.repeat(margins, draw[g])) for draw in draws]
    assert (found.margin.low, found.margin.high) == pytest.approx(np.quantile(medians, [0.1, 0.9]))
    without = np.array(
        [reference.explained_share(x[g != i], c[g != i], v[g != i]) for i in range(10)]
    )
    error = np.sqrt(9 / 10 * ((without - without.mean()) ** 2).sum())
    assert found.share.high - found.share.value == pytest.approx(1.3830287383966925 * error)  # t, 9


# --- Laws -------------------------------------------------------------------------------------------


@given(seed=SEEDS)
@settings(max_examples=10)
def test_rotation_lengths_of_rows_and_names_change_nothing(seed):
    x, given = made(seed, n=60)
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    other = x @ turn * rng.uniform(1e-3, 1e3, size=(60, 1))
    renamed = {key: [f"{9 - v:02}" for v in values] for key, values in given.items()}
    before, after = robustness_of(x, **given, **QUICK), robustness_of(other, **renamed, **QUICK)
    for name in ("index", "margin", "share"):
        assert getattr(after, name).value == pytest.approx(getattr(before, name).value)
    assert after.tail == pytest.approx(before.tail)
    assert after.share_of_groups == pytest.approx(before.share_of_groups)


def test_what_depends_on_the_class_alone_is_robust_and_on_the_centre_alone_is_not():
    rows = {"of_class": 0.0, "of_level": 0.0}
    _, given = made(0)
    of_class, of_level = (
        robustness_of(made(0, **(rows | {name: 20.0}))[0], **given, **QUICK)
        for name in ("of_class", "of_level")
    )
    assert (of_class.index.value, of_level.index.value) == (1, 0)
    assert of_class.margin.value > 0.9
    assert of_level.margin.value < -0.9
    assert of_class.share.value < 0.1
    assert of_level.share.value > 0.9
    assert of_level.share_of_groups == pytest.approx(of_level.share.value, abs=0.05)


def test_shuffles_tell_dependence_from_none():
    x, given = made(4, of_level=0.0)
    without = robustness_of(x, **given, resamples=200)
    x, given = made(4, of_level=1.5)
    with_it = robustness_of(x, **given, resamples=200)
    for name in ("index", "margin", "share"):
        none, some = getattr(without, name), getattr(with_it, name)
        assert none.p > 0.05
        assert none.shuffled_low <= none.value <= none.shuffled_high
        assert some.p == 0.01
        assert some.low < some.value < some.high
    assert with_it.index.high < with_it.index.shuffled_low
    assert with_it.share.low > with_it.share.shuffled_high


def test_of_features_without_a_centre_p_is_even():
    p = []
    for seed in range(40):
        x, given = made(seed, n=90, of_level=0.0)
        found = robustness_of(x, **given, resamples=0, permutations=19)
        p.append([found.index.p, found.margin.p, found.share.p])
    assert 0.02 <= (np.array(p) <= 0.1).mean() <= 0.2


def test_levels_are_dealt_among_patients_of_the_same_classes_only():
    """Class and centre go together: nothing can be dealt anew, and nothing is claimed."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 30)
    found = robustness_of(
        rng.normal(size=(60, 3)), classes=classes, confounder=classes, groups=np.arange(60) // 3
    )
    assert math.isnan(found.index.value)
    assert math.isnan(found.index.p)
    assert found.notes == (
        "every class is of one level only: what comes of which cannot be told",
        "no shuffles: groups with the same classes are all of one level",
        found.notes[2],
    )
    assert found.notes[2].startswith(
        "60 of 60 rows have no margin: fewer than 5 rows of other groups"
    )


def test_the_same_seed_gives_the_same_and_few_groups_no_interval():
    x, given = made(0, n=24)
    first, again = (robustness_of(x, **given, m=1, seed=3) for _ in range(2))
    assert repr(first) == repr(again)  # NaN is like itself
    assert math.isnan(first.index.low)
    assert math.isnan(first.share.low)
    assert first.notes[0] == "no intervals: 5 patients or slides are needed, these are 4"


def test_bad_arrays_are_refused():
    x, given = made(0, n=60)
    for change, error, message in (
        (
            {"classes": given["classes"][1:]},
            ValueError,
            "classes must have one entry per row, got 59",
        ),
        ({"confounder": ["a"] * 60}, ValueError, "confounder must be at least 2, got only a"),
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
        ({"m": 1.5}, TypeError, "m must be a whole number, got 1.5"),
        ({"permutations": -1}, ValueError, "permutations must be at least 0, got -1"),
        ({"confidence": 1}, ValueError, r"confidence must be in 0\.\.1, got 1"),
    ):
        with pytest.raises(error, match=message):
            robustness_of(x, **(given | change))
    with pytest.raises(ValueError, match="features must be finite, got NaN or infinity in 1 of 60"):
        robustness_of(np.where(np.arange(60)[:, None] == 2, np.nan, x), **given)
    with pytest.raises(
        ValueError, match="features must have a direction, got 2 of 60 rows of zeros"
    ):
        robustness_of(np.where(np.arange(60)[:, None] < 2, 0, x), **given)


# --- Feature files ----------------------------------------------------------------------------------


def write_features(folder, name, features):
    folder.mkdir(parents=True, exist_ok=True)
    with FeatureWriter(
        folder / f"{name}.h5",
        coords=np.arange(2 * len(features)).reshape(-1, 2),
        d=features.shape[1],
        identity={},
        attributes={"patch_size": 256, "patch_size_level0": 256, "name": name},
    ) as writer:
        writer.append(features)
        writer.finish()


@pytest.fixture
def stored(tmp_path):
    """Two encoders' features of 24 slides of 12 patients: one sees the class, the other the centre."""
    rng = np.random.default_rng(0)
    lines = ["slide,label,patient,centre"]
    for slide in range(24):
        patient = slide // 2
        label, centre = patient % 2, patient // 2 % 3
        lines.append(f"s{slide:02}.svs,{'ab'[label]},p{patient},{('X', 'Y', 'Z')[centre]}")
        noise = rng.normal(size=(2, 9, 5))
        for folder, what in (("robust", label), ("fragile", 2 + centre)):
            values = noise[0] + 4 * np.eye(5)[what]
            write_features(tmp_path / folder, f"s{slide:02}", values.astype(np.float32))
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def both(folder):
    return {name: folder / name for name in ("robust", "fragile")}


def test_feature_files_of_two_encoders(stored):
    found = compare_robustness(both(stored), stored / "labels.csv", column="centre", resamples=99)
    robust, fragile = found.encoders["robust"], found.encoders["fragile"]
    assert (robust.n, robust.groups, found.slides, found.unit) == (216, 12, 24, "patient")
    assert robust.levels == {"X": 72, "Y": 72, "Z": 72}
    assert robust.index.value > 0.95
    assert fragile.index.value < 0.2
    assert fragile.index.p == 0.01
    said = " ".join(describe_robustness(found))
    assert "Features of fragile tell centre of patients of the same class apart" in said
    assert "highest of 2 encoders robust" in said
    assert "All of this rests on 12 patients: take it as rough." in said


def test_labels_of_patients_in_one_table_and_slides_in_another(stored):
    """As STAMP keeps them."""
    rows = [line.split(",") for line in (stored / "labels.csv").read_text().split()[1:]]
    patients = dict.fromkeys(f"{patient},{label},{centre}" for _, label, patient, centre in rows)
    (stored / "clini.csv").write_text("\n".join(["patient,label,centre", *patients]) + "\n")
    slides = [f"{patient},{slide}" for slide, _, patient, _ in rows]
    (stored / "slides.csv").write_text("\n".join(["patient,slide", *slides]) + "\n")
    two = LabelsOfPatients(stored / "clini.csv", stored / "slides.csv")
    asked = {"column": "centre", "resamples": 99}
    one = compare_robustness(both(stored), stored / "labels.csv", **asked)
    found = compare_robustness(both(stored), two, **asked)
    assert {n: each.index for n, each in found.encoders.items()} == {
        n: each.index for n, each in one.encoders.items()
    }
    with pytest.raises(ValueError, match=r"clini.csv must have the column scanner"):
        compare_robustness(both(stored), two, column="scanner")


def test_patches_are_drawn_evenly_and_the_same_of_all(stored):
    told = []
    found = compare_robustness(
        both(stored),
        stored / "labels.csv",
        column="centre",
        n=72,
        **QUICK,
        on_progress=lambda *numbers: told.append(numbers),
    )
    assert found.encoders["robust"].n == 72
    assert told == [(1, 2), (2, 2)]
    rng = np.random.default_rng(0)
    rows = [np.sort(rng.permutation(9)[:3]) for _ in range(24)]
    from histofast.features import read_features

    x = np.concatenate(
        [read_features(stored / "fragile" / f"s{i:02}.h5").features[r] for i, r in enumerate(rows)]
    )
    patients = np.repeat(np.arange(24) // 2, 3)
    wanted = robustness_of(
        x, classes=patients % 2, confounder=patients // 2 % 3, groups=patients, **QUICK
    )
    assert found.encoders["fragile"].index.value == wanted.index.value
    assert found.encoders["fragile"].margin.value == wanted.margin.value


def test_slides_without_a_level_or_patches_are_left_out_and_told(stored):
    table = stored / "labels.csv"
    table.write_text(table.read_text().replace("s03.svs,a,p1,X", "s03.svs,b,p1,"))
    table.write_text(table.read_text().replace("s03.svs,b,p1,X", "s03.svs,b,p1,"))
    for folder in both(stored).values():
        (folder / "s07.h5").unlink()
        write_features(folder, "s07", np.empty((0, 5), np.float32))
    found = compare_robustness(both(stored), table, column="centre", **QUICK)
    assert found.slides == 22
    assert "left out slides without a label: 1 (s03), first in line 5" in found.notes
    assert any(note.startswith("left out slides without a patch: 1 (s07)") for note in found.notes)


def test_bad_tables_and_folders(stored):
    table = stored / "labels.csv"
    with pytest.raises(
        ValueError, match=r"must have the column scanner that robustness is asked of"
    ):
        check_column(table, "scanner")
    (stored / "one.csv").write_text("slide,label,centre\ns00,a,X\ns01,b,X\n")
    with pytest.raises(
        ValueError, match=r"centre of .* must differ between slides .* only 1 \(X\)"
    ):
        check_column(stored / "one.csv", "centre")
    with pytest.raises(ValueError, match="folders must name at least one encoder, got none"):
        compare_robustness({}, table, column="centre")
    with pytest.raises(ValueError, match="n must be at least 8, got 4"):
        compare_robustness(both(stored), table, column="centre", n=4)
    (stored / "fragile" / "s05.h5").unlink()
    with pytest.raises(ValueError, match="same slides, got 24 and, of fragile, 23"):
        compare_robustness(both(stored), table, column="centre")
    write_features(stored / "fragile", "s05", np.ones((4, 5), np.float32))
    with pytest.raises(FeatureError, match=r"s05\.h5 must be of the same patches .* got 4 and 9"):
        compare_robustness(both(stored), table, column="centre")


def test_the_page_has_all_numbers(stored):
    need("matplotlib", "jinja2")
    found = compare_robustness(both(stored), stored / "labels.csv", column="centre", resamples=99)
    found.save(stored / "page")
    page = (stored / "page" / "index.html").read_text()
    assert "Dependence on centre" in page
    assert "depends on it" in page
    told = json.loads((stored / "page" / "robustness.json").read_text())
    assert told["encoders"]["fragile"]["index"]["value"] == found.encoders["fragile"].index.value
    lines = (stored / "page" / "robustness.csv").read_text().splitlines()
    assert lines[0].startswith("encoder,index,index_low,index_high,index_shuffled_low")
    assert len(lines) == 3


def test_what_is_undefined_is_said_so(stored):
    need("matplotlib", "jinja2")
    table = stored / "labels.csv"
    lines = table.read_text().splitlines()
    table.write_text(
        "\n".join([lines[0], *(f"{r.rsplit(',', 1)[0]},{r.split(',')[1]}" for r in lines[1:])])
    )
    found = compare_robustness(both(stored), table, column="centre", permutations=0)
    assert "Of robust and fragile the robustness index is undefined." in describe_robustness(found)
    found.save(stored / "page")
    assert "undefined" in (stored / "page" / "index.html").read_text()
