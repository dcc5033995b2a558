"""Tables of values come to the patches whose places they tell, and to no others."""

from __future__ import annotations

import numpy as np
import pytest

from histofast.explain.concepts import MeasuredSlide
from histofast.viewer.maps import Maps, placed_on

CORNERS = np.array([[0, 0], [64, 0], [0, 64], [64, 64]])


def write(path, rows, *, name="value"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([f"x,y,{name}", *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def rows_of(corners, values):
    return [(*corner, value) for corner, value in zip(corners.tolist(), values, strict=True)]


def placed(places, values, *, some=False, corners=CORNERS, side=64):
    return placed_on(np.array(places), np.array(values, float), corners, side, some=some)


def test_values_come_to_their_corners_in_any_order():
    order = [2, 0, 3, 1]
    values, places = placed(CORNERS[order], order)
    assert (values.tolist(), places) == ([0, 1, 2, 3], 1)


def test_patches_at_one_place_have_each_their_own():
    twice = np.concatenate([CORNERS, CORNERS[:1]])
    values, _ = placed(twice, [1, 2, 3, 4, 5], corners=twice)
    assert values.tolist() == [1, 2, 3, 4, 5]


def test_the_places_of_a_patch_are_averaged():
    within = np.array([[0, 0], [32, 0], [0, 32], [32, 32]])
    places = (CORNERS[:, None] + within).reshape(-1, 2)
    values, number = placed(places, np.arange(16))
    assert (values.tolist(), number) == ([1.5, 5.5, 9.5, 13.5], 4)
    assert placed(places + np.array([0, 1]), np.arange(16)) is None
    assert placed(places, np.arange(16), side=32) is None  # they would reach into the next patch
    assert placed(places, np.arange(16), side=None) is None


def test_other_places_are_not_taken():
    assert placed(CORNERS + 1, range(4)) is None
    assert placed(CORNERS[:3], range(3)) is None
    assert placed(CORNERS + 1, range(4), some=True) is None


def test_a_table_may_have_values_of_some_patches_where_its_name_tells_the_slide():
    values, _ = placed(CORNERS[[3, 1]], [7, 8], some=True)
    np.testing.assert_array_equal(values, [np.nan, 8, np.nan, 7])


def test_a_table_is_of_the_slide_whose_name_it_has(tmp_path):
    write(tmp_path / "a" / "attention.csv", rows_of(CORNERS, [1, 2, 3, 4]), name="attention")
    write(tmp_path / "a" / "null" / "cam.csv", rows_of(CORNERS, [0, 0, 0, 1]), name="HiResCAM")
    write(tmp_path / "b.csv", rows_of(CORNERS[:1], [5]))
    maps = Maps(tmp_path)
    found, notes = maps.of("a", CORNERS, 64)
    assert [(each.name, each.values.tolist()) for each in found] == [
        ("attention", [1, 2, 3, 4]),
        ("HiResCAM, weights drawn anew", [0, 0, 0, 1]),
    ]
    assert notes == []
    found, _ = maps.of("b", CORNERS, 64)
    np.testing.assert_array_equal([each.values for each in found], [[5, np.nan, np.nan, np.nan]])
    assert maps.of("c", CORNERS, 64) == ([], [])


def test_measured_concepts_are_a_layer_each(tmp_path):
    values = np.arange(8.0).reshape(4, 2)
    MeasuredSlide(
        slide="a", concepts=("contrast", "eosin"), coords_l0=CORNERS[::-1], values=values
    ).save(tmp_path)
    found, notes = Maps(tmp_path).of("a", CORNERS, 64)
    assert notes == []
    assert {each.name: each.values.tolist() for each in found} == {
        "contrast": [6, 4, 2, 0],
        "eosin": [7, 5, 3, 1],
    }


def test_a_table_without_the_name_of_a_slide_is_of_that_with_all_its_places(tmp_path):
    path = write(tmp_path / "attention.csv", rows_of(CORNERS, [1, 2, 3, 4]))
    maps = Maps(tmp_path)
    (found,), _ = maps.of("any", CORNERS, 64)
    assert (found.path, found.values.tolist()) == (path, [1, 2, 3, 4])
    assert maps.of("other", CORNERS[:3], 64) == ([], [])


def test_a_table_of_a_slide_that_does_not_fit_it_is_told(tmp_path):
    path = write(tmp_path / "a.csv", rows_of(CORNERS + 5, [1, 2, 3, 4]))
    broken = write(tmp_path / "a" / "values.csv", [(0, 0, "much")])
    write(tmp_path / "values.csv", [(0, 0, "much")])
    found, notes = Maps(tmp_path).of("a", CORNERS, 64)
    assert found == []
    assert notes == [
        f"{broken}, line 2: must have two whole numbers and a finite number, got '0,0,much'",
        f"{path} is not shown: its places are not those of the patches of a",
    ]


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder of maps"):
        Maps(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no table of values \(.csv\) in .*heatmap"):
        Maps(tmp_path)
