"""What is written for QuPath is what was drawn, in a file that nothing else was in."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extras import need
from histofast.viewer import Layers
from histofast.viewer.regions import Exporter, area_of, checked_ring, file_name
from small_viewers import catalogue_of, write_cohort

L_FORM = [[100, 100], [300.5, 100], [300.5, 200], [200, 200], [200, 400], [100, 400]]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, encoder, slides=1)
    return folder


@pytest.fixture
def catalogue(cohort):
    with catalogue_of(cohort) as opened:
        yield opened


@pytest.fixture
def exporter(catalogue, tmp_path):
    return Exporter(catalogue, Layers(catalogue), tmp_path / "out")


def test_a_polygon_is_the_one_that_was_drawn(exporter, tmp_path):
    shape = need("shapely.geometry").shape
    made = exporter.polygon(0, "Tumour <1>", L_FORM)
    assert (made.path, made.objects) == (tmp_path / "out" / "Tumour _1_.geojson", 1)
    document = json.loads(made.path.read_text())
    assert document["type"] == "FeatureCollection"
    (found,) = document["features"]
    assert found["properties"]["objectType"] == "annotation"
    assert found["properties"]["classification"]["name"] == "Tumour <1>"
    drawn = shape({"type": "Polygon", "coordinates": [L_FORM]})
    assert shape(found["geometry"]).equals(drawn)
    assert found["properties"]["measurements"]["area um2"] == pytest.approx(
        drawn.area
    )  # 1 um per px


def test_coordinates_count_from_the_pixel_that_qupath_counts_from(exporter, catalogue, monkeypatch):
    with catalogue.slide(0) as slide:
        kind = type(slide)
    monkeypatch.setattr(kind, "origin_l0", property(lambda self: (40, 7)))
    found = json.loads(exporter.polygon(0, "a", L_FORM).path.read_text())["features"][0]
    assert found["geometry"]["coordinates"][0][1] == [260.5, 93]
    low = exporter.between(0, "b", layer="tissue", low=0, high=1)
    first = json.loads(low.path.read_text())["features"][0]["geometry"]["coordinates"][0][0]
    assert first == (catalogue.features(0).coords[0] - [40, 7]).tolist()


def test_patches_between_two_values_are_tiles_with_their_values(exporter, catalogue):
    shape = need("shapely.geometry").shape
    file = catalogue.features(0)
    high = float(np.median(file.tissue_fraction))
    rows = np.flatnonzero(file.tissue_fraction <= high)
    made = exporter.between(0, "thin", layer="tissue", low=0, high=high)
    objects = json.loads(made.path.read_text())["features"]
    assert made.objects == len(objects) == len(rows) > 0
    for row, found in zip(rows, objects, strict=True):
        x, y = file.coords[row].tolist()
        assert shape(found["geometry"]).bounds == (x, y, x + 64, y + 64)
        assert found["properties"]["objectType"] == "tile"
        assert found["properties"]["classification"]["name"] == "Share of tissue"
        value = found["properties"]["measurements"]["Share of tissue"]
        assert value == pytest.approx(float(file.tissue_fraction[row]))


def test_patches_of_a_group_are_called_by_it(exporter):
    made = exporter.between(0, "first", layer="clusters", low=0, high=0)
    names = {
        each["properties"]["classification"]["name"]
        for each in json.loads(made.path.read_text())["features"]
    }
    assert names == {"group 1"}


def test_patches_of_no_group_are_not_written(exporter, catalogue, monkeypatch):
    values = np.full(len(catalogue.features(0).features), -1, np.float32)
    values[2] = 3
    monkeypatch.setattr(Layers, "values", lambda self, index, layer_id: values)
    made = exporter.between(0, "any", layer="clusters", low=-1, high=9)
    (found,) = json.loads(made.path.read_text())["features"]
    assert found["properties"]["classification"]["name"] == "group 4"


def test_what_cannot_be_written_is_refused(exporter, monkeypatch):
    with pytest.raises(KeyError):
        exporter.between(0, "a", layer="nothing", low=0, high=1)
    with pytest.raises(ValueError, match="got Features as colours, which are colours"):
        exporter.between(0, "a", layer="colours", low=0, high=1)
    with pytest.raises(ValueError, match="there must be 1 to 50,000 patches, got 0"):
        exporter.between(0, "a", layer="tissue", low=2, high=3)
    monkeypatch.setattr("histofast.viewer.regions.MOST_OBJECTS", 2)
    with pytest.raises(ValueError, match="there must be 1 to 2 patches, got"):
        exporter.between(0, "a", layer="tissue", low=0, high=1)
    for low in (None, "0", True):
        with pytest.raises(TypeError, match="low must be a number"):
            exporter.between(0, "a", layer="tissue", low=low, high=1)
    with pytest.raises(TypeError, match="name must be a text"):
        exporter.polygon(0, 3, L_FORM)


@pytest.mark.parametrize(
    "corners",
    [
        None,
        [],
        [[0, 0], [1, 1]],
        [[0, 0], [1, 1], [2, 2]],
        [[0, 0], [1, 1], [0, 0]],
        [[0, 0], [1, 0], [1, float("nan")]],
        [[0, 0], [1, 0], [1, float("inf")]],
        [[0, 0], [1, 0], [1, 10**400]],
        [[0, 0], [1, 0], [1, True]],
        [[0, 0], [1, 0], "ab"],
        [[0, 0], [1, 0], [1, 1, 1]],
        [[i, i * i] for i in range(10_001)],
        {"0": [0, 0]},
    ],
)
def test_what_is_no_region_is_refused(corners):
    with pytest.raises(ValueError, match=r"polygon must be three or more corners \[x, y\]"):
        checked_ring(corners)


def test_a_ring_may_end_where_it_begins():
    assert len(checked_ring([*L_FORM, L_FORM[0]])) == 6
    assert area_of(checked_ring([[0, 0], [4, 0], [4, 3], [0, 3]])) == 12


@given(
    st.text()
    | st.sampled_from(["..", "a/../../b", "C:\\x", "con", "NUL.txt", "a" * 300, "é" * 200])
)
def test_a_name_is_one_file_of_the_folder(name):
    made = file_name(name)
    stem = made.removesuffix(".geojson")
    assert made.endswith(".geojson")
    assert stem
    assert not set(made) & set('/\\:*?"<>|\0\n')
    assert stem[0] not in ". "
    assert len(made.encode()) <= 110
    assert stem.lower().partition(".")[0] not in {"con", "nul", "aux", "prn", "com1"}
    assert file_name(made) == made


def test_no_file_is_replaced_and_no_link_followed(exporter, tmp_path):
    exporter.polygon(0, "a", L_FORM)
    before = (tmp_path / "out" / "a.geojson").read_bytes()
    with pytest.raises(FileExistsError, match=r"a\.geojson exists: choose another name"):
        exporter.polygon(0, "a", [[0, 0], [9, 0], [9, 9]])
    assert (tmp_path / "out" / "a.geojson").read_bytes() == before
    (tmp_path / "out" / "b.geojson").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match=r"b\.geojson exists"):
        exporter.polygon(0, "b", L_FORM)
    assert not (tmp_path / "elsewhere").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_no_area_is_told_where_no_scale_is_known(exporter, catalogue, monkeypatch):
    monkeypatch.setattr(catalogue, "mpp", lambda index: None)
    found = json.loads(exporter.polygon(0, "a", L_FORM).path.read_text())["features"][0]
    assert found["properties"]["measurements"] == {}
