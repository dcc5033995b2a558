"""OME-Zarr below an address: the same pixels and features as in a folder, faults on the way."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import histofast
import slide_files as files
from extras import need
from histofast.errors import SlideError, StoreError, TileError
from histofast.slides import open_slide, stream_boxes
from small_server import SmallServer
from small_slides import run

need("obstore", "zarr")

from zarr_files import change, write_zarr

KINDS = {
    "chunks": {},
    "channels apart": {"channels": 1, "tile_px": 128},
    "shards": {"version": "0.5", "shard": 4, "axes": "cyx"},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("histofast._remote.store.FIRST_WAIT_S", 0.001)


def pixels(*, seed=0):
    image = np.full((640, 512, 3), 245, np.uint8)
    image[64:-64, 64:-64] = files.picture(512, 384, seed=seed)
    return [image, files.half(image), files.half(image, 2)]


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for i, (kind, options) in enumerate(KINDS.items()):
        write_zarr(folder / kind / "s.ome.zarr", pixels(seed=i), mpp=1.0, **options)
    return folder


def objects_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def serve(slides):
    """Serve one of the slides; return the server and the address."""
    servers = []

    def start(kind):
        servers.append(SmallServer(**objects_of(slides / kind)).__enter__())
        return servers[-1], f"{servers[-1].url}/s.ome.zarr"

    yield start
    for server in servers:
        server.__exit__()


@pytest.mark.parametrize("kind", KINDS)
def test_it_shows_what_a_folder_shows(kind, slides, serve):
    server, address = serve(kind)
    with open_slide(address) as slide, open_slide(slides / kind / "s.ome.zarr") as local:
        assert slide.name == "s"
        assert slide.mpp == local.mpp
        assert slide.levels == local.levels
        for i, level in enumerate(local.levels):
            size = level.width, level.height
            np.testing.assert_array_equal(
                slide.read_region((0, 0), i, size), local.read_region((0, 0), i, size)
            )
        asked = [path for _, path, _ in server.requests if "/0/" in path]
        assert asked
        np.testing.assert_array_equal(slide.overview(mpp=3.1), local.overview(mpp=3.1))


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_folder(kind, slides, serve, encoder, tmp_path):
    server, address = serve(kind)
    reports = [
        run(address, tmp_path / "remote", encoder, mpp=2.0),
        run(slides / kind, tmp_path / "local", encoder, mpp=2.0),
    ]
    assert [r.slides[0].status for r in reports] == ["done", "done"]
    remote, local = (histofast.read_features(r.slides[0].outputs[0]) for r in reports)
    np.testing.assert_array_equal(remote.features, local.features)
    assert str(remote.identity["slide"]).startswith(f"address:{address};zarr;sha256:")
    before = len(server.requests)
    assert run(address, tmp_path / "remote", encoder, mpp=2.0).slides[0].status == "skipped"
    assert len(server.requests) - before < 60


def stream_all(slide):
    boxes = np.array(
        [(x, y, 64, 64) for y in range(0, 577, 64) for x in range(0, 449, 64)], np.float64
    )
    with ThreadPoolExecutor(2) as workers:
        return list(stream_boxes(slide, 0, boxes, patch_px=64, batch_size=8, workers=workers))


def test_many_requests_are_under_way_at_a_time(serve):
    server, address = serve("chunks")
    with open_slide(address) as slide:
        server.requests.clear()
        server.most_at_once, server.delay_s = 0, 0.05
        began = time.monotonic()
        stream_all(slide)
        took_s = time.monotonic() - began
    assert len(server.requests) == 80
    assert server.most_at_once > 4
    assert took_s < 80 * 0.05


def test_chunks_of_a_shard_come_together(serve):
    server, address = serve("shards")
    with open_slide(address) as slide:
        server.requests.clear()
        stream_all(slide)
    # Of 80 chunks in 6 shards; each shard has one request for its size and one for its table.
    assert len(server.requests) <= 6 * 2 + 12


@pytest.mark.parametrize("kind", KINDS)
def test_refusals_on_the_way_are_repeated(kind, serve):
    server, address = serve(kind)
    server.refuse = 3
    with open_slide(address) as slide:
        server.refuse, server.cut = 2, 2
        batches = stream_all(slide)
    assert not any(batch.unreadable for batch in batches)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_fails_fails_the_slide(kind, serve, encoder, tmp_path):
    server, address = serve(kind)

    def fail(count):
        if count > 40:
            server.refuse = 100

    server.on_request = fail
    report = run(address, tmp_path, encoder, mpp=1.0)
    assert report.slides[0].status == "failed"
    assert "the server answered 503" in report.slides[0].error
    assert not list(tmp_path.rglob("*.h5"))


def test_a_chunk_that_is_broken_is_unreadable_alone(slides):
    objects = objects_of(slides / "shards")
    (key,) = [key for key in objects if key.endswith("0/c/0/0/0")]
    objects[key] = b"\0" * 2000 + objects[key][2000:]  # the first chunks of it
    with SmallServer(**objects) as server, open_slide(f"{server.url}/s.ome.zarr") as slide:
        batches = stream_all(slide)
    failed = [tile for batch in batches for tile in batch.unreadable]
    assert 0 < len(failed) < 16


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["s.ome.zarr/0/.zarray", "s.ome.zarr/0/zarr.json", "chunk"])
def test_a_slide_that_changes_fails(kind, what, slides, encoder, tmp_path):
    objects = objects_of(slides / kind)
    if what == "chunk":  # the middle of level 0
        shape = {"chunks": "0.0.0.4.3", "channels apart": "0.1.0.2.1", "shards": "c/0/1/0"}[kind]
        what = f"s.ome.zarr/0/{shape}"
    if what not in objects:
        return
    with SmallServer(**objects) as server:
        run(f"{server.url}/s.ome.zarr", tmp_path / "whole", encoder, mpp=1.0)
        at, server.requests = len(server.requests) - 20, []  # before the last look at it

        def change_it(count):
            if count == at:
                server.objects[what] += b" "

        server.on_request = change_it
        report = run(f"{server.url}/s.ome.zarr", tmp_path / "out", encoder, mpp=1.0)
        assert len(server.requests) >= at
    assert [s.status for s in report.slides] == ["failed"]
    assert "was changed while it was" in report.slides[0].error


def test_label_and_macro_and_what_is_named_inside(tmp_path):
    write_zarr(tmp_path / "a.zarr" / "0", pixels(), mpp=1.0)
    with SmallServer(**objects_of(tmp_path)) as server:
        with open_slide(f"{server.url}/a.zarr/0") as slide:
            assert slide.name == "a-0"
            assert len(slide.levels) == 3
        with pytest.raises(SlideError, match=r"a\.zarr has no zarr\.json, \.zgroup or \.zattrs"):
            open_slide(f"{server.url}/a.zarr")


def test_large_documents_are_not_read(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", pixels(), mpp=1.0)
    (path / ".zattrs").write_text(" " * 5_000_000)
    said = r"must have at most 4,194,304 bytes, got 5,000,000"
    with SmallServer(**objects_of(tmp_path)) as server, pytest.raises(SlideError, match=said):
        open_slide(f"{server.url}/a.zarr")


def test_absent_chunks_are_the_fill_value_and_cut_ones_are_unreadable(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", pixels(), mpp=1.0)
    change(path / "0" / ".zarray", lambda said: said.update(fill_value=9))
    (path / "0" / "0.0.0.0.0").unlink()
    chunk = path / "0" / "0.0.0.0.1"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with (
        SmallServer(**objects_of(tmp_path)) as server,
        open_slide(f"{server.url}/a.zarr") as slide,
    ):
        assert (slide.read_region((0, 0), 0, (64, 64)) == 9).all()
        with pytest.raises(TileError, match="cannot be decoded"):
            slide.read_region((64, 0), 0, (64, 64))
        server.user = "bm9ib2R5"
        with pytest.raises(StoreError, match="401"):
            slide.read_region((128, 0), 0, (64, 64))
