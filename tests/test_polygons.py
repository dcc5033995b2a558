"""GeoJSON as it comes from anywhere: drawn right in little memory, or refused in one line."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_slides import FakeSlide
from histofast.errors import SlideError
from histofast.patches import Job, TissueOptions, survey_tissue, with_masks
from histofast.tissue import MaskFile, tissue_from_geojson

SQUARE = [[10, 10], [50, 10], [50, 50], [10, 50], [10, 10]]


def drawn(geojson, *, width=60, height=60):
    return tissue_from_geojson(geojson, width_l0=width, height_l0=height, downsample=1).mask


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def collection(*geometries, name=""):
    features = [
        {"type": "Feature", "geometry": each, "properties": {"name": name}} for each in geometries
    ]
    return {"type": "FeatureCollection", "features": features}


def is_inside(rings, x, y):
    """The definition: a ray to the right crosses sides an odd number of times; None on a side."""
    crossed = 0
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
            if (y0 <= y) != (y1 <= y):
                at = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
                if abs(at - x) < 1e-9:
                    return None
                crossed += at > x
    return crossed % 2 == 1


# Odd numerators: no centre of a pixel is level with a corner, where it could go either way.
CORNERS = st.tuples(*[st.integers(-40, 100).map(lambda k: (2 * k + 1) / 8)] * 2)
ON_SLIDE = [(0.125, 0.125), (1.875, 0.125), (1.875, 1.875)]
RINGS = st.lists(CORNERS, min_size=3, max_size=7).filter(lambda ring: ring[0] != ring[-1])


@given(st.lists(st.lists(RINGS, min_size=1, max_size=2), min_size=1, max_size=4))
def test_a_mask_is_the_union_of_polygons_each_by_the_even_odd_rule(polygons):
    polygons = [*polygons, [ON_SLIDE]]  # what lies beside the slide altogether is refused
    centres = np.arange(20) + 0.5
    geojson = {"type": "MultiPolygon", "coordinates": polygons}
    mask = drawn(geojson, width=20, height=20)
    for (row, column), got in np.ndenumerate(mask):
        found = {is_inside(rings, centres[column], centres[row]) for rings in polygons}
        assert None in found or got == (True in found)


def test_what_has_no_place_is_left_out():
    square = polygon(SQUARE)
    nothing = [
        *(None, polygon(), {"type": "MultiPolygon", "coordinates": []}),
        *({"type": "GeometryCollection", "geometries": []},),
        {"type": "MultiPolygon", "coordinates": [[]]},
    ]
    np.testing.assert_array_equal(drawn(collection(*nothing, square)), drawn(square))
    with pytest.raises(
        ValueError, match=r"at least one polygon, got none \(5 points, lines or empty"
    ):
        drawn(collection(*nothing))


@pytest.mark.parametrize("ring", [SQUARE[:-1], SQUARE, SQUARE[::-1], [*SQUARE, *SQUARE[:1]]])
def test_rings_need_not_be_closed_and_run_either_way(ring):
    assert drawn(polygon(ring)).sum() == 1600
    assert drawn(polygon([(x, y, 7.0) for x, y in ring])).sum() == 1600


RING = "must hold rings of"
FAR = f"{RING} three or more finite points in level-0 pixels, got"
BROKEN = {
    "a number": (
        {"type": "Polygon", "coordinates": 5},
        "must have a list of coordinates, got a number",
    ),
    "text": ({"type": "Polygon", "coordinates": "abc"}, "must have a list of coordinates, got abc"),
    "no ring": (polygon(7), f"{RING} (x, y) numbers, got a number"),
    "no point": (polygon([1, 2, 3]), f"{RING} (x, y) numbers, got a number for a point"),
    "digits": (polygon(["12", "34", "56"]), f"{RING} (x, y) numbers, got 12 for a point"),
    "texts": (polygon([["1", "2"]] * 3), f"{RING} (x, y) numbers, got a list for a point"),
    "true": (
        polygon([[True, 0], [9, 9], [0, 9]]),
        f"{RING} (x, y) numbers, got a list for a point",
    ),
    "null": (
        polygon([[None, 0], [9, 9], [0, 9]]),
        f"{RING} (x, y) numbers, got a list for a point",
    ),
    "one number": (polygon([[1], [2], [3]]), f"{RING} (x, y) numbers, got a list for a point"),
    "nested": (polygon([[[1, 2]], [[3, 4]]]), f"{RING} (x, y) numbers, got a list for a point"),
    "two points": (polygon([[1, 2], [3, 4], [1, 2]]), f"{FAR} one of 2"),
    "empty ring": (polygon([]), f"{FAR} one of 0"),
    "infinite": (polygon([[0, 0], [np.inf, 0], [9, 9]]), f"{FAR} (inf, 0)"),
    "NaN": (polygon([[0, 0], [0, np.nan], [9, 9]]), f"{FAR} (0, nan)"),
    "far": (polygon([[0, 0], [1e300, 0], [9, 9]]), f"{FAR} (1e+300, 0)"),
    "beyond floats": (polygon([[0, 0], [10**400, 0], [9, 9]]), f"{FAR} (inf, inf)"),
    "no rings": (
        {"type": "MultiPolygon", "coordinates": [5]},
        "must hold lists of rings, got a number",
    ),
    "type": ({"type": ["Polygon"]}, "must hold polygons, got a list"),
    "steering": ({"type": "Pol\n\x1b[2Jygon"}, "must hold polygons, got Pol\\n\\u001b[2Jygon"),
    "geometries": (
        {"type": "GeometryCollection", "geometries": {}},
        "must have a list of geometries, got an object",
    ),
    "feature": (5, "must hold polygons, got a number"),
}


@pytest.mark.parametrize(("geometry", "message"), BROKEN.values(), ids=BROKEN)
def test_the_feature_that_is_broken_is_named(geometry, message):
    geojson = collection(polygon(SQUARE), geometry, name="Tumour\n1" + "x" * 500)
    with pytest.raises(ValueError, match=r"^geojson: feature 2 ") as error:
        drawn(geojson)
    assert str(error.value).startswith("geojson: feature 2 (Tumour\\n1xxx")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_collections_within_collections_end():
    geojson = polygon(SQUARE)
    for _ in range(100_000):
        geojson = {"type": "GeometryCollection", "geometries": [geojson]}
    with pytest.raises(
        ValueError, match="geojson must hold collections in each other at most 8 deep"
    ):
        drawn(geojson)
    geojson = collection({"type": "GeometryCollection", "geometries": [polygon(SQUARE)]})
    assert drawn(geojson).sum() == 1600


def test_memory_does_not_follow_what_polygons_cross():
    """Sides that run from top to bottom, a thousand rows each: 10 million crossings."""
    zigzag = [[i / 10, 1000 * (i % 2)] for i in range(10_000)]
    tracemalloc.start()
    drawn(polygon(zigzag), width=1000, height=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6
    with pytest.raises(ValueError, match=r"cross 67108864 rows .*, got \d+: simplify them"):
        drawn(polygon(zigzag * 10), width=1000, height=1000)


# --- Files ---------------------------------------------------------------------------------------


@pytest.fixture
def survey(tmp_path):
    def survey(content: bytes | str):
        path = tmp_path / "m.geojson"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with ThreadPoolExecutor(1) as pool:
            slide = FakeSlide(np.zeros((60, 60, 3), np.uint8), tile=(60, 60), mpp=8.0)
            return survey_tissue(slide, TissueOptions(), MaskFile(path), pool).tissue

    return survey


GOOD = json.dumps(collection(polygon(SQUARE)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_encodings_of_json(survey, encoding):
    assert survey(GOOD.encode(encoding)).mask.sum() == 1600


def test_a_list_of_features_is_a_collection(survey):
    whole = json.loads(GOOD)
    features = whole.get("features", [whole])
    assert (survey(json.dumps(features)).mask == survey(GOOD).mask).all()
    with pytest.raises(SlideError, match="feature 2 must hold polygons, got Sphere: export"):
        survey(json.dumps([*features, {"type": "Sphere", "coordinates": [1, 2]}]))


def test_what_has_no_area_is_passed_over_with_a_count(survey):
    """Points, lines and features without a place lie among areas wherever people annotate."""
    whole = json.loads(GOOD)
    features = whole["features"]
    point = {"type": "Point", "coordinates": [1, 2]}
    line = {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}
    others = [point, {"type": "MultiPoint", "coordinates": [[1, 2]]}, line]
    others += [{"type": "MultiLineString", "coordinates": [line["coordinates"]]}]
    others = [{"type": "Feature", "geometry": each, "properties": {}} for each in (*others, None)]
    found = survey(json.dumps([others[0], *features, *others[1:]]))
    assert (found.mask == survey(GOOD).mask).all()
    assert found.notes == ("5 points, lines or empty features of the mask passed over",)
    assert survey(json.dumps([*features, point])).notes[0].startswith("1 point, line or empty")
    assert survey(GOOD).notes == ()
    with pytest.raises(SlideError, match=r"at least one polygon, got none \(5 points, lines or"):
        survey(json.dumps(others))


def of_class(told, *ring_of, **properties):
    """A feature as QuPath writes it, of a box (x, y, width, height)."""
    x, y, w, h = ring_of
    ring = [[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]]
    properties = {"objectType": "annotation", "classification": told, **properties}
    return {"type": "Feature", "geometry": polygon(ring), "properties": properties}


@pytest.mark.parametrize(
    "told",
    [
        {"name": "Ignore*", "color": [180, 180, 180]},
        {"names": ["Stroma", "Artefact*"], "color": [180, 180, 180]},
        {"name": "Stroma: Ignore*"},
        "Ignore*",
    ],
)
def test_classes_that_qupath_ignores_are_cut_out(told):
    """Their names end with a star, and their areas lie in others."""
    tumour = of_class({"name": "Tumor", "color": [200, 0, 0]}, 10, 10, 40, 40)
    whole = {"type": "FeatureCollection", "features": [of_class(told, 10, 10, 20, 60), tumour]}
    found = tissue_from_geojson(whole, width_l0=100, height_l0=80, downsample=1)
    wanted = np.zeros((80, 100), np.uint8)
    wanted[10:50, 30:50] = 1
    np.testing.assert_array_equal(found.mask, wanted)
    assert found.notes == ("1 area of classes in * left out of the mask",)
    moved = tissue_from_geojson(whole, width_l0=100, height_l0=80, downsample=1, origin_l0=(30, 20))
    np.testing.assert_array_equal(moved.mask[20:, 30:], wanted[:-20, :-30])
    assert moved.mask[:20].sum() == moved.mask[:, :30].sum() == 0
    message = r"at least one polygon, got none \(1 area of classes in \* left out"
    with pytest.raises(ValueError, match=message):
        drawn({"type": "FeatureCollection", "features": whole["features"][:1]})


def test_stars_elsewhere_are_names():
    for told in ({"name": "*a"}, {"name": 3}, {"names": []}, {"names": ["A*", "B"]}, None, 3):
        assert drawn(of_class(told, 10, 10, 40, 40)).sum() == 1600


def test_cores_that_are_missing_are_no_tissue():
    cores = [
        of_class(None, 0, 0, 20, 20, objectType="tma_core", isMissing=True),
        of_class(None, 30, 0, 20, 20, objectType="tma_core", isMissing=False),
    ]
    whole = {"type": "FeatureCollection", "features": cores}
    found = tissue_from_geojson(whole, width_l0=60, height_l0=60, downsample=1)
    assert (found.mask.sum(), found.mask[:, :30].sum()) == (400, 0)
    assert found.notes == ("1 missing core of the mask passed over",)


def packed(path, content):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", "QuPath")
        archive.writestr("a.geojson", content)
    return path


@pytest.mark.parametrize("name", ["m.geojson.gz", "m.GEOJSON.zip", "m.json.gz", "m.zip"])
def test_packed_files_are_read(tmp_path, survey, name):
    mask = MaskFile(packed(tmp_path / name, GOOD.encode()))
    slide = FakeSlide(np.full((60, 60, 3), 255, np.uint8))
    with ThreadPoolExecutor(1) as pool:
        found = survey_tissue(slide, TissueOptions(mpp=slide.mpp), mask, pool)
    np.testing.assert_array_equal(found.tissue.mask, survey(GOOD).mask)


def test_packed_files_that_are_broken_or_bombs(tmp_path):
    for name in ("m.geojson.gz", "m.zip"):
        path = packed(tmp_path / name, bytes(257 << 20))
        assert path.stat().st_size < 1 << 20
        with pytest.raises(SlideError, match=r"at most 256 MiB, got more of it packed: simplify"):
            MaskFile(path)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(SlideError, match=r"is damaged: |at most 256 MiB"):
            MaskFile(path)
        path.write_bytes(b"none")
        with pytest.raises(
            SlideError, match=r"must be packed by gzip, got |is damaged: File is no"
        ):
            MaskFile(path)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.geojson", GOOD)
        archive.writestr("b.geojson", GOOD)
    with pytest.raises(SlideError, match=r"must hold one file of GeoJSON, got 2$"):
        MaskFile(tmp_path / "two.zip")


def test_packed_masks_are_found_in_a_folder(tmp_path):
    for name in ("a.geojson.gz", "b_mask.geojson.zip", "c.gz"):
        (tmp_path / name).touch()
    jobs = [Job(name=name, path=tmp_path / f"{name}.svs") for name in "abc"]
    a, b, c = with_masks(jobs, tmp_path)
    assert (a.mask, b.mask) == (tmp_path / "a.geojson.gz", tmp_path / "b_mask.geojson.zip")
    assert c.problem.startswith("no such mask: ")


def test_measurements_may_be_no_number(survey):
    # QuPath writes them as Java has them.
    measured = '"properties": {"measurements": {"Circularity": NaN, "Ratio": -Infinity}}'
    content = GOOD.replace('"type": "Feature",', f'"type": "Feature", {measured},')
    assert "NaN" in content
    assert survey(content).mask.sum() == 1600


FILES = {
    "not UTF-8": (GOOD.replace("Feature", "F\xe9").encode("latin-1"), "must be GeoJSON: "),
    "empty": ("", "must be GeoJSON: Expecting value: line 1 column 1"),
    "cut": (GOOD[:-9], "must be GeoJSON: "),
    "nested": ("[" * 200_000, "must be GeoJSON, got lists nested too deeply"),
    "objects": ('{"a":' * 200_000, "must be GeoJSON, got lists nested too deeply"),
    "list": ("[1]", "must be a GeoJSON object, got a list: export a FeatureCollection"),
    "nothing": ("[]", "must be a GeoJSON object, got a list: export a FeatureCollection"),
    "value": ("null", "must be a GeoJSON object, got one value"),
    "NaN": (GOOD.replace("10", "NaN", 1), "feature 1 must hold rings of three or more finite"),
    "digits": (
        GOOD.replace("10", "1" * 9999, 1),
        "feature 1 must hold rings of three or more finite",
    ),
    "1e999": (GOOD.replace("10", "1e999", 1), "feature 1 must hold rings of three or more finite"),
    "twice": (
        GOOD.replace('"coordinates"', '"coordinates": [], "coordinates"'),
        "must be GeoJSON: an object must have its coordinates once, got it twice",
    ),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_files_that_are_no_geojson_are_refused_by_name(survey, content, message):
    with pytest.raises(SlideError, match=rf"m\.geojson.* {re.escape(message)}") as error:
        survey(content)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_file_of_any_size_is_not_read(tmp_path):
    path = tmp_path / "m.geojson"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(1 << 33)
    with pytest.raises(SlideError, match=r"must have at most 256 MiB, got 8192 MiB"):
        MaskFile(path)
