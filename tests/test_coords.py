"""`extract --coords`: patches at one's own places, from tables, HDF5 of other tools, and points."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

import histofast
from histofast.features import options_of, problems_of, read_coords, read_features, read_summary
from histofast.patches import GivenCoords, Job, PatchReader, read_given, with_coords
from histofast.pipeline import write_patches
from small_slides import run

PLAN = {"mpp": 2.0, "patch_px": 32}  # of slides of 1 um per pixel, 512 x 640: squares of 64


def encode(slides, out, encoder, **options):
    options = PLAN | {"threads": 2, "workers": 2} | options
    return histofast.extract(slides, out=out, encoder=encoder, **options)


def table(path, rows, header="slide,x,y"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def hdf5(path, coords, *, dtype=np.int64, **attributes):
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=np.asarray(coords, dtype))
        for name, value in attributes.items():
            file["coords"].attrs[name] = value
    return path


def points(path, coords, *, kind="Point", properties=None):
    geometries = [{"type": "Point", "coordinates": [*map(float, each)]} for each in coords]
    if kind == "MultiPoint":
        together = [each["coordinates"] for each in geometries]
        geometries = [{"type": "MultiPoint", "coordinates": together}]
    features = [
        {"type": "Feature", "geometry": geometry, "properties": properties or {}}
        for geometry in geometries
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def one(report):
    (slide,) = report.slides
    assert slide.status == "done", slide.error
    return read_features(slide.outputs[0])


@pytest.fixture(scope="module")
def on_grid(slides, encoder, tmp_path_factory):
    """Feature files of the grid, by slide."""
    out = tmp_path_factory.mktemp("grid")
    report = run(slides, out, encoder, **PLAN)
    return {slide.name: read_features(slide.outputs[0]) for slide in report.slides}


# --- Where the patches lie -------------------------------------------------------------------------


def test_the_coordinates_of_the_grid_give_its_features(slides, encoder, on_grid, tmp_path):
    """In any order, from a table of all slides, a folder of HDF5, and our own feature files."""
    rng = np.random.default_rng(0)
    rows = [(name, *xy) for name, file in on_grid.items() for xy in file.coords.tolist()]
    given = table(tmp_path / "c.csv", [rows[i] for i in rng.permutation(len(rows))])
    (tmp_path / "h5").mkdir()
    for name, file in on_grid.items():
        hdf5(tmp_path / "h5" / f"{name}_patches.h5", file.coords[::-1], patch_size_level0=64)
    folder = next(iter(on_grid.values())).path.parent
    for i, coords in enumerate((given, tmp_path / "h5", folder)):
        report = encode(slides, tmp_path / str(i), encoder, coords=coords)
        assert [slide.status for slide in report.slides] == ["done"] * 3
        for slide in report.slides:
            found, wanted = read_features(slide.outputs[0]), on_grid[slide.name]
            assert np.array_equal(found.coords, wanted.coords)
            assert found.features.tobytes() == wanted.features.tobytes()
            assert found.tissue_fraction is None
            assert problems_of(slide.outputs[0]) == []


def test_pixels_are_of_the_very_squares(slides, encoder, tmp_path):
    """Off the grid: what the encoder saw is what the slide shows there, at the exact scale."""
    xy = [[3, 70], [200, 71], [101, 300]]
    given = table(tmp_path / "c.csv", [("s0.tif", *each) for each in xy])
    file = one(encode(slides / "s0.tif", tmp_path / "f", encoder, coords=given))
    assert file.coords.tolist() == xy
    assert file.attributes["patch_size_level0"] == 64
    with histofast.open_slide(slides / "s0.tif") as slide:
        pixels = [slide.read_region((x, y), 0, (64, 64)) for x, y in xy]
    means = np.stack(pixels).reshape(3, 32, 2, 32, 2, 3).mean((2, 4))
    with PatchReader(slides) as reader:
        seen = reader.read(file, np.arange(3))
    assert np.abs(seen - means).max() <= 1


def test_points_are_centres(slides, encoder, tmp_path):
    corners = np.array([[64, 64], [129, 200], [301, 77]])
    by_corner = table(tmp_path / "c.csv", corners.tolist(), "x,y")
    wanted = one(encode(slides / "s0.tif", tmp_path / "a", encoder, coords=by_corner))
    for kind in ("Point", "MultiPoint"):
        given = points(tmp_path / f"{kind}.geojson", corners + 32, kind=kind)
        found = one(encode(slides / "s0.tif", tmp_path / kind, encoder, coords=given))
        assert np.array_equal(found.coords, wanted.coords)
        assert found.features.tobytes() == wanted.features.tobytes()


def test_points_count_from_where_qupath_counts(slides, monkeypatch, tmp_path):
    given = read_given(points(tmp_path / "p.geojson", [[100, 100]]))
    options = {"edge": "drop", "allow_upsampling": False, "resample": "area"}
    with histofast.open_slide(slides / "s0.tif") as slide:
        assert given.plan(slide, **PLAN, **options).coords_l0.tolist() == [[68, 68]]
        monkeypatch.setattr(type(slide), "origin_l0", property(lambda _: (30, 7)))
        assert given.plan(slide, **PLAN, **options).coords_l0.tolist() == [[98, 75]]
        corner = GivenCoords(path=tmp_path, points_l0=np.array([[100.0, 100.0]]))
        assert corner.plan(slide, **PLAN, **options).coords_l0.tolist() == [[100, 100]]


@pytest.mark.parametrize(
    ("edge", "coords", "notes"),
    [
        ("drop", [[0, 0]], ["2 patches of coords cross the edge of the slide, and are dropped"]),
        ("shift", [[0, 0], [448, 0], [0, 576]], []),
    ],
)
def test_patches_across_the_edge(slides, encoder, tmp_path, edge, coords, notes):
    given = table(tmp_path / "c.csv", [(0, 0), (470, 0), (0, 600)], "x,y")
    report = encode(slides / "s0.tif", tmp_path / "f", encoder, coords=given, edge=edge)
    assert one(report).coords.tolist() == coords
    assert [note.partition(":")[0] for note in report.slides[0].notes] == notes


def test_where_no_patch_is_whole_the_slide_is_empty(slides, encoder, tmp_path):
    given = table(tmp_path / "c.csv", [(500, 0)], "x,y")
    (slide,) = encode(slides / "s0.tif", tmp_path / "f", encoder, coords=given).slides
    assert (slide.status, slide.reason) == ("empty", f"no patch of {given} is whole on the slide")


# --- Whose they are --------------------------------------------------------------------------------


def test_the_identity_holds_the_coordinates(slides, encoder, tmp_path):
    given = table(tmp_path / "c.csv", [("s0", 64, 64)])
    slide = slides / "s0.tif"
    first = one(encode(slide, tmp_path / "f", encoder, coords=given))
    assert set(first.identity["coords"]) == {"sha256", "at"}
    assert not {"tissue", "min_tissue", "overlap"} & set(first.identity)
    (again,) = encode(slide, tmp_path / "f", encoder, coords=given).slides
    assert again.status == "skipped"
    # The same place from another file is the same; another place, or a centre, is not.
    same = hdf5(tmp_path / "same.h5", [[64, 64]])
    assert encode(slide, tmp_path / "f", encoder, coords=same).slides[0].status == "skipped"
    other = table(tmp_path / "o.csv", [("s0", 64, 65)])
    (failed,) = encode(slide, tmp_path / "f", encoder, coords=other).slides
    assert "was made by something else (coords.sha256: " in failed.error
    centre = points(tmp_path / "p.geojson", [[64, 64]])
    assert "coords.at" in encode(slide, tmp_path / "f", encoder, coords=centre).slides[0].error
    # Nor do they mix with those of a grid.
    with pytest.raises(histofast.errors.FeatureError, match="grid own coordinates, asked for is"):
        run(slide, tmp_path / "f", encoder, **PLAN)
    assert options_of(first)["grid"] == "own coordinates"
    assert read_summary(first.path).identity == first.identity


def test_slides_are_found_by_their_names(slides, encoder, tmp_path):
    rows = [("s0", 0, 64), ("folder/s1.tif", 64, 64), (r"C:\slides\s2.tif", 64, 128), ("x", 0, 0)]
    given = table(tmp_path / "c.csv", rows)
    report = encode(slides, tmp_path / "f", encoder, coords=given)
    found = {slide.name: read_features(slide.outputs[0]).coords.tolist() for slide in report.slides}
    assert found == {"s0": [[0, 64]], "s1": [[64, 64]], "s2": [[64, 128]]}


def test_a_slide_without_coordinates_is_one_failed_slide(slides, encoder, tmp_path):
    given = table(tmp_path / "c.csv", [("s0", 64, 64), ("s1_", 64, 64)])
    report = encode(slides, tmp_path / "f", encoder, coords=given)
    errors = {slide.name: slide.error for slide in report.slides}
    assert errors == {
        "s0": "",
        "s1": f"coords of {given} must name s1: did you mean s1_?",
        "s2": f"coords of {given} must name s2, got none",
    }
    (tmp_path / "h5").mkdir()
    hdf5(tmp_path / "h5" / "s0.h5", [[0, 0]])
    hdf5(tmp_path / "h5" / "s1.h5", [[0, 0]])
    points(tmp_path / "h5" / "s1.geojson", [[99, 99]])
    report = encode(slides, tmp_path / "g", encoder, coords=tmp_path / "h5")
    errors = {slide.name: slide.error for slide in report.slides}
    assert errors["s0"] == ""
    assert errors["s1"].startswith("coords of s1 must be one file of")
    assert errors["s2"].startswith("no such coords: ")


def test_coordinates_of_another_slide_are_refused(slides, encoder, tmp_path):
    size = {"level0_width": 512, "level0_height": 640}
    slide = slides / "s0.tif"
    good = hdf5(tmp_path / "a.h5", [[0, 64]], **size)
    assert len(one(encode(slide, tmp_path / "f", encoder, coords=good)).features) == 1
    other = hdf5(tmp_path / "b.h5", [[0, 64]], **size | {"level0_width": 513})
    (failed,) = encode(slide, tmp_path / "g", encoder, coords=other).slides
    assert (
        "must be of this slide, of 512 x 640 pixels, got those of one of 513 x 640" in failed.error
    )


@pytest.mark.parametrize(
    "attributes",
    [
        {"patch_size_level0": 64},
        {"patch_size_level0": 62},  # 3 %: what scanners call the same
        {"patch_size": 16, "patch_level": 1},  # CLAM's, of a level that is four times as coarse
        {"patch_size": 64, "patch_level": 0, "downsample": np.array([1.0, 1.0])},
        {"patch_size": 7, "patch_level": 9},  # of a level that we do not know
    ],
)
def test_the_side_of_squares_is_what_is_asked_for(slides, encoder, tmp_path, attributes):
    given = hdf5(tmp_path / "c.h5", [[0, 64]], dtype=np.int32, **attributes)
    assert one(encode(slides / "s0.tif", tmp_path / "f", encoder, coords=given)).patch_l0 == 64


@pytest.mark.parametrize("kind", ["level0", "level", "table"])
def test_squares_of_another_side_are_refused(cli, slides, encoder, tmp_path, kind):
    if kind == "table":
        given = table(tmp_path / "c.csv", [("s0", 0, 0, 64), ("s0", 0, 64, 128)], "slide,x,y,size")
    else:
        told = {"patch_size": 32, "patch_level": 1}
        told = {"patch_size_level0": 128} if kind == "level0" else told
        given = hdf5(tmp_path / "c.h5", [[0, 64]], **told)
    plan = ["--mpp", "2", "--patch-px", "32", "-e", encoder, "-o", tmp_path / "f"]
    answer = cli("extract", slides / "s0.tif", "--coords", given, *plan)
    assert answer.code == 1
    line = next(line for line in answer.err if "failed" in line)
    assert "are of squares of 128 level-0 pixels, the patches asked for are of 64" in line
    assert line.endswith(": ask for --patch-px 64, or --mpp 4")


# --- What is no coordinate -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,x\ns0,1\n", "c.csv must have a column y, got slide, x"),
        ("slide,x,y\ns0,1,nan\n", "line 2: y must be a finite number, got 'nan'"),
        ("slide,x,y\ns0,1,\n", "line 2: y must be a finite number, got ''"),
        ("slide,x,y\n,1,2\n", "line 2: slide is empty"),
        ("slide,x,y\nt7,1,2\n", "must name the slides, s0, s1, s2, got t7"),
        ("slide,x,y,size\ns0,1,2,0\n", "line 2: size must be above 0, got 0"),
        ("x,y\n1,2\n", "c.csv must have a column slide (or wsi, "),
        ("slide,x,y\n", "c.csv must have a header and at least one row"),
    ],
)
def test_a_bad_table_is_one_line(cli, slides, encoder, tmp_path, text, message):
    (tmp_path / "c.csv").write_text(text)
    answer = cli(
        "extract", slides, "-e", encoder, "-o", tmp_path / "f", "--coords", tmp_path / "c.csv"
    )
    assert answer.code == 2
    (line,) = answer.err
    assert message in line
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 0), (9, 9), (0, 0)], "coords must be there once each, got (0, 0) 2 times"),
        ([(512, 0)], "coords must lie in the slide of 512 x 640 level-0 pixels, got (512, 0)"),
        ([(-1, 0), (0, 0), (0, 7000)], "got (-1, 0), and 1 more: are they of another slide"),
    ],
)
def test_bad_places_fail_their_slide(slides, encoder, tmp_path, rows, message):
    given = table(tmp_path / "c.csv", [("s0", *row) for row in rows] + [("s1", 64, 64)])
    report = encode(slides, tmp_path / "f", encoder, coords=given)
    slides_of = {slide.name: slide for slide in report.slides}
    assert message in slides_of["s0"].error
    assert slides_of["s1"].status == "done"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: hdf5(p, [[1, 2, 3]]), r"coords of .* must be of shape \(1, 2\), got \(1, 3\)"),
        (lambda p: hdf5(p, [[np.nan, 2]], dtype=float), "pixels of a slide, got NaN or huge ones"),
        (lambda p: hdf5(p, [1, 2]), r"must be \(n, 2\) level-0 pixels, got shape \(2,\)"),
        (lambda p: hdf5(p, [[1, 2]], unit="um"), "must tell the scale of their um, got none"),
        (lambda p: hdf5(p, [[0, 0]], coords_known=False), "got those of no slide"),
        (lambda p: h5py.File(p, "w").close(), "must have a dataset 'coords', got none"),
    ],
)
def test_a_bad_hdf5_file_fails_its_slide(slides, encoder, tmp_path, make, message):
    make(tmp_path / "c.h5")
    with pytest.raises(histofast.errors.FeatureError, match=message):
        read_coords(tmp_path / "c.h5")
    (slide,) = encode(slides / "s0.tif", tmp_path / "f", encoder, coords=tmp_path / "c.h5").slides
    assert slide.status == "failed"


@pytest.mark.parametrize(
    ("geojson", "message"),
    [
        ({"type": "Point", "coordinates": [1]}, "must hold points of two finite numbers"),
        ({"type": "Point", "coordinates": [1, "a"]}, "must hold points of two finite numbers"),
        ({"type": "Point", "coordinates": [1, 1e300]}, "must hold points of two finite numbers"),
        ({"type": "MultiPoint", "coordinates": [[1, 2], 3]}, "must hold points of two finite"),
        ({"type": "MultiPoint", "coordinates": []}, "must hold points, got none"),
        ({"type": "Polygon", "coordinates": []}, "must hold points, got 1 other geometry"),
        ({"type": "Circle"}, "must hold points, got Circle"),
        ([], "must be a GeoJSON object, got a list"),
    ],
)
def test_bad_points_fail_their_slide(slides, encoder, tmp_path, geojson, message):
    given = tmp_path / "c.geojson"
    given.write_text(json.dumps(geojson))
    (slide,) = encode(slides / "s0.tif", tmp_path / "f", encoder, coords=given).slides
    assert slide.status == "failed"
    assert message in slide.error
    assert "\n" not in slide.error


def test_points_that_qupath_ignores_are_left_out(tmp_path):
    path = points(tmp_path / "p.geojson", [[1, 2], [3, 4]])
    value = json.loads(path.read_text())
    value["features"][0]["properties"] = {"classification": {"name": "Ignore*"}}
    value["features"].append({"type": "Feature", "geometry": None, "properties": {}})
    path.write_text(json.dumps(value))
    given = read_given(path)
    assert given.points_l0.tolist() == [[3, 4]]
    assert given.notes == (
        "1 area, line or empty feature passed over",
        "1 point of classes in * left out",
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--min-tissue", "0.5"], "--min-tissue must not be given with coords"),
        (["--overlap", "4"], "--overlap must not be given with coords"),
        (["--ink", "keep"], "--tissue must not be given with coords"),
        (["--mask", "m.png"], "--mask must not be given with coords"),
    ],
)
def test_what_is_about_tissue_is_refused(
    cli, slides, encoder, tmp_path, monkeypatch, option, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.png").write_bytes(b"")
    given = table(tmp_path / "c.csv", [("s0", 0, 0)])
    answer = cli("extract", slides / "s0.tif", "-e", encoder, "--coords", given, *option)
    assert answer.code == 2
    assert message in answer.err[0]


def test_several_slides_want_a_table_or_a_folder(slides, tmp_path):
    jobs = [Job(name=name, path=slides / f"{name}.tif") for name in ("s0", "s1")]
    with pytest.raises(
        ValueError, match="coords must be a table, or a folder of files named after"
    ):
        with_coords(jobs, hdf5(tmp_path / "c.h5", [[0, 0]]))
    with pytest.raises(
        ValueError, match=r"coords must be a CSV, \.h5 or GeoJSON file, or a folder"
    ):
        with_coords(jobs, slides / "s0.tif")
    with pytest.raises(FileNotFoundError, match="no such coords: "):
        with_coords(jobs, tmp_path / "none.csv")
    assert with_coords(jobs, None) is jobs


def test_patch_files_are_read_again_as_coordinates(slides, encoder, tmp_path):
    """The table of `patches` names places, and `patches` takes places as well."""
    write_patches(slides, out=tmp_path / "p", min_tissue=0.1, **PLAN)
    given = tmp_path / "p" / "patches.csv"
    report = write_patches(slides, out=tmp_path / "q", coords=given, **PLAN)
    assert report.exit_code == 0
    for path in (tmp_path / "p").rglob("*.png"):
        again = tmp_path / "q" / path.relative_to(tmp_path / "p")
        assert again.read_bytes() == path.read_bytes()
    lines = (tmp_path / "q" / "patches.csv").read_text().splitlines()
    assert all(line.endswith(",,2.0") for line in lines[1:])
