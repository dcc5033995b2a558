"""What `fuzzing` finds: readers that crash, hang, eat memory or fail otherwise than in one line."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import numpy as np
import pytest

import fuzzing
from histofast.errors import SlideError


def read_well(path: Path) -> None:
    if path.read_bytes() != b"x" * 64:
        raise SlideError(f"{path} is broken: make it again")


def _is_good(path: Path) -> bool:
    return path.read_bytes() == b"x" * 64


def read_and_crash(path: Path) -> None:
    if not _is_good(path):
        ctypes.string_at(0)


def read_and_leave(path: Path) -> None:
    if not _is_good(path):
        os._exit(0)


def read_and_hang(path: Path) -> None:
    if not _is_good(path):
        time.sleep(60)


def read_greedily(path: Path) -> None:
    if not _is_good(path):
        np.ones(2 * fuzzing.MEMORY_BYTES, np.uint8)


def read_carelessly(path: Path) -> None:
    if not _is_good(path):
        {}["width"]


def read_at_length(path: Path) -> None:
    if not _is_good(path):
        raise SlideError("one\ntwo")


def read_with_a_library(path: Path) -> None:
    if not _is_good(path):
        int("width")


@pytest.fixture
def original(tmp_path) -> Path:
    path = tmp_path / "good.txt"
    path.write_bytes(b"x" * 64)
    return path


def _attacked(read, original, **settings):
    folder = original.parent / "attacked"
    folder.mkdir()
    return fuzzing.attack(read, [original], folder, mutants=4, **settings), folder


def test_a_good_reader_strays_nowhere(original):
    strays, folder = _attacked(read_well, original)
    assert not strays
    assert not [path for path in folder.iterdir() if path.is_file()]


@pytest.mark.parametrize(
    ("read", "word"),
    [
        (read_and_crash, "the process died (-11)"),
        (read_and_leave, "the process died (0)"),
        (read_greedily, "memory over 1 GB"),
        (read_carelessly, "KeyError"),
        (read_at_length, "not one line"),
        (read_with_a_library, "ValueError"),
    ],
)
def test_a_bad_reader_is_found_at_every_mutant(original, read, word):
    strays, folder = _attacked(read, original)
    changed = [n for n in range(4) if fuzzing.mutant(b"x" * 64, n) != b"x" * 64]
    assert changed
    assert [stray.number for stray in strays] == changed
    assert all(word in stray.what for stray in strays)
    # What strayed is kept, and is the mutant of that number.
    for number in changed:
        assert (folder / f"{number}.txt").read_bytes() == fuzzing.mutant(b"x" * 64, number)


def test_a_reader_that_hangs_is_ended(original, monkeypatch):
    monkeypatch.setattr(fuzzing, "SECONDS", 0.5)
    strays, _ = _attacked(read_and_hang, original)
    assert strays
    assert {stray.what for stray in strays} == {"took more than 0.5 s"}


def test_an_original_that_is_not_read_is_no_ground_for_an_attack(original):
    original.write_bytes(b"y")
    with pytest.raises(AssertionError, match="an original is not read"):
        _attacked(read_well, original)


def test_mutants_follow_from_their_number():
    original = bytes(range(256)) * 8
    again = [fuzzing.mutant(original, n) for n in range(200)]
    assert again == [fuzzing.mutant(original, n) for n in range(200)]
    assert len(set(again)) > 180
