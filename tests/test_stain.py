"""Stain normalisation: definitions, colours known beforehand, laws, whole runs, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import histofast
import reference_stain as reference
from histofast import _core
from histofast.errors import FeatureError, SlideError
from histofast.features import options_of, read_features
from histofast.patches import PatchReader, StainMap, StainOptions, stain_map
from histofast.slides import write_png
from slide_files import half, write_tiff
from small_slides import run
from tiny_encoder import write_encoder

# Unit vectors of densities: haematoxylin and eosin of two laboratories, and DAB.
ONE = np.array([[0.65, 0.70, 0.29], [0.10, 0.95, 0.20]])
OTHER = np.array([[0.55, 0.75, 0.37], [0.25, 0.85, 0.46]])
DAB = np.array([[0.65, 0.70, 0.29], [0.27, 0.57, 0.78]])
METHODS = ("macenko", "reinhard")


def unit(pair):
    return pair / np.linalg.norm(pair, axis=1, keepdims=True)


def tissue(pair, *, side_px=160, seed=0, strength=1.0, glass=0.2):
    """A picture of two stains: much of one where there is little of the other, and some glass."""
    rng = np.random.default_rng(seed)
    share = rng.beta(0.4, 0.4, size=(side_px, side_px, 1))
    amounts = strength * rng.uniform(0.5, 1.5, size=share.shape) * np.dstack([share, 1 - share])
    amounts[: int(glass * side_px)] = 0
    light = 256 * 10.0 ** -(amounts @ unit(pair)) - 1
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def angle(a, b):
    return np.degrees(np.arccos(np.clip(np.dot(a, b), -1, 1)))


# --- Definitions and colours known beforehand -------------------------------------------------------


@given(seed=st.integers(0, 99), strength=st.floats(0.6, 1.5), method=st.sampled_from(METHODS))
@settings(max_examples=15)
def test_maps_are_as_defined(seed, strength, method):
    pixels = tissue(ONE, side_px=64, seed=seed, strength=strength)
    target = tissue(OTHER, side_px=64, seed=seed + 1)
    measure, mapped = getattr(reference, method), getattr(reference, f"{method}_map")
    wanted = mapped(pixels, measure(pixels), measure(target))
    from_target = replace(StainOptions(method=method), wanted=_measured(method, target))
    found = stain_map(from_target, pixels, of="it").apply(pixels[None])[0]
    assert np.abs(found.astype(int) - wanted).max() <= 1
    assert (found != wanted).mean() < 0.2


def _measured(method, pixels):
    """What is measured of a target that is no file."""
    return stain_map(StainOptions(method=method), pixels, of="target").found


@pytest.mark.parametrize("pair", [ONE, OTHER])
def test_stains_that_were_put_in_are_found(pair):
    pixels = tissue(pair)
    found = _measured("macenko", pixels)
    for vector, wanted in zip((found.first, found.second), unit(pair), strict=True):
        assert angle(vector, wanted) < 1.5
        assert np.linalg.norm(vector) == pytest.approx(1)
    vectors, most = reference.macenko(pixels)
    np.testing.assert_allclose([found.first, found.second], vectors, atol=1e-6)
    np.testing.assert_allclose(np.multiply(found.most, np.log(2)), most, atol=1e-6)


def test_the_same_tissue_in_colours_of_two_laboratories_becomes_alike():
    one, other = tissue(ONE, strength=0.8), tissue(OTHER, strength=1.2)
    before = np.abs(one.astype(int) - other).mean()
    for method, most in (("macenko", 0.1), ("reinhard", 0.7)):
        options = StainOptions(method=method)
        maps = [stain_map(options, pixels, of="it") for pixels in (one, other)]
        after = [
            each.apply(pixels[None]).astype(int)
            for each, pixels in zip(maps, (one, other), strict=True)
        ]
        assert np.abs(after[0] - after[1]).mean() < most * before


@pytest.mark.parametrize("method", METHODS)
def test_own_colours_stay(method):
    pixels = tissue(ONE)
    options = replace(StainOptions(method=method), wanted=_measured(method, pixels))
    found = stain_map(options, pixels, of="it").apply(pixels[None])[0]
    assert np.abs(found.astype(int) - pixels).mean() < 1


def test_glass_stays_glass_and_black_stays_dark():
    each = stain_map(StainOptions(method="macenko"), tissue(ONE), of="it")
    ends = np.array([255, 0], np.uint8).repeat(12).reshape(2, 2, 2, 3)
    found = each.apply(ends)
    assert (found[0] == 255).all()
    assert found[1].max() < 40


@pytest.mark.parametrize("method", METHODS)
def test_threads_and_company_change_nothing(method):
    each = stain_map(StainOptions(method=method), tissue(ONE), of="it")
    pixels = np.stack([tissue(ONE, side_px=33, seed=seed) for seed in range(5)])
    whole = each.apply(pixels, threads=3)
    np.testing.assert_array_equal(whole, np.concatenate([each.apply(p[None]) for p in pixels]))
    np.testing.assert_array_equal(StainMap.of_text(each.text).apply(pixels), whole)
    assert each.apply(pixels[:0]).shape == (0, 33, 33, 3)


@pytest.mark.parametrize("method", METHODS)
def test_every_instruction_set_gives_the_same_bits(method):
    each = stain_map(StainOptions(method=method), tissue(ONE), of="it")
    colours = np.random.default_rng(0).integers(0, 256, (3, 41, 83, 3), dtype=np.uint8)
    wanted = each.apply(colours)
    try:
        for isa in _core.Isa:
            if isa.value <= _core.best_isa().value:
                _core.set_isa(isa)
                np.testing.assert_array_equal(each.apply(colours, threads=2), wanted)
    finally:
        _core.set_isa(_core.best_isa())


@pytest.mark.parametrize("method", METHODS)
def test_every_colour_is_within_one_of_its_definition(method):
    """Black, white and the pure colours among them, which no tissue has."""
    source, options = tissue(ONE), StainOptions(method=method)
    each = stain_map(options, source, of="it")
    ends = np.stack(np.meshgrid(*[[0, 1, 17, 64, 127, 128, 200, 254, 255]] * 3), -1)
    colours = ends.reshape(1, 27, 27, 3).astype(np.uint8)
    wanted = _mapped(method, colours, each.found, options.wanted)
    assert np.abs(each.apply(colours).astype(int) - wanted).max() <= 1


def _mapped(method, pixels, source, target):
    """The definition, of what was measured."""
    parts = [(np.array(s.first), np.array(s.second)) for s in (source, target)]
    if method == "macenko":
        natural = np.log(2)
        parts = [
            (np.stack(pair), np.array(s.most) * natural)
            for pair, s in zip(parts, (source, target), strict=True)
        ]
    return getattr(reference, f"{method}_map")(pixels, *parts)


def test_a_target_of_a_file_is_its_pixels(tmp_path):
    target = tissue(OTHER)
    write_png(tmp_path / "t.png", target)
    for method in METHODS:
        options = StainOptions(method=method, target=tmp_path / "t.png")
        assert options.wanted == _measured(method, target)
        assert options.identity["target"] != "default"
        again = StainOptions.of_identity(json.loads(json.dumps(options.identity)))
        assert (again.wanted, again.identity) == (options.wanted, options.identity)
        assert StainOptions(method=method).identity["target"] == "default"


def test_a_target_may_be_a_slide_or_a_tiff(tmp_path, stage):
    options = StainOptions(method="macenko", target=stage / "other.tif")
    for vector, wanted in zip(
        (options.wanted.first, options.wanted.second), unit(OTHER), strict=True
    ):
        assert angle(vector, wanted) < 5  # JPEG, and patches at the slide's own scale
    write_tiff(tmp_path / "picture.tif", [tissue(OTHER)], mpp=None)
    found = StainOptions(method="macenko", target=tmp_path / "picture.tif").wanted
    assert found == _measured("macenko", tissue(OTHER))
    write_tiff(tmp_path / "glass.tif", [np.full((512, 512, 3), 250, np.uint8)], mpp=0.5)
    with pytest.raises(
        SlideError, match=r"target .*glass\.tif must show tissue, got none that fills"
    ):
        StainOptions(method="macenko", target=tmp_path / "glass.tif")
    (tmp_path / "text.svs").write_text("none")
    with pytest.raises(SlideError, match=r"text\.svs"):
        StainOptions(method="macenko", target=tmp_path / "text.svs")


# --- What is refused, and what is said ---------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_glass_has_no_stains(method):
    with pytest.raises(
        SlideError,
        match=r"stains of slide x must be measured on at least 1000 pixels of tissue, got 0 of 25600 "
        r"that are dark enough in every channel: encode it without stain",
    ):
        stain_map(StainOptions(method=method), np.full((160, 160, 3), 250, np.uint8), of="slide x")


def test_one_stain_is_not_two():
    one = np.array([ONE[0], ONE[0]])
    with pytest.raises(
        SlideError, match=r"stains of slide x must be two, got colours within \d\.\d deg"
    ):
        stain_map(StainOptions(method="macenko"), tissue(one), of="slide x")
    flat = np.full((50, 50, 3), (120, 60, 130), np.uint8)
    with pytest.raises(
        SlideError, match="stains of slide x must vary, got one colour in 2500 pixels"
    ):
        stain_map(StainOptions(method="reinhard"), flat, of="slide x")


def test_another_stain_is_told():
    (note,) = stain_map(StainOptions(method="macenko"), tissue(DAB), of="it").notes
    assert note.startswith("the stain beside haematoxylin absorbs blue most (0.2")
    assert not stain_map(StainOptions(method="macenko"), tissue(ONE), of="it").notes


def test_bad_options(tmp_path):
    with pytest.raises(ValueError, match="stain must be macenko or reinhard, got 'vahadane'"):
        StainOptions(method="vahadane")
    with pytest.raises(FileNotFoundError, match=r"no such target of stains: .*t\.png"):
        StainOptions(method="macenko", target=tmp_path / "t.png")
    write_png(tmp_path / "white.png", np.full((99, 99, 3), 255, np.uint8))
    with pytest.raises(
        SlideError, match=r"stains of stain target .*white\.png must be measured on"
    ):
        StainOptions(method="macenko", target=tmp_path / "white.png")
    told = StainOptions(method="macenko").identity
    for change in ({"revision": 0}, {"numbers": [1, 2]}, {"method": "none"}, {"numbers": None}):
        with pytest.raises(
            ValueError, match="a stain must be as this version of extract writes it"
        ):
            StainOptions.of_identity({**told, **change})
    for text in (
        json.dumps({"matrix": [np.nan] * 12, "of_cones": 0, "found": {"first": [], "second": []}}),
        "",
        "{}",
        '{"matrix": [1], "of_cones": 0, "found": {"first": [], "second": []}}',
        "[" * 9999,
    ):
        with pytest.raises(ValueError, match="a map of stains must be as extract writes it"):
            StainMap.of_text(text)


# --- Whole runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """Slides of two laboratories, one of glass with a little dust, and an encoder."""
    folder = tmp_path_factory.mktemp("stain")
    for name, pair in (("one", ONE), ("other", OTHER)):
        image = np.full((512, 448, 3), 245, np.uint8)
        image[64:-64, 64:-64] = tissue(pair, side_px=384, glass=0)[:, :320]
        write_tiff(folder / f"{name}.tif", [image, half(image, 2)], mpp=1.0)
    image = np.full((512, 448, 3), 245, np.uint8)
    image[100:400, 100:400] = (225, 190, 215)  # pale: tissue, but not dark enough
    write_tiff(folder / "pale.tif", [image, half(image, 2)], mpp=1.0)
    write_encoder(folder / "tiny.onnx")
    return folder


def features_in(folder, slide):
    return read_features(folder / "5x_32px_0px_overlap" / "features_tiny" / f"{slide}.h5")


@pytest.mark.parametrize("method", METHODS)
def test_features_are_of_mapped_pixels_which_can_be_made_again(stage, tmp_path, method):
    slides = [stage / "one.tif", stage / "other.tif"]
    report = run(slides, tmp_path / "a", stage / "tiny.onnx", stain=method)
    assert report.exit_code == 0
    plain = run(slides, tmp_path / "b", stage / "tiny.onnx")
    assert plain.exit_code == 0
    file, before = features_in(tmp_path / "a", "one"), features_in(tmp_path / "b", "one")
    with PatchReader(slides) as reader:
        rows = np.arange(len(file.features))
        pixels, as_it_was = reader.read(file, rows), reader.read(before, rows)
    each = StainMap.of_text(file.attributes["stain_map"])
    np.testing.assert_array_equal(pixels, each.apply(as_it_was))
    with histofast.load_encoder(stage / "tiny.onnx") as encoder:
        np.testing.assert_array_equal(file.features, encoder.encode(pixels))
    assert file.identity["stain"]["method"] == method
    assert options_of(file)["stain"] == f"{method} to default"
    assert options_of(before)["stain"] == "as it is"
    # What the two laboratories' slides show is nearer than it was.
    apart = [
        np.linalg.norm(
            features_in(tmp_path / f, "one").features.mean(0)
            - features_in(tmp_path / f, "other").features.mean(0)
        )
        for f in "ab"
    ]
    assert apart[0] < apart[1] / 2
    assert "stain" in json.loads((tmp_path / "a" / "run.json").read_text())["about"]["options"]


def test_the_same_bytes_whatever_the_threads_and_others_are_refused(stage, tmp_path):
    one = [stage / "one.tif"]
    for out, threads in (("a", 1), ("b", 3)):
        run(
            one, tmp_path / out, stage / "tiny.onnx", stain="macenko", workers=threads, batch_size=3
        )
    files = [features_in(tmp_path / out, "one").path.read_bytes() for out in "ab"]
    assert files[0] == files[1]
    again = run(one, tmp_path / "a", stage / "tiny.onnx", stain="macenko")
    assert [slide.status for slide in again.slides] == ["skipped"]
    for other, said in ((None, "stain as it is"), ("reinhard", "stain reinhard to default")):
        with pytest.raises(FeatureError, match=f"made with stain macenko to default, .* {said}"):
            run([stage / "other.tif"], tmp_path / "a", stage / "tiny.onnx", stain=other)


def test_a_slide_without_stains_fails_alone_and_one_of_glass_is_empty(stage, tmp_path):
    glass = np.full((256, 256, 3), 250, np.uint8)
    write_tiff(tmp_path / "glass.tif", [glass], mpp=1.0)
    slides = [stage / "pale.tif", stage / "one.tif", tmp_path / "glass.tif"]
    report = run(slides, tmp_path / "f", stage / "tiny.onnx", stain="macenko")
    found = {slide.name: slide for slide in report.slides}
    assert {name: slide.status for name, slide in found.items()} == {
        "pale": "failed",
        "one": "done",
        "glass": "empty",
    }
    assert found["pale"].error.startswith("stains of slide pale must be measured on at least 1000")


def test_bags_of_patches_have_their_own_map(tmp_path, stage):
    lines = ["file,slide"]
    for bag, pair in (("p", ONE), ("q", OTHER)):
        for i in range(3):
            write_png(tmp_path / f"{bag}{i}.png", tissue(pair, side_px=64, seed=i))
            lines.append(f"{bag}{i}.png,{bag}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    write_encoder(tmp_path / "e.onnx", patch_px=64)
    report = histofast.extract(
        patches=tmp_path / "t.csv", out=tmp_path / "f", encoder=tmp_path / "e.onnx", stain="macenko"
    )
    assert report.exit_code == 0
    for path in (tmp_path / "f").rglob("*.h5"):
        file = read_features(path)
        with PatchReader(patches=tmp_path / "t.csv") as reader:
            pixels = reader.read(file, np.arange(3))
        own = np.stack(
            [tissue({"p": ONE, "q": OTHER}[path.stem], side_px=64, seed=i) for i in range(3)]
        )
        each = stain_map(StainOptions(method="macenko"), own, of="it")
        np.testing.assert_array_equal(pixels, each.apply(own))


def test_the_command(cli, stage, tmp_path):
    write_png(tmp_path / "t.png", tissue(OTHER))
    common = ("extract", stage / "one.tif", "-e", stage / "tiny.onnx", "--min-tissue", "0.1")
    stained = ("--stain", "reinhard", "--stain-target")
    assert cli(*common, "--out", tmp_path / "f", *stained, tmp_path / "t.png").code == 0
    assert cli(*common, "--out", tmp_path / "g", *stained, "default").code == 0
    told = [features_in(tmp_path / f, "one").identity["stain"]["target"] for f in "fg"]
    assert told[0] != told[1] == "default"
    (line,) = cli(*common, "--stain-target", tmp_path / "t.png").err
    assert line == "histofast: --stain-target must be given with --stain: it says how"
    (line,) = cli(*common, *stained, tmp_path / "none.png").err
    assert line.startswith("histofast: no such target of stains")
    (line,) = cli(*common, "--stain", "vahadane").err
    assert "must be one of macenko, reinhard, got 'vahadane'" in line


def test_a_file_with_another_map_is_refused(stage, tmp_path):
    run([stage / "one.tif"], tmp_path, stage / "tiny.onnx", stain="macenko")
    file = features_in(tmp_path, "one")
    broken = replace(file, attributes={**file.attributes, "stain_map": "{}"})
    with (
        PatchReader([stage / "one.tif"]) as reader,
        pytest.raises(
            FeatureError, match="a map of stains must be as extract writes it: extract it"
        ),
    ):
        reader.read(broken, np.arange(2))


def test_a_real_slide(data):
    path = data / "slides" / "CMU-1-Small-Region.svs"
    if not path.is_file():
        pytest.skip("no real slide")
    with histofast.open_slide(path) as slide:
        pixels = slide.read_region((600, 300), 0, (896, 896))
    for method in METHODS:
        each = stain_map(StainOptions(method=method), pixels, of="it")
        assert not each.notes
        found = each.apply(pixels[None])[0]
        wanted = StainOptions(method=method).wanted
        is_dense = (reference.densities(pixels) >= reference.BETA).all(axis=1)
        of_tissue = found.reshape(-1, 3)[is_dense]
        if method == "reinhard":  # but for what is cut off at white
            assert np.abs(reference.lab(of_tissue).mean(axis=0) - wanted.first).max() < 0.1
        else:
            vectors, _ = reference.macenko(of_tissue)
            assert angle(vectors[0], np.array(wanted.first)) < 10
            assert angle(vectors[1], np.array(wanted.second)) < 10
