"""Leases: who makes a file, where locks do not tell. First in a pretended folder, step by step."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histofast import _files
from histofast._files import Lease, Sightings, remove_dead_leases
from histofast.errors import NoSpaceError, WriteError

leases, machine = _files.leases, _files.machine
Machine, this_machine = machine.Machine, machine.this_machine

FILE = Path("/folder/a.h5")
FAIR_S = 10.0  # nobody who lives waits longer for his next step


class _Killed(BaseException):
    """Ends the thread of a process that was killed; nothing that it does counts any more."""


class Process:
    """One that wants the file: takes the lease, works, gives it back, and so on, until it is killed."""

    def __init__(self, world, number, host):
        self.world, self.pid = world, 100 + number
        self.machine = Machine(host=host, installation=host, kernel=host, pids="")
        self.is_alive = self.wants = True
        self.believes = self.gives_back = self.is_over = False
        self.stepped_s = 0.0
        self.taken: list[float] = []
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._done.acquire()

    def step(self):
        """Have it do one thing to the folder."""
        self.stepped_s = self.world.now_s
        if not self.is_over:
            self._go.release()
            self._done.acquire()

    def end(self):
        """Let its thread end."""
        self.is_alive = self.believes = False
        while not self.is_over:
            self.step()
        self._thread.join()

    def pause(self):
        """Wait for its turn."""
        self._done.release()
        self._go.acquire()
        if not self.is_alive:
            raise _Killed

    def _run(self):
        self.world.local.process = self
        try:
            self.pause()
            self._live()
        except _Killed:
            pass
        finally:
            self.is_over = True
            self._done.release()

    def _live(self):
        lease = Lease(FILE, Sightings(lambda: self.world.now_s))
        while self.wants:
            if lease.acquire():
                self.believes = True
                self.taken.append(self.world.now_s)
                for _ in range(3):
                    self.pause()
                    self.believes = lease.beat()
                    if not self.believes:
                        break
                self.believes, self.gives_back = False, True
                lease.release()
                self.gives_back = False
            self.pause()


class World:
    """A folder, a clock, and processes on machines that do one step at a time."""

    def __init__(self, hosts):
        self.pid = 1
        self.files: dict[Path, tuple[bytes, int]] = {}
        self.now_s = 0.0
        self.local = threading.local()
        self.processes = [Process(self, i, host) for i, host in enumerate(hosts)]

    def pretend(self, patch):
        patch.setattr(Path, "mkdir", lambda *_, **__: None)
        patch.setattr(leases, "_create", self.create)
        patch.setattr(leases, "_read", self.read)
        patch.setattr(leases, "_touch", self.touch)
        patch.setattr(leases, "_remove", self.remove)
        patch.setattr(leases, "this_machine", lambda: self.local.process.machine)
        patch.setattr(leases.os, "getpid", lambda: getattr(self.local, "process", self).pid)
        patch.setattr(machine, "is_running", self.is_running)

    def create(self, path, data):
        self.local.process.pause()
        if path in self.files:
            return False
        self.files[path] = (data, int(self.now_s * 1e9))
        return True

    def read(self, path):
        self.local.process.pause()
        if path not in self.files:
            return None
        data, touched_ns = self.files[path]
        return leases._Link(path=path, data=data, touched_ns=touched_ns)

    def touch(self, path):
        self.local.process.pause()
        if path in self.files:
            self.files[path] = (self.files[path][0], int(self.now_s * 1e9))

    def remove(self, path):
        self.local.process.pause()
        self.files.pop(path, None)

    def is_running(self, pid):
        return any(each.pid == pid and each.is_alive for each in self.processes)

    def holder(self):
        """Number of the process that the chain ends with."""
        path, data = FILE.parent / ".locks/a.h5.lease", b""
        while path in self.files:
            data = self.files[path][0]
            path = path.with_name(f"a.h5.{hashlib.sha256(data).hexdigest()[:16]}.lease")
        return json.loads(data)["pid"] if data else None

    def alive(self):
        return [each for each in self.processes if each.is_alive]

    def step(self, draw):
        """Let some time pass, and one of those who live do something; nobody is forgotten for long."""
        self.now_s += draw.choice((0.0, 1.0, 5.0))
        alive = self.alive()
        if not alive:
            return
        hungriest = min(alive, key=lambda each: each.stepped_s)
        late = self.now_s - hungriest.stepped_s >= FAIR_S
        (hungriest if late else draw.choice(alive)).step()

    def end(self):
        for each in self.processes:
            each.end()


@given(
    seed=st.integers(0, 2**32),
    hosts=st.lists(st.sampled_from("abc"), min_size=2, max_size=4),
    kills=st.lists(st.integers(0, 150), max_size=3),
)
@settings(max_examples=60)
def test_never_two_while_they_show_that_they_live_and_in_the_end_somebody(seed, hosts, kills):
    with pytest.MonkeyPatch.context() as patch:
        draw, world = random.Random(seed), World(hosts)
        world.pretend(patch)
        try:
            for n in range(150):
                if n in kills and len(world.alive()) > 1:
                    draw.choice(world.alive()).end()
                world.step(draw)
                assert sum(each.believes for each in world.processes) <= 1
            began_s = world.now_s
            while world.now_s < began_s + 2 * leases.STALE_S:
                world.step(draw)
                assert sum(each.believes for each in world.processes) <= 1
            assert any(s > began_s for each in world.alive() for s in each.taken)
            for each in world.alive():  # all give it back: nothing is left of those who live
                each.wants = False
            for _ in range(300):
                world.step(draw)
            if not kills:
                assert world.files == {}
        finally:
            world.end()


@given(seed=st.integers(0, 2**32), steps=st.integers(0, 60))
@settings(max_examples=100)
def test_who_was_asleep_takes_nothing_from_who_took_over(seed, steps):
    """Wherever it fell asleep, but for the moment in which it gives the lease back."""
    with pytest.MonkeyPatch.context() as patch:
        draw, world = random.Random(seed), World("abc")
        world.pretend(patch)
        sleeper = world.processes[0]
        try:
            for _ in range(steps):
                sleeper.step()
            sleeper.is_alive = False
            for _ in range(400):
                world.step(draw)
            assert any(each.taken for each in world.processes[1:])
            while not any(each.believes for each in world.processes[1:]):
                world.step(draw)
            excused, sleeper.is_alive = sleeper.gives_back, True
            (believer,) = (each for each in world.processes[1:] if each.believes)
            assert world.holder() == believer.pid
            for _ in range(20):  # it finds out, before anybody else does anything
                sleeper.step()
            assert excused or (not sleeper.believes and world.holder() == believer.pid)
            assert not sleeper.is_over
            for each in world.processes:
                each.wants = False
            for _ in range(400):
                world.step(draw)
            assert all(each.is_over for each in world.processes)
            assert excused or world.files == {}
        finally:
            world.end()


# --- in a real folder -----------------------------------------------------------------------------

HERE = Machine(host="a", installation="ia", kernel="ka", pids="pa")


class Clock:
    """A clock that is put forward by hand."""

    now_s = 0.0

    def __call__(self):
        return self.now_s


def be(monkeypatch, place):
    """Be on another machine from now on."""
    monkeypatch.setattr(leases, "this_machine", lambda: place)


def files(folder):
    return sorted(path.name for path in folder.rglob("*.lease"))


def leave(folder, name="a.h5", **changes):
    """Write what a process of another machine has left; return its path."""
    said = asdict(HERE) | {"pid": 7, "since": "2026-11-29T12:00:00+01:00", "word": "x"} | changes
    path = folder / ".locks" / f"{name}.lease"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(said))
    return path


def test_a_lease_is_one_file_and_none_when_it_is_given_back(tmp_path):
    mine, other = (Lease(tmp_path / "a.h5", Sightings()) for _ in range(2))
    assert (mine.is_held(), mine.holder(), mine.touched_s()) == (False, None, None)
    assert mine.acquire()
    assert mine.acquire()  # it has it
    assert files(tmp_path) == ["a.h5.lease"]
    assert not other.acquire()
    assert (mine.is_held(), other.is_held()) == (True, False)
    assert other.holder().pid == os.getpid()
    assert other.touched_s() == pytest.approx(time.time(), abs=60)
    assert Lease(tmp_path / "b.h5", Sightings()).acquire()
    other.release()  # it has none
    mine.release()
    assert files(tmp_path) == ["b.h5.lease"]
    assert other.acquire()


def test_one_that_is_touched_is_not_taken_over_and_one_that_is_not_is(tmp_path, monkeypatch):
    clock = Clock()
    file = leave(tmp_path, host="z")
    lease = Lease(tmp_path / "a.h5", Sightings(clock))
    for n in range(10):
        assert not lease.acquire()
        clock.now_s += leases.STALE_S - 1
        os.utime(file, (0, n % 2))  # whatever its clock says: that it changes counts
    assert not lease.acquire()
    assert str(lease.holder()) == "process 7 on z since 2026-11-29 12:00:00"
    clock.now_s += leases.STALE_S
    assert lease.acquire()
    assert len(files(tmp_path)) == 2
    assert lease.holder().pid == os.getpid()
    lease.release()
    assert files(tmp_path) == []


def test_the_name_of_who_takes_over_is_used_once(tmp_path):
    clock = Clock()
    leave(tmp_path, host="z")
    both = [Lease(tmp_path / "a.h5", Sightings(clock)) for _ in range(2)]
    assert [lease.acquire() for lease in both] == [False, False]
    clock.now_s += leases.STALE_S
    assert [lease.acquire() for lease in both] == [True, False]
    assert not both[1].acquire()  # he has just begun


def test_who_falls_asleep_while_he_takes_it_has_not_got_it(tmp_path, monkeypatch):
    create = leases._create

    def sleep(path, data):
        made = create(path, data)
        mark = hashlib.sha256(data).hexdigest()[:16]
        assert create(path.with_name(f"a.h5.{mark}.lease"), b"of another")
        return made

    monkeypatch.setattr(leases, "_create", sleep)
    assert not Lease(tmp_path / "a.h5", Sightings()).acquire()
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("is_first", [True, False])
def test_who_comes_late_to_a_chain_that_is_gone_leaves_nothing(tmp_path, monkeypatch, is_first):
    create, clock = leases._create, Clock()
    lease = Lease(tmp_path / "a.h5", Sightings(clock))
    if not is_first:
        leave(tmp_path, host="z")
        assert not lease.acquire()
        clock.now_s += leases.STALE_S

    def sleep(path, data):
        made = create(path, data)
        lease.path.unlink()
        lease.path.write_bytes(b"of another")
        return made

    monkeypatch.setattr(leases, "_create", sleep)
    assert not lease.acquire()
    assert files(tmp_path) == ["a.h5.lease"]
    assert lease.path.read_bytes() == b"of another"


def test_who_has_lost_it_finds_out_and_takes_nothing_from_others(tmp_path, monkeypatch):
    clock = Clock()
    be(monkeypatch, HERE)
    mine = Lease(tmp_path / "a.h5", Sightings(clock))
    assert mine.acquire()
    assert mine.beat()
    be(monkeypatch, replace(HERE, host="b"))
    other = Lease(tmp_path / "a.h5", Sightings(clock))
    assert not other.acquire()
    clock.now_s += leases.STALE_S
    assert other.acquire()
    assert (mine.is_held(), mine.beat(), other.is_held()) == (False, False, True)
    mine.release()
    assert other.is_held()
    other.release()
    assert (mine.beat(), other.beat()) == (False, False)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "pid", "is_gone"),
    [
        ({}, "own", False),
        ({}, "gone", True),
        ({"pids": "pb"}, "gone", False),  # another container counts by itself
        ({"host": "b"}, "gone", False),
        ({"kernel": "kb"}, "own", True),  # started again since
        ({"kernel": "kb", "installation": "ib"}, "own", False),  # another machine of that name
        ({"host": "b", "kernel": "kb", "installation": "ib"}, "gone", False),
    ],
)
def test_which_processes_have_ended_for_certain(tmp_path, monkeypatch, changes, pid, is_gone):
    be(monkeypatch, HERE)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    number = os.getpid() if pid == "own" else ended.pid
    leave(tmp_path, pid=number, **changes)
    assert HERE.is_gone(replace(HERE, **changes), number) == is_gone
    lease = Lease(tmp_path / "a.h5", Sightings())
    assert (lease.touched_s() is None) == is_gone
    assert lease.acquire() == is_gone  # at once
    lease.release()


def test_two_machines_without_a_mark_are_not_one_that_was_started_again():
    place = replace(HERE, installation="")
    assert not place.is_gone(replace(place, kernel="kb"), 1)


def test_this_machine_has_marks():
    here = this_machine()
    assert here.host
    assert len(here.kernel) == 16
    assert not here.is_gone(here, os.getpid())
    assert machine.is_running(os.getpid())
    assert machine.is_running(2**70)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 5000,
        b'{"host": 3}',
        b"x" * 10_000,
        b'{"pid": 1e999, "since": 4}',
    ],
    ids=range(7),
)
def test_what_is_no_lease_is_taken_over_in_the_end(tmp_path, data):
    clock = Clock()
    leave(tmp_path).write_bytes(data)
    lease = Lease(tmp_path / "a.h5", Sightings(clock))
    assert not lease.acquire()
    assert lease.holder() is None
    clock.now_s += leases.STALE_S
    assert lease.acquire()
    lease.release()
    assert files(tmp_path) == []


def test_a_lease_that_was_copied_leads_nowhere(tmp_path):
    lease = Lease(tmp_path / "a.h5", Sightings())
    assert lease.acquire()
    data = lease.path.read_bytes()
    lease.path.with_name(f"a.h5.{hashlib.sha256(data).hexdigest()[:16]}.lease").write_bytes(data)
    assert lease.is_held()


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_link_in_its_place_is_one_line(tmp_path):
    (tmp_path / ".locks").mkdir()
    (tmp_path / ".locks/a.h5.lease").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(WriteError, match=r"^cannot write .*a\.h5\.lease: [^\n]+$"):
        Lease(tmp_path / "a.h5", Sightings()).acquire()


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.ENOSPC, NoSpaceError), (errno.EROFS, WriteError), (errno.EACCES, WriteError)],
)
def test_where_none_can_be_written_it_is_one_line(tmp_path, monkeypatch, code, kind):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(leases, "_create", refuse)
    with pytest.raises(kind, match=r"^[^\n]*a\.h5\.lease[^\n]*$"):
        Lease(tmp_path / "a.h5", Sightings()).acquire()
    assert files(tmp_path) == []


def test_a_disk_that_is_full_when_it_is_given_back(tmp_path, monkeypatch):
    lease = Lease(tmp_path / "a.h5", Sightings())
    assert lease.acquire()

    def refuse(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(leases, "_create", refuse)
    lease.release()
    assert files(tmp_path) == []


def test_one_that_cannot_be_written_whole_is_not_there(tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, data):
            raise OSError(errno.ENOSPC, "full")

    def half(path, mode, buffering):
        Path(path).touch(exist_ok=False)
        return Full()

    monkeypatch.setattr(leases, "open", half, raising=False)
    with pytest.raises(OSError, match="full"):
        leases._create(tmp_path / "x.lease", b"data")
    assert files(tmp_path) == []


def test_a_folder_that_does_not_answer_is_no_loss_before_one_must_know(tmp_path, monkeypatch):
    lease = Lease(tmp_path / "a.h5", Sightings())
    assert lease.acquire()

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(leases, "_read", fail)
    assert lease.beat()
    with pytest.raises(WriteError, match="Input/output error"):
        lease.is_held()
    assert (lease.holder(), lease.touched_s()) == (None, None)


def test_what_another_machine_has_removed_is_not_there(tmp_path, monkeypatch):
    def stale(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(leases, "open", stale, raising=False)
    assert leases._read(tmp_path / "a.lease") is None


def test_what_killed_processes_of_this_machine_left_is_removed(tmp_path, monkeypatch):
    code = (
        "import os, sys; from histofast._files import Lease, Sightings\n"
        f"lease = Lease({str(tmp_path / 'a.h5')!r}, Sightings()); lease.acquire()\n"
        "lease._make(lease._mine)\n"  # in the middle of giving it back
        f"lost = Lease({str(tmp_path / 'lost.h5')!r}, Sightings()); lost.acquire()\n"
        "lost._make(lost._mine); lost.path.unlink()\n"  # a little later
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(files(tmp_path)) == 3
    living = Lease(tmp_path / "b.h5", Sightings())
    assert living.acquire()
    leave(tmp_path, "c.h5", host="z")
    remove_dead_leases(tmp_path)
    assert files(tmp_path) == ["b.h5.lease", "c.h5.lease"]
    assert living.is_held()
    remove_dead_leases(tmp_path / "gone")


def test_a_long_name_has_leases_too(tmp_path):
    lease = Lease(tmp_path / ("a" * 251 + ".h5"), Sightings())
    assert lease.acquire()
    lease._make(lease._mine)
    assert len(files(tmp_path)) == 2
