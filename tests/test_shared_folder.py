"""`histofast doctor --shared`: what a folder does between two processes."""

from __future__ import annotations

import contextlib
import os

import pytest

from histofast import doctor
from histofast._files import Lock, try_shared


def test_a_folder_of_this_machine_does_all(tmp_path):
    tried = list(try_shared(tmp_path))
    assert [each.what for each in tried] == [
        "locks",
        "exclusive creation",
        "renaming",
        "fsync",
        "released locks",
    ]
    assert all(each.works for each in tried), tried
    assert not list(tmp_path.iterdir())


def found(tmp_path):
    return {finding.topic.partition(", ")[2]: finding for finding in doctor._shared(tmp_path)}


def test_locks_that_another_process_does_not_see(tmp_path, monkeypatch):
    monkeypatch.setattr(Lock, "acquire", lambda _self, **_: True)  # as where there are none
    locks = found(tmp_path)["locks"]
    assert (locks.status, locks.text) == ("warn", "are not seen by another process")
    assert locks.remedy.startswith(
        "leases keep two runs from one slide, other work may be done twice"
    )


def test_a_name_that_stays_with_the_former_file(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: None)
    renaming = found(tmp_path)["renaming"]
    assert renaming.status == "fail"
    assert "use another file system" in renaming.remedy


def test_fsync_that_fails(tmp_path, monkeypatch):
    def fails(_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fails)
    fsync = found(tmp_path)["fsync"]
    assert fsync.status == "warn"
    assert fsync.text.startswith("does not work: ")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    @contextlib.contextmanager
    def refuses(**_):
        raise PermissionError(13, "Permission denied")
        yield

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuses)
    (finding,) = doctor._shared(tmp_path)
    assert (finding.status, finding.remedy) == ("fail", "mount it to be written")


def test_the_command(cli, tmp_path):
    answer = cli("doctor", "--shared", tmp_path)
    assert "ok    shared folder, locks: are seen by another process" in answer.out
    answer = cli("doctor", "--shared", tmp_path / "gone")
    assert answer.code == 2
    assert answer.err == [f"histofast: no such folder: {tmp_path / 'gone'}"]
    (tmp_path / "file").touch()
    answer = cli("doctor", "--shared", tmp_path / "file")
    assert answer.err == [f"histofast: --shared must be a folder, {tmp_path / 'file'} is a file"]


@pytest.mark.parametrize("shared", [3, object()])
def test_what_is_no_path(shared):
    with pytest.raises(TypeError, match="shared must be"):
        doctor.examine(shared=shared)
