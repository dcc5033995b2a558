"""Checksums of encoders: each file is read once in a process, for as long as it stays as it was."""

from __future__ import annotations

import hashlib
import os
import sys
import time

import pytest

from histofast import encoders
from histofast._files import state_of
from tiny_encoder import write_encoder

HASHING = "histofast.encoders.hashing"


@pytest.fixture
def computed():
    """The function that reads files, whatever takes its place."""
    return sys.modules[HASHING]._computed


@pytest.fixture
def read(monkeypatch, computed):
    """Names of the files that were read for a checksum, in that order."""
    names = []

    def counted(paths):
        paths = list(paths)
        names.extend(path.name for path in paths)
        return computed(paths)

    monkeypatch.setattr(f"{HASHING}._computed", counted)
    monkeypatch.setattr(f"{HASHING}._known", {})
    return names


@pytest.fixture
def at_once(monkeypatch):
    """Files count as settled when they are written, for tests that cannot wait."""
    monkeypatch.setattr(f"{HASHING}.SETTLED_NS", -(10**18))


def changed(path, content):
    """Write a file until its times tell: they have steps of milliseconds."""
    before = state_of(path)
    while state_of(path) == before:
        path.write_bytes(content)
        time.sleep(0.001)
    return path


@pytest.mark.usefixtures("at_once")
def test_an_encoder_is_read_once(tmp_path, read):
    path = write_encoder(tmp_path / "e.onnx")
    first = encoders.read_spec(path)
    assert first.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert encoders.read_spec(path) == first
    with encoders.load(path, device="cpu") as encoder:
        assert encoder.spec == first
    assert encoders.sha256_of(path) == first.sha256
    assert read == ["e.onnx"]


@pytest.mark.usefixtures("at_once")
def test_both_files_are_read_once(tmp_path, read):
    one, two = tmp_path / "a.data", tmp_path / "a"
    for path, content in ((one, b"123"), (two, b"45")):
        path.write_bytes(content)
    wanted = [hashlib.sha256(text).hexdigest() for text in (b"12345", b"123")]
    assert [*encoders.checksums([one, two])] == [*encoders.checksums([one, two])] == wanted
    assert read == ["a.data", "a"]
    changed(one, b"124")
    assert encoders.checksums([one, two]).data == hashlib.sha256(b"124").hexdigest()


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("how", ["written", "replaced", "put back"])
def test_a_file_that_changed_is_read_again(tmp_path, read, how):
    path = tmp_path / "e"
    path.write_bytes(b"one")
    assert encoders.sha256_of(path) == hashlib.sha256(b"one").hexdigest()
    before = path.stat()
    if how == "replaced":
        (tmp_path / "other").write_bytes(b"one")
        changed(tmp_path / "other", b"two").replace(path)
    else:
        changed(path, b"two")
    if how == "put back":  # as `cp --preserve` does; of the last change nobody sets the time
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert encoders.sha256_of(path) == hashlib.sha256(b"two").hexdigest()
    assert read == ["e", "e"]


def test_a_file_that_was_just_written_may_be_written_again_within_a_tick(tmp_path, read):
    path = tmp_path / "e"
    for content in (b"one", b"two", b"six"):
        path.write_bytes(content)
        assert encoders.sha256_of(path) == hashlib.sha256(content).hexdigest()
    assert read == ["e"] * 3


@pytest.mark.usefixtures("at_once")
def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path, monkeypatch, computed):
    path = tmp_path / "e"
    path.write_bytes(b"one")

    def meanwhile(paths):
        found = computed(paths)
        changed(path, b"two")
        return found

    monkeypatch.setattr(f"{HASHING}._computed", meanwhile)
    encoders.sha256_of(path)
    monkeypatch.setattr(f"{HASHING}._computed", computed)
    assert encoders.sha256_of(path) == hashlib.sha256(b"two").hexdigest()


@pytest.mark.usefixtures("at_once")
def test_few_are_kept(tmp_path, read, monkeypatch):
    monkeypatch.setattr(f"{HASHING}._MOST", 2)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(b"")
        encoders.sha256_of(path)
    encoders.sha256_of(paths[0])
    assert read == ["a", "b", "c", "a"]


def test_what_is_not_there_is_said_each_time(tmp_path):
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="no such file"):
            encoders.sha256_of(tmp_path / "none")
