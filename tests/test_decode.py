"""Pictures decoded once into one memory map: what is in it, who shares it, what is made anew."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from histofast import _stopping
from histofast.datasets import (
    Decoded,
    contents_of,
    decode,
    open_images,
    refuse_lost_classes,
    resampled,
    unreadable_note,
)
from histofast.errors import NoSpaceError, WriteError
from histofast.slides import read_image, write_png

PX = 16


@pytest.fixture
def folder(tmp_path, rng):
    """Twelve pictures of two classes."""
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (PX, PX, 3), dtype=np.uint8)
            write_png(tmp_path / "data" / name / f"{i}.png", pixels)
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def read_all(images):
    return np.stack([read_image(file) for file in images.files])


def made_in(cache):
    return sorted(p.name for p in cache.iterdir() if not p.name.startswith("."))


# --- What is in it --------------------------------------------------------------------------------


def test_pixels_are_those_of_the_pictures_in_their_order(folder, cache):
    images = open_images(folder)
    found = decode(images, cache=cache, threads=3)
    np.testing.assert_array_equal(found.pixels, read_all(images))
    np.testing.assert_array_equal(found.rows, np.arange(12))
    assert found.sha256 == tuple(hashlib.sha256(f.read_bytes()).hexdigest() for f in images.files)
    assert found.sha256 == contents_of(images)
    assert (found.unreadable, found.notes, found.px) == ((), (), PX)
    with pytest.raises(ValueError, match="read-only"):
        found.pixels[0] = 0


def test_every_kind_of_picture_is_rgb(folder, cache, rng):
    kinds = {
        "grey": rng.integers(0, 256, (PX, PX), dtype=np.uint8),
        "deep": rng.integers(0, 65536, (PX, PX, 3), dtype=np.uint16),
        "clear": rng.integers(0, 256, (PX, PX, 4), dtype=np.uint8),
    }
    for name, pixels in kinds.items():
        (folder / "a" / f"{name}.png").write_bytes(imagecodecs.png_encode(pixels))
    images = open_images(folder)
    found = decode(images, cache=cache)
    np.testing.assert_array_equal(found.pixels, read_all(images))
    assert len(found.rows) == 15
    at = [Path(name).stem for name in images.names].index("deep")
    np.testing.assert_array_equal(found.pixels[at], kinds["deep"] >> 8)


def test_px_averages_the_centred_square(folder, cache, rng):
    wide = rng.integers(0, 256, (PX, 3 * PX, 3), dtype=np.uint8)
    write_png(folder / "a" / "0.png", wide)
    images = open_images(folder)
    found = decode(images, cache=cache, px=8)
    square = wide[:, PX : 2 * PX].astype(float).reshape(8, 2, 8, 2, 3).mean((1, 3))
    assert np.abs(found.pixels[0] - square).max() <= 0.5
    np.testing.assert_array_equal(found.pixels[0], resampled(wide, 8))


@pytest.mark.parametrize("shape", [(PX, PX + 1), (2 * PX, 2 * PX)])
def test_other_sizes_are_refused_in_one_line(folder, cache, shape):
    write_png(folder / "b" / "3.png", np.zeros((*shape, 3), np.uint8))
    with pytest.raises(ValueError, match="square pictures of one size") as raised:
        decode(open_images(folder), cache=cache)
    assert f"{shape[1]} x {shape[0]} px (" in str(raised.value)
    assert "b/3.png" in str(raised.value)
    assert "px" in str(raised.value).rpartition(":")[2]
    assert "\n" not in str(raised.value)
    assert made_in(cache) == []


# --- What cannot be read --------------------------------------------------------------------------


def test_unreadable_pictures_are_left_out_and_listed(folder, cache):
    (folder / "a" / "2.png").write_bytes((folder / "a" / "2.png").read_bytes()[:60])
    (folder / "b" / "5.png").write_bytes(b"")
    images = open_images(folder)
    found = decode(images, cache=cache)
    assert [name for name, _ in found.unreadable] == ["a/2.png", "b/5.png"]
    assert all(str(folder) not in reason for _, reason in found.unreadable)
    np.testing.assert_array_equal(found.rows, np.delete(np.arange(12), [2, 11]))
    np.testing.assert_array_equal(found.pixels, read_all(images.part(found.rows)))
    assert unreadable_note(found).startswith(
        "left out pictures that cannot be read: 2 (a/2.png, b/5.png): 2.png"
    )
    assert decode(images, cache=cache).unreadable == found.unreadable


def test_no_readable_picture_is_an_error(folder, cache):
    for file in folder.rglob("*.png"):
        file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"pictures that can be read, got none of 12: 0\.png must"):
        decode(open_images(folder), cache=cache)


def test_a_class_of_which_nothing_can_be_read_is_refused(folder, cache):
    for file in (folder / "b").iterdir():
        file.write_bytes(b"nothing")
    images = open_images(folder)
    found = decode(images, cache=cache)
    with pytest.raises(ValueError, match=r"class b must have .* got none of 6: b/0\.png: 0\.png"):
        refuse_lost_classes(images, np.arange(12), found)
    refuse_lost_classes(images, np.arange(6), found)


# --- The file -------------------------------------------------------------------------------------


def stamp(found: Decoded):
    return found.path.stat().st_mtime_ns, found.path.stat().st_ino


def test_what_was_decoded_is_used_again(folder, cache):
    images = open_images(folder)
    found = decode(images, cache=cache)
    again = decode(images, cache=cache, contents=contents_of(images))
    assert stamp(again) == stamp(found)
    assert len(made_in(cache)) == 2


@pytest.mark.parametrize("change", ["content", "order", "px", "fewer"])
def test_another_set_is_another_file(folder, cache, change):
    images = open_images(folder)
    first, px = decode(images, cache=cache), None
    if change == "content":
        write_png(folder / "a" / "1.png", np.zeros((PX, PX, 3), np.uint8))
    elif change == "px":
        px = 8
    elif change == "fewer":
        images = images.part(range(11))
    else:
        images = images.part(range(11, -1, -1))
    other = decode(images, cache=cache, px=px)
    assert other.path != first.path
    if px is None:
        np.testing.assert_array_equal(other.pixels, read_all(images))


def test_the_same_pictures_elsewhere_share_the_file(folder, cache, tmp_path):
    first = decode(open_images(folder), cache=cache)
    folder.rename(tmp_path / "moved")
    assert stamp(decode(open_images(tmp_path / "moved"), cache=cache)) == stamp(first)


@pytest.mark.parametrize(
    "damage", ["a byte", "shorter", "gone", "no index", "index changed", "index is none"]
)
def test_a_damaged_file_is_made_anew_and_a_note_says_so(folder, cache, damage):
    images = open_images(folder)
    path = decode(images, cache=cache).path
    index = path.with_suffix(".json")
    content = bytearray(path.read_bytes())
    if damage == "a byte":
        content[1000] ^= 1
        path.write_bytes(content)
    elif damage == "shorter":
        path.write_bytes(content[:-1])
    elif damage == "gone":
        path.unlink()
    elif damage == "no index":
        index.unlink()
    elif damage == "index changed":
        index.write_text(index.read_text().replace('"px": 16', '"px": 15'))
    else:
        index.write_text("[")
    found = decode(images, cache=cache)
    np.testing.assert_array_equal(found.pixels, read_all(images))
    (note,) = found.notes
    assert note.startswith("pixels were decoded anew")
    assert "\n" not in note
    assert decode(images, cache=cache).notes == ()


def test_who_has_it_open_keeps_it_when_it_is_made_anew(folder, cache):
    images = open_images(folder)
    found = decode(images, cache=cache)
    found.path.with_suffix(".json").unlink()
    decode(images, cache=cache)
    np.testing.assert_array_equal(found.pixels, read_all(images))


def test_processes_share_one_file(folder, cache):
    code = (
        "import sys\nfrom histofast.datasets import decode, open_images\n"
        "told = []\n"
        "found = decode(open_images(sys.argv[1]), cache=sys.argv[2],\n"
        "               on_progress=lambda done, n: told.append(done))\n"
        "print(len(told), int(found.pixels.sum()))"
    )
    commands = [[sys.executable, "-c", code, str(folder), str(cache)]] * 3
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, text=True) for c in commands]
    answers = [process.communicate(timeout=60)[0].split() for process in running]
    assert sorted(int(told) for told, _ in answers) == [0, 0, 12]
    assert {int(total) for _, total in answers} == {int(read_all(open_images(folder)).sum())}
    assert len(made_in(cache)) == 2


def test_threads_of_one_process_share_one_file(folder, cache):
    images, found = open_images(folder), []
    work = [
        threading.Thread(target=lambda: found.append(decode(images, cache=cache))) for _ in range(4)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len({stamp(each) for each in found}) == 1


def test_a_full_disk_is_found_before_the_work(folder, cache, monkeypatch):
    def no_room(descriptor, start, length):
        assert length == 12 * PX * PX * 3
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    told = []
    with pytest.raises(NoSpaceError, match=r"no space left on .* needs 0\.0 MB; free some"):
        decode(open_images(folder), cache=cache, on_progress=lambda done, n: told.append(done))
    assert told == [1]
    assert made_in(cache) == []
    assert not list(cache.glob(".*.tmp"))


def test_a_file_system_that_reserves_nothing_will_do(folder, cache, monkeypatch):
    def not_here(descriptor, start, length):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", not_here)
    assert len(decode(open_images(folder), cache=cache).rows) == 12


def test_a_folder_that_cannot_be_made_is_one_line(folder):
    with pytest.raises(WriteError, match="cannot write"):
        decode(open_images(folder), cache=folder / "a" / "0.png" / "cache")


def test_who_is_interrupted_leaves_nothing_that_looks_whole(folder, cache):
    images = open_images(folder)

    def stop(done, n):
        if done == 5:
            _stopping.request_stop()

    with pytest.raises(_stopping.Interrupted), _stopping.deferred_interrupts():
        decode(images, cache=cache, on_progress=stop)
    assert made_in(cache) == []
    found = decode(images, cache=cache)
    np.testing.assert_array_equal(found.pixels, read_all(images))
    assert found.notes == ()


@pytest.mark.parametrize("done", [1, 5, 12])
def test_who_is_killed_leaves_nothing_that_looks_whole(folder, cache, done):
    code = (
        "import os, signal, sys\nfrom histofast.datasets import decode, open_images\n"
        "def kill(done, n):\n"
        "    if done == int(sys.argv[3]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "decode(open_images(sys.argv[1]), cache=sys.argv[2], on_progress=kill)"
    )
    command = [sys.executable, "-c", code, str(folder), str(cache), str(done)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert made_in(cache) == []
    images = open_images(folder)
    found = decode(images, cache=cache)
    np.testing.assert_array_equal(found.pixels, read_all(images))
    assert found.notes == ()


def test_progress_counts_to_all(folder, cache):
    told = []
    decode(open_images(folder), cache=cache, on_progress=lambda done, n: told.append((done, n)))
    assert told == [(i + 1, 12) for i in range(12)]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"px": 4}, ValueError, "px must be at least 8, got 4"),
        ({"px": 8.5}, TypeError, "px must be a whole number, got 8.5"),
        ({"threads": 0}, ValueError, "threads must be at least 1, got 0"),
        ({"cache": 3}, TypeError, "cache must be a path, got 3"),
    ],
)
def test_refuses_options(folder, cache, options, error, message):
    with pytest.raises(error) as raised:
        decode(open_images(folder), **({"cache": cache} | options))
    assert str(raised.value) == message


def test_the_index_is_sealed_json(folder, cache):
    path = decode(open_images(folder), cache=cache).path
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["px"] == PX
    assert about["pixels"] == hashlib.sha256(path.read_bytes()).hexdigest()
