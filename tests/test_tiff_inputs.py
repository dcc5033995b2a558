"""TIFF files as other programs write them: scale, size and pixels, or a refusal in one line.

Values are known by construction; where OpenSlide and tifffile read a file as well, they are asked too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray

import slide_files as files
from histofast.errors import SlideError
from histofast.slides import image_size, open_slide, read_image, read_mask

H, W = 150, 210
IMAGE = files.picture(H, W)
HALF = files.half(IMAGE)
HALF_UM: dict[str, Any] = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
PLAIN: dict[str, Any] = {"photometric": "rgb", "metadata": None, **HALF_UM}
TILES: dict[str, Any] = {"tile": (64, 64)}
layouts = pytest.mark.parametrize("layout", [{}, TILES], ids=["strips", "tiles"])


def whole(slide: Any, level: int = 0) -> NDArray[np.uint8]:
    info = slide.levels[level]
    return slide.read_region((0, 0), level, (info.width, info.height))


def shows(path: Path, image: NDArray[np.uint8], *, mpp: float = 0.5, atol: float = 0.0) -> None:
    """As a slide and as a patch the file is that picture, and the scale is that."""
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(mpp)
        shown = whole(slide)
    for pixels in (shown, read_image(path)):
        assert pixels.shape == image.shape
        assert np.abs(pixels.astype(np.float64) - image).mean() <= atol


def refused(path: Path, message: str) -> None:
    """As slide, patch and mask alike."""
    for read in (open_slide, read_image, read_mask):
        with pytest.raises(SlideError, match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def renumber_tag(path: Path, code: int, new: int, *, page: int = 0) -> None:
    """Call a tag by a number that nobody knows."""
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[page].tags[code].offset
    files.overwrite(path, at, new.to_bytes(2, "little"))


def set_value(path: Path, code: int, value: int, *, page: int, index: int = 0) -> None:
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[page].tags[code]
        step = {3: 2, 4: 4}[int(tag.dtype)]
    files.overwrite(path, tag.valueoffset + step * index, value.to_bytes(step, "little"))


# --- Scale ----------------------------------------------------------------------------------------


@layouts
def test_a_file_without_a_unit_means_inches(layout, tmp_path):
    path = tmp_path / "a.tif"
    options = {**PLAIN, "resolution": (50800, 50800), "resolutionunit": "INCH", **layout}
    tifffile.imwrite(path, IMAGE, **options)
    renumber_tag(path, 296, 65000)
    shows(path, IMAGE, mpp=0.5)
    if layout:
        with openslide.OpenSlide(path) as theirs:
            assert float(theirs.properties["openslide.mpp-x"]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("unit", "per_unit", "mpp"),
    [
        ("micron", 2, 0.5),
        ("um", 4, 0.25),
        ("\\u00B5m", 2, 0.5),  # as ImageJ escapes it
        ("Micrometers", 2, 0.5),
        ("mm", 2000, 0.5),
        ("cm", 20000, 0.5),
        ("inch", 50800, 0.5),
        ("nm", 0.002, 0.5),
    ],
)
def test_imagej_units(unit, per_unit, mpp, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, IMAGE, imagej=True, resolution=(per_unit, per_unit), metadata={"unit": unit}
    )
    shows(path, IMAGE, mpp=mpp)


@pytest.mark.parametrize("unit", ["pixel", "sec", None])
def test_imagej_without_a_length_says_nothing(unit, tmp_path):
    path = tmp_path / "a.tif"
    metadata = {} if unit is None else {"unit": unit}
    tifffile.imwrite(path, IMAGE, imagej=True, resolution=(2, 2), metadata=metadata)
    with pytest.raises(SlideError, match="does not say its mpp"):
        open_slide(path)


def test_imagej_scales_of_x_and_y_are_compared(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, imagej=True, resolution=(2, 4), metadata={"unit": "um"})
    with pytest.raises(SlideError, match=r"file says 0.5 and 0.25 \(ImageJ's unit\)"):
        open_slide(path)


def um(x: float, y: float | None = None, unit: str = "µm") -> dict[str, Any]:
    sizes = {"PhysicalSizeX": x, "PhysicalSizeY": x if y is None else y}
    return {**sizes, "PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}


@pytest.mark.parametrize(
    ("sizes", "mpp"),
    [
        (um(0.5, unit="\u00b5m"), 0.5),
        (um(0.25, unit="\u03bcm"), 0.25),  # the Greek letter
        (um(0.00025, unit="mm"), 0.25),
        (um(250, unit="nm"), 0.25),
        (um(2500, unit="\u00c5"), 0.25),
    ],
)
@layouts
def test_ome_scale_of_a_later_series(sizes, mpp, layout, tmp_path):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        macro = files.picture(60, 60, seed=1)
        tiff.write(macro, photometric="rgb", metadata={"Name": "macro", **um(8)}, **layout)
        tiff.write(
            IMAGE, photometric="rgb", subifds=1, metadata={"Name": "scan", **sizes}, **layout
        )
        tiff.write(HALF, photometric="rgb", subfiletype=1, **layout)
    shows(path, IMAGE, mpp=mpp)
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.levels] == ([1.0, 2.0] if layout else [1.0])
        np.testing.assert_array_equal(
            whole(slide, len(slide.levels) - 1), HALF if layout else IMAGE
        )


OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Instrument ID="Instrument:0">'
    '<Objective ID="Objective:0" NominalMagnification="1.25"/>'
    '<Objective ID="Objective:1" NominalMagnification="20.0"/></Instrument>{}</OME>'
)


def ome_image(size: tuple[int, int], mpp: str, ifd: str, objective: int = 1) -> str:
    return (
        f'<Image ID="Image:0"><ObjectiveSettings ID="Objective:{objective}"/><Pixels SizeX="{size[0]}"'
        f' SizeY="{size[1]}" SizeC="3" SizeZ="1" SizeT="1" {mpp}>{ifd}</Pixels></Image>'
    )


SAYS = 'PhysicalSizeX="{0}" PhysicalSizeY="{0}"'.format


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        # By the page: two of one size.
        ([((W, H), SAYS(8), '<TiffData IFD="1"/>'), ((W, H), SAYS(0.25), '<TiffData IFD="0"/>')], 0.25),
        # A page's number that names another file is not of this one.
        (
            [
                ((W, H), SAYS(8), '<TiffData IFD="0"><UUID FileName="b.ome.tif"/></TiffData>'),
                ((W, H), SAYS(0.25), '<TiffData IFD="0"><UUID FileName="a.ome.tif"/></TiffData>'),
            ],
            0.25,
        ),
        # By the size, where pages are not told.
        ([((99, 99), SAYS(8), ""), ((W, H), SAYS(0.25), "")], 0.25),
        # Of several scales none is chosen.
        ([((W, H), SAYS(8), ""), ((W, H), SAYS(0.25), "")], None),
        # What is said of another size is not said of this picture.
        ([((2 * W, 2 * H), SAYS(0.25), '<TiffData IFD="0"/>')], None),
        # One side alone is no scale.
        ([((W, H), 'PhysicalSizeX="0.25"', "<TiffData/>")], None),
        ([((W, H), SAYS(0.25).replace(" ", ' PhysicalSizeXUnit="pixel" ', 1), "<TiffData/>")], None),
        ([((W, H), SAYS(0.25), "<TiffData/>")], 0.25),
    ],
)  # fmt: skip
def test_the_right_pixels_of_ome(images, expected, tmp_path):
    path = tmp_path / "a.ome.tif"
    xml = OME.format("".join(ome_image(*image) for image in images))
    tifffile.imwrite(
        path, IMAGE, photometric="rgb", metadata=None, description=xml.encode(), **TILES
    )
    if expected is None:
        with pytest.raises(SlideError, match="does not say its mpp"):
            open_slide(path)
        return
    shows(path, IMAGE, mpp=expected)
    with open_slide(path) as slide:
        assert slide.properties["objective_power"] == "20.0"


# --- Size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pages", "levels"),
    [
        # (picture, options), written in this order; sizes of the levels
        ([(HALF, {}), (IMAGE, {})], [W]),
        ([(HALF, TILES), (IMAGE, {})], [W]),
        ([(HALF, {}), (IMAGE, TILES)], [W]),
        ([(IMAGE, {}), (HALF, {**TILES, "subfiletype": 1})], [W]),
        ([(HALF, {**TILES, "subfiletype": 1}), (IMAGE, TILES)], [W, W // 2]),
        ([(files.half(HALF), TILES), (HALF, TILES), (IMAGE, TILES)], [W, W // 2, W // 4]),
        # A photograph of the glass that is larger than the scan.
        ([(IMAGE, TILES), (HALF, TILES), (files.picture(300, 150), {})], [W, W // 2]),
        ([(IMAGE, TILES), (files.picture(300, 150), {"subfiletype": 9})], [W]),
        ([(IMAGE, TILES), (files.picture(300, 150), {"description": "x\nmacro 300x150"})], [W]),
        # A label of the slide's proportions is no level of it.
        ([(IMAGE, TILES), (HALF, {**TILES, "description": "Aperio\r\nlabel 105x75"})], [W]),
        ([(files.picture(64, 64), TILES), (IMAGE, {})], [W]),  # a label in tiles
        ([(IMAGE, TILES), (files.picture(200, 200), {})], [W]),
    ],
)
def test_the_largest_page_is_the_slide(pages, levels, tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for picture, options in pages:
            tiff.write(picture, **PLAIN, **options)
    shows(path, IMAGE)
    with open_slide(path) as slide:
        assert [level.width for level in slide.levels] == levels


def test_gdals_overviews_are_not_the_slide(data):
    path = data / "cases" / "strips_overviews_jpeg.tif"
    with tifffile.TiffFile(path) as tiff:
        largest = tiff.pages[0].asarray()
    assert largest.shape == (700, 1000, 3)
    shows(path, largest, mpp=0.5, atol=1.0)


def test_levels_beyond_4096_px_agree_with_other_readers(tmp_path):
    """Sizes that are no multiples: far from the corner a wrong factor would show."""
    image = np.tile(files.picture(331, 523), (4, 10, 1))[:1203, :5003]
    levels = [image, files.half(image), files.half(image, 2), files.half(image, 4)]
    path = files.write_tiff(tmp_path / "a.tif", levels, tile_px=256, compression="zlib")
    with (
        open_slide(path) as ours,
        open_slide(path, door="openslide") as through,
        openslide.OpenSlide(path) as theirs,
        tifffile.TiffFile(path) as tiff,
    ):
        assert [level.downsample for level in ours.levels] == [1.0, 2.0, 4.0, 16.0]
        for i, level in enumerate(ours.levels):
            np.testing.assert_array_equal(whole(ours, i), tiff.pages[i].asarray())
            # OpenSlide counts in level-0 pixels, which its factor puts up to a quarter pixel aside.
            assert np.abs(whole(through, i).astype(float) - levels[i]).mean() < 1
            theirs_whole = theirs.read_region((0, 0), i, (level.width, level.height))
            np.testing.assert_array_equal(np.asarray(theirs_whole)[..., :3], levels[i])
            x, y = level.width - 61, level.height - 40  # the far corner
            at = round(x * level.downsample), round(y * level.downsample)
            np.testing.assert_array_equal(ours.read_region(at, i, (61, 40)), levels[i][y:, x:])


# --- Colours --------------------------------------------------------------------------------------


STACK = np.stack([IMAGE, IMAGE[::-1], IMAGE[:, ::-1]])
APART = np.ascontiguousarray(np.moveaxis(IMAGE, -1, 0))
ZYX: dict[str, Any] = {"axes": "ZYXS", **um(0.5)}
CYX: dict[str, Any] = {"axes": "CYX", **um(0.5)}


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (STACK, PLAIN, "must hold one picture, got 3 of one size"),
        (STACK, {**PLAIN, "metadata": {}}, "must hold one picture, got 3 of one size"),
        (STACK, {"photometric": "rgb", "ome": True, "metadata": ZYX}, "one picture, got 3"),
        (APART, {**PLAIN, "photometric": 1}, "must be grey or RGB in one page, got 3 grey pages"),
        (APART, {**HALF_UM, "photometric": 1}, "in one page, got 3 grey pages"),
        (APART, {"photometric": 1, "ome": True, "metadata": CYX}, "in one page, got 3 grey pages"),
        (APART[:2], {**PLAIN, "photometric": 1}, "in one page, got 2 grey pages"),
        (np.repeat(IMAGE, 2, 2), {**PLAIN, "photometric": 1, "planarconfig": 1}, "got 6 samples"),
    ],
)
@layouts
def test_stacks_and_colours_in_pages_are_refused(samples, options, message, layout, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", samples, **options, **layout)
    refused(tmp_path / "a.tif", message)


@pytest.mark.parametrize(
    ("samples", "axes", "message"),
    [(STACK, "ZYXS", "one picture, got 3"), (APART, "CYX", "in one page, got 3 grey pages")],
)
def test_imagej_stacks_and_composites_are_refused(samples, axes, message, tmp_path):
    """One directory stands for all of their planes."""
    metadata = {"axes": axes, "unit": "um", "mode": "composite"}
    tifffile.imwrite(tmp_path / "a.tif", samples, imagej=True, resolution=(2, 2), metadata=metadata)
    refused(tmp_path / "a.tif", message)


@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
@layouts
def test_planes_apart_in_jpeg(photometric, layout, tmp_path):
    path = tmp_path / "a.tif"
    samples = files.rgb_to_ycbcr(IMAGE) if photometric == "ycbcr" else IMAGE
    segments = files.tiles_of(samples, 64) if layout else [samples[:80], samples[80:]]
    streams = [files.jpeg(np.ascontiguousarray(s[..., c])) for c in range(3) for s in segments]
    options = {**PLAIN, "photometric": photometric, **(layout or {"rowsperstrip": 80})}
    if photometric == "ycbcr":
        options["subsampling"] = (1, 1)
    tifffile.imwrite(
        path, iter(streams), shape=(3, H, W), dtype=np.uint8, planarconfig="separate",
        compression="jpeg", **options,
    )  # fmt: skip
    shows(path, IMAGE, atol=2.5)
    if layout:
        with openslide.OpenSlide(path) as theirs:
            region = np.asarray(theirs.read_region((0, 0), 0, (W, H)))[..., :3]
        assert np.abs(region.astype(float) - read_image(path)).mean() < 1


def test_planes_apart_of_several_sizes_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    streams = [files.jpeg(np.ascontiguousarray(t[..., c])) for c in range(3) for t in [IMAGE]]
    tifffile.imwrite(
        path, iter(streams), shape=(3, H, W), dtype=np.uint8, planarconfig="separate",
        compression="jpeg", subsampling=(1, 1), **{**PLAIN, "photometric": "ycbcr"},
    )  # fmt: skip
    set_value(path, 530, 2, page=0)
    refused(path, "got YCbCr in planes apart of several sizes")


@pytest.mark.parametrize("first", ["rgb", "ycbcr", "absent"])
@layouts
def test_colour_space_is_that_of_each_stream(first, layout, tmp_path):
    """The tag says RGB; streams with a JFIF header are YCbCr nevertheless."""
    path = tmp_path / "a.tif"
    segments = files.tiles_of(IMAGE, 64) if layout else [IMAGE[:80], IMAGE[80:]]
    plain = {"colorspace": "RGB", "outcolorspace": "RGB"}
    streams = [files.jpeg(s, **(plain if i % 2 else {})) for i, s in enumerate(segments)]
    if first == "rgb":
        streams[0] = files.jpeg(segments[0], **plain)
    if first == "absent":
        streams[0] = b""
    tifffile.imwrite(
        path, iter(streams), shape=IMAGE.shape, dtype=np.uint8, compression="jpeg", **PLAIN,
        **(layout or {"rowsperstrip": 80}),
    )  # fmt: skip
    expected = IMAGE.copy()
    with open_slide(path) as slide:
        shown = whole(slide)
    if first == "absent":
        part = np.s_[:64, :64] if layout else np.s_[:80]
        expected[part] = shown[part]
    assert np.abs(shown.astype(float) - expected).mean() < 2.5


# --- Broken pages beside the picture --------------------------------------------------------------


BREAKS = {
    "strips past the end": (273, 1 << 30),
    "no pixels": (256, 0),
    "an unknown compression": (259, 4711),
    "a strange photometric": (262, 99),
    "too wide": (256, 60000),
    "no rows in a strip": (278, 0),
}


@pytest.mark.parametrize("what", BREAKS)
@pytest.mark.parametrize("kind", ["label", "tiled label", "macro"])
def test_a_broken_label_leaves_the_pyramid(kind, what, tmp_path):
    path = tmp_path / "a.svs"
    if kind == "tiled label" and what in ("no rows in a strip", "too wide"):
        pytest.skip("tiles have no rows in a strip; a wide picture in tiles may be the slide")
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(IMAGE, description=files.APERIO, **TILES, **PLAIN)
        tiff.write(HALF, **TILES, **PLAIN)
        options = {**TILES, **PLAIN} if kind == "tiled label" else {**PLAIN, "rowsperstrip": 30}
        tiff.write(files.picture(60, 40), subfiletype=9 if kind == "macro" else 1, **options)
    code, value = BREAKS[what]
    if kind == "tiled label" and code == 273:
        code = 324
    set_value(path, code, value, page=2)
    shows(path, IMAGE, mpp=0.499)
    with open_slide(path) as slide:
        assert [level.width for level in slide.levels] == [W, W // 2]


def test_a_broken_page_that_may_be_the_slide_is_refused(tmp_path):
    """A file whose level 0 is broken never passes for one of half the size."""
    path = tmp_path / "a.tif"
    for base in (0, 1):
        pages = [IMAGE, HALF] if base == 0 else [HALF, IMAGE]
        with tifffile.TiffWriter(path) as tiff:
            for picture in pages:
                tiff.write(picture, **TILES, **PLAIN)
        set_value(path, 256, 0, page=base)
        with pytest.raises(SlideError, match=f"must have pixels, got a picture of 0 x {H}"):
            open_slide(path)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(IMAGE, **TILES, **PLAIN)
        tiff.write(HALF, **TILES, **PLAIN)
    set_value(path, 324, 1 << 30, page=1, index=2)
    with pytest.raises(SlideError, match="is truncated: 1 of 4 tiles of a 105 x 75 picture"):
        open_slide(path)


def test_sparse_tiles_read_as_other_readers_do(data):
    path = data / "cases" / "sparse_webp.tif"
    with tifffile.TiffFile(path) as tiff:
        expected = tiff.pages[0].asarray()
    shows(path, expected, mpp=0.5, atol=0.0)


# --- Sizes ----------------------------------------------------------------------------------------


@layouts
def test_the_size_of_a_picture_is_read_from_its_directory(tmp_path, layout):
    """Whatever its pixels are: those of a broken one are not looked at."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(HALF, compression="deflate", subfiletype=1, **PLAIN, **layout)
        tiff.write(IMAGE, compression="deflate", **PLAIN, **layout)
    assert image_size(path) == (W, H) == read_image(path).shape[1::-1]
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[1]
        where = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    for at, size in where:
        files.overwrite(path, at, b"\xff" * size)
    with pytest.raises(SlideError):
        read_image(path)
    assert image_size(path) == (W, H)


def test_the_size_of_what_is_no_picture_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "f.tif", np.zeros((8, 9), np.float32))
    (tmp_path / "t.tif").write_bytes(b"II*\0\xff\xff\xff\xff")
    for name, message in (("f.tif", "pixels must be grey or RGB"), ("t.tif", "is truncated")):
        with pytest.raises(SlideError, match=message):
            image_size(tmp_path / name)
