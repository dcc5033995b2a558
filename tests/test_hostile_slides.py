"""Files that lie: sizes, tables and kinds that would cost memory, time or the truth of the pixels."""

from __future__ import annotations

import dataclasses
import io
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

import slide_files as files
from fake_slides import FakeSlide
from histofast.errors import SlideError, TileError
from histofast.slides import open_slide, read_image, read_mask

SMALL = files.picture(64, 64)


def tile_of(path: Path, *, column: int = 0) -> np.ndarray:
    with open_slide(path, mpp_override=0.5) as slide:
        info = slide.levels[0]
        out = np.empty((info.tile_height, info.tile_width, 3), np.uint8)
        slide.read_tile(0, column, 0, out)
    return out


def whole(path: Path) -> np.ndarray:
    with open_slide(path, mpp_override=0.5) as slide:
        return slide.read_region((0, 0), 0, (slide.levels[0].width, slide.levels[0].height))


# --- Streams that claim another size ------------------------------------------------------------


def claims(stream: bytes, at: int, form: str, *sizes: int) -> bytes:
    return stream[:at] + struct.pack(form, *sizes) + stream[at + struct.calcsize(form) :]


def progressive(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", progressive=True)
    return out.getvalue()


def huge_jpeg(kind: str) -> bytes:
    stream = files.jpeg(SMALL) if kind == "baseline" else progressive(SMALL)
    at = stream.index(b"\xff\xc0" if kind == "baseline" else b"\xff\xc2")
    return claims(stream, at + 5, ">HH", 30000, 30000)


def huge_jpeg_behind_noise() -> bytes:
    stream = huge_jpeg("baseline")
    # libjpeg passes over bytes between markers, and over a frame inside of a comment.
    fake = b"\xff\xc0\0\x11\x08\0\x40\0\x40\3\1\x22\0\2\x11\1\3\x11\1"
    comment = b"\xff\xfe" + struct.pack(">H", len(fake) + 2) + fake
    return stream[:2] + comment + b"noise\xff\xff" + stream[3:]


def huge_j2k(codecformat: str) -> bytes:
    stream = bytes(imagecodecs.jpeg2k_encode(SMALL, level=0, codecformat=codecformat))
    at = stream.index(b"\xff\x4f\xff\x51") + 8
    stream = claims(claims(stream, at, ">II", 30000, 30000), at + 16, ">II", 30000, 30000)
    if codecformat == "jp2":  # and a picture of the right size where no decoder looks
        small = bytes(imagecodecs.jpeg2k_encode(SMALL, level=0, codecformat="j2k"))
        stream = stream[:12] + struct.pack(">I4s", len(small) + 8, b"uuid") + small + stream[12:]
    return stream


def many_tiles_j2k() -> bytes:
    stream = bytes(imagecodecs.jpeg2k_encode(SMALL, level=0, codecformat="j2k"))
    return claims(stream, 24, ">II", 1, 1)


def huge_png() -> bytes:
    stream = claims(bytes(imagecodecs.png_encode(SMALL)), 16, ">II", 30000, 30000)
    return claims(stream, 29, ">I", zlib.crc32(stream[12:29]))


def huge_webp() -> bytes:
    stream = bytes(imagecodecs.webp_encode(SMALL, lossless=False))
    return claims(stream, stream.index(b"\x9d\x01\x2a") + 3, "<HH", 16000, 16000)


def greedy_lzma() -> bytes:
    stream = bytearray(imagecodecs.lzma_encode(SMALL.tobytes()))
    header = stream[12 : 12 + 4 * (stream[12] + 1)]
    at = 12 + header.index(0x21) + 2
    stream[at] = 40  # a dictionary of 4 GB
    size = 4 * (stream[12] + 1)
    stream[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(stream[12 : 12 + size - 4]))
    return bytes(stream)


def bomb(codec: str) -> bytes:
    """Thirty megabytes of nothing in little."""
    if codec == "packbits":
        return b"\x81\0" * (30_000_000 // 128)
    nothing = bytes(30_000_000)
    encode: Any = {
        "zlib": imagecodecs.zlib_encode,
        "lzw": imagecodecs.lzw_encode,
        "zstd": imagecodecs.zstd_encode,
        "lzma": imagecodecs.lzma_encode,
    }[codec]
    return bytes(encode(nothing))


CLAIMS: dict[str, tuple[Any, bytes]] = {
    "jpeg": ("jpeg", huge_jpeg("baseline")),
    "jpeg progressive": ("jpeg", huge_jpeg("progressive")),
    "jpeg noise": ("jpeg", huge_jpeg_behind_noise()),
    "jpeg 2000": ("jpeg2000", huge_j2k("j2k")),
    "jp2": (33005, huge_j2k("jp2")),
    "jpeg 2000 tiles": ("jpeg2000", many_tiles_j2k()),
    "png": ("png", huge_png()),
    "webp": ("webp", huge_webp()),
    "lzma": ("lzma", greedy_lzma()),
}
READ_ALL = """
import resource, sys, time
from pathlib import Path
import numpy as np
from histofast.errors import SlideError, TileError
from histofast.slides import open_slide, read_image
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (int(sys.argv[2]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sorted(Path(sys.argv[1]).iterdir()):
    began = time.process_time()
    try:
        with open_slide(path, mpp_override=0.5) as slide:
            info = slide.levels[0]
            slide.read_tile(0, 0, 0, np.empty((info.tile_height, info.tile_width, 3), np.uint8))
        said = "read"
    except SlideError as error:
        said = str(error)
    assert time.process_time() - began < 2, path
    print(said)
"""


def read_all_in_little_memory(folder: Path, *, megabytes: int = 64) -> dict[str, str]:
    """What opening and the first tile of each file say, in a process that may take little more."""
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(folder), str(megabytes)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names = [path.name for path in sorted(folder.iterdir())]
    return dict(zip(names, done.stdout.splitlines(), strict=True))


def is_no_matter_of_memory(name: str, words: str) -> bool:
    if name.startswith("lzma"):  # refused by its dictionary
        return "LZMA: Memory usage limit" in words
    return not any(word in words.lower() for word in ("memory", "allocate"))


def test_streams_that_claim_another_size_cost_the_memory_of_a_tile(tmp_path):
    for name, (codec, stream) in CLAIMS.items():
        for colours in ("rgb", "grey"):  # by our decoders, and by tifffile's
            options: dict[str, Any] = {"compression": codec}
            shape = (64, 64, 3)
            if colours == "grey":
                options |= {"extrasamples": ["unspecified"]}
                shape = (64, 64, 4)
            if codec == "jpeg":
                options["photometric"] = "ycbcr" if colours == "rgb" else "rgb"
            files.write_encoded(
                tmp_path / f"{name} {colours}.tif", [stream], shape=shape, tile_px=64, **options
            )
    said = read_all_in_little_memory(tmp_path)
    assert len(said) == 2 * len(CLAIMS)
    for name, words in said.items():
        assert "tile (column 0, row 0) of level 0 cannot be decoded: " in words, (name, words)
        assert is_no_matter_of_memory(name, words), (name, words)


def test_strips_that_claim_another_size_cost_the_memory_of_a_strip(tmp_path):
    for name, (codec, stream) in CLAIMS.items():
        options: dict[str, Any] = {"compression": codec, "photometric": "rgb", "metadata": None}
        tifffile.imwrite(
            tmp_path / f"{name}.tif", iter([stream]), shape=SMALL.shape, dtype=np.uint8,
            rowsperstrip=64, **options,
        )  # fmt: skip
    for name, words in read_all_in_little_memory(tmp_path).items():
        assert f"{name} cannot be decoded: " in words, words
        assert is_no_matter_of_memory(name, words), (name, words)


@pytest.mark.parametrize("codec", ["zlib", "lzw", "zstd", "lzma", "packbits"])
def test_more_bytes_than_a_tile_holds_are_not_made(codec, tmp_path):
    for shape in ((64, 64, 3), (64, 64, 4)):
        options = {"extrasamples": ["unspecified"]} if shape[2] == 4 else {}
        files.write_encoded(
            tmp_path / f"{shape[2]}.tif", [bomb(codec)], shape=shape, tile_px=64,
            compression=codec, **options,
        )  # fmt: skip
    for words in read_all_in_little_memory(tmp_path, megabytes=24).values():
        assert words == "read" or "cannot be decoded" in words
        assert not any(word in words.lower() for word in ("memory", "allocate"))


@pytest.mark.parametrize("codec", ["png", "webp", "jpegxl", "jpegxr", "lerc", "jpeg2000", "jpeg"])
def test_a_picture_larger_than_its_tile_is_unreadable(codec, tmp_path):
    large = files.picture(256, 256)
    encode = getattr(
        imagecodecs, {"jpeg2000": "jpeg2k", "jpeg": "jpeg8"}.get(codec, codec) + "_encode"
    )
    good = bytes(encode(np.ascontiguousarray(large[:64, :64])))
    path = files.write_encoded(
        tmp_path / "a.tif", [bytes(encode(large)), good], shape=(64, 128, 3), tile_px=64,
        compression=codec,
    )  # fmt: skip
    with pytest.raises(TileError, match=r"256.*64|64.*256"):
        tile_of(path)
    assert np.abs(tile_of(path, column=1).astype(int) - large[:64, :64]).mean() < 40


@pytest.mark.parametrize("kind", ["fill", "markers", "long"])
def test_streams_of_many_bytes_are_given_up_soon(kind, tmp_path):
    stream = files.jpeg(SMALL)
    codec, long = {
        "fill": ("jpeg", stream[:2] + b"\xff" * 900_000 + stream[2:]),
        "markers": ("jpeg", stream[:2] + b"\xff\xe5\0\2" * 200_000 + stream[2:]),
        "long": ("zlib", zlib.compress(SMALL.tobytes()) + bytes(40_000_000)),
    }[kind]
    options: dict[str, Any] = {"shape": SMALL.shape, "dtype": np.uint8, "metadata": None}
    options |= {"compression": codec, "photometric": "ycbcr" if codec == "jpeg" else "rgb"}
    tifffile.imwrite(tmp_path / "tile.tif", iter([long]), tile=(64, 64), **options)
    tifffile.imwrite(tmp_path / "strip.tif", iter([long]), rowsperstrip=64, **options)
    said = read_all_in_little_memory(tmp_path)  # and in two seconds each
    wanted = {"fill": "read", "markers": "no JPEG header", "long": "at most 1,114,112 bytes"}[kind]
    assert all(wanted in words for words in said.values()), said


def test_shared_jpeg_tables_that_hold_a_picture_are_refused(tmp_path):
    _, rest = files.split_tables(files.jpeg(SMALL))
    path = files.write_encoded(
        tmp_path / "a.tif", [rest], shape=(64, 64, 3), tile_px=64, compression="jpeg",
        photometric="ycbcr", extratags=[(347, 7, None, huge_jpeg("baseline"), False)],
    )  # fmt: skip
    with pytest.raises(SlideError, match="shared JPEG tables hold a picture"):
        open_slide(path, mpp_override=0.5)


def test_a_slide_of_unreadable_tiles_says_why(tmp_path):
    path = files.write_encoded(
        tmp_path / "a.tif", [huge_png()], shape=(64, 64, 3), tile_px=64, compression="png"
    )
    with (
        open_slide(path, mpp_override=0.5) as slide,
        pytest.raises(SlideError, match=r"no tile can be decoded, the first: .*a\.tif: .*30000"),
    ):
        slide.overview()


@pytest.mark.parametrize("name", ["mem_jpeg.tif", "mem_j2k.tif"])
def test_one_lying_tile_of_a_slide_leaves_the_others(name, data):
    with open_slide(data / "cases" / name) as slide:
        info = slide.levels[0]
        out = np.empty((info.tile_height, info.tile_width, 3), np.uint8)
        bad = []
        for row in range(info.rows):
            for column in range(info.columns):
                try:
                    slide.read_tile(0, column, row, out)
                except TileError as error:
                    assert "px, not 128 x 128" in str(error)  # noqa: PT017
                    bad.append((column, row))
    assert bad == [(2, 2)]


# --- Directories, tags, tiles -------------------------------------------------------------------


def entry(code: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHII", code, kind, count, value)


def directory(entries: list[bytes], following: int = 0) -> bytes:
    return struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", following)


PICTURE = [entry(256, 3, 1, 16), entry(257, 3, 1, 16), entry(258, 3, 1, 8), entry(259, 3, 1, 1)]
PICTURE += [entry(262, 3, 1, 1), entry(273, 4, 1, 8), entry(278, 3, 1, 16), entry(279, 4, 1, 256)]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def chain(count: int) -> bytes:
    one = len(directory(PICTURE))
    start = 8 + 256
    content = b"II*\0" + struct.pack("<I", start) + bytes(256)
    return content + b"".join(
        directory(PICTURE, 0 if i == count - 1 else start + (i + 1) * one) for i in range(count)
    )


def below(count: int) -> bytes:
    start = 8 + 256
    one = directory([*PICTURE, entry(330, 4, count, start + 200)])
    return b"II*\0" + struct.pack("<I", start) + bytes(256) + one.ljust(200, b"\0") + b"".join(
        struct.pack("<I", start) for _ in range(count)
    )  # fmt: skip


def chain_below(count: int) -> bytes:
    """A chain that begins at a directory below the first."""
    start = 8 + 256
    first = directory([*PICTURE, entry(330, 4, 1, start + 200)]).ljust(200, b"\0")
    one = len(directory(PICTURE))
    return b"II*\0" + struct.pack("<I", start) + bytes(256) + first + b"".join(
        directory(PICTURE, start + 200 + (i + 1) % count * one) for i in range(count)
    )  # fmt: skip


def tags(count: int) -> bytes:
    content = b"II*\0" + struct.pack("<I", 8 + 256) + bytes(256)
    return content + directory(PICTURE + [entry(60000 + i % 5000, 3, 1, 1) for i in range(count)])


def long_tags() -> bytes:
    content = b"II*\0" + struct.pack("<I", 8) + directory(
        [*PICTURE, *(entry(60000 + i, 7, 2**20, 300) for i in range(65))]
    )  # fmt: skip
    return content.ljust(300 + 2**20, b"\0")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (chain(100_000), "at most 2,000 directories, got more"),
        (below(100_000), "at most 2,000 directories, got more"),
        (tags(4000), "at most 1,000 tags in a directory, got 4,007|at most 1,000 .*got 4,008"),
        (long_tags(), "at most 64 MB of tags, got more"),
    ],
    ids=["chain", "below", "tags", "long tags"],
)
def test_directories_are_bounded(content, said, tmp_path):
    path = write(tmp_path / "a.tif", content)
    began = time.process_time()
    for read in (lambda: open_slide(path, mpp_override=0.5), lambda: read_image(path)):
        with pytest.raises(SlideError, match=said) as caught:
            read()
        assert str(path) in str(caught.value)
    assert time.process_time() - began < 2


def test_two_thousand_directories_are_read(tmp_path):
    path = write(tmp_path / "a.tif", chain(2000))
    with pytest.raises(SlideError, match="got 2000 grey pages"):  # all of them were looked at
        open_slide(path, mpp_override=0.5)
    assert whole(write(tmp_path / "b.tif", chain(1))).shape == (16, 16, 3)


def test_what_follows_a_directory_below_is_not_followed(tmp_path):
    path = write(tmp_path / "a.tif", chain_below(50_000))
    began = time.process_time()
    assert whole(path).shape == (16, 16, 3)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("following", [264, 264 + 4])
def test_directories_that_lead_back_are_refused(following, tmp_path):
    content = b"II*\0" + struct.pack("<I", 264) + bytes(256) + directory(PICTURE, following)
    path = write(tmp_path / "a.tif", content)
    with pytest.raises(SlideError, match=r"form a loop|truncated|at most"):
        open_slide(path, mpp_override=0.5)


@pytest.mark.parametrize("tag", [256, 257, 322, 323])
@pytest.mark.parametrize("value", [0, 2**20, 2**31, 2**32 - 1])
def test_sizes_are_bounded_before_memory_is(tag, value, tmp_path):
    path = files.write_tiff(tmp_path / "a.tif", [SMALL], compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].tags[tag].offset
    files.overwrite(path, at, entry(tag, 4, 1, value))
    (said,) = read_all_in_little_memory(tmp_path).values()
    if value == 0:
        assert "must have pixels, got" in said or "must have tiles of 1 to" in said
    elif tag < 300:
        assert "is truncated: a level of" in said
    else:
        assert "must have tiles of 1 to 33,554,432 px, got" in said


def test_large_tiles_are_refused_with_the_bound(tmp_path):
    path = files.write_tiff(tmp_path / "a.tif", [SMALL], compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        places = [tiff.pages[0].tags[tag].offset for tag in (322, 323)]
    for at, tag in zip(places, (322, 323), strict=True):
        files.overwrite(path, at, entry(tag, 4, 1, 37008))
    with pytest.raises(SlideError, match="tiles of 1 to 33,554,432 px, got 37008 x 37008: write"):
        open_slide(path)


def set_tag(path: Path, tag: int, kind: int, count: int, value: int) -> None:
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].tags[tag].offset
    files.overwrite(path, at, entry(tag, kind, count, value))


@pytest.mark.parametrize("tag", [256, 257, 259, 277, 322])
def test_a_list_for_a_size_is_refused(tag, tmp_path):
    path = files.write_tiff(tmp_path / "a.tif", [SMALL], compression="zlib")
    set_tag(path, tag, 3, 100, 8)
    with pytest.raises(SlideError, match=r"is no number$|cannot be|not a readable TIFF") as caught:
        open_slide(path)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("door", ["openslide", None])
def test_openslide_is_not_asked_for_all_memory(door, tmp_path):
    """It would end the process, or take a minute for a slide of few tiles."""
    vendor = {"software": "MedScan", "description": "Background Color=FFFFFF;"}
    made = {"compression": "jpeg", **vendor}
    far = files.write_tiff(tmp_path / "far.tif", [SMALL], **made)
    set_tag(far, 305, 2, 2**31, 64)  # a text of 2 GB
    tall = files.write_tiff(tmp_path / "tall.tif", [SMALL], **made)
    set_tag(tall, 257, 4, 1, 6_000_000)
    wide = files.write_tiff(tmp_path / "wide.tif", [SMALL], **made)
    for tag in (322, 323):
        set_tag(wide, tag, 4, 1, 37008)
    lost = files.write_tiff(tmp_path / "lost.tif", [SMALL], **made)
    set_tag(lost, 325, 4, 1, 2**31)
    wanted = {far: "64 MB of tags", tall: "lists only", wide: "33,554,432 px", lost: "is truncated"}
    for path, said in wanted.items():
        with pytest.raises(SlideError, match=said):
            open_slide(path, mpp_override=0.5, door=door if path != far else "openslide")


def test_an_overview_is_bounded():
    slide = FakeSlide(np.zeros((64, 64, 3), np.uint8), mpp=1.0)
    slide.levels = (dataclasses.replace(slide.levels[0], width=2**31, height=2**31),)
    with pytest.raises(
        SlideError, match=r"at most 268,435,456 px, .* at 8.0 um/px: ask for a larger"
    ):
        slide.survey(mpp=8.0)


def test_width_0_is_refused(data):
    with pytest.raises(SlideError, match="must have pixels, got a picture of 0 x 512"):
        open_slide(data / "cases" / "width_0.tif")


# --- Plain pictures -----------------------------------------------------------------------------


def test_one_byte_of_a_jpeg(data):
    path = data / "cases" / "one_byte_changed.jpg"
    for read in (
        lambda: open_slide(path, mpp_override=0.5),
        lambda: read_image(path),
        lambda: read_mask(path),
    ):
        with pytest.raises(SlideError, match=r"one_byte_changed.jpg is corrupt: 0 x 0 pixels"):
            read()


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_pictures_that_claim_more_than_their_bytes_hold(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    if kind == "png":
        stream = claims(bytes(imagecodecs.png_encode(SMALL)), 16, ">II", 15000, 15000)
        write(path, claims(stream, 29, ">I", zlib.crc32(stream[12:29])))
    elif kind == "jpg":
        stream = progressive(SMALL)
        write(path, claims(stream, stream.index(b"\xff\xc2") + 5, ">HH", 15000, 15000))
    else:
        tifffile.imwrite(path, SMALL, photometric="rgb", compression="zlib", metadata=None)
        with tifffile.TiffFile(path) as tiff:
            places = [tiff.pages[0].tags[tag].offset for tag in (256, 257)]
        for at, tag in zip(places, (256, 257), strict=True):
            files.overwrite(path, at, entry(tag, 4, 1, 15000))
    (said,) = read_all_in_little_memory(tmp_path).values()
    assert "15000 x 15000 pixels, more than its" in said


def test_a_blank_picture_is_no_bomb(tmp_path):
    blank = np.full((4800, 4800, 3), 255, np.uint8)
    path = write(tmp_path / "a.png", bytes(imagecodecs.png_encode(blank, level=1)))
    assert blank.nbytes > max(64 << 20, 100 * path.stat().st_size)
    np.testing.assert_array_equal(read_image(path), blank)


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_large_mask_of_single_bits_is_no_bomb(kind, tmp_path):
    mask = np.zeros((8400, 8400), bool)
    mask[100:200, 300:400] = True
    path = tmp_path / f"m.{kind}"
    if kind == "png":
        header = struct.pack(">2I5B", 8400, 8400, 1, 0, 0, 0, 0)
        lines = np.pad(np.packbits(mask, axis=1), ((0, 0), (1, 0)))  # 0: as they are
        parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
        chunks = [
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in parts
        ]
        write(path, b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    else:
        tifffile.imwrite(path, mask, compression="zlib", rowsperstrip=1000, metadata=None)
    assert mask.nbytes > 2000 * path.stat().st_size
    np.testing.assert_array_equal(read_mask(path), mask)


# --- What is no file ----------------------------------------------------------------------------


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.svs")
    (tmp_path / "b.svs").mkdir()
    (tmp_path / "c.svs").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "d.svs"))
        wanted = {"a": "a named pipe", "b": "a folder", "c": "a device", "d": "a socket"}
        for name, what in wanted.items():
            path = tmp_path / f"{name}.svs"
            for read in (
                lambda p=path: open_slide(p, mpp_override=0.5),
                lambda p=path: read_image(p),
            ):
                with pytest.raises(SlideError, match=f"must be a file, got {what}"):
                    read()
    (tmp_path / "e.svs").symlink_to(tmp_path / "nowhere.svs")
    with pytest.raises(FileNotFoundError, match=r"a link to .*nowhere\.svs, which is not there"):
        open_slide(tmp_path / "e.svs")


@pytest.mark.parametrize("name", ["a.mrxs", "a.dcm", "a.vms"])
def test_pipes_among_the_parts_of_a_slide_are_not_waited_for(name, tmp_path):
    path = write(tmp_path / name, b"[Virtual Microscope]\n")
    folder = tmp_path / "a" if name == "a.mrxs" else tmp_path
    folder.mkdir(exist_ok=True)
    os.mkfifo(folder / "Slidedat.ini")
    for door in (None, "openslide"):
        with pytest.raises(
            SlideError, match=f"part of slide {name}, .*Slidedat.ini must be a file"
        ):
            open_slide(path, mpp_override=0.5, door=door)


def test_plain_files_beside_an_instance_are_not_looked_at_one_by_one(tmp_path, monkeypatch):
    looked_at = []
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda p, **o: looked_at.append(p.name) or stat(p, **o))
    for name in ("a.dcm", "b.dcm", "c.dcm"):
        write(tmp_path / name, b"no DICOM")
    with pytest.raises(SlideError, match="no slide format"):
        open_slide(tmp_path / "a.dcm", mpp_override=0.5)
    assert "a.dcm" in looked_at
    assert not {"b.dcm", "c.dcm"} & set(looked_at)


# --- GDAL's files, and pictures in pieces -------------------------------------------------------


def test_level_0_in_strips_with_overviews_in_tiles(data):
    path = data / "cases" / "strips_overviews_jpeg.tif"
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff:
        assert slide.mpp == 0.5
        assert (slide.levels[0].width, slide.levels[0].height) == (1000, 700)
        np.testing.assert_array_equal(whole(path), tiff.pages[0].asarray())


@pytest.mark.parametrize("subifds", [False, True])
def test_strips_with_overviews_of_any_writer(subifds, tmp_path):
    image = files.picture(300, 400)
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"photometric": "rgb", "compression": "zlib", "metadata": None}
    scale = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, rowsperstrip=16, subifds=1 if subifds else None, **options, **scale)
        tiff.write(files.half(image), tile=(64, 64), **options)
        tiff.write(files.picture(100, 90), rowsperstrip=16, **options)  # a label
    with open_slide(path) as slide:
        assert slide.mpp == 0.5
        np.testing.assert_array_equal(whole(path), image)


def test_a_label_in_strips_before_a_tiled_slide_is_no_level_0(tmp_path):
    image = files.picture(300, 400)
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"photometric": "rgb", "compression": "zlib", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(files.picture(500, 300), rowsperstrip=16, **options)
        tiff.write(image, tile=(64, 64), **options)
    np.testing.assert_array_equal(whole(path), image)


ENCODERS: dict[str, Any] = {
    "zlib": lambda t: imagecodecs.zlib_encode(t),
    "jpeg": lambda t: files.jpeg(t),
    "webp": lambda t: imagecodecs.webp_encode(t, lossless=True),
    "jpeg2000": lambda t: imagecodecs.jpeg2k_encode(t, level=0),
    "png": lambda t: imagecodecs.png_encode(t),
    None: lambda t: t.tobytes(),
}
GDAL_METADATA = (42112, 2, None, "<GDALMetadata>\n</GDALMetadata>\n", True)
GDAL_NODATA = (42113, 2, None, "77", True)


@pytest.mark.parametrize("codec", ENCODERS)
@pytest.mark.parametrize(
    ("extra", "shown"),
    [([GDAL_METADATA], 0), ([GDAL_METADATA, GDAL_NODATA], 77), ([GDAL_NODATA], 77), ([], 255)],
    ids=["zeros", "no data", "no data alone", "not GDAL"],
)
def test_absent_tiles_show_what_their_writer_means(codec, extra, shown, tmp_path):
    image = files.picture(128, 192)
    tiles = [bytes(ENCODERS[codec](tile)) for tile in files.tiles_of(image, 64)]
    tiles[1] = b""
    path = files.write_encoded(
        tmp_path / "a.tif", tiles, shape=image.shape, tile_px=64, compression=codec, extratags=extra
    )
    region = whole(path)
    assert (region[:64, 64:128] == shown).all()
    assert np.abs(region[64:].astype(int) - image[64:]).mean() < 30
    if extra:
        np.testing.assert_array_equal(region[:64, 64:128], tifffile.imread(path)[:64, 64:128])


def test_sparse_tiles_of_gdal_are_transparent_where_there_is_alpha(tmp_path):
    image = np.dstack([files.picture(64, 128), np.full((64, 128), 255, np.uint8)])
    tiles = [b"", imagecodecs.zlib_encode(np.ascontiguousarray(image[:, 64:]))]
    path = files.write_encoded(
        tmp_path / "a.tif", tiles, shape=image.shape, tile_px=64, compression="zlib",
        extrasamples=["unassalpha"], extratags=[GDAL_METADATA],
    )  # fmt: skip
    region = whole(path)
    assert (region[:, :64] == 255).all()
    np.testing.assert_array_equal(region[:, 64:], image[:, 64:, :3])


def test_the_sparse_case_reads_as_others_read_it(data):
    path = data / "cases" / "sparse_webp.tif"
    np.testing.assert_array_equal(whole(path), tifffile.imread(path))


@pytest.mark.parametrize("tile", [None, (64, 64)], ids=["strips", "tiles"])
@pytest.mark.parametrize("how", ["pages", "imagej", "shaped", "channels"])
def test_colours_that_lie_apart_are_refused(how, tile, tmp_path):
    colours = np.ascontiguousarray(np.moveaxis(files.picture(100, 150), -1, 0))
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"photometric": "minisblack", "tile": tile}
    if how == "channels":
        options |= {"planarconfig": "separate", "extrasamples": ["unspecified"], "metadata": None}
        tifffile.imwrite(path, colours[:2], **options)
    elif how == "imagej":
        if tile:
            pytest.skip("ImageJ writes no tiles")
        tifffile.imwrite(path, colours, imagej=True, metadata={"axes": "CYX"}, truncate=True)
    elif how == "shaped":
        options["tile"] = None
        tifffile.imwrite(path, colours, truncate=True, photometric="minisblack")
    else:
        tifffile.imwrite(path, colours, metadata=None, **options)
    for read in (lambda: open_slide(path, mpp_override=0.5), lambda: read_image(path)):
        with pytest.raises(SlideError, match=r"got 3 grey pages of one size|got 2 channels"):
            read()


def test_an_overview_of_another_kind_is_no_level(tmp_path):
    grey = files.picture(128, 128)[..., 1].copy()
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(grey, tile=(64, 64), photometric="minisblack", metadata=None)
        small = 255 - files.half(grey[..., None])[..., 0]
        tiff.write(small, tile=(64, 64), photometric="miniswhite", metadata=None)
    with open_slide(path, mpp_override=0.5) as slide:
        assert len(slide.levels) == 1


def test_descriptions_of_megabytes_cost_little(tmp_path):
    many = "|".join(f"k{i} = v" for i in range(200_000))
    files.write_tiff(tmp_path / "a.svs", [SMALL], description=f"{files.APERIO}|{many}")
    elements = "".join(f"<A{i}/>" for i in range(200_000))
    pixels = '<Image><Pixels PhysicalSizeX="0.3" PhysicalSizeY="0.3"/></Image>'
    ome = f"<?xml version='1.0'?><OME xmlns='x'>{pixels}{elements}</OME>"
    files.write_tiff(tmp_path / "b.tif", [SMALL], description=ome)
    bomb = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    laughs = f'<!DOCTYPE OME [<!ENTITY a0 "ha">{bomb}]><OME>&a11;{pixels}</OME>'
    files.write_tiff(tmp_path / "c.tif", [SMALL], description=laughs)
    assert set(read_all_in_little_memory(tmp_path).values()) == {"read"}
    with open_slide(tmp_path / "b.tif") as slide:
        assert slide.mpp == 0.3


@pytest.mark.parametrize("tile", [None, (64, 64)], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression", [None, "zlib", "jpeg", "lzw"])
@pytest.mark.parametrize("order", ["YXC", "CYX", "inverted grey", "grey"])
def test_every_order_of_axes_shows_the_same(order, compression, tile, tmp_path):
    image = files.picture(100, 150)
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"tile": tile, "compression": compression, "metadata": None}
    if compression == "jpeg":
        options["compressionargs"] = {"level": 98}
    expected = image
    if order == "YXC":
        tifffile.imwrite(path, image, photometric="rgb", **options)
    elif order == "CYX":
        planes = np.ascontiguousarray(np.moveaxis(image, -1, 0))
        tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", **options)
    else:
        grey = np.ascontiguousarray(image[..., 1])
        expected = np.repeat(grey[..., None], 3, axis=2)
        white_first = order == "inverted grey"
        kind = "miniswhite" if white_first else "minisblack"
        tifffile.imwrite(path, 255 - grey if white_first else grey, photometric=kind, **options)
    tolerance = 3 if compression == "jpeg" else 0
    for shown in (whole(path), read_image(path)):
        assert np.abs(shown.astype(int) - expected).mean() <= tolerance
