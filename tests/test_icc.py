"""ICC profiles: definitions, Pillow as another reader, where files keep them, whole runs, what is refused."""

from __future__ import annotations

import io
import json
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

import histofast
import reference_icc as reference
import reference_stain
from histofast import _core
from histofast.errors import FeatureError, SlideError
from histofast.features import options_of, read_features
from histofast.patches import PatchReader, StainMap, StainOptions
from histofast.slides import open_slide, profile_of_picture, srgb_table, write_png
from slide_files import APERIO, half, picture, write_tiff
from small_slides import run
from tiny_encoder import write_encoder

WIDE = {"primaries": ((0.70, 0.30), (0.20, 0.72), (0.14, 0.05)), "white": (0.3457, 0.3585)}
SRGB = {"primaries": reference.SRGB_PRIMARIES, "white": reference.D65}
SWAPPED = {**SRGB, "primaries": reference.SRGB_PRIMARIES[::-1]}
KINDS = {"wide": (WIDE, 2.2), "swapped": (SWAPPED, 2.2), "linear": (SRGB, 1.0)}


def profile(primaries, white, gamma=2.2):
    """A profile of primaries, a white and a gamma."""
    flat = [value for x, y in primaries for value in (x, y, 1.0)]
    made = imagecodecs.cms_profile("rgb", whitepoint=[*white, 1.0], primaries=flat, gamma=gamma)
    return made[:24] + bytes(12) + made[36:]  # without the time of its making


def by_pillow(pixels, icc):
    intent = ImageCms.getDefaultIntent(ImageCms.ImageCmsProfile(io.BytesIO(icc)))
    rows = np.ascontiguousarray(pixels.reshape(-1, 1, 3))
    image = ImageCms.profileToProfile(
        Image.fromarray(rows),
        ImageCms.ImageCmsProfile(io.BytesIO(icc)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=intent,
        outputMode="RGB",
    )
    return np.asarray(image).reshape(pixels.shape)


def colours(n=20_000):
    ends = np.stack(np.meshgrid(*[[0, 1, 2, 17, 128, 254, 255]] * 3), -1).reshape(-1, 3)
    drawn = np.random.default_rng(0).integers(0, 256, (n, 3))
    return np.concatenate([ends, drawn]).astype(np.uint8)[None, :, None]


# --- Definitions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_colours_are_as_defined(kind):
    device, gamma = KINDS[kind]
    pixels = colours()
    found = srgb_table(profile(**device, gamma=gamma), of="it").apply(pixels)
    wanted = reference.as_srgb(pixels, **device, gamma=gamma)
    # littleCMS keeps matrices in 16 bits, and curves of 8-bit pixels in tables.
    assert np.abs(found - wanted).max() <= 2
    assert (np.abs(found - wanted) <= 1).mean() > 0.995


@pytest.mark.parametrize("kind", KINDS)
def test_colours_are_those_of_pillow(kind):
    device, gamma = KINDS[kind]
    icc = profile(**device, gamma=gamma)
    pixels = colours()
    found = srgb_table(icc, of="it").apply(pixels)
    apart = np.abs(found.astype(int) - by_pillow(pixels, icc))
    assert apart.max() <= 1  # another version of littleCMS
    assert (apart == 0).mean() > 0.99


def test_a_swap_of_red_and_blue_is_one():
    pixels = colours()
    found = srgb_table(profile(**SWAPPED), of="it").apply(pixels)
    as_before = srgb_table(profile(**SRGB), of="it").apply(pixels[..., ::-1].copy())
    assert np.abs(found.astype(int) - as_before).max() <= 1
    assert np.abs(found.astype(int) - pixels).max() > 200


def test_srgb_stays_and_the_intent_is_the_profiles():
    pixels = colours()
    own = bytes(imagecodecs.cms_profile("srgb"))
    np.testing.assert_array_equal(srgb_table(own, of="it").apply(pixels), pixels)
    yellowish = bytearray(own)
    entry = own.index(b"wtpt", 128)
    blue_at = int.from_bytes(own[entry + 4 : entry + 8], "big") + 16  # Z of the paper, in 1 / 65536
    yellowish[blue_at : blue_at + 4] = round(0.5 * 65536).to_bytes(4, "big")
    absolute = bytearray(yellowish)
    absolute[64:68] = (3).to_bytes(4, "big")
    white = np.full((1, 1, 1, 3), 255, np.uint8)
    assert (srgb_table(bytes(yellowish), of="it").apply(white) == 255).all()
    yellow = srgb_table(bytes(absolute), of="it").apply(white)
    assert yellow[..., 2].item() < 220
    assert np.abs(yellow.astype(int) - by_pillow(white, bytes(absolute))).max() <= 1


def test_threads_and_company_change_nothing_and_other_pixels_are_refused():
    table = srgb_table(profile(**WIDE), of="it")
    pixels = np.stack([picture(33, 41, seed=seed) for seed in range(5)])
    whole = table.apply(pixels, threads=3)
    np.testing.assert_array_equal(whole, np.concatenate([table.apply(p[None]) for p in pixels]))
    r, g, b = (pixels[..., i].astype(int) for i in range(3))
    np.testing.assert_array_equal(whole, table.colours[r, g, b])
    assert table.apply(pixels[:0]).shape == (0, 33, 41, 3)
    with pytest.raises(TypeError, match="pixels must be C-contiguous uint8"):
        table.apply(pixels.astype(np.float32))
    with pytest.raises(ValueError, match="pixels must be C-contiguous uint8"):
        table.apply(pixels[:, ::2])
    with pytest.raises(ValueError, match="map_colours: out of shape"):
        _core.map_colours(pixels, table.colours, 1, np.empty((5, 33, 40, 3), np.uint8))
    assert not table.colours.flags.writeable
    assert srgb_table(profile(**WIDE), of="another") is table


# --- Where files keep them ---------------------------------------------------------------------------


def with_png(path, icc, *, chunk=None):
    """A PNG with a profile in it."""
    write_png(path, picture(40, 50))
    data = path.read_bytes()
    body = b"iCCP" + (b"name\0\0" + zlib.compress(icc) if chunk is None else chunk)
    made = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(data[:33] + made + data[33:])
    return path


def test_profiles_are_found_in_every_format(tmp_path):
    icc = profile(**WIDE)
    image = picture(256, 256)
    options = {"iccprofile": icc, "mpp": 0.5}
    tiled = write_tiff(tmp_path / "tiled.tif", [image, half(image)], **options)
    aperio = write_tiff(
        tmp_path / "a.svs", [image, half(image)], description=APERIO, compression="jpeg", **options
    )
    strips = tmp_path / "strips.tif"
    tifffile.imwrite(strips, image, photometric="rgb", rowsperstrip=16, iccprofile=icc)
    for path, door in ((tiled, None), (tiled, "openslide"), (aperio, None), (strips, None)):
        with open_slide(path, mpp_override=0.5, door=door) as slide:
            assert slide.icc_profile == icc, (path, door)
    png = with_png(tmp_path / "p.png", icc)
    jpeg, large = tmp_path / "j.jpg", icc + bytes(200_000)
    Image.fromarray(image).save(jpeg, icc_profile=large)  # in several segments
    for path, wanted in ((png, icc), (jpeg, large), (strips, icc)):
        assert profile_of_picture(path) == wanted
        with open_slide(path, mpp_override=0.5) as slide:
            assert slide.icc_profile == wanted
    write_png(png, image)
    Image.fromarray(image).save(jpeg)
    plain = write_tiff(tmp_path / "plain.tif", [image], mpp=0.5)
    for path in (png, jpeg, plain):
        assert profile_of_picture(path) == b""
        with open_slide(path, mpp_override=0.5) as slide:
            assert slide.icc_profile == b""


def test_broken_profiles_are_one_line(tmp_path):
    icc = profile(**WIDE)
    for broken, said in (
        (b"none", r"of slide x is broken, 4 bytes that are no profile: encode it without icc"),
        (bytes(1000), r"is broken, 1000 bytes that are no profile"),
        (
            icc[:16] + b"CMYK" + icc[20:],
            r"of slide x must be of RGB, got 'CMYK': encode it without icc",
        ),
        (icc[:16] + b"GRAY" + icc[20:], r"must be of RGB, got 'GRAY'"),
        (icc[:140], r"is broken, littleCMS says '.+': encode it without icc"),
        (icc + bytes(16 << 20), r"is broken, \d+ bytes that are no profile"),
    ):
        with pytest.raises(SlideError, match=f"^the ICC profile .*{said}"):
            srgb_table(broken, of="slide x")
    bomb = b"name\0\0" + zlib.compress(bytes((16 << 20) + 1))
    for chunk, said in (
        (bomb, "too large"),
        (b"name\0\0" + zlib.compress(icc)[:50], "ends too early"),
        (b"name\0\0none", "incorrect header"),
    ):
        with pytest.raises(SlideError, match=rf"profile of .*p\.png is broken, .*{said}"):
            profile_of_picture(with_png(tmp_path / "p.png", icc, chunk=chunk))
    jpeg = tmp_path / "j.jpg"
    Image.fromarray(picture(40, 40)).save(jpeg, icc_profile=icc)
    data = jpeg.read_bytes()
    at = data.index(b"ICC_PROFILE\0") + 12
    jpeg.write_bytes(data[:at] + b"\2\3" + data[at + 2 :])
    with pytest.raises(SlideError, match=r"j\.jpg is broken, 1 of its 3 parts are there"):
        profile_of_picture(jpeg)


# --- Whole runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """Slides with a profile, without one and with a broken one, and an encoder."""
    folder = tmp_path_factory.mktemp("icc")
    image = np.full((512, 448, 3), 245, np.uint8)
    image[64:-64, 64:-64] = tissue()
    for name, icc in (("wide", profile(**WIDE)), ("plain", None), ("broken", b"none")):
        options = {} if icc is None else {"iccprofile": icc}
        write_tiff(folder / f"{name}.tif", [image, half(image, 2)], mpp=1.0, **options)
    write_encoder(folder / "tiny.onnx")
    return folder


def tissue():
    """Two stains, much of one where there is little of the other."""
    rng = np.random.default_rng(0)
    share = rng.beta(0.4, 0.4, size=(384, 320, 1))
    amounts = rng.uniform(0.5, 1.5, size=share.shape) * np.dstack([share, 1 - share])
    pair = np.array([[0.65, 0.70, 0.29], [0.10, 0.95, 0.20]])
    light = 256 * 10.0 ** -(amounts @ (pair / np.linalg.norm(pair, axis=1, keepdims=True))) - 1
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def features_in(folder, slide):
    return read_features(folder / "5x_32px_0px_overlap" / "features_tiny" / f"{slide}.h5")


def test_features_are_of_mapped_pixels_which_can_be_made_again(stage, tmp_path):
    slides = [stage / "wide.tif", stage / "plain.tif", stage / "broken.tif"]
    report = run(slides, tmp_path / "a", stage / "tiny.onnx", icc="srgb")
    assert {slide.name: slide.status for slide in report.slides} == {
        "wide": "done",
        "plain": "done",
        "broken": "failed",
    }
    said = {slide.name: (slide.error, slide.notes) for slide in report.slides}
    assert said["broken"][0].startswith("the ICC profile of slide broken is broken, 4 bytes")
    assert said["plain"][1] == ["it has no ICC profile: its colours are as they are"]
    assert said["wide"][1] == []
    run(slides[:2], tmp_path / "b", stage / "tiny.onnx")
    with PatchReader(slides) as reader, histofast.load_encoder(stage / "tiny.onnx") as encoder:
        for name, icc in (("wide", profile(**WIDE)), ("plain", None)):
            file, before = features_in(tmp_path / "a", name), features_in(tmp_path / "b", name)
            rows = np.arange(len(file.features))
            pixels, as_it_was = reader.read(file, rows), reader.read(before, rows)
            wanted = as_it_was if icc is None else srgb_table(icc, of=name).apply(as_it_was)
            np.testing.assert_array_equal(pixels, wanted)
            np.testing.assert_array_equal(file.features, encoder.encode(pixels))
            assert (pixels != as_it_was).any() == (icc is not None)
            assert file.identity["icc"] == "srgb"
            assert (options_of(file)["icc"], options_of(before)["icc"]) == ("srgb", "as it is")
            shown = file.attributes["icc_profile"]
            assert shown == ("none" if icc is None else srgb_table(icc, of=name).sha256)
    told = json.loads((tmp_path / "a" / "run.json").read_text())["about"]["options"]
    assert told["icc"] == "srgb"
    with pytest.raises(FeatureError, match="made with icc srgb, asked for is icc as it is"):
        run(slides[:1], tmp_path / "a", stage / "tiny.onnx")


def test_stains_are_measured_and_mapped_behind_the_profile(stage, tmp_path):
    slide, icc = stage / "wide.tif", profile(**WIDE)
    run([slide], tmp_path / "a", stage / "tiny.onnx", icc="srgb", stain="macenko")
    run([slide], tmp_path / "b", stage / "tiny.onnx")
    file, before = features_in(tmp_path / "a", "wide"), features_in(tmp_path / "b", "wide")
    rows = np.arange(len(file.features))
    with PatchReader([slide]) as reader:
        pixels, as_it_was = reader.read(file, rows), reader.read(before, rows)
    each = StainMap.of_text(file.attributes["stain_map"])
    in_srgb = srgb_table(icc, of="it").apply(as_it_was)
    np.testing.assert_array_equal(pixels, each.apply(in_srgb))
    measured_rows = np.unique(np.linspace(0, len(rows) - 1, 32).astype(int))
    vectors, most = reference_stain.macenko(in_srgb[measured_rows].reshape(-1, 3))
    np.testing.assert_allclose([each.found.first, each.found.second], vectors, atol=1e-6)
    np.testing.assert_allclose(np.multiply(each.found.most, np.log(2)), most, atol=1e-6)
    assert (each.apply(as_it_was) != pixels).any()


def test_a_target_is_measured_in_its_own_colours(stage, tmp_path):
    plain = StainOptions(method="macenko", target=stage / "wide.tif")
    mapped = StainOptions(method="macenko", target=stage / "wide.tif", icc="srgb")
    assert plain.wanted != mapped.wanted
    of_plain = StainOptions(method="macenko", target=stage / "plain.tif", icc="srgb")
    assert of_plain.wanted == plain.wanted
    picture_of = with_png(tmp_path / "p.png", profile(**WIDE))
    one = StainOptions(method="reinhard", target=picture_of)
    other = StainOptions(method="reinhard", target=picture_of, icc="srgb")
    assert one.wanted != other.wanted
    with pytest.raises(
        ValueError,
        match=r"stain must be measured of .*wide\.tif with icc='srgb' as the slides, got None",
    ):
        run([stage / "wide.tif"], tmp_path / "f", stage / "tiny.onnx", icc="srgb", stain=plain)
    report = run(
        [stage / "wide.tif"], tmp_path / "f", stage / "tiny.onnx", icc="srgb", stain=mapped
    )
    assert report.exit_code == 0


def test_bad_options(stage, tmp_path):
    with pytest.raises(ValueError, match="icc must be srgb, got 'adobe'"):
        run([stage / "wide.tif"], tmp_path / "f", stage / "tiny.onnx", icc="adobe")
    with pytest.raises(ValueError, match="icc must be srgb, got 'adobe'"):
        StainOptions(method="macenko", target=stage / "wide.tif", icc="adobe")
    with pytest.raises(ValueError, match="icc must not be given with patches"):
        run(None, tmp_path / "f", stage / "tiny.onnx", patches=stage, icc="srgb")


def test_the_command(cli, stage, tmp_path):
    common = ("extract", stage / "wide.tif", "-e", stage / "tiny.onnx", "--min-tissue", "0.1")
    stained = ("--stain", "macenko", "--stain-target", stage / "wide.tif")
    assert cli(*common, "--out", tmp_path / "f", "--icc", "srgb", *stained).code == 0
    wanted = StainOptions(method="macenko", target=stage / "wide.tif", icc="srgb").identity
    assert features_in(tmp_path / "f", "wide").identity["stain"] == json.loads(json.dumps(wanted))
    (line,) = cli(*common, "--icc", "adobe").err
    assert "must be one of srgb, got 'adobe'" in line
    write_png(tmp_path / "p.png", picture(32, 32))
    (line,) = cli(
        *("extract", "--patches", tmp_path, "-e", stage / "tiny.onnx", "--icc", "srgb")
    ).err
    assert line.startswith("histofast: --icc must not be given with patches")


def test_a_real_slide_in_other_colours(data, tmp_path):
    """The patches of a real slide, its pixels taken for those of a wide device, are far from what they were."""
    path = data / "slides" / "CMU-1-Small-Region.svs"
    if not path.is_file():
        pytest.skip("no real slide")
    with open_slide(path) as slide:
        assert slide.icc_profile == b""
        pixels = slide.read_region((600, 300), 0, (512, 512))
    made = write_tiff(tmp_path / "wide.tif", [pixels], mpp=0.5, iccprofile=profile(**WIDE))
    with open_slide(made) as slide:
        found = srgb_table(slide.icc_profile, of="it").apply(pixels[None])
    wanted = reference.as_srgb(pixels[None], **WIDE, gamma=2.2)
    apart = np.abs(found - wanted)
    assert (apart <= 1).mean() > 0.99
    assert np.abs(found.astype(int) - pixels).mean() > 3
