from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest

from histofast._files import (
    Lock,
    NoLocksWarning,
    Temporary,
    locks,
    regular_file,
    remove_stale_temporaries,
    replacing,
    replacing_folder,
    write_error,
)
from histofast._stopping import Interrupted, deferred_interrupts, request_stop
from histofast.errors import NoSpaceError, SlideError, WriteError

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


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


def test_replacing_a_folder_is_all_or_nothing(tmp_path):
    path = tmp_path / "a.zarr"

    def make(text: str, error: BaseException | None = None) -> None:
        with replacing_folder(path, overwrite=True) as pending:
            (pending / "c").mkdir(parents=True)
            (pending / "c" / "0").write_text(text)
            if error is not None:
                raise error

    def held() -> dict[str, str]:
        files = (each for each in tmp_path.rglob("*") if each.is_file())
        return {each.relative_to(tmp_path).as_posix(): each.read_text() for each in files}

    with pytest.raises(RuntimeError, match="no"):
        make("half", RuntimeError("no"))
    with pytest.raises(NoSpaceError, match="no space left on"):
        make("half", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert list(tmp_path.iterdir()) == []
    make("whole")
    assert held() == {"a.zarr/c/0": "whole"}
    with pytest.raises(RuntimeError, match="no"):
        make("half", RuntimeError("no"))
    assert held() == {"a.zarr/c/0": "whole"}
    make("other")
    assert held() == {"a.zarr/c/0": "other"}
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileExistsError, match="exists"), replacing_folder(path, overwrite=False):
        pass


@posix
def test_a_folder_that_a_killed_writer_leaves_is_gone_when_it_is_written_again(tmp_path):
    path = tmp_path / "a.zarr"
    script = f"""
        import os, signal
        from pathlib import Path
        from histofast._files import replacing_folder
        with replacing_folder(Path({str(path)!r}), overwrite=True) as pending:
            pending.mkdir()
            (pending / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.zarr.")
    assert remove_stale_temporaries(tmp_path) == [left]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (errno.ENOSPC, NoSpaceError, "no space left on"),
        (errno.EDQUOT, NoSpaceError, "no quota left on"),
        (errno.EFBIG, WriteError, "`ulimit -f` allows no file of this size"),
        (errno.EACCES, PermissionError, "Permission denied"),  # of something that was read
    ],
)
def test_a_disk_that_is_full_while_something_is_written_is_said(tmp_path, code, kind, said):
    def fail() -> None:
        with replacing(tmp_path / "a", overwrite=True):
            raise OSError(code, os.strerror(code))

    with pytest.raises(kind, match=said):
        fail()
    assert list(tmp_path.iterdir()) == []


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


@posix
def test_a_file_of_another_machine_is_not_swept_by_its_lock_alone(tmp_path):
    import fcntl

    with replacing(tmp_path / "a.json", overwrite=True) as pending:
        pending.write_bytes(b"half")
        token, machine = pending.name.split(".")[-2].split("-")
    other = "0" * len(machine)
    assert machine != other
    here, elsewhere = (tmp_path / f".b.json.1.{token}-{each}.tmp" for each in (machine, other))
    for path in (here, elsewhere):
        path.touch()
    assert remove_stale_temporaries(tmp_path) == [here]
    os.utime(elsewhere, (0, time.time() - 8 * 24 * 3600))
    with elsewhere.open("r+b") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert remove_stale_temporaries(tmp_path) == []  # at work all the same
    assert remove_stale_temporaries(tmp_path) == [elsewhere]


def test_the_first_file_that_a_process_writes_in_a_folder_sweeps_it(tmp_path):
    (tmp_path / "inner").mkdir()
    stale, other = tmp_path / ".b.json.1.00000000.tmp", tmp_path / "inner" / ".b.1.00000000.tmp"
    mine = tmp_path / ".b.json.1.note.tmp"
    for path in (stale, other, mine):
        path.touch()
    with replacing(tmp_path / "a.json", overwrite=True) as pending:
        pending.write_bytes(b"whole")
    assert sorted(tmp_path.rglob("*")) == sorted([mine, tmp_path / "a.json", other.parent, other])


@posix
def test_a_link_that_looks_like_a_temporary_is_not_followed(tmp_path):
    link = tmp_path / ".b.json.1.00000000.tmp"
    link.symlink_to(tmp_path / "mine.txt")
    assert remove_stale_temporaries(tmp_path) == []
    assert link.is_symlink()
    assert not (tmp_path / "mine.txt").exists()


@posix
@pytest.mark.parametrize("made", ["run.json", "a.onnx", "fold-0/state.pt"])
def test_what_a_killed_writer_leaves_is_gone_when_the_file_is_written_again(tmp_path, made):
    path = tmp_path / made
    path.parent.mkdir(exist_ok=True)
    script = f"""
        import os, signal
        from pathlib import Path
        from histofast._files import replacing
        with replacing(Path({str(path)!r}), overwrite=True) as pending:
            pending.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    (left,) = path.parent.iterdir()
    assert left.read_bytes() == b"half"
    with replacing(path, overwrite=True) as pending:
        pending.write_bytes(b"whole")
    assert list(path.parent.iterdir()) == [path]


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


@posix
@pytest.mark.parametrize(
    ("code", "inodes", "told"),
    [
        (
            errno.ENOSPC,
            (100, 5),
            "no space left on {}: a needs 2.0 MB; free some or choose another",
        ),
        (errno.ENOSPC, (0, 0), "no space left on {}: a needs"),
        (
            errno.ENOSPC,
            (100, 0),
            "no inodes (room for more files, whatever their size) left on {}: a",
        ),
        (
            errno.EDQUOT,
            (100, 0),
            "no quota left on {}: a needs 2.0 MB; free some or choose another",
        ),
    ],
)
def test_what_is_full_is_named(tmp_path, monkeypatch, code, inodes, told):
    about = os.statvfs(tmp_path)
    values = [*about[:5], inodes[0], inodes[1], inodes[1], *about[8:]]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))
    error = write_error(tmp_path / "a", OSError(code, "x"), needs_bytes=2_000_000)
    assert isinstance(error, NoSpaceError)
    assert str(error).startswith(told.format(tmp_path))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.EROFS, "Read-only file system: choose another folder"),
        (errno.EFBIG, "File too large: the file system or `ulimit -f` allows no file of this size"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_else_keeps_a_file_from_being_written(tmp_path, code, told):
    error = write_error(tmp_path / "a", OSError(code, "x"))
    assert type(error) is WriteError
    assert str(error) == f"cannot write {tmp_path / 'a'}: {told}"


# --- What may be opened --------------------------------------------------------------------------


def test_a_file_is_taken_and_so_is_a_link_to_one(tmp_path):
    (tmp_path / "a.tif").touch()
    (tmp_path / "b.tif").symlink_to("a.tif")
    assert regular_file(tmp_path / "a.tif", kind="slide") == tmp_path / "a.tif"
    assert regular_file(str(tmp_path / "b.tif"), kind="slide") == tmp_path / "b.tif"


def test_what_is_not_there_is_told_and_where_a_link_leads(tmp_path):
    (tmp_path / "b.tif").symlink_to("gone.tif")
    with pytest.raises(FileNotFoundError, match=r"^no such slide: .*a\.tif$"):
        regular_file(tmp_path / "a.tif", kind="slide")
    words = r"^no such slide: .*b\.tif, a link to gone\.tif, which is not there$"
    with pytest.raises(FileNotFoundError, match=words):
        regular_file(tmp_path / "b.tif", kind="slide")


@posix
def test_what_may_wait_for_ever_is_refused_unopened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)  # a socket's path is short
        server.bind("socket")
    for name, got in {
        "pipe": "a named pipe",
        "link": "a named pipe",
        "folder": "a folder",
        "socket": "a socket",
        "/dev/zero": "a device",
    }.items():
        with pytest.raises(SlideError, match=f"^slide .*{name} must be a file, got {got}$"):
            regular_file(tmp_path / name, kind="slide", error=SlideError)


@posix
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a" * 300, "File name too long"),
        ("a\0b", "no name of a file has a NUL character"),
        ("ring", "Too many levels of symbolic links"),
    ],
)
def test_what_cannot_be_looked_at_says_why_in_one_line(tmp_path, name, why):
    (tmp_path / "ring").symlink_to("ring")
    with pytest.raises(SlideError, match=f"^cannot look at slide .*: {why}$"):
        regular_file(tmp_path / name, kind="slide", error=SlideError)


# --- Locks -----------------------------------------------------------------------------------------


def test_a_lock_tells_who_holds_it_and_since_when(tmp_path):
    with Lock(tmp_path / "a.h5") as held:
        assert held
        other = Lock(tmp_path / "a.h5")
        assert not other.acquire()
        holder = other.holder()
        assert (holder.pid, holder.host) == (os.getpid(), socket.gethostname())
        age = datetime.now().astimezone() - holder.since
        assert 0 <= age.total_seconds() < 60
        words = f"process {holder.pid} on {holder.host} since {holder.since:%Y-%m-%d %H:%M:%S}"
        assert str(holder) == words
    assert other.holder() is None
    assert other.acquire()
    other.release()
    assert other.path == tmp_path / ".locks" / "a.h5.lock"
    assert other.path.read_bytes() == b""
    (tmp_path / "plain").touch()  # neither a program nor closed to a group that works together
    assert other.path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"[" * 5000,
        b'{"host": "a"}',
        b'{"host": "a", "pid": "x", "since": "2026-01-01"}',
        b'{"host": "a", "pid": 1e999, "since": "2026-01-01"}',
        b'{"host": "a", "pid": 1, "since": 5}',
    ],
)
def test_garbage_in_a_lock_file_is_no_holder(tmp_path, content):
    lock = Lock(tmp_path / "a.h5")
    assert lock.holder() is None
    lock.path.parent.mkdir()
    lock.path.write_bytes(content)
    assert lock.holder() is None
    assert lock.acquire()
    assert lock.holder().pid == os.getpid()
    lock.release()


def test_a_lock_is_waited_for(tmp_path):
    first, second = Lock(tmp_path / "a.h5"), Lock(tmp_path / "a.h5")
    assert first.acquire()
    began = time.monotonic()
    assert not second.acquire(wait_s=0.2)
    assert time.monotonic() - began >= 0.2
    threading.Timer(0.2, first.release).start()
    assert second.acquire(wait_s=20)
    second.release()


def test_waiting_ends_when_the_work_is_to_end(tmp_path):
    def wait() -> None:
        with deferred_interrupts():
            threading.Timer(0.2, request_stop).start()
            Lock(tmp_path / "a.h5").acquire(wait_s=60)

    with Lock(tmp_path / "a.h5"), pytest.raises(Interrupted):
        wait()


@posix
def test_a_lock_dies_with_its_owner_and_a_forked_child_does_not_keep_it(tmp_path):
    lock = Lock(tmp_path / "a.h5")
    lock.acquire()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    lock.release()
    try:
        assert Lock(tmp_path / "a.h5").acquire()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@posix
@pytest.mark.parametrize("make", ["link", "hard link", "pipe", "folder"])
def test_nothing_but_a_plain_file_is_locked_and_no_other_file_is_written(tmp_path, make):
    other = tmp_path / "mine.txt"
    other.write_text("mine")
    lock = Lock(tmp_path / "a.h5")
    lock.path.parent.mkdir()
    if make == "link":
        lock.path.symlink_to(other)
    elif make == "hard link":
        lock.path.hardlink_to(other)
    elif make == "pipe":
        os.mkfifo(lock.path)
    else:
        lock.path.mkdir()
    words = {
        "link": "cannot lock .*: it is a link, remove it",
        "pipe": "cannot lock .*: it is no file, remove it",
        "folder": "cannot write .*: Is a directory",
    }
    if make in words:
        with pytest.raises(WriteError, match=f"^{words[make]}$"):
            lock.acquire()
    else:
        assert lock.acquire()
        lock.release()
    assert other.read_text() == "mine"


@posix
def test_a_folder_of_locks_that_is_removed_lets_nobody_in_who_waits_for_the_old_file(
    tmp_path, monkeypatch
):
    lock, locked = Lock(tmp_path / "a.h5"), []
    real = locks.try_lock

    def lock_what_was_removed(descriptor: int) -> bool:
        if not locked:
            lock.path.unlink()
        locked.append(os.fstat(descriptor).st_nlink)
        return real(descriptor)

    monkeypatch.setattr(locks, "try_lock", lock_what_was_removed)
    assert lock.acquire(wait_s=5)
    assert locked == [0, 1]
    assert not Lock(tmp_path / "a.h5").acquire()
    lock.release()


# --- File systems without locks -------------------------------------------------------------------


@pytest.fixture(params=["ENOSYS", "ENOLCK", "EOPNOTSUPP", "524"])
def no_locks(request, monkeypatch):
    import fcntl

    code = int(request.param) if request.param.isdigit() else getattr(errno, request.param)

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "_without_locks", set())


@posix
def test_where_there_are_no_locks_work_goes_on_and_it_is_said_once(tmp_path, no_locks):
    with pytest.warns(NoLocksWarning, match=r"is on a file system without locks \([^\n]+\)"):
        assert Lock(tmp_path / "a.h5").acquire()
    first, second = Lock(tmp_path / "b.h5"), Lock(tmp_path / "b.h5")
    assert first.acquire()  # a second warning would be an error
    assert second.acquire()
    first.release()
    second.release()


@posix
def test_where_there_are_no_locks_files_are_whole_and_nobody_sweeps_what_is_written(
    tmp_path, no_locks
):
    with replacing(tmp_path / "a.json", overwrite=True) as pending:
        pending.write_bytes(b"whole")
        assert remove_stale_temporaries(tmp_path) == []
        left = tmp_path / ".b.json.1.00000000.tmp"
        left.touch()
        assert remove_stale_temporaries(tmp_path) == []
        os.utime(left, (0, time.time() - 8 * 24 * 3600))
        assert remove_stale_temporaries(tmp_path) == [left]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@posix
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, 524])
def test_where_folders_cannot_be_synced_nor_space_reserved_files_are_written(
    tmp_path, monkeypatch, code
):
    sync = os.fsync

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    def sync_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refuse()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync_files)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    made = Temporary(tmp_path / "a")
    made.raw.write(b"whole")
    made.reserve()
    made.sync()
    made.keep()
    assert (tmp_path / "a").read_bytes() == b"whole"


@posix
def test_a_file_system_that_counts_no_links(tmp_path, monkeypatch):
    real = os.fstat

    def without_links(descriptor: int) -> os.stat_result:
        values = list(real(descriptor))
        values[stat.ST_NLINK] = 0
        return os.stat_result(values)

    monkeypatch.setattr(os, "fstat", without_links)
    with replacing(tmp_path / "a", overwrite=True) as pending:
        pending.write_bytes(b"whole")
    with Lock(tmp_path / "a") as held:
        assert held
        assert Lock(tmp_path / "a").holder().pid == os.getpid()
        assert not Lock(tmp_path / "a").acquire()


@posix
def test_a_folder_that_fails_to_sync_is_told(tmp_path, monkeypatch):
    sync = os.fsync

    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with (
        pytest.raises(WriteError, match="Input/output error"),
        replacing(tmp_path / "a", overwrite=True),
    ):
        pass


@posix
def test_a_lock_that_fails_in_another_way_is_one_line(tmp_path, monkeypatch):
    import fcntl

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(WriteError, match=r"^cannot write .*a\.h5\.lock: Input/output error$"):
        Lock(tmp_path / "a.h5").acquire()


# --- Long names ------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("name", ["a" * 251 + ".h5", "é" * 126 + ".h5", "😀" * 63 + ".x"])
def test_the_longest_names_have_temporaries_and_locks(tmp_path, name):
    twin = name[:-1] + "_"  # differs in its end only
    path = tmp_path / name
    with replacing(path, overwrite=True) as pending:
        pending.write_bytes(b"whole")
        assert len(os.fsencode(pending.name)) <= 255
        stale = pending.with_name(pending.name.replace(f".{os.getpid()}.", ".1."))
        stale.touch()
        assert remove_stale_temporaries(tmp_path) == [stale]
    assert path.read_bytes() == b"whole"
    with Lock(path) as first, Lock(tmp_path / twin) as second, Lock(path) as third:
        assert (first, second, third) == (True, True, False)


@posix
def test_a_name_that_is_too_long_is_told_before_the_work(tmp_path):
    path = tmp_path / ("a" * 253 + ".h5")
    with pytest.raises(OSError, match="File name too long"):
        Temporary(path)
    words = r"^cannot write .*: File name too long \(256 bytes; 255 are possible there\): choose a shorter name$"
    with pytest.raises(WriteError, match=words), replacing(path, overwrite=True):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []
