from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from histofast._files import remove_stale_temporaries, replacing, write_error
from histofast.errors import NoSpaceError, WriteError


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "a.onnx"

    def fail() -> None:
        with replacing(path, overwrite=True) as pending:
            pending.write_bytes(b"half")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    assert list(tmp_path.iterdir()) == []
    with replacing(path, overwrite=False) as pending:
        pending.write_bytes(b"whole")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileExistsError, match="exists"), replacing(path, overwrite=False):
        pass
    missing = tmp_path / "none" / "a.onnx"
    with pytest.raises(FileNotFoundError, match="no folder"):
        replacing(missing, overwrite=False).__enter__()


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    replace = Path.replace
    monkeypatch.setattr(os, "fsync", lambda _: done.append("sync"))
    monkeypatch.setattr(Path, "replace", lambda *paths: done.append("name") or replace(*paths))
    with replacing(tmp_path / "a", overwrite=True) as pending:
        pending.write_bytes(b"whole")
    assert done == ["sync", "name", "sync"]  # the file, its name, the folder


def test_a_library_may_put_another_file_in_the_place_of_the_temporary(tmp_path):
    with replacing(tmp_path / "a", overwrite=True) as pending:
        pending.unlink()
        pending.write_bytes(b"another")
    assert (tmp_path / "a").read_bytes() == b"another"


def test_a_file_of_a_killed_process_is_swept_and_of_one_at_work_is_not(tmp_path):
    with replacing(tmp_path / "a.json", overwrite=True) as pending:
        stale = tmp_path / ".b.json.1.00000000.tmp"
        stale.write_bytes(b"half")
        assert remove_stale_temporaries(tmp_path) == [stale]
        pending.write_bytes(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "hidden")

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(WriteError, match=r"^cannot write .*a\.json: Permission denied$"):
        replacing(tmp_path / "a.json", overwrite=True).__enter__()


def test_a_full_disk_is_told_apart(tmp_path):
    error = write_error(tmp_path / "a", OSError(errno.ENOSPC, "No space left on device"))
    assert isinstance(error, NoSpaceError)
    assert write_error(tmp_path / "b", error) is error
