"""The page of `histofast view` in a real browser, against its server: what is seen, clicked, drawn, typed."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

import histofast
from browser import READY, Page, chromium
from extras import need
from slide_files import half, picture, write_tiff
from small_slides import run as extract
from tiny_encoder import write_encoder

need("playwright", "starlette", "uvicorn")

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)>"
MPP, PATCH_PX = 1.0, 64


def colourful(seed: int, height: int = 640, width: int = 768) -> np.ndarray:
    """White around, a picture in the middle with squares of 16 px on it: a shift by one pixel shows."""
    image = np.full((height, width, 3), 245, np.uint8)
    image[64:-64, 64:-64] = picture(height - 128, width - 128, seed=seed)
    squares = np.random.default_rng(seed).integers(-50, 50, (height // 16, width // 16, 1))
    fine = np.kron(squares, np.ones((16, 16, 1), int))
    image[64:-64, 64:-64] = (image + fine).clip(0, 255)[64:-64, 64:-64]
    return image


def write(path, seed, **options):
    image = colourful(seed)
    options = {"compression": "jpeg", "compressionargs": {"level": 95}, "mpp": MPP} | options
    return write_tiff(path, [image, half(image), half(image, 2)], tile_px=128, **options)


def label_lines() -> str:
    return "".join(f"s{i},{'yes' if i % 2 else 'no'}\n" for i in range(8))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Slides s0 to s7 with features, a hostile name, one without features, a scale, or anything of a slide."""
    folder = tmp_path_factory.mktemp("cohort")
    slides, features = folder / "slides", folder / "features"
    slides.mkdir()
    for seed in range(8):
        write(slides / f"s{seed}.tif", seed)
    write(slides / f"{HOSTILE}.tif", 8)
    write_encoder(folder / "tiny.onnx", patch_px=PATCH_PX, mpp=MPP)
    extract(slides, features, folder / "tiny.onnx")
    write(slides / "bare.tif", 9)
    write(slides / "unscaled.tif", 10, mpp=None)
    (slides / "broken.tif").write_bytes(b"II*\0 this is no slide")
    (folder / "labels.csv").write_text(f"slide,label\n{label_lines()}{HOSTILE},yes\n")
    return SimpleNamespace(
        folder=folder, slides=slides, features=features, labels=folder / "labels.csv"
    )


@pytest.fixture(scope="module")
def run(cohort):
    """A run of two folds on the slides."""
    mil = need("histofast.mil")
    out = cohort.folder / "run"
    chosen = sorted(cohort.features.rglob("s?.h5"))
    labels = cohort.folder / "train.csv"
    labels.write_text("slide,label\n" + label_lines())
    mil.train(chosen, labels, out=out, config=mil.TrainConfig(folds=2, epochs=2))
    return out


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


def served(slides, **options):
    from histofast.viewer import open_viewer

    return open_viewer(slides, **options).server


@pytest.fixture(scope="module")
def server(cohort):
    with served(cohort.slides, features=cohort.features, labels=cohort.labels) as opened:
        yield opened


@pytest.fixture(scope="module")
def with_run(cohort, run):
    export = cohort.folder / "export"
    export.mkdir()
    with served(cohort.slides, features=cohort.features, run=run, export=export) as opened:
        yield opened


@pytest.fixture
def visit(browser):
    """Open pages; one that complained of anything fails the test."""
    pages = []

    def go(server, link="", *, query="", **options):
        pages.append(Page(browser, server.address() + query, link=link, **options))
        return pages[-1]

    yield go
    for page in pages:
        page.close()
    assert [complaint for page in pages for complaint in page.complaints] == []


def features_of(cohort, name="s0"):
    (path,) = cohort.features.rglob(f"{name}.h5")
    return histofast.read_features(path)


def plain(page):
    """The slide alone, without outlines."""
    page.tab.evaluate(
        "() => { histofastView.layers.mark('tissue', false); return histofastView.layers.choose(''); }"
    )


# --- What is seen ---------------------------------------------------------------------------------


# Without a GPU the page takes the canvas by itself.
@pytest.mark.parametrize(("ratio", "drawer"), [(1, "canvas"), (2, "canvas"), (1, "webgl")])
def test_at_one_to_one_a_pixel_is_the_slides(visit, server, ratio, drawer, tmp_path):
    link = "slide=s0&x=333.3&y=301.7&zoom=0.5&layer="
    query = "&drawer=webgl" if drawer == "webgl" else ""
    page = visit(server, link, query=query, device_scale_factor=ratio)
    assert page.tab.evaluate("() => histofastView.pane.viewer.drawer.getType()") == drawer
    page.tab.keyboard.press("1")
    page.ready()
    plain(page)
    shot = page.picture(tmp_path / "one.png")
    assert page.place()["scale"] == pytest.approx(1 / ratio)
    x_l0, y_l0, side = 260, 230, 120
    left, top = (ratio * v for v in page.screen(x_l0, y_l0))
    assert (left, top) == pytest.approx((round(left), round(top)), abs=1e-3)
    left, top = round(left), round(top)
    wanted = colourful(0)[y_l0 : y_l0 + side, x_l0 : x_l0 + side].astype(int)
    apart = {
        (dx, dy): np.abs(
            shot[top + dy : top + dy + side, left + dx : left + dx + side] - wanted
        ).mean()
        for dx in range(-2, 3)
        for dy in range(-2, 3)
    }
    assert min(apart, key=apart.get) == (0, 0)
    assert apart[0, 0] < 4  # JPEG, twice


def test_the_last_pixels_of_a_slide_are_where_it_ends(visit, server):
    """Edge tiles are as small as what is left of the slide, and the picture ends there."""
    page = visit(server, "slide=s0&x=700&y=600&zoom=1&layer=")
    plain(page)
    shot = page.picture()
    x, y = (round(v) for v in page.screen(768, 640))
    assert (shot[y - 20 : y - 1, x - 20 : x - 1] > 235).all()
    beyond = shot[y + 2 : y + 20, x - 60 : x - 2]
    assert (beyond == beyond[0, 0]).all()
    assert tuple(beyond[0, 0]) == (236, 238, 240)  # of the page: nothing was drawn


def test_scale_bar_and_objectives_follow_the_scale_of_the_slide(visit, server):
    page = visit(server, "slide=s0&x=384&y=320&zoom=1&layer=")
    assert page.text("#scale-said") == "100 µm"
    assert page.tab.locator("#scale-line").bounding_box()["width"] == pytest.approx(100, abs=0.6)
    assert page.text("#zoom") == "10\N{MULTIPLICATION SIGN} · 1 µm/px"
    page.tab.click("[data-objective='5']")
    page.painted()
    assert page.place()["scale"] == pytest.approx(0.5)
    assert page.text("#scale-said") == "200 µm"
    assert page.tab.is_disabled("[data-objective='40']")  # four times what the slide holds


def test_the_whole_slide_is_seen_at_first_and_in_a_smaller_window(visit, server):
    page = visit(server)
    for size in ((1280, 800), (1000, 500)):
        page.tab.set_viewport_size({"width": size[0], "height": size[1]})
        page.tab.wait_for_timeout(200)
        stage = page.tab.locator("#stage").bounding_box()
        (left, top), (right, bottom) = page.screen(0, 0), page.screen(768, 640)
        assert left >= stage["x"] - 0.6
        assert top >= stage["y"] - 0.6
        assert right <= stage["x"] + stage["width"] + 0.6
        assert bottom <= stage["y"] + stage["height"] + 0.6


def test_no_scale_is_made_up(visit, server):
    page = visit(server, "slide=unscaled")
    assert page.text("#scale-said") == "no scale: the slide states no µm/px"
    assert page.tab.is_hidden("#scale-line")
    assert page.tab.locator(".objective:disabled").count() == page.tab.locator(".objective").count()
    assert "µm" not in page.text("#zoom") + page.text("#pointer")


def test_a_link_leads_to_a_place_and_the_address_says_where_one_is(visit, server):
    page = visit(server, "slide=s2&x=400&y=300&zoom=2&layer=tissue")
    page.tab.wait_for_function("() => location.hash.includes('slide=s2')")
    at = page.tab.evaluate(
        "() => ({...histofastView.pane.centre(), zoom: histofastView.pane.zoom(), layer: histofastView.pane.layer})"
    )
    assert at == pytest.approx({"x": 400, "y": 300, "zoom": 2, "layer": "tissue"}, abs=0.5)
    page.tab.keyboard.press("ArrowRight")
    page.tab.wait_for_function(
        "() => Number(new URLSearchParams(location.hash.slice(1)).get('x')) > 420"
    )
    assert "t=" not in page.tab.url.partition("#")[0]  # the token


# --- Layers ---------------------------------------------------------------------------------------


def shares_of(values):
    """Share of values below each, its equals and itself counted by half."""
    return np.array([(values < v).mean() + (values == v).mean() / 2 for v in values])


def colour_at(page, shot, x_l0, y_l0):
    x, y = page.screen(x_l0, y_l0)
    return shot[round(y), round(x)].astype(int)


def set_to(page, selector, value):
    page.tab.locator(selector).evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", str(value)
    )


def test_colours_threshold_and_opacity_are_the_pages_own(visit, with_run, cohort, tmp_path):
    colormaps = need("matplotlib").colormaps
    page = visit(with_run, "slide=s0&x=384&y=320&zoom=0.8")
    assert (
        page.tab.evaluate("() => histofastView.layerOf ?? histofastView.layers.chosen.name")
        == "Attention"
    )
    values = np.array(page.tab.evaluate("() => Array.from(histofastView.layers.now.values)"))
    file = features_of(cohort)
    asked = len(page.requests)
    set_to(page, "#opacity", 100)
    page.tab.uncheck("#tissue")
    shot = page.picture(tmp_path / "ranks.png")
    share = shares_of(values)
    middles = file.coords + file.patch_l0 / 2
    table = np.rint(colormaps["viridis"](np.arange(256))[:, :3] * 255)
    for row, (x, y) in enumerate(middles):
        wanted = table[min(255, int(share[row] * 255.999))]
        np.testing.assert_allclose(colour_at(page, shot, x, y), wanted, atol=1)
    # By value, from the greatest down to a threshold, in another map.
    page.tab.check("#by-value", force=True)
    page.tab.select_option("#map", "magma")
    set_to(page, "#from", 500)
    shot = page.picture(tmp_path / "values.png")
    least, greatest = values.min(), values.max()
    threshold = least + (greatest - least) / 2
    low = page.tab.evaluate("() => histofastView.layers.limits().low")
    table = np.rint(colormaps["magma"](np.arange(256))[:, :3] * 255)
    page.tab.evaluate("() => histofastView.pane.overlay.setColours(null)")
    bare = page.picture()
    for row, (x, y) in enumerate(middles):
        place = int((values[row] - low) / (greatest - low) * 255.999)
        wanted = table[min(place, 255)] if values[row] >= threshold else colour_at(page, bare, x, y)
        np.testing.assert_allclose(colour_at(page, shot, x, y), wanted, atol=1)
    hidden = int((values < threshold).sum())
    assert 0 < hidden < len(values)
    assert page.text("#shown") == f"{len(values) - hidden} of {len(values)} patches coloured"
    # Half as strong: half of the slide's own pixel.
    page.tab.evaluate("() => histofastView.layers.paint()")
    set_to(page, "#opacity", 50)
    mixed = page.picture(tmp_path / "half.png")
    row = int(values.argmax())
    both = (colour_at(page, bare, *middles[row]) + table[255]) / 2
    np.testing.assert_allclose(colour_at(page, mixed, *middles[row]), both, atol=2)
    # Small pictures of the list may still come; nothing of layers was asked for again.
    assert [url for url in page.requests[asked:] if "/values/" in url or "/patches" in url] == []


def test_categories_are_listed_and_can_be_hidden(visit, server, cohort):
    page = visit(server, "slide=s0&x=384&y=320&zoom=0.8&layer=clusters")
    values = np.array(page.tab.evaluate("() => Array.from(histofastView.layers.now.values)"))
    page.tab.uncheck("#tissue")
    set_to(page, "#opacity", 100)
    seen = page.tab.locator("#legend li")
    counts = np.bincount(values.astype(int))
    assert [
        int(seen.nth(i).locator(".number").inner_text()) for i in range(len(counts))
    ] == counts.tolist()
    file = features_of(cohort)
    x, y = file.coords[int(np.flatnonzero(values == 0)[0])] + file.patch_l0 / 2
    assert tuple(colour_at(page, page.picture(), x, y)) == (0xCC, 0x66, 0x77)
    seen.nth(0).locator("input").uncheck()
    assert tuple(colour_at(page, page.picture(), x, y)) != (0xCC, 0x66, 0x77)


def test_two_layers_side_by_side_move_as_one(visit, server):
    page = visit(server, "slide=s0&x=384&y=320&zoom=0.6&layer=tissue")
    page.tab.keyboard.press("c")
    page.tab.wait_for_function(
        "() => histofastView.panes.length === 2 && histofastView.panes[1].item?.getFullyLoaded()"
    )
    page.tab.select_option("#layer", "clusters")
    page.tab.wait_for_function("() => histofastView.layers.now")
    layers = page.tab.evaluate("() => histofastView.panes.map((pane) => pane.layer)")
    assert layers == ["tissue", "clusters"]
    for key in ("+", "ArrowRight", "ArrowUp"):
        page.tab.keyboard.press(key)
    page.painted()
    first, second = (
        page.tab.evaluate(
            "(i) => ({...histofastView.panes[i].centre(true), zoom: histofastView.panes[i].zoom(true)})",
            i,
        )
        for i in (0, 1)
    )
    assert first == pytest.approx(second, rel=1e-6)
    assert first["zoom"] == pytest.approx(0.9)
    page.tab.keyboard.press("c")
    assert page.tab.evaluate("() => histofastView.panes.length") == 1


# --- Patches --------------------------------------------------------------------------------------


def test_a_click_shows_the_patch_with_its_attention(visit, with_run, cohort, run, cli, tmp_path):
    slide, maps = cohort.slides / "s0.tif", tmp_path / "maps"
    file = features_of(cohort)
    assert cli("heatmap", run, slide, "--features", file.path, "--out", maps).code == 0
    table = np.loadtxt(maps / "attention.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(table[:, :2], file.coords)
    page = visit(with_run, "slide=s0&x=384&y=320&zoom=0.7")
    row = 7
    page.tab.mouse.click(*page.screen(*(file.coords[row] + [10, 50])))
    page.tab.wait_for_selector("#patch-body:not([hidden])")
    assert page.tab.evaluate("() => histofastView.inspector.row") == row
    facts = page.text("#patch-body dl").split("\n")
    x, y = file.coords[row].tolist()
    assert facts[:6] == [
        "Row",
        str(row),
        "x, y px",
        f"{x}, {y}",
        "x, y µm",
        f"{x * MPP:.0f}, {y * MPP:.0f}",
    ]
    seen = page.tab.evaluate("() => histofastView.layers.now.values[histofastView.inspector.row]")
    assert seen == pytest.approx(table[row, 2], rel=1e-5)
    rank = 1 + int((table[:, 2] > table[row, 2]).sum())
    assert page.text("[data-layer='attention']").strip() in {
        f"{rank}{end} of {len(table)}" for end in ("st", "nd", "rd", "th")
    }
    shown = page.tab.evaluate(
        "() => { const i = document.getElementById('patch-picture'); return i.decode().then(() => [i.naturalWidth, i.naturalHeight]); }"
    )
    assert shown == [PATCH_PX, PATCH_PX]
    page.picture(tmp_path / "inspector.png")


def test_the_most_attended_patch_is_one_button_away_and_ranks_are_walked(visit, with_run, tmp_path):
    page = visit(with_run, "slide=s0")
    values = np.array(page.tab.evaluate("() => Array.from(histofastView.layers.now.values)"))
    order = np.argsort(-values, kind="stable")
    page.tab.click("#most")
    assert page.text("#rank") == f"1 of {len(values)}"
    for key, place in (("n", 1), ("n", 2), ("p", 1)):
        page.tab.keyboard.press(key)
        assert page.tab.evaluate("() => histofastView.inspector.row") == order[place]
    page.picture(tmp_path / "second.png")


def cosines(features, row):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit @ unit[row]


def test_the_most_similar_patches_are_those_of_highest_cosine(visit, server, cohort):
    file = features_of(cohort)
    features, row = file.features[:].astype(np.float64), 5
    cosine = cosines(features, row)
    order = [i for i in np.argsort(-cosine, kind="stable") if i != row][:24]
    page = visit(server, "slide=s0&x=384&y=320&zoom=0.7")
    page.tab.evaluate(f"() => histofastView.pick({row})")
    page.tab.wait_for_selector("#nearest-list li")
    titles = page.tab.locator("#nearest-list button").evaluate_all(
        "(all) => all.map((b) => b.title)"
    )
    shown = [
        float(t) for t in page.tab.locator("#nearest-list span:first-of-type").all_inner_texts()
    ]
    np.testing.assert_allclose(shown, cosine[order], atol=6e-4)
    found = [int(title.removeprefix("patch ")) for title in titles]
    np.testing.assert_allclose(cosine[found], cosine[order], atol=1e-6)  # ties may change places
    assert page.text("#nearest-said").startswith(f"{len(order)} of {len(order)} from this slide")
    page.tab.locator("#nearest-list button").first.click()
    assert page.tab.evaluate("() => histofastView.inspector.row") == found[0]


def test_neighbours_of_the_cohort_are_jumped_to(visit, server, cohort):
    page = visit(server, "slide=s0&x=384&y=320&zoom=0.7")
    page.tab.evaluate("() => histofastView.pick(5)")
    page.tab.wait_for_selector("#nearest-list li")
    page.tab.check("[name=scope][value=cohort]", force=True)
    other = page.tab.locator("#nearest-list button:has(.other)").first
    other.wait_for()
    name, _, row = other.get_attribute("title").rpartition(", patch ")
    other.click()
    page.tab.wait_for_function(
        "([name, row]) => histofastView.info?.name === name && histofastView.inspector.row === row",
        arg=[name, int(row)],
    )
    assert page.text("#title") == name
    x, y = features_of(cohort, name).coords[int(row)] + PATCH_PX / MPP / 2
    centre = page.tab.evaluate("() => histofastView.pane.centre()")
    assert (centre["x"], centre["y"]) == pytest.approx((x, y), abs=1)


# --- Regions --------------------------------------------------------------------------------------


@pytest.fixture
def shifted_origin(monkeypatch):
    """As a scan that is part of a larger field has it."""
    from histofast.slides import Slide

    origin = (100, 40)
    monkeypatch.setattr(Slide, "origin_l0", property(lambda self: origin))
    return np.array(origin)


def drag(page, start_l0, end_l0):
    page.tab.mouse.move(*page.screen(*start_l0))
    page.tab.mouse.down()
    page.tab.mouse.move(*page.screen(*end_l0), steps=3)
    page.tab.mouse.up()


def rings(path):
    shapely = need("shapely")
    content = json.loads(path.read_text())
    return [shapely.geometry.shape(feature["geometry"]) for feature in content["features"]]


def test_a_rectangle_is_written_as_it_was_drawn(visit, with_run, cohort, shifted_origin):
    box = need("shapely").box
    page = visit(with_run, "slide=s1&x=384&y=320&zoom=1&layer=")
    page.tab.keyboard.press("r")
    drag(page, (200, 150), (420, 333))
    assert "corner" in page.text("#region-said")
    page.tab.fill("#region-name", "drawn")
    page.tab.click("#save-region")
    page.tab.wait_for_selector("#told:not([hidden])")
    (path,) = (cohort.folder / "export").glob("*drawn*.geojson")
    assert page.text("#told") == f"written: {path.name}, 1 object"
    (found,) = rings(path)
    dx, dy = shifted_origin
    wanted = box(200 - dx, 150 - dy, 420 - dx, 333 - dy)
    assert found.is_valid
    assert found.hausdorff_distance(wanted) <= 1  # a pixel of the screen


def test_a_polygon_is_downloaded_and_comes_back(visit, server, shifted_origin, tmp_path):
    polygon = need("shapely").Polygon
    corners = np.array([(150, 150), (500, 180), (430, 480), (200, 400)])
    page = visit(server, "slide=s1&x=384&y=320&zoom=1&layer=")
    plain(page)
    x0, y0, x1, y1 = (round(v) for corner in ((140, 140), (510, 500)) for v in page.screen(*corner))
    before = page.picture()
    page.tab.keyboard.press("v")
    for corner in [*corners, corners[0]]:  # the first again: closed
        page.tab.mouse.click(*page.screen(*corner))
    assert page.tab.is_hidden("#save-region")
    with page.tab.expect_download() as download:
        page.tab.click("#download")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    (found,) = rings(path)
    assert found.hausdorff_distance(polygon(corners - shifted_origin)) <= 1
    page.tab.click("#files button")  # the one that was drawn is gone
    np.testing.assert_array_equal(page.picture()[y0:y1, x0:x1], before[y0:y1, x0:x1])
    page.tab.set_input_files("#import", path)
    page.tab.wait_for_selector("#files li")
    assert page.text("#files .number") == "1"
    x, y = (round(v) for v in page.screen(*((corners[0] + corners[1]) / 2)))
    assert (page.picture(tmp_path / "back.png")[y, x] != before[y, x]).any()
    assert page.sent == []


@pytest.mark.parametrize(
    ("content", "said"), [("{", "it is no GeoJSON"), ("{}", "it holds no polygons")]
)
def test_what_is_no_geojson_is_one_sentence(visit, server, tmp_path, content, said):
    path = tmp_path / "foreign.geojson"
    path.write_text(content)
    page = visit(server, "slide=s1")
    page.tab.set_input_files("#import", path)
    page.tab.wait_for_selector("#told.warning")
    assert page.text("#told") == f"foreign.geojson: {said}"


def test_patches_over_a_threshold_are_written(visit, with_run, cohort):
    page = visit(with_run, "slide=s2")
    set_to(page, "#from", 600)
    shown = int(page.text("#shown").split()[0])
    page.tab.click("#save-layer")
    page.tab.wait_for_selector("#told:not([hidden])")
    assert page.text("#told").endswith(f", {shown} objects")
    (path,) = (cohort.folder / "export").glob("*hown*.geojson")
    assert len(rings(path)) == shown


# --- What is hostile, broken or missing -------------------------------------------------------------


def test_the_page_has_its_policy_and_hostile_names_are_text(visit, server):
    page = visit(server)
    policy = page.response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    page.tab.locator("#list button", has_text=HOSTILE).click()
    page.tab.wait_for_function("(name) => histofastView.info?.name === name", arg=HOSTILE)
    page.ready()
    assert page.text("#title") == HOSTILE
    assert page.tab.locator("img[onerror]").count() == 0
    hosts = {url.split("/")[2] for url in page.requests if url.startswith("http")}
    assert hosts == {f"127.0.0.1:{server.port}"}  # nothing from elsewhere


def test_broken_slides_come_first_with_their_sentence(visit, server):
    page = visit(server)
    page.tab.wait_for_selector(
        "#list li:first-child .failed"
    )  # found when its small picture is asked for
    assert page.text("#found").endswith(", 1 in error")
    first = page.tab.locator("#list button").first
    assert "broken" in first.inner_text()
    first.click()
    page.tab.wait_for_selector("#message:not([hidden])")
    said = page.text("#message")
    assert "broken" in said
    assert "\n" not in said
    assert page.tab.is_disabled("#most")
    page.tab.locator("#list button", has_text="s0").click()
    page.ready()  # and the next one is shown


def test_the_list_keeps_its_place_when_a_slide_turns_out_broken(visit, server):
    page = visit(server, "slide=s0")
    page.tab.locator("#list button", has_text="s3").focus()
    page.tab.evaluate(
        "() => histofastView.list.learn("
        "histofastView.slides.find((slide) => slide.name === 's5').id, { error: 'gone' })"
    )
    assert "s3" in page.tab.evaluate("() => document.activeElement.textContent")
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_function("() => histofastView.info?.name === 's3'")
    page.ready()


def test_without_features_there_is_the_slide_alone(visit, server):
    page = visit(server, "slide=bare")
    assert page.tab.locator("#layer option").count() == 1
    assert "no features" in page.text("#facts")
    assert page.tab.is_disabled("#most")
    page.tab.mouse.click(*page.screen(384, 320))
    assert page.tab.is_visible("#patch-hint")


def test_features_of_another_encoder_than_the_runs_are_said(visit, cohort, run):
    write_encoder(cohort.folder / "other.onnx", name="other", d=8, patch_px=PATCH_PX, mpp=MPP)
    others = cohort.folder / "others"
    extract(cohort.slides / "s0.tif", others, cohort.folder / "other.onnx")
    with served(cohort.slides, features=others, run=run) as opened:
        page = visit(opened, "slide=s0")
        assert page.text("#notes").startswith(
            "no attention and no predictions: features are of other"
        )
        assert page.tab.locator("#layer optgroup[label=attention]").count() == 0
        page.close()


@contextmanager
def notebook_with(cell: str):
    """The address of a page at localhost, which is another site than 127.0.0.1."""

    class Notebook(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(cell.encode())

        def log_message(self, *said):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Notebook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_the_page_works_in_a_cell_of_a_notebook(browser, cohort):
    """Browsers send no cookie into a frame of another site."""
    shown = histofast.view(cohort.slides / "s1.tif", features=cohort.features)
    with shown, notebook_with(shown._repr_html_()) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        (frame,) = page.main_frame.child_frames
        frame.wait_for_function(READY, timeout=20_000)
        assert frame.inner_text("#title") == "s1"
        assert frame.locator("#layer option").count() > 1
        context.close()


def test_an_unknown_slide_in_a_link_is_said(visit, server):
    page = visit(server, "slide=gone", wait=False)
    page.tab.wait_for_selector("#message:not([hidden])")
    assert page.text("#message") == "No slide is called gone."


def test_a_server_that_is_gone_is_said(visit, cohort):
    with served(cohort.slides / "s1.tif") as opened:
        page = visit(opened)
    page.tab.evaluate("() => histofastView.open(0)")
    page.tab.wait_for_selector("#message:not([hidden])")
    assert page.text("#message") == "the server does not answer: is histofast view still running?"
    page.complaints = [said for said in page.complaints if "ERR_CONNECTION" not in said]


# --- Keys, eyes, screens ------------------------------------------------------------------------------


def test_keys_alone_open_zoom_pick_and_go_on(visit, server, tmp_path):
    page = visit(server, "slide=s0")
    press = page.tab.keyboard.press
    press("/")
    page.tab.keyboard.type("s3")
    press("ArrowDown")
    press("Enter")
    page.tab.wait_for_function("() => histofastView.info?.name === 's3'")
    page.ready()
    press("Escape")
    assert page.tab.evaluate("() => document.activeElement.getAttribute('role')") == "application"
    press("1")
    page.painted()
    assert page.place()["scale"] == pytest.approx(1)
    page.tab.wait_for_function(
        "() => document.getElementById('live').textContent.startsWith('10x, centre')"
    )
    press("Enter")
    page.tab.wait_for_selector("#patch-body:not([hidden])")
    page.picture(tmp_path / "keys.png")
    press("?")
    assert page.tab.is_visible("#help")
    press("Escape")
    page.tab.fill("#search", "")
    page.tab.evaluate("() => document.activeElement.blur()")
    for key, name in (("]", "s4"), ("[", "s3")):
        press(key)
        page.tab.wait_for_function("(name) => histofastView.info?.name === name", arg=name)
    page.ready()
    press("r")
    press(" ")
    press("ArrowRight")
    press("ArrowDown")
    page.painted()
    press(" ")
    assert page.tab.is_visible("#region-form")


def test_every_control_has_a_name(visit, server):
    page = visit(server)
    nameless = page.tab.evaluate(
        """() => [...document.querySelectorAll('button, input, select, canvas[role], [role]')].filter((e) =>
          !(e.labels?.length || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim() || ['alert', 'status'].includes(e.getAttribute('role')))).map((e) => e.outerHTML)"""
    )
    assert nameless == []


CONTRAST = """() => {
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
  const parsed = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (e) => { for (; e; e = e.parentElement) { const [r, g, b, a = 1] = parsed(getComputedStyle(e).backgroundColor); if (a > 0.8) return [r, g, b]; } return [255, 255, 255]; };
  return [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && !e.disabled && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .map((e) => { const [a, b] = [light(parsed(getComputedStyle(e).color).slice(0, 3)), light(behind(e))]; return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 120)]; })
    .filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(visit, with_run, scheme, tmp_path):
    page = visit(with_run, "slide=s0", color_scheme=scheme)
    page.tab.click("#most")
    page.tab.wait_for_selector("#nearest-list li")
    assert page.tab.evaluate(CONTRAST) == []
    page.picture(tmp_path / f"{scheme}.png")


@pytest.mark.parametrize(("width", "height"), [(360, 640), (1024, 700), (3840, 2160)])
def test_nothing_is_wider_than_the_screen(visit, with_run, width, height, tmp_path):
    page = visit(with_run, "slide=s0", viewport={"width": width, "height": height})
    page.tab.click("#most")
    page.tab.wait_for_selector("#nearest-list li")
    page.picture(tmp_path / f"{width}.png")
    assert page.tab.evaluate(
        "() => document.documentElement.scrollWidth <= innerWidth && document.documentElement.scrollHeight <= innerHeight"
    )
    cut = page.tab.evaluate(
        "() => ['title', 'stage', 'patch'].filter((id) => { const b = document.getElementById(id).getBoundingClientRect(); return b.left < 0 || b.right > innerWidth + 1 || b.width < 60; })"
    )
    assert cut == []
    # The patch that was jumped to is in sight, whatever lies over the slide.
    x, y = page.tab.evaluate(
        "() => { const { overlay, element } = histofastView.pane, at = overlay.place(), b = element.getBoundingClientRect(), i = 2 * overlay.selected, s = overlay.side / 2; return [b.left + at.left + at.scale * (overlay.xy[i] + s), b.top + at.top + at.scale * (overlay.xy[i + 1] + s)]; }"
    )
    assert page.tab.evaluate(
        "([x, y]) => Boolean(document.elementFromPoint(x, y)?.closest('#stage'))", [x, y]
    )


def test_regions_are_drawn_on_a_phone_as_well(visit, server):
    page = visit(server, "slide=s0", viewport={"width": 360, "height": 700})
    page.tab.click("[data-tab=layers]")
    page.tab.click("#rectangle")  # the panel makes room
    drag(page, (100, 100), (500, 400))
    page.tab.click("#discard")
    assert page.tab.is_hidden("#region-form")


def test_motion_is_reduced_where_that_is_wished(visit, server):
    assert visit(server).tab.evaluate("() => histofastView.pane.viewer.animationTime") == 0
    assert (
        visit(server, reduced_motion="no-preference").tab.evaluate(
            "() => histofastView.pane.viewer.animationTime"
        )
        > 0
    )


# --- The maths of the modules ---------------------------------------------------------------------------


def asked_of(page, module, expression, argument):
    """What an expression over a module `m` and an argument `a` of the page is."""
    script = f"async (a) => {{ const m = await import(new URL('static/{module}.js', location).href); return {expression}; }}"
    return page.tab.evaluate(script, argument)


def test_ranks_orders_and_scale_bars_are_right(visit, server, rng):
    page = visit(server, "slide=bare")
    values = np.float32(rng.choice([-2.5, -0.0, 0.0, 1e-20, 0.25, 3.0], 200))
    values[::17] = np.nan
    known = np.flatnonzero(~np.isnan(values))
    given = [None if np.isnan(v) else float(v) for v in values]
    order = asked_of(
        page, "colours", "Array.from(m.descending(Float32Array.from(a, (v) => v ?? NaN)))", given
    )
    assert order == known[np.argsort(-values[known], kind="stable")].tolist()
    made = "(() => { const v = Float32Array.from(a, (x) => x ?? NaN); return Array.from(m.shares(v, m.descending(v)), (s) => Number.isNaN(s) ? null : s); })()"
    shares = asked_of(page, "colours", made, given)
    assert [i for i, s in enumerate(shares) if s is not None] == known.tolist()
    np.testing.assert_allclose([shares[i] for i in known], shares_of(values[known]), atol=1e-6)
    for um_per_px, label in [(0.25, "20 µm"), (1.0, "100 µm"), (14.2, "1 mm"), (0.003, "200 nm")]:
        bar = asked_of(page, "viewer", "m.scaleBar(a)", um_per_px)
        assert bar["label"] == label
        assert 50 < bar["px"] <= 140


def test_patches_on_no_grid_are_drawn_where_they_lie(visit, server, rng):
    page = visit(server, "slide=bare")
    side = 40.0
    for step, is_regular in ((40.0, True), (37.3, True), (60.0, True), (None, False)):
        if step is None:
            xy = rng.integers(0, 900, (60, 2))
        else:
            columns, rows = np.divmod(np.arange(300), 15)
            keep = rng.permutation(300)[:200]  # with holes
            xy = np.rint(np.stack([columns, rows], 1)[keep] * step).astype(int) + 11
        arguments = {"xy": xy.ravel().tolist(), "side": side, "step": step or side}
        cells = asked_of(
            page,
            "overlay",
            "(() => { const c = m.cellsOf(Int32Array.from(a.xy), a.side, a.step); return { ...c, patch: Array.from(c.patch) }; })()",
            arguments,
        )
        assert cells["regular"] is is_regular
        drawn = np.array(cells["patch"]).reshape(cells["rows"], cells["columns"])
        if is_regular:
            assert sorted(drawn[drawn >= 0]) == list(range(len(xy)))
        for r, c in zip(*np.nonzero(drawn >= 0), strict=True):
            middle = np.array(
                [
                    cells["left"] + (c + 0.5) * cells["cell"],
                    cells["top"] + (r + 0.5) * cells["cell"],
                ]
            )
            slack = cells["cell"]  # a raster is as fine as its cells
            assert (middle >= xy[drawn[r, c]] - slack).all()
            assert (middle <= xy[drawn[r, c]] + side + slack).all()
    found = asked_of(
        page, "overlay", "m.patchesAt(Int32Array.from([0, 0, 20, 0, 100, 0]), 40, 35, 10)", None
    )
    assert found == [1, 0]  # both hold the point; the middle of the second is nearer
