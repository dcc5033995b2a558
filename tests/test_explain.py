"""Maps show every value where its patch lies, in every format; scores are those of definitions."""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import histofast
import reference
from extras import need
from fake_slides import FakeSlide, noise
from histofast.errors import SlideError
from histofast.explain import attention_map, read_values, score, score_differences
from histofast.slides import open_slide, read_image
from histofast.tiling import plan_patches
from histofast.tissue import find_tissue
from small_slides import write_slide

WHITE_SLIDE = np.full((96, 160, 3), 250, np.uint8)
CORNERS = np.array([[0, 0], [32, 0], [96, 64]])


def made(values, coords=CORNERS, *, slide=None, **options):
    options = {"patch_l0": 32, "mpp": 1.0, **options}
    slide = slide or FakeSlide(WHITE_SLIDE, mpp=1.0)
    return attention_map(
        slide, np.asarray(values, np.float64), coords_l0=np.array(coords, np.int64), **options
    )


class Scanned(FakeSlide):
    """A slide of which QuPath shows the scanned part only."""

    @property
    def origin_l0(self):
        return (64, 32)


# --- Shares --------------------------------------------------------------------------------------


def test_ranks_share_ties_and_end_within():
    assert made([5, -1, 5]).shares.tolist() == [2 / 3, 1 / 6, 2 / 3]
    assert made([7, 7, 7]).shares.tolist() == [0.5, 0.5, 0.5]


def test_minmax_runs_from_lowest_to_highest():
    assert made([5, -1, 2], scale="minmax").shares.tolist() == [1, 0, 0.5]
    assert made([7, 7, 7], scale="minmax").shares.tolist() == [0.5, 0.5, 0.5]
    huge = 1.7e308
    assert made([huge, -huge, 0], scale="minmax").shares.tolist() == [1, 0, 0.5]


def test_raw_is_the_value():
    assert made([0, 1, 0.25], scale="raw").shares.tolist() == [0, 1, 0.25]


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
@settings(max_examples=25)
def test_shares_keep_the_order(values):
    for scale in ("rank", "minmax"):
        shares = made(values, scale=scale).shares
        assert ((shares >= 0) & (shares <= 1)).all()
        assert (np.diff(shares[np.argsort(values, kind="stable")]) >= 0).all()


def test_other_values_of_the_same_patches_are_a_map_of_their_own():
    for scale in ("rank", "minmax", "raw"):
        one, wanted = made([1, 0, 0.5], scale=scale), made([0.25, 0.25, 0], scale=scale, name="b")
        other = one.with_values(wanted.values, name="b")
        assert other.name == "b"
        assert other.shares.tolist() == wanted.shares.tolist()
        np.testing.assert_array_equal(other.heat(), wanted.heat())
        assert one.values.tolist() == [1, 0, 0.5]
    with pytest.raises(
        ValueError, match=r"^values must be within 0..1 for scale=\"raw\", got 0..2"
    ):
        one.with_values(np.array([0, 1, 2.0]), name="b")


# --- Pictures ------------------------------------------------------------------------------------


def test_heat_lies_under_the_patches_and_nowhere_else():
    heat = made([0.25, 0.5, 1.0], scale="raw").heat()
    wanted = np.full((96, 160), np.nan)
    wanted[:32, :32], wanted[:32, 32:64], wanted[64:96, 96:128] = 0.25, 0.5, 1.0
    np.testing.assert_array_equal(heat, wanted)


def test_overlapping_patches_are_averaged():
    heat = made([0.0, 1.0, 0.5], [[0, 0], [16, 0], [16, 0]], scale="raw").heat()
    assert heat[0, 0] == 0
    assert heat[0, 20] == pytest.approx(0.5)
    assert heat[0, 40] == pytest.approx(0.75)


def test_neighbours_leave_no_gap_at_any_scale():
    corners = [[33 * i, 0] for i in range(4)]
    for mpp in (1.0, 2.3, 3.7):
        heat = made(np.ones(4), corners, patch_l0=33, scale="raw", mpp=mpp).heat()
        (covered,) = np.nonzero(~np.isnan(heat[0]))
        assert covered.tolist() == list(range(round(132 * heat.shape[1] / 160)))


def test_patches_smaller_than_a_pixel_and_across_the_edge_are_shown():
    heat = made([0.5, 1.0], [[3, 3], [159, 95]], patch_l0=1, scale="raw", mpp=16.0).heat()
    assert heat.shape == (6, 10)
    assert heat[5, 9] == 1.0
    assert (~np.isnan(heat)).sum() == 2


def test_overlay_is_the_mixture_of_colours_and_grey():
    need("matplotlib")
    image = noise(96, 160)
    found = made([0.0, 0.5, 1.0], scale="raw", alpha=0.25, slide=FakeSlide(image, mpp=1.0))
    overlay = found.overlay()
    covered = ~np.isnan(found.heat())
    np.testing.assert_array_equal(overlay[~covered], image[~covered])
    from matplotlib import colormaps

    grey = image[80, 100] @ [0.299, 0.587, 0.114]
    wanted = 0.75 * grey + 0.25 * 255 * np.array(colormaps["viridis"](1.0)[:3])
    np.testing.assert_allclose(overlay[80, 100], wanted, atol=1)
    assert found.overview.tobytes() == image.tobytes()  # it draws on a copy


def test_colours_grow_lighter_with_the_value():
    need("matplotlib")
    from histofast.report import colors_of

    luma = colors_of(np.linspace(0, 1, 64)) @ [0.2126, 0.7152, 0.0722]
    assert all(a < b for a, b in pairwise(luma))
    assert colors_of(np.array([-1.0, 2.0])).tolist() == colors_of(np.array([0.0, 1.0])).tolist()


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (96, 160), (999, 611), (611, 1237)])
def test_the_figure_keeps_every_pixel(size):
    need("matplotlib")
    from histofast.report import Figure, Picture, pixels_of

    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    panel = Picture(
        pixels=picture, alt="", ticks=((0, "low"), (1, "high")), opacity=0.5, um_per_px=0.5
    )
    title, basis = "a$b_slide" * 3, "what was done, in words " * 4
    figure = pixels_of(Figure(name="f", panels=(panel,), title=title, basis=basis))
    left = round(12 * max(1, max(size) / 1000))  # the edge around everything
    places = [
        (top, x)
        for x in range(left - 2, left + 3)
        for top in range(len(figure) - size[0])
        if (figure[top : top + size[0], x : x + size[1]] == picture).all()
    ]
    assert len(places) == 1
    assert (figure[:, :4] == 255).all()
    assert (figure[:, -4:] == 255).all()  # nothing is cut off
    assert (figure[places[0][0] - 1] == 255).mean() > 0.9


# --- QuPath --------------------------------------------------------------------------------------


def test_geojson_has_a_tile_per_patch():
    need("matplotlib")
    values = np.arange(10) / 7
    coords = np.column_stack([np.arange(10) * 16, np.zeros(10)]).astype(np.int64)
    found = made(values, coords, patch_l0=16, name="gated").geojson()
    assert found["type"] == "FeatureCollection"
    for i, feature in enumerate(found["features"]):
        x = 16 * i
        assert feature["geometry"] == {
            "type": "Polygon",
            "coordinates": [[[x, 0], [x + 16, 0], [x + 16, 16], [x, 16], [x, 0]]],
        }
        properties = feature["properties"]
        assert properties["objectType"] == "tile"
        assert properties["measurements"] == {"gated": values[i]}
    names = [f["properties"]["classification"]["name"] for f in found["features"]]
    fifths = ["0-20", "20-40", "40-60", "60-80", "80-100"]
    assert names == [f"gated {fifth} %" for fifth in fifths for _ in range(2)]
    colors = {tuple(f["properties"]["classification"]["color"]) for f in found["features"]}
    assert len(colors) == 5
    assert all(isinstance(c, int) and 0 <= c <= 255 for color in colors for c in color)


def test_quantiles_do_not_depend_on_the_scale():
    need("matplotlib")
    values = [0.0, 0.001, 1.0]
    one, other = (made(values, scale=scale).geojson() for scale in ("rank", "raw"))
    assert one == other


def test_geojson_and_pyramid_are_in_the_frame_of_qupath(tmp_path):
    need("matplotlib")
    slide = Scanned(noise(96, 160), mpp=1.0)
    found = made([0.1, 0.2], [[64, 32], [96, 64]], slide=slide)
    first = found.geojson()["features"][0]["geometry"]["coordinates"][0][0]
    assert first == [0, 0]
    found.save(tmp_path / "m")
    with open_slide(tmp_path / "m" / "attention.ome.tif") as pyramid:
        assert (pyramid.levels[0].width, pyramid.levels[0].height) == (96, 64)
        region = pyramid.read_region((0, 0), 0, (96, 64))
    np.testing.assert_array_equal(region, found.overlay()[32:, 64:])


# --- Files ---------------------------------------------------------------------------------------


def test_save_writes_four_files_that_agree(tmp_path):
    need("matplotlib")
    found = made([0.1, 2 / 3, 1e-9], name='<&"é>')
    found.save(tmp_path / "new" / "maps")
    files = {path.name for path in (tmp_path / "new" / "maps").iterdir()}
    assert files == {"overlay.png", "attention.geojson", "attention.ome.tif", "attention.csv"}
    folder = tmp_path / "new" / "maps"
    assert (folder / "attention.csv").read_text() == (
        "x,y,value\n0,0,0.1\n32,0,0.6666666666666666\n96,64,1e-09\n"
    )
    table = read_values(folder / "attention.csv")
    assert table.name == "value"
    np.testing.assert_array_equal(table.values, found.values)
    np.testing.assert_array_equal(table.coords_l0, found.coords_l0)
    text = (folder / "attention.geojson").read_text(encoding="utf-8")
    assert json.loads(text) == found.geojson()
    assert ", " not in text
    assert read_image(folder / "overlay.png").shape[1] >= 160


def test_the_pyramid_has_tiles_levels_and_scale(tmp_path):
    need("matplotlib")
    import tifffile

    slide = FakeSlide(noise(700, 1100), mpp=0.5, tile=(256, 256))
    found = made([0.3, 0.4], [[0, 0], [600, 300]], patch_l0=224, slide=slide, mpp=0.5)
    found.save(tmp_path)
    with open_slide(tmp_path / "attention.ome.tif") as pyramid:
        sizes = [(level.width, level.height, level.downsample) for level in pyramid.levels]
        assert sizes == [(1100, 700, 1), (550, 350, 2), (275, 175, 4), (138, 88, 8)]
        assert pyramid.mpp == pytest.approx(0.5)
        assert pyramid.properties["vendor"] == "ome"
        whole = pyramid.read_region((0, 0), 0, (1100, 700))
    np.testing.assert_array_equal(whole, found.overlay())
    with tifffile.TiffFile(tmp_path / "attention.ome.tif") as tiff:
        (series,) = tiff.series
        assert series.kind == "ome"
        assert series.axes == "YXS"
        assert len(series.levels) == 4
        assert "fake attention" in tiff.ome_metadata


def test_save_keeps_what_is_there_unless_told(tmp_path):
    need("matplotlib")
    (tmp_path / "attention.csv").write_text("mine")
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"attention\.csv exists: choose another name"):
        made([1, 2, 3]).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attention.csv", "other.txt"]
    made([1, 2, 3]).save(tmp_path, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 5
    assert (tmp_path / "other.txt").read_text() == "mine"
    with pytest.raises(
        NotADirectoryError, match=r"folder must be a folder, .*other\.txt is a file"
    ):
        made([1, 2, 3]).save(tmp_path / "other.txt")


def test_save_writes_all_or_nothing(tmp_path, monkeypatch):
    need("matplotlib")
    from histofast.explain import maps

    def fail(*arguments, **options):
        raise SlideError("cannot write: no space")

    monkeypatch.setattr(maps, "write_array_pyramid", fail)
    with pytest.raises(SlideError, match="no space"):
        made([1, 2, 3]).save(tmp_path / "maps")
    assert list(tmp_path.iterdir()) == []


def test_same_input_same_bytes(tmp_path):
    need("matplotlib")
    for name in ("a", "b"):
        made([1, 2, 3]).save(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    room = getattr(histofast, "report", None)  # put back with its modules
    monkeypatch.setattr(histofast, "report", room, raising=False)
    for name in [name for name in sys.modules if name.startswith("histofast.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'histofast\[train\]'"):
        made([1, 2, 3]).overlay()


def test_on_a_real_slide(data, tmp_path):
    need("matplotlib")
    path = data / "slides" / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide:
        plan = plan_patches(slide, find_tissue(slide), mpp=0.5, patch_px=224)
        darkness = np.array(
            [
                255 - slide.read_region((x, y), 0, (plan.patch_l0,) * 2).mean()
                for x, y in plan.coords_l0.tolist()
            ]
        )
    found = attention_map(path, darkness, coords_l0=plan.coords_l0, patch_l0=plan.patch_l0)
    assert found.slide == "CMU-1-Small-Region"
    assert max(found.overview.shape) == 2967
    found.save(tmp_path)
    with open_slide(tmp_path / "attention.ome.tif") as pyramid, open_slide(path) as slide:
        assert len(pyramid.levels) == 5
        size_um = [pyramid.levels[0].width * pyramid.mpp, pyramid.levels[0].height * pyramid.mpp]
        base = slide.levels[0]
        np.testing.assert_allclose(
            size_um, [base.width * slide.mpp, base.height * slide.mpp], rtol=1e-3
        )
    # The darkest patch is under the lightest colour.
    x, y = found.coords_l0[darkness.argmax()] + plan.patch_l0 // 2
    scale = found.overview.shape[1] / found.width_l0
    assert found.heat()[int(y * scale), int(x * scale)] == np.nanmax(found.heat())


def test_a_slide_by_its_path_is_closed_and_its_holes_are_counted(tmp_path):
    path = write_slide(tmp_path / "s.tif")
    found = attention_map(
        path, np.array([1.0], np.float32), coords_l0=np.array([[64, 64]]), patch_l0=64
    )
    assert (found.slide, found.unreadable, found.values.dtype) == ("s", 0, np.float64)
    broken = FakeSlide(noise(96, 160), mpp=1.0, broken=[(0, 0, 0)])
    assert made([1, 2, 3], slide=broken).unreadable == 1


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"values": [1.0, 2.0, 3.0]}, TypeError, r"values must be floating point .*, got list"),
        ({"values": np.arange(3)}, TypeError, r"values must be floating point .*, got int64"),
        ({"values": np.zeros((3, 1))}, ValueError, r"n at least 1, got \(3, 1\)"),
        ({"values": np.zeros(0)}, ValueError, r"n at least 1, got \(0,\)"),
        (
            {"values": np.array([0, np.nan, np.inf])},
            ValueError,
            "values must be finite, got NaN or infinity for 2 of 3 patches, first at row 1",
        ),
        (
            {"values": np.zeros(2)},
            ValueError,
            r"coords_l0 must be int64 of shape \(2, 2\), got int64 of shape \(3, 2\)",
        ),
        ({"coords_l0": CORNERS * 1.0}, TypeError, "coords_l0 must be int64 .*, got float64"),
        (
            {"coords_l0": CORNERS + np.array([64, 0])},
            ValueError,
            r"patches must lie on fake, 160 x 96 px, got 1 of 3 patches beside it, first at \(160",
        ),
        ({"coords_l0": CORNERS - [1, 0]}, ValueError, r"first at \(-1, 0\)"),
        ({"patch_l0": 0}, ValueError, "patch_l0 must be at least 1, got 0"),
        ({"patch_l0": 31.5}, TypeError, "patch_l0 must be a whole number, got 31.5"),
        (
            {"scale": "ranks"},
            ValueError,
            "scale must be one of rank, minmax, raw, got 'ranks'",
        ),
        (
            {"scale": "raw", "values": np.array([0, 0.5, 1.5])},
            ValueError,
            r'values must be within 0..1 for scale="raw", got 0..1.5: take scale="minmax", or scale="rank"',
        ),
        ({"alpha": 1.5}, ValueError, r"alpha must be within 0..1, got 1.5"),
        ({"alpha": float("nan")}, ValueError, r"alpha must be within 0..1, got nan"),
        ({"mpp": 0}, ValueError, "mpp must be above 0, got 0"),
        ({"slide": "none.svs"}, FileNotFoundError, "no such slide: none.svs"),
        (
            {"slide": FakeSlide(WHITE_SLIDE, tile=(160, 96), broken=[(0, 0, 0)])},
            SlideError,
            "no tile can be decoded, the first: ",
        ),
    ],
)
def test_attention_map_refuses(changed, error, message):
    options = {"coords_l0": CORNERS.astype(np.int64), "patch_l0": 32, "mpp": 1.0, **changed}
    slide = options.pop("slide", FakeSlide(WHITE_SLIDE, mpp=1.0))
    values = options.pop("values", np.array([0.1, 0.2, 0.3]))
    with pytest.raises(error, match=message) as refused:
        attention_map(slide, values, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have the columns x, y, value, got ''"),
        ("x,y\n1,2\n", "must have the columns x, y, value, got 'x, y'"),
        ("y,x,value\n1,2,3\n", "must have the columns x, y, value, got 'y, x, value'"),
        ("x,y,value\n", "must have a row per patch, got none"),
        ("x,y,value\n1,2\n", "line 2: must have two whole numbers and a finite number, got '1,2'"),
        (
            "x,y,value\n1,2,3\n1.5,2,3\n",
            "line 3: must have two whole numbers and a finite number, got '1.5,2,3'",
        ),
        (
            "x,y,value\nnan,2,3\n",
            "line 2: must have two whole numbers and a finite number, got 'nan,2,3'",
        ),
        (
            "x,y,value\n1,2,high\n",
            "line 2: must have two whole numbers and a finite number, got '1,2,high'",
        ),
        (
            "x,y,value\n1,2,nan\n",
            "line 2: must have two whole numbers and a finite number, got '1,2,nan'",
        ),
        (
            "x,y,value\n1,2,\xff\n",
            "line 2: must be CSV text in UTF-8, got the byte 0xff: save it so",
        ),
    ],
)
def test_read_values_refuses(tmp_path, text, message):
    path = tmp_path / "v.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"^{path}[, ]") as refused:
        read_values(path)
    assert message in str(refused.value)


def test_read_values_takes_other_names_and_decimals_that_are_whole(tmp_path):
    path = tmp_path / "v.csv"
    path.write_text("\ufeffx, y, attention\n\n10.0,20,1e-3\n", encoding="utf-8")
    found = read_values(path)
    assert (found.name, found.coords_l0.tolist(), found.values.tolist()) == (
        "attention",
        [[10, 20]],
        [0.001],
    )
    with pytest.raises(FileNotFoundError, match=r"no such table: .*none\.csv"):
        read_values(tmp_path / "none.csv")


# --- Scores --------------------------------------------------------------------------------------


def auroc(values, labels):
    """The definition: the share of pairs in the right order."""
    ones, zeros = values[labels == 1], values[labels == 0]
    return np.mean([np.mean((one > zeros) + (one == zeros) / 2) for one in ones])


@given(
    pairs=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30).filter(
        lambda pairs: len({label for _, label in pairs}) == 2
    )
)
def test_auroc_is_the_definition(pairs):
    values, labels = (np.array(column) for column in zip(*pairs, strict=True))
    found = score(values * 1.0, labels, groups=np.arange(len(labels)), resamples=2)
    assert found.auroc == pytest.approx(auroc(values, labels))
    assert (found.n, found.positives) == (len(labels), labels.sum())
    turned = score(-values * 1.0, labels, groups=np.arange(len(labels)), resamples=2)
    assert turned.auroc == pytest.approx(1 - found.auroc)


def test_the_interval_is_that_of_resampled_groups(rng):
    groups = np.repeat(np.arange(12), 20)
    labels = rng.integers(0, 2, 240)
    values = labels * 0.5 + rng.normal(size=240) + rng.normal(size=12)[groups]
    found = score(values, labels, groups=groups, resamples=300, seed=4)
    draws = np.random.default_rng(4)
    drawn = []
    for _ in range(300):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in draws.integers(12, size=12)])
        drawn.append(auroc(values[rows], labels[rows]))
    np.testing.assert_allclose([found.low, found.high], np.quantile(drawn, [0.025, 0.975]))
    assert (found.unit, found.units, found.resamples) == ("groups", 12, 300)
    assert found == score(values, labels, groups=groups, resamples=300, seed=4)


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=4, max_size=30
    )
)
def test_values_of_several_slides_are_compared_within_each(rows):
    values, labels, slides = (np.array(column) for column in zip(*rows, strict=True))
    wanted = reference.stratified_auroc(values, labels, slides)
    if np.isnan(wanted):
        with pytest.raises(ValueError, match="labels must be of both kinds"):
            score(values * 1.0, labels, slides=slides, groups=np.arange(len(rows)), resamples=2)
        return
    found = score(values * 1.0, labels, slides=slides, groups=np.arange(len(rows)), resamples=2)
    assert found.auroc == pytest.approx(wanted)


def test_differences_are_of_the_same_resamples(rng):
    """Slides are hard or easy for both sources: the difference is shown, their own intervals overlap."""
    slides = np.repeat(np.arange(20), 15)
    labels = rng.integers(0, 2, 300)
    noise = rng.normal(size=300) * np.repeat(rng.uniform(0.2, 3, 20), 15)
    values = {"a": labels + noise, "b": labels + 1.25 * noise}
    sample = {"slides": slides, "seed": 5}
    (found,) = score_differences(
        values, labels, pairs=[("a", "b")], resamples=300, **sample
    ).values()
    one, other = (score(values[name], labels, **sample) for name in ("a", "b"))
    assert found.value == pytest.approx(one.auroc - other.auroc)
    assert found.is_shown
    assert one.low < other.high
    units = np.random.default_rng(5)
    times = [np.bincount(units.integers(20, size=20), minlength=20) for _ in range(300)]

    def apart(rows):
        aurocs = [
            reference.stratified_auroc(values[name][rows], labels[rows], slides[rows])
            for name in ("a", "b")
        ]
        return aurocs[0] - aurocs[1]

    draws = reference.draws_of_groups(apart, slides, times)
    assert (found.low, found.high) == pytest.approx(reference.bootstrap_interval(draws, 0.05))
    assert found.p == pytest.approx(reference.bootstrap_p(draws))


def test_of_a_source_that_was_drawn_the_highest_is_the_other_side(rng):
    labels, slides = rng.integers(0, 2, 120), np.arange(120) % 6
    values = {"a": labels + rng.normal(size=120), "drawn": rng.random((5, 120))}
    aurocs = [score(each, labels, slides=slides).auroc for each in values["drawn"]]
    found = score_differences(values, labels, pairs=[("a", "drawn")], slides=slides)["a", "drawn"]
    assert found.value == pytest.approx(
        score(values["a"], labels, slides=slides).auroc - max(aurocs)
    )
    few = score_differences(values, labels, pairs=[("a", "drawn")], slides=np.arange(120) % 4)
    assert np.isnan(few["a", "drawn"].low)
    assert not few["a", "drawn"].is_shown


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pairs": [("a", "c")]}, "pairs must be of a, b, got c"),
        (
            {"values": {"a": np.zeros(3), "b": np.zeros(4)}},
            r"values of a must be of shape \(12,\) as",
        ),
        ({"resamples": 30}, "resamples must be at least 40 to tell 1 difference together, got"),
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
    ],
)
def test_score_differences_refuses(changed, message):
    values = {"a": np.arange(12.0), "b": np.ones(12)}
    given = {"values": values, "groups": np.arange(12), "pairs": [("a", "b")], **changed}
    with pytest.raises(ValueError, match=message):
        score_differences(given.pop("values"), np.tile([0, 1], 6), **given)


def test_slides_on_other_scales(rng):
    """Attention sums to 1 over a slide: a small one has the higher values, whatever they show."""
    slides = np.repeat(np.arange(6), [400, 50, 400, 50, 400, 50])
    labels = rng.random(len(slides)) < np.where(slides % 2, 0.1, 0.5)
    values = (labels + rng.random(len(slides))) / np.bincount(slides)[slides]
    pooled = score(values, labels, groups=slides, resamples=50)
    found = score(values, labels, slides=slides, resamples=50, k=(8,))
    assert (found.auroc, found.low, found.high) == (1, 1, 1)
    assert pooled.auroc < 0.9
    assert (found.unit, found.units) == ("groups", 6)
    of_slides = [
        score(values[slides == s], labels[slides == s], groups=np.arange(n), resamples=1, k=(8,))
        for s, n in enumerate(np.bincount(slides))
    ]
    assert found.precision[8] == pytest.approx(np.mean([one.precision[8] for one in of_slides]))


def test_blocks_of_neighbours_give_a_wider_interval_than_patches(rng):
    y, x = np.divmod(np.arange(1600), 40)
    coords = np.column_stack([x, y]).astype(np.int64) * 100
    labels = ((x // 8 + y // 8) % 2).astype(np.int64)
    values = labels * 0.6 + rng.normal(size=25)[(x // 8) + 5 * (y // 8)]
    blocks = score(values, labels, coords_l0=coords, block_l0=800)
    single = score(values, labels, groups=np.arange(1600))
    assert (blocks.unit, blocks.units) == ("square blocks of 800 level-0 px", 25)
    assert blocks.high - blocks.low > 2 * (single.high - single.low)
    default = score(values, labels, coords_l0=coords)
    assert (default.unit, default.units) == ("square blocks of 391 level-0 px", 100)


def test_blocks_within_groups_never_join_two_slides():
    coords = np.array([[0, 0], [500, 0], [0, 0], [500, 0]])
    found = score(
        np.arange(4.0),
        np.array([0, 1, 0, 1]),
        groups=np.array(["a", "a", "b", "b"]),
        coords_l0=coords,
        block_l0=400,
    )
    assert (found.unit, found.units) == ("square blocks of 400 level-0 px within groups", 4)


def test_resamples_of_one_label_are_left_out():
    labels = np.array([1, 0])
    found = score(np.array([1.0, 0.0]), labels, groups=np.array([0, 1]), resamples=100)
    assert 30 < found.resamples < 70
    assert (found.auroc, found.low, found.high) == (1, 1, 1)
    none = score(np.array([1.0, 0.0]), labels, groups=np.array([0, 1]), resamples=1, seed=0)
    assert none.resamples in (0, 1)
    assert np.isnan(none.low) == (none.resamples == 0)


def test_precision_of_the_highest():
    values = np.array([9.0, 8, 7, 7, 7, 1])
    labels = np.array([1, 0, 1, 1, 0, 1])
    found = score(values, labels, groups=np.arange(6), k=(1, 2, 3, 5, 6), resamples=1)
    wanted = {1: 1, 2: 1 / 2, 3: (1 + 2 / 3) / 3, 5: 3 / 5, 6: 4 / 6}
    assert found.precision == pytest.approx(wanted)
    assert score(values, labels, groups=np.arange(6), resamples=1).precision == {}
    many = score(np.tile(values, 20), np.tile(labels, 20), groups=np.arange(120), resamples=1)
    assert list(many.precision) == [8, 64]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"values": [0.1, 0.2]}, TypeError, r"values must be floating point .*, got list"),
        ({"labels": np.array([0.0, 1, 0, 1])}, TypeError, "labels must be bool or integers"),
        ({"values": np.zeros((4, 1))}, ValueError, r"values must be of shape \(n,\)"),
        ({"values": np.zeros(0)}, ValueError, r"n at least 1, got \(0,\)"),
        (
            {"labels": np.array([0, 1])},
            ValueError,
            r"labels must be of shape \(4,\), got \(2,\)",
        ),
        (
            {"values": np.array([0, 1, np.nan, 2])},
            ValueError,
            "values must be finite, got NaN or infinity for 1 patches",
        ),
        ({"labels": np.array([0, 1, 2, 1])}, ValueError, "labels must be 0 or 1, got 2"),
        (
            {"labels": np.array([0, 0, 0, 0])},
            ValueError,
            "labels must be of both kinds, got 0 of 4 that are 1",
        ),
        (
            {"groups": None},
            ValueError,
            "groups or coords_l0 must be given: patches of one slide are no independent samples",
        ),
        ({"slides": [0, 1, 0, 1]}, TypeError, r"slides must be a NumPy array \(n,\), got list"),
        ({"slides": np.arange(3)}, ValueError, r"slides must be of shape \(4,\), got \(3,\)"),
        ({"slides": np.arange(4)}, ValueError, "labels must be of both kinds in some slide, got"),
        ({"groups": [0, 1, 0, 1]}, TypeError, r"groups must be a NumPy array \(n,\), got list"),
        ({"groups": np.arange(3)}, ValueError, r"groups must be of shape \(4,\), got \(3,\)"),
        ({"groups": np.zeros(4)}, ValueError, "needs at least 2 groups, got 1"),
        ({"coords_l0": np.zeros((4, 2))}, TypeError, "coords_l0 must be int64"),
        ({"coords_l0": np.zeros((3, 2), np.int64)}, ValueError, r"coords_l0 must be .*\(4, 2\)"),
        (
            {"coords_l0": np.zeros((4, 2), np.int64), "block_l0": 0},
            ValueError,
            "block_l0 must be at least 1, got 0",
        ),
        ({"block_l0": 10}, ValueError, "block_l0 is for coords_l0, got 10 without them"),
        ({"k": (5,)}, ValueError, r"k must be within 1..4, the patches there are, got 5"),
        ({"k": (0,)}, ValueError, r"k must be within 1..4"),
        ({"resamples": 0}, ValueError, "resamples must be at least 1, got 0"),
        ({"confidence": 1.0}, ValueError, "confidence must be between 0 and 1, got 1.0"),
    ],
)
def test_score_refuses(changed, error, message):
    arguments = {
        "values": np.arange(4.0),
        "labels": np.array([0, 1, 0, 1]),
        "groups": np.array([0, 1, 2, 3]),
        **changed,
    }
    with pytest.raises(error, match=message):
        score(arguments.pop("values"), arguments.pop("labels"), **arguments)
