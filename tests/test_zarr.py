"""OME-Zarr: what was written is shown, as OME-TIFF shows it; what is broken is refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import histofast
import slide_files as files
from extras import need
from histofast.errors import SlideError, TileError
from histofast.slides import find_slides, is_zarr, open_slide, slide_name, stream_boxes
from small_slides import run

zarr = need("zarr")

from zarr_files import change, described, say, write_zarr

codecs, numcodecs = zarr.codecs, need("numcodecs")
IMAGE = files.picture(300, 420)
LEVELS = [IMAGE, files.half(IMAGE), files.half(IMAGE, 2)]
BOTH = pytest.mark.parametrize("version", ["0.4", "0.5"])


def whole(slide: Any, level: int = 0) -> np.ndarray:
    info = slide.levels[level]
    return slide.read_region((0, 0), level, (info.width, info.height))


def shows(path: Path, levels: Any = LEVELS, **options: Any) -> None:
    """Check that a slide shows these levels."""
    with open_slide(path, **options) as slide:
        assert len(slide.levels) == len(levels)
        for i, written in enumerate(levels):
            np.testing.assert_array_equal(whole(slide, i), written)


# --- What was written ------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("axes", ["tczyx", "czyx", "cyx", "yxc", "zyxc", "tyxc", "ycx"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_axes_in_any_order(version, axes, channels, tmp_path):
    path = tmp_path / "a.ome.zarr"
    shows(write_zarr(path, LEVELS, version=version, axes=axes, channels=channels))


@pytest.mark.parametrize("tile_px", [32, (64, 48), (512, 128), 1000])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_chunks_of_any_shape(tile_px, channels, tmp_path):
    shows(write_zarr(tmp_path / "a.zarr", LEVELS, tile_px=tile_px, channels=channels))


FORMAT_2: dict[str, dict[str, Any]] = {
    "none": {"compressors": None},
    "blosc": {"compressors": numcodecs.Blosc(cname="lz4", shuffle=1)},
    "blosc zstd": {"compressors": numcodecs.Blosc(cname="zstd", shuffle=2)},
    "zlib": {"compressors": numcodecs.Zlib()},
    "gzip": {"compressors": numcodecs.GZip()},
    "zstd": {"compressors": numcodecs.Zstd()},
    "lz4": {"compressors": numcodecs.LZ4()},
    "bz2": {"compressors": numcodecs.BZ2()},
    "order F": {"order": "F"},
    "slashes": {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "dots": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
}
FORMAT_3: dict[str, dict[str, Any]] = {
    "none": {"compressors": None},
    "blosc": {"compressors": codecs.BloscCodec(cname="lz4")},
    "gzip": {"compressors": codecs.GzipCodec()},
    "zstd": {"compressors": codecs.ZstdCodec(checksum=True)},
    "crc32c": {"compressors": [codecs.Crc32cCodec()]},
    "zstd, crc32c": {"compressors": [codecs.ZstdCodec(), codecs.Crc32cCodec()]},
    "crc32c, zstd": {"compressors": [codecs.Crc32cCodec(), codecs.ZstdCodec()]},
    "transpose": {"filters": [codecs.TransposeCodec(order=(3, 1, 4, 2, 0))]},
    "transpose twice": {
        "filters": [
            codecs.TransposeCodec(order=(3, 1, 4, 2, 0)),
            codecs.TransposeCodec(order=(1, 2, 0, 4, 3)),
        ]
    },
    "dots": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "keys of format 2": {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "shards": {"shard": 2},
    "shards of each channel": {"shard": 3, "channels": 1},
    "shards, blosc": {"shard": 2, "compressors": codecs.BloscCodec()},
    "shards, transpose": {"shard": 2, "filters": [codecs.TransposeCodec(order=(3, 1, 4, 2, 0))]},
}


@pytest.mark.parametrize("kind", FORMAT_2)
def test_codings_of_format_2(kind, tmp_path):
    shows(write_zarr(tmp_path / "a.zarr", LEVELS, **FORMAT_2[kind]))


@pytest.mark.parametrize("kind", FORMAT_3)
def test_codings_of_format_3(kind, tmp_path):
    shows(write_zarr(tmp_path / "a.zarr", LEVELS, version="0.5", **FORMAT_3[kind]))


@pytest.mark.parametrize("where", ["start", "end"])
@pytest.mark.parametrize("checked", [True, False])
def test_tables_of_shards(where, checked, tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    index = [codecs.BytesCodec(), *([codecs.Crc32cCodec()] if checked else [])]
    array = group.create_array(
        "0", shape=(3, 300, 420), chunks=(3, 128, 128), dtype="u1", filters=None, compressors=None,
        serializer=codecs.ShardingCodec(
            chunk_shape=(3, 64, 32), index_codecs=index, index_location=where,
            codecs=[codecs.BytesCodec(), codecs.ZstdCodec()],
        ),
    )  # fmt: skip
    array[...] = IMAGE.transpose(2, 0, 1)
    multiscale = described("cyx", [(1, 0.5, 0.5)])
    say(tmp_path / "a.zarr", {"multiscales": [multiscale]}, version="0.5")
    shows(tmp_path / "a.zarr", [IMAGE])


@BOTH
@pytest.mark.parametrize("fill", [0, 255, 7])
@pytest.mark.parametrize("shard", [0, 2])
def test_absent_chunks_show_the_fill_value(version, fill, shard, tmp_path):
    if shard and version == "0.4":
        return
    image = IMAGE.copy()
    image[:128, :256] = fill
    path = write_zarr(
        tmp_path / "a.zarr", [image], version=version, fill_value=fill, shard=shard,
        config={"write_empty_chunks": False},
    )  # fmt: skip
    chunks = [p for p in path.rglob("*") if p.is_file() and p.suffix != ".json"]
    assert len(chunks) < 5 * 7
    shows(path, [image])


def test_no_fill_value_is_zero(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [IMAGE])
    change(path / "0" / ".zarray", lambda said: said.update(fill_value=None))
    (path / "0" / "0.0.0.0.0").unlink()
    image = IMAGE.copy()
    image[:64, :64] = 0
    shows(path, [image])


# --- The same picture as OME-TIFF --------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """One picture as OME-TIFF and as OME-Zarr in many ways."""
    folder = tmp_path_factory.mktemp("both")
    image = np.full((640, 512, 3), 245, np.uint8)
    image[64:-64, 64:-64] = files.picture(512, 384)
    levels = [image, files.half(image), files.half(image, 2)]
    sizes = {f"PhysicalSize{axis}": 1.0 for axis in "XY"}
    files.write_tiff(
        folder / "tiff" / "s.tif", levels, ome=True, subifds=True, compression="zlib",
        metadata={"axes": "YXS", **sizes},
    ) if (folder / "tiff").mkdir() is None else None  # fmt: skip
    ways: dict[str, dict[str, Any]] = {
        "tczyx": {},
        "yxc": {"axes": "yxc", "tile_px": (96, 40)},
        "0.5": {"version": "0.5", "axes": "cyx", "channels": 1, "tile_px": 200},
        "shards": {"version": "0.5", "shard": 2, "tile_px": 32},
    }
    for name, options in ways.items():
        write_zarr(folder / name / "s.zarr", levels, mpp=1.0, **options)
    return folder


def test_slides_agree_with_ome_tiff(both):
    with open_slide(both / "tiff" / "s.tif") as tiff:
        assert tiff.properties["vendor"] == "ome"
        for way in ("tczyx", "yxc", "0.5", "shards"):
            with open_slide(both / way / "s.zarr") as slide:
                assert slide.mpp == tiff.mpp == 1.0
                assert [v.downsample for v in slide.levels] == [v.downsample for v in tiff.levels]
                for level in range(3):
                    np.testing.assert_array_equal(whole(slide, level), whole(tiff, level))
                np.testing.assert_array_equal(slide.overview(mpp=5.3), tiff.overview(mpp=5.3))


def test_features_are_those_of_ome_tiff_whatever_the_tiles(both, encoder, tmp_path):
    def features_of(slide: Path) -> Any:
        out = tmp_path / slide.parent.name
        report = run(slide, out, encoder, mpp=2.0)
        assert [s.status for s in report.slides] == ["done"]
        (found,) = out.rglob("s.h5")
        return histofast.read_features(found)

    of_tiff = features_of(both / "tiff" / "s.tif")
    assert len(of_tiff.features) > 1
    for way in ("tczyx", "yxc", "0.5", "shards"):
        found = features_of(both / way / "s.zarr")
        np.testing.assert_array_equal(found.features, of_tiff.features)
        np.testing.assert_array_equal(found.coords, of_tiff.coords)


def test_each_chunk_is_read_once(both, monkeypatch):
    read: list[str] = []
    opens = os.open

    def noted(path: str, *rest: Any) -> int:
        read.append(path)
        return opens(path, *rest)

    with open_slide(both / "tczyx" / "s.zarr") as slide, ThreadPoolExecutor(4) as workers:
        monkeypatch.setattr(os, "open", noted)
        boxes = np.array(
            [(x, y, 50, 50) for y in range(0, 590, 50) for x in range(0, 462, 50)], np.float64
        )
        for _ in stream_boxes(slide, 0, boxes, patch_px=50, batch_size=7, workers=workers):
            pass
        monkeypatch.undo()
    assert len(read) == len(set(read)) == 10 * 8


# --- Scale and levels ------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("mpp", "unit", "given", "expected"),
    [
        (0.25, "micrometer", None, 0.25),
        (250.0, "nanometer", None, 0.25),
        (0.00025, "millimeter", None, 0.25),
        (2500.0, "angstrom", None, 0.25),
        ((0.25, 0.251), "micrometer", None, 0.2505),
        (0.25, "micrometer", 0.5, 0.5),
        (0.25, None, 0.5, 0.5),
        (0.25, None, None, "does not say its mpp"),
        (0.25, "parsec", None, "does not say its mpp"),
        (0.0, "micrometer", None, r"within 0.05..20 .* says 0 \(its coordinateTransformations\)"),
        (-0.5, "micrometer", None, "says -0.5 "),
        (353.0, "micrometer", None, "says 353 "),
        ((0.25, 0.26), "micrometer", None, "same along x and y .* says 0.25 and 0.26"),
    ],
)
def test_mpp(version, mpp, unit, given, expected, tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [IMAGE], version=version, mpp=mpp, unit=unit)
    if not isinstance(expected, str):
        with open_slide(path, mpp_override=given) as slide:
            assert slide.mpp == pytest.approx(expected)
        return
    with pytest.raises(SlideError, match=expected) as caught:
        open_slide(path, mpp_override=given)
    assert "mpp_override" in str(caught.value)


def multiscale_of(path: Path, how: Any) -> Path:
    """Change the one multiscale of a slide of 0.4."""
    change(path / ".zattrs", lambda said: how(said["multiscales"][0]))
    return path


def scaled(multiscale: Any, level: int, *steps: Any) -> None:
    multiscale["datasets"][level]["coordinateTransformations"] = [
        {"type": kind, kind: list(values)} for kind, *values in steps
    ]


def test_scales_of_all_levels_are_multiplied(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", LEVELS, axes="cyx")
    steps = [
        {"type": "scale", "scale": [1, 0.5, 0.5]},
        {"type": "translation", "translation": [0, 9, 9]},
    ]
    multiscale_of(path, lambda said: said.update(coordinateTransformations=steps))
    with open_slide(path) as slide:
        assert slide.mpp == 0.25
    shows(path)


@pytest.mark.parametrize(
    ("step", "used"),
    [
        ([("scale", 1, 1.0, 1.0)], True),
        ([("scale", 1, 1.0, 1.0), ("translation", 0, 0.25, 0.25)], True),  # centres of means
        ([("scale", 1, 1.0, 1.0), ("translation", 0, 0.0, 5.0)], False),
        ([("scale", 1, 0.5, 0.5)], False),  # that of level 0
        ([("scale", 1, 1.004, 1.0)], True),
        ([("scale", 1, 1.05, 1.0)], False),
        ([("scale", 1, -1.0, 1.0)], False),
    ],
)
def test_a_level_that_is_said_to_lie_elsewhere_is_not_used(step, used, tmp_path):
    path = write_zarr(tmp_path / "a.zarr", LEVELS, axes="cyx")
    multiscale_of(path, lambda said: scaled(said, 1, *step))
    shows(path, LEVELS if used else [LEVELS[0], LEVELS[2]])


def test_levels_that_say_nothing_of_their_scale_go_by_their_sizes(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", LEVELS, axes="cyx")

    def forget(multiscale: Any) -> None:
        for each in multiscale["datasets"]:
            del each["coordinateTransformations"]

    multiscale_of(path, forget)
    with pytest.raises(SlideError, match="does not say its mpp"):
        open_slide(path)
    shows(path, mpp_override=0.5)


def test_levels_in_another_order(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", LEVELS, axes="cyx")
    multiscale_of(path, lambda said: said["datasets"].reverse())
    shows(path)


def test_another_picture_is_no_level(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [IMAGE, files.picture(100, 210)], axes="cyx")
    shows(path, [IMAGE])


# --- Which image ---------------------------------------------------------------------------------


def write_raw(path: Path, images: dict[str, Any], *, version: str = "0.4", xml: str = "") -> Path:
    """Write images as bioformats2raw does."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    say(path, {"bioformats2raw.layout": 3}, version=version)
    group.create_group("OME")
    say(path / "OME", {"series": list(images)}, version=version)
    for key, levels in images.items():
        write_zarr(path / key, levels, version=version)
    if xml:
        (path / "OME" / "METADATA.ome.xml").write_text(xml)
    return path


SMALL = files.picture(64, 96)
XML = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Instrument ID="Instrument:0">'
    '<Objective ID="Objective:0" NominalMagnification="20.0"/></Instrument>'
    '<Image ID="Image:0" Name="scan"/><Image ID="Image:1" Name="label image"/>'
    '<Image ID="Image:2" Name="macro image"/></OME>'
)


@BOTH
def test_the_one_series(version, tmp_path):
    path = write_raw(tmp_path / "a.zarr", {"0": LEVELS}, version=version)
    shows(path)
    shows(path / "0")
    with open_slide(path) as slide:
        assert slide.name == "a"
    with open_slide(path / "0") as slide:
        assert slide.name == "a-0"


@BOTH
def test_label_and_macro_are_beside(version, tmp_path):
    images = {"0": LEVELS, "1": [SMALL], "2": [SMALL[::-1]]}
    path = write_raw(tmp_path / "a.zarr", images, version=version, xml=XML)
    shows(path)
    with open_slide(path) as slide:
        assert sorted(slide.associated) == ["label", "macro"]
        np.testing.assert_array_equal(slide.associated["label"], SMALL)
        np.testing.assert_array_equal(slide.associated["macro"], SMALL[::-1])
        assert slide.properties["objective_power"] == "20.0"


@BOTH
def test_series_without_a_list(version, tmp_path):
    path = write_raw(tmp_path / "a.zarr", {"0": LEVELS}, version=version)
    shutil.rmtree(path / "OME")
    shows(path)


@BOTH
def test_several_images_are_named(version, tmp_path):
    path = write_raw(tmp_path / "a.zarr", {"0": LEVELS, "1": [SMALL]}, version=version)
    with pytest.raises(
        SlideError,
        match=r"a\.zarr holds the images 0 \(slide\), 1 \(slide\): name one, as .*a\.zarr/0$",
    ):
        open_slide(path)
    shows(path / "1", [SMALL])


@BOTH
def test_images_in_a_plain_group_are_named(version, tmp_path):
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    write_zarr(tmp_path / "a.zarr" / "first", LEVELS, version=version)
    with pytest.raises(SlideError, match=r"holds the images first: name one, as .*a\.zarr/first$"):
        open_slide(tmp_path / "a.zarr")
    say(tmp_path / "a.zarr", {"plate": {}}, version=version)
    with pytest.raises(SlideError, match=r"holds a plate of wells: name one, as .*a\.zarr/A/1/0$"):
        open_slide(tmp_path / "a.zarr")


# --- Listing -------------------------------------------------------------------------------------


def test_a_folder_of_zarr_is_one_slide(tmp_path):
    folder = tmp_path / "slides"
    write_zarr(folder / "b.ome.zarr", [SMALL])
    write_raw(folder / "deep" / "c.zarr", {"0": [SMALL]})
    files.write_tiff(folder / "a.tif", [SMALL])

    def names(*paths: Any, **options: Any) -> list[str]:
        return [slide.path.name for slide in find_slides(paths, **options)]

    assert names(folder) == ["a.tif", "b.ome.zarr"]
    assert names(folder, recursive=True) == ["a.tif", "b.ome.zarr", "c.zarr"]
    assert names(f"{folder}/**/*.zarr") == ["b.ome.zarr", "c.zarr"]
    assert names(folder / "b.ome.zarr") == ["b.ome.zarr"]
    assert names(folder / "deep" / "c.zarr" / "0") == ["0"]
    assert slide_name(folder / "deep" / "c.zarr" / "0") == "c-0"
    assert is_zarr(folder / "b.ome.zarr")
    assert not is_zarr(folder)


def test_other_stores_are_no_slides(tmp_path):
    files.write_tiff(tmp_path / "a.tif", [SMALL])
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    group.attrs["spatialdata_attrs"] = {"version": "0.2"}
    (tmp_path / "b.zarr").mkdir()
    found = [slide.path.name for slide in find_slides([tmp_path])]
    assert found == ["a.tif", "b.zarr"]  # of which nothing is known
    with pytest.raises(
        SlideError, match=r"a\.zarr holds no image: its group says nothing of multiscales"
    ):
        open_slide(tmp_path / "a.zarr")


# --- Broken ------------------------------------------------------------------------------------------


def text(key: str, content: str) -> Any:
    return lambda path: (path / key).write_text(content)


def said(key: str, **values: Any) -> Any:
    return lambda path: change(path / key, lambda document: document.update(values))


def of_image(how: Any) -> Any:
    return lambda path: multiscale_of(path, how)


def axes_of(*names: Any) -> Any:
    return of_image(lambda image: image.update(axes=[{"name": name} for name in names]))


def datasets(value: Any) -> Any:
    return of_image(lambda image: image.update(datasets=value))


def steps(*values: Any) -> Any:
    def put(image: Any) -> None:
        image["datasets"][0]["coordinateTransformations"] = list(values)

    return of_image(put)


BAD = {
    r"a\.zarr has no zarr\.json, \.zgroup or \.zattrs, which OME-Zarr has: copy it again": shutil.rmtree,
    r"a\.zarr/\.zattrs cannot be read: Expecting": text(".zattrs", "{"),
    r"a\.zarr/\.zattrs cannot be read: .*recursion": text(".zattrs", "[" * 100_000),
    r"a\.zarr/\.zattrs must hold a JSON object, got list": text(".zattrs", "[]"),
    r"\.zattrs must have at most 4,194,304 bytes, got 5,000,000": text(".zattrs", " " * 5_000_000),
    r"a\.zarr holds no image": text(".zattrs", "{}"),
    r"multiscales of .*a\.zarr must be a list of objects, got \[\]": said(".zattrs", multiscales=[]),
    r"multiscales of .* got 3": said(".zattrs", multiscales=3),
    r"axes of .* must be objects with names, .* got \[\"c\", \"y\", \"x\"\]: convert it": of_image(
        lambda image: image.update(axes=["c", "y", "x"])
    ),
    r"axes of .* got null: convert it": of_image(lambda image: image.pop("axes")),
    r"axes of .* must be y, x and one of channels among others, got \[\"y\", \"x\"\]": axes_of("y", "x"),
    r"axes of .* got \[\"c\", \"c\", \"y\", \"x\"\]": axes_of("c", "c", "y", "x"),
    r"0 must have the axes z, c, y and x, got 3 of \[3, 300, 420\]": axes_of("z", "c", "y", "x"),
    r"datasets of .* must name 1 to 64 levels, got \[\]": datasets([]),
    r"datasets of .* must have the path of a level, got \{\"path\": \"\.\./b\"\}": datasets([{"path": "../b"}]),
    r"got \{\"path\": \"/etc\"\}": datasets([{"path": "/etc"}]),
    r"got \{\"path\": 3\}": datasets([{"path": 3}]),
    r"a\.zarr/5 is named as a level and not there: copy the slide again": datasets([{"path": "5"}]),
    r"a\.zarr/0 must hold chunks, got none": lambda path: [p.unlink() for p in (path / "0").glob("0*")],
    r"coordinateTransformations of .* must be scale and translation, .* got .*affine": steps({"type": "affine"}),
    r"a number for each of c, y and x, got .*\[1, 2\]": steps({"type": "scale", "scale": [1, 2]}),
    r"got .*\[1, 2, null\]": steps({"type": "scale", "scale": [1, 2, None]}),
    r"within 0.05..20 um per pixel, the file says inf": steps({"type": "scale", "scale": [1, 10**400, 10**400]}),
    r"0 is no array that zarr reads: .*'shape'": lambda path: change(
        path / "0" / ".zarray", lambda document: document.pop("shape")
    ),
    r"0 is no array that zarr reads: .*x7": said("0/.zarray", dtype="|x7"),
    r"0 must be one plane of three channels of uint8, got uint16 of c 3, y 300, x 420: histofast reads "
    r"bright-field RGB": said("0/.zarray", dtype="<u2"),
    r"got uint8 of c 5, y 300, x 420": said("0/.zarray", shape=[5, 300, 420]),
    r"chunks are in lzma, histofast reads one of blosc, zstd, gzip": said(
        "0/.zarray", compressor={"id": "lzma", "format": 1, "check": -1, "preset": None, "filters": None}
    ),
    r"chunks are in delta, blosc": said(
        "0/.zarray", filters=[{"id": "delta", "dtype": "|u1", "astype": "|u1"}]
    ),
    r"chunks must be of at most 100,663,296 samples, got 3,000,000,000": said(
        "0/.zarray", chunks=[3, 10**6, 1000]
    ),
    r"must have chunks of at most 33,554,432 px, got 100000 x 1000": said("0/.zarray", chunks=[1, 1000, 100_000]),
    r"must have at most 1,000,000,000,000 pixels": said("0/.zarray", shape=[3, 10**9, 10**9]),
    r"must have at most 4,194,304 chunks, got 152,596,609": said("0/.zarray", shape=[3, 790_530, 790_530]),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_bad_documents_are_refused_in_one_line(message, tmp_path):
    path = write_zarr(tmp_path / "a.zarr", LEVELS, axes="cyx")
    BAD[message](path)
    path.mkdir(exist_ok=True)
    with pytest.raises(SlideError, match=message) as told:
        open_slide(path)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 600


def sharding(**values: Any) -> Any:
    def put(document: Any) -> None:
        document["codecs"][0]["configuration"].update(values)

    return lambda path: change(path / "0" / "zarr.json", put)


BAD_SHARDS = {
    r"0 is no array that zarr reads": sharding(chunk_shape=[3, 0, 0]),
    r"tables of its shards must be in bytes and crc32c, got bytes, zstd": sharding(
        index_codecs=[
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": 0, "checksum": False}},
        ]
    ),
    r"its coding must be transpose and bytes, got sharding_indexed": sharding(
        codecs=[
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [3, 32, 32],
                    "codecs": [{"name": "bytes"}],
                    "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
                },
            }
        ]
    ),
    r"tables of its shards must be in bytes and crc32c, got big-endian bytes": sharding(
        index_codecs=[{"name": "bytes", "configuration": {"endian": "big"}}]
    ),
}


@pytest.mark.parametrize("message", BAD_SHARDS)
def test_bad_shards_are_refused_in_one_line(message, tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [IMAGE], version="0.5", axes="cyx", shard=2)
    BAD_SHARDS[message](path)
    with pytest.raises(SlideError, match=message):
        open_slide(path)


def first_tile(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        info = slide.levels[0]
        out = np.empty((info.tile_height, info.tile_width, 3), np.uint8)
        slide.read_tile(0, 0, 0, out)
        return out


@pytest.mark.parametrize("kind", [k for k in FORMAT_2 if "compressors" in FORMAT_2[k]])
@pytest.mark.parametrize("kept", [0, 5, 17, 0.5, -1])
def test_a_cut_chunk_is_unreadable(kind, kept, tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [IMAGE], **FORMAT_2[kind])
    chunk = path / "0" / "0.0.0.0.0"
    content = chunk.read_bytes()
    chunk.write_bytes(content[: int(len(content) * kept) if kept == 0.5 else kept])
    if kind == "bz2" and kept == -1:  # only its end mark is gone
        np.testing.assert_array_equal(first_tile(path), IMAGE[:64, :64])
        return
    with pytest.raises(TileError, match=r"tile \(column 0, row 0\) of level 0 cannot be decoded: "):
        first_tile(path)


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_a_cut_shard_is_unreadable(kept, tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [IMAGE], version="0.5", shard=2)
    shard = path / "0" / "c" / "0" / "0" / "0" / "0" / "0"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(len(content) * kept) if kept == 0.5 else kept])
    with pytest.raises(TileError, match=r"its checksum is another's|shorter than its table"):
        first_tile(path)


def test_a_chunk_of_more_or_fewer_samples_is_unreadable(tmp_path):
    for compressor in (numcodecs.Zstd(), numcodecs.Blosc(), numcodecs.GZip(), numcodecs.LZ4()):
        path = write_zarr(tmp_path / "a.zarr", [IMAGE], compressors=compressor)
        for samples in (3 * 64 * 64 - 1, 3 * 64 * 64 + 1, 100_000_000):
            data = compressor.encode(np.zeros(samples, np.uint8))
            (path / "0" / "0.0.0.0.0").write_bytes(data)
            with pytest.raises(TileError, match="cannot be decoded: "):
                first_tile(path)


def test_a_chunk_that_claims_other_lengths_is_not_believed(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [IMAGE], compressors=numcodecs.Blosc())
    chunk = path / "0" / "0.0.0.0.0"
    content = bytearray(chunk.read_bytes())
    content[12:16] = (2**31 - 1).to_bytes(4, "little")
    chunk.write_bytes(content)
    with pytest.raises(
        TileError, match=r"its blosc data are of 2,147,483,647 bytes for 12,288, not "
    ):
        first_tile(path)


def test_the_checksum_of_a_chunk_is_looked_at(tmp_path):
    path = write_zarr(
        tmp_path / "a.zarr", [IMAGE], version="0.5", compressors=[codecs.Crc32cCodec()]
    )
    files.overwrite(path / "0" / "c" / "0" / "0" / "0" / "0" / "0", 9, b"\xff\0")
    with pytest.raises(TileError, match="its checksum is another's"):
        first_tile(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_nobody_waits_for_a_pipe(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [IMAGE])
    chunk = path / "0" / "0.0.0.0.0"
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(TileError, match="is no file"):
        first_tile(path)
    (path / ".zattrs").unlink()
    os.mkfifo(path / ".zattrs")
    with pytest.raises(SlideError, match=r"\.zattrs cannot be read: \.zattrs is no file"):
        open_slide(path)


def test_unreadable_chunks_do_not_end_a_slide(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [IMAGE])
    (path / "0" / "0.0.0.1.1").write_bytes(b"\0")
    with open_slide(path) as slide:
        survey = slide.survey(mpp=0.5)
    assert survey.unreadable_l0.tolist() == [[64, 64, 64, 64]]


def test_a_lack_of_memory_is_no_damage(tmp_path, monkeypatch):
    def none_left(*_: Any, **__: Any) -> bytes:
        raise MemoryError

    path = write_zarr(tmp_path / "a.zarr", [IMAGE])
    monkeypatch.setattr("histofast.slides.zarr_files.decoded", none_left)
    with pytest.raises(MemoryError):
        first_tile(path)


def test_a_closed_slide_says_so(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [IMAGE])
    with open_slide(path) as slide:
        pass
    slide.close()
    with pytest.raises(ValueError, match=r"a\.zarr is closed"):
        slide.read_tile(0, 0, 0, np.empty((64, 64, 3), np.uint8))


def test_other_doors_do_not_read_it(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [IMAGE])
    with pytest.raises(
        SlideError, match="is a folder of OME-Zarr, which the door image does not read"
    ):
        open_slide(path, door="image")


# --- Changes -------------------------------------------------------------------------------------


def identity_of(path: Path) -> str:
    with open_slide(path) as slide:
        assert slide.identity.startswith("zarr;sha256:")
        return slide.identity


def test_identity_is_that_of_the_content(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", LEVELS)
    shutil.copytree(path, tmp_path / "b.zarr")
    assert identity_of(path) == identity_of(tmp_path / "b.zarr")
    for key, data in (
        ("0/0.0.0.2.3", b"x"),  # the middle of level 0
        ("2/0.0.0.0.1", b"x"),  # anywhere on the coarsest level
        (".zattrs", b" "),
    ):
        before = identity_of(path)
        with (path / key).open("ab") as file:
            file.write(data)
        assert identity_of(path) != before


@BOTH
def test_a_chunk_that_is_replaced_is_noticed(version, tmp_path):
    path = write_zarr(tmp_path / "a.zarr", LEVELS, version=version)
    with open_slide(path) as slide:
        watched = slide.files
    assert len(watched) < 30
    assert watched[0] == path
    chunk = next(
        p for p in sorted((path / "0").rglob("*")) if p.is_file() and p.name[0] not in ".z"
    )
    assert chunk.parent in watched
    assert chunk not in watched


def test_a_slide_that_changes_meanwhile_is_not_finished(tmp_path, encoder, monkeypatch):
    path = write_zarr(tmp_path / "a.zarr", [np.tile(IMAGE, (2, 1, 1))], mpp=1.0)
    opens, done = os.open, []

    def replace(key: Any, *rest: Any) -> int:
        if not done and "a.zarr/0/0." in str(key):
            done.append(key)
            other = path / "0" / "new"
            other.write_bytes((path / "0" / "0.0.0.0.0").read_bytes())
            other.rename(path / "0" / "0.0.0.0.0")
        return opens(key, *rest)

    monkeypatch.setattr(os, "open", replace)
    report = run(path, tmp_path / "out", encoder, mpp=1.0)
    assert done
    assert [s.status for s in report.slides] == ["failed"]
    assert "was changed while it was encoded" in report.slides[0].error
    assert not list((tmp_path / "out").rglob("a.h5"))


@pytest.mark.parametrize(
    ("separator", "folders"), [("/", [f"0/{row}" for row in range(391)]), (".", ["0"])]
)
def test_many_chunks_are_watched_by_the_folders_above(separator, folders, tmp_path):
    encoding = {"name": "v2", "separator": separator}
    path = write_zarr(tmp_path / "a.zarr", [IMAGE], axes="yxc", chunk_key_encoding=encoding)
    about = {"shape": [100_000, 100_000, 3], "chunks": [256, 256, 3]}
    change(path / "0" / ".zarray", lambda document: document.update(about))
    with open_slide(path) as slide:
        keys = [file.relative_to(path).as_posix() for file in slide.files]
    assert sorted(keys) == sorted([".", ".zattrs", ".zgroup", "0/.zarray", *folders])


# --- Commands --------------------------------------------------------------------------------------


def test_commands_read_it(cli, encoder, tmp_path):
    folder = tmp_path / "slides"
    image = np.full((640, 512, 3), 245, np.uint8)
    image[64:-64, 64:-64] = files.picture(512, 384)
    write_zarr(folder / "a.ome.zarr", [image, files.half(image)], mpp=1.0)
    out = tmp_path / "out"
    done = cli("extract", folder, "--out", out, "--encoder", encoder, "--mpp", "1", "--json")
    assert done.code == 0, done.err
    assert len(list(out.rglob("a.h5"))) == 1
    again = cli("extract", folder, "--out", out, "--encoder", encoder, "--mpp", "1", "--json")
    assert json.loads(again.out)["slides"][0]["status"] == "skipped"
    slide = folder / "a.ome.zarr"
    done = cli("tissue", slide, "--mpp", "1", "--out", tmp_path / "qc")
    assert done.code == 0, done.err
    assert (tmp_path / "qc" / "a_mask.png").is_file()
    done = cli("convert", slide, tmp_path / "b.ome.tif", "--lossless")
    assert done.code == 0, done.err
    shows(tmp_path / "b.ome.tif", [image])  # whose next level would be less than a tile


def test_without_zarr_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = write_zarr(tmp_path / "a.zarr", [IMAGE])
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(
        SlideError,
        match=r"^OME-Zarr needs zarr, which is not installed: pip install 'histofast\[zarr\]'$",
    ):
        open_slide(path)
