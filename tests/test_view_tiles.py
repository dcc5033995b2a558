"""Tiles of the viewer: every zoom of a slide held to its definition, and what is decoded how often."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

import reference
from fake_slides import FakeOpenSlide, FakeSlide, noise
from histofast.errors import TileError
from histofast.slides import Level, OpenSlideSlide, Slide
from histofast.viewer.blocks import Abandoned, Block, Blocks
from histofast.viewer.pyramid import TILE_PX, Pyramid
from histofast.viewer.tiles import GREY, Tiled, Tiles

ROUNDED = 1.001  # a kernel's promise, beside the definition
OF_ZOOMS = 0.5  # for every zoom that is made of the one above, which was rounded


def tiled(slide, number=0):
    return Tiled(number=number, slide=slide, pyramid=Pyramid(slide.levels))


def picture(tiles, of, z):
    """The whole of a zoom, put together from its tiles."""
    width, height = of.pyramid.size(z)
    out = np.zeros((height, width, 3), np.uint8)
    for row in range(-(-height // TILE_PX)):
        for column in range(-(-width // TILE_PX)):
            pixels = tiles.pixels(of, z, column, row).pixels
            y, x = row * TILE_PX, column * TILE_PX
            assert out[y : y + TILE_PX, x : x + TILE_PX].shape == pixels.shape
            out[y : y + TILE_PX, x : x + TILE_PX] = pixels
    return out


@pytest.mark.parametrize(
    ("downsamples", "tile"),
    [
        ((1, 4), (256, 256)),
        ((1, 4), (240, 176)),  # no tile begins where one of ours does
        ((1, 2, 4), (512, 512)),
        ((1,), (256, 256)),  # zooms of zooms
        ((1, 3), (128, 64)),  # no power of two
        ((1, 8), (1024, 1024)),  # a gap, tiles larger than ours
    ],
)
def test_every_zoom_is_as_defined(downsamples, tile):
    image = np.random.default_rng(0).integers(0, 256, (1029, 2083, 3), np.uint8)
    slide = FakeSlide(image, downsamples=downsamples, tile=tile)
    tiles, of = Tiles(), tiled(slide)
    assert of.pyramid.max_level == 3
    for z in range(of.pyramid.max_level + 1):
        scale = 2 ** (of.pyramid.max_level - z)
        expected = reference.zoomed(slide.images, list(downsamples), scale)
        shown = picture(tiles, of, z)
        assert shown.shape == expected.shape
        steps = sum(source.level is None for source in of.pyramid.sources[z:])
        worst = np.abs(shown - expected).max()
        assert worst <= ROUNDED + steps * OF_ZOOMS, (z, worst)


def test_zoom_at_1_to_1_is_the_slide_itself():
    image = noise(700, 1100, seed=3)
    of = tiled(FakeSlide(image, downsamples=(1, 4)))
    assert (picture(Tiles(), of, of.pyramid.max_level) == image).all()


def test_a_zoom_is_no_darker_than_the_slide():
    """Rounding, eight times over, must not add up."""
    image = np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), np.uint8)
    of = tiled(FakeSlide(image))
    for z in range(of.pyramid.max_level + 1):
        assert picture(Tiles(), of, z).mean() == pytest.approx(image.mean(), abs=0.6)


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (512, 1), (513, 512), (512, 1025), (3, 5000)]
)
def test_sizes_of_zooms(width, height):
    level = Level(width=width, height=height, downsample=1.0, tile_width=256, tile_height=256)
    pyramid = Pyramid([level])
    assert max(pyramid.size(0)) <= TILE_PX
    assert pyramid.max_level == 0 or max(pyramid.size(1)) > TILE_PX
    assert pyramid.size(pyramid.max_level) == (width, height)
    assert pyramid.tile_size(0, 0, 0) == pyramid.size(0)
    for z in range(pyramid.max_level):
        assert pyramid.size(z) == tuple(-(-side // 2) for side in pyramid.size(z + 1))


@pytest.mark.parametrize(
    "place", [(-1, 0, 0), (3, 0, 0), (2, 3, 0), (2, 0, 2), (0, 1, 0), (2, -1, 0)]
)
def test_no_tile_is_there_beyond_the_slide(place):
    of = tiled(FakeSlide(noise(1000, 1300)))
    assert of.pyramid.max_level == 2
    assert Tiles().pixels(of, *place) is None
    assert Tiles().jpeg(of, *place) is None


class Endless(Slide):
    """A slide of 100,000 px a side whose pixels follow from where they are."""

    def __init__(self):
        self.path, self.name, self.mpp, self.properties = Path("endless.svs"), "endless", 0.25, {}
        side, self.levels = 100_000, ()
        for downsample in (1, 4, 16, 64):
            px = side // downsample
            level = Level(
                width=px, height=px, downsample=float(downsample), tile_width=256, tile_height=256
            )
            self.levels += (level,)

    def read_tile(self, level, column, row, out):
        d = int(self.levels[level].downsample)
        x, y = ((np.arange(256) + 256 * at + 0.5) * d for at in (column, row))
        out[..., 0] = (x / 100_000 * 255)[None]
        out[..., 1] = (y / 100_000 * 255)[:, None]
        out[..., 2] = level

    def close(self):
        pass


def test_places_and_levels_of_a_slide_of_100_000_px():
    of = tiled(Endless())
    assert of.pyramid.max_level == 8
    for z in range(9):
        scale = 2 ** (8 - z)
        width, height = of.pyramid.size(z)
        column, row = (width - 1) // TILE_PX, (height - 1) // TILE_PX // 2
        pixels = Tiles().pixels(of, z, column, row).pixels
        x = (np.arange(pixels.shape[1]) + column * TILE_PX + 0.5) * scale
        y = (np.arange(pixels.shape[0]) + row * TILE_PX + 0.5) * scale
        inside = x < 100_000 - scale
        assert np.abs(pixels[:, inside, 0] - x[None, inside] / 100_000 * 255).max() < 2
        assert np.abs(pixels[..., 1] - y[:, None] / 100_000 * 255).max() < 2
        assert (pixels[..., 2] == min(int(np.log2(scale)) // 2, 3)).all()


def test_places_of_a_slide_with_margins_are_those_of_its_file(monkeypatch, tmp_path):
    """As MRXS has them: the scanned part is somewhere on a canvas, what is around it is background."""
    monkeypatch.setattr("histofast.slides.openslide.openslide.OpenSlide", FakeOpenSlide)
    (tmp_path / "a.mrxs").write_bytes(b"index")
    with OpenSlideSlide(tmp_path / "a.mrxs") as slide:
        assert slide.origin_l0 == (2000, 1000)
        tiles, of = Tiles(), tiled(slide)
        assert of.pyramid.max_level == 4
        for z, level in ((4, 0), (3, 1), (2, 2)):
            side = TILE_PX << level
            for column, row in ((2000 // side, 1000 // side), (3499 // side, 1799 // side), (0, 0)):
                shown = tiles.pixels(of, z, column, row).pixels
                size = shown.shape[1], shown.shape[0]
                region = slide.read_region((column * side, row * side), level, size)
                assert (shown == region).all()


def test_jpeg_shows_the_pixels():
    ramp = np.linspace(0, 255, 900).astype(np.uint8)
    image = np.stack(np.broadcast_arrays(ramp[None], ramp[:700, None], np.uint8(128)), axis=2)
    of = tiled(FakeSlide(np.ascontiguousarray(image)))
    for column, row in ((0, 0), (1, 1)):
        tile = Tiles().jpeg(of, 1, column, row)
        shown = imagecodecs.jpeg8_decode(tile.data).astype(int)
        part = image[row * 512 : row * 512 + 512, column * 512 : column * 512 + 512]
        assert shown.shape == part.shape
        assert np.abs(shown - part).mean() < 2
        assert not tile.unreadable


# --- What cannot be decoded ------------------------------------------------------------------------


@pytest.mark.parametrize("downsamples", [(1, 4), (1,)])
def test_what_cannot_be_decoded_is_grey_and_counted(downsamples):
    last = len(downsamples) - 1
    image = np.full((1024, 1024, 3), 90, np.uint8)
    slide = FakeSlide(
        image, downsamples=downsamples, tile=(256, 256), broken={(0, 1, 2), (last, 0, 0)}
    )
    tiles, of = Tiles(), tiled(slide)
    block = tiles.pixels(of, 1, 0, 1)
    assert block.unreadable == {(0, 1, 2)}
    assert "broken" in block.reason
    assert (block.pixels[:256, 256:] == GREY).all()
    assert (block.pixels[256:] == 90).all()
    assert (block.pixels[:, :256] == 90).all()
    assert tiles.jpeg(of, 1, 0, 1).unreadable == {(0, 1, 2)}
    whole = tiles.pixels(of, 0, 0, 0)
    # Half the scale comes from level 0 in both pyramids.
    assert whole.unreadable == {(0, 1, 2)} | ({(0, 0, 0)} if last == 0 else set())
    assert (whole.pixels[256:384, 128:256] == GREY).all()


def test_a_lack_of_memory_is_no_damage():
    class Greedy(FakeSlide):
        def read_tile(self, level, column, row, out):
            raise MemoryError

    with pytest.raises(MemoryError):
        Tiles().pixels(tiled(Greedy(noise(64, 64))), 0, 0, 0)


# --- What is kept ----------------------------------------------------------------------------------


def test_no_tile_is_decoded_twice_while_there_is_room():
    slide = FakeSlide(noise(2048, 2048), tile=(256, 256))
    tiles, of = Tiles(), tiled(slide)
    for z in range(of.pyramid.max_level + 1):
        picture(tiles, of, z)
    assert set(slide.decoded.values()) == {1}
    assert len(slide.decoded) == 64


def test_many_who_ask_at_a_time_have_it_decoded_once():
    started = threading.Barrier(8)
    slide = FakeSlide(noise(2048, 2048), tile=(256, 256))
    tiles, of = Tiles(), tiled(slide)

    def ask(place):
        started.wait()
        return tiles.pixels(of, *place).pixels

    places = [(0, 0, 0)] * 2 + [(1, 0, 0), (1, 1, 0)] + [(1, 0, 1)] * 2 + [(1, 1, 1)] * 2
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, places))
    assert set(slide.decoded.values()) == {1}
    alone = Tiles()
    for place, pixels in zip(places, found, strict=True):
        assert (alone.pixels(of, *place).pixels == pixels).all()


def test_memory_of_blocks_is_bounded():
    blocks = Blocks(1_000_000)
    tiles = Tiles(blocks)
    of = tiled(FakeSlide(noise(3000, 3000), tile=(256, 256)))
    for z in range(of.pyramid.max_level + 1):
        picture(tiles, of, z)
        assert 0 < blocks.n_bytes <= 1_000_000
    blocks.drop(0)
    assert blocks.n_bytes == 0


def test_a_block_larger_than_all_room_is_made_and_not_kept():
    blocks = Blocks(1000)
    block = blocks.get((0, 1), lambda: Block(np.zeros((100, 100, 3), np.uint8)))
    assert block.pixels.shape == (100, 100, 3)
    assert blocks.n_bytes == 0


def test_blocks_of_one_owner_are_dropped_and_no_others():
    blocks = Blocks(10**6)
    for owner in (1, 2):
        blocks.get((owner, 0), lambda: Block(np.zeros((10, 10, 3), np.uint8)))
    blocks.drop(1)
    made = []
    for owner in (1, 2):
        blocks.get((owner, 0), lambda owner=owner: made.append(owner) or Block(None))
    assert made == [1]


def test_who_waits_for_what_fails_is_told():
    blocks, waits = Blocks(10**6), threading.Event()

    def fail():
        waits.wait(10)
        raise TileError("no")

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(blocks.get, (0, 0), fail) for _ in range(2)]
        waits.set()
        for each in asked:
            with pytest.raises(TileError, match="no"):
                each.result(10)
    assert blocks.get((0, 0), lambda: Block(None)).pixels is None


def test_who_waits_for_what_is_abandoned_makes_it():
    blocks, begun, ends = Blocks(10**6), threading.Event(), threading.Event()

    def give_up():
        begun.set()
        ends.wait(10)
        raise Abandoned

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(blocks.get, (0, 0), give_up)
        begun.wait(10)
        second = pool.submit(blocks.get, (0, 0), lambda: Block(None, reason="mine"))
        ends.set()
        with pytest.raises(Abandoned):
            first.result(10)
        assert second.result(10).reason == "mine"


def test_work_that_nobody_waits_for_ends_and_what_is_decoded_stays():
    slide = FakeSlide(noise(2048, 2048), tile=(256, 256))
    tiles, of, left = Tiles(), tiled(slide), iter([True] * 5)
    with pytest.raises(Abandoned):
        tiles.jpeg(of, 0, 0, 0, is_wanted=lambda: next(left, False))
    assert 0 < len(slide.decoded) < 5
    assert not tiles.jpeg(of, 0, 0, 0).unreadable
    assert set(slide.decoded.values()) == {1}
