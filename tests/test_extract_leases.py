"""Slides that another machine is at, where its locks cannot be seen: processes that pretend to be machines."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from histofast import _files
from histofast.pipeline import status_of
from small_slides import content, no_leftovers, run, write_slide

leases, locks, this_machine = _files.leases, _files.locks, _files.machine.this_machine

STALE_S = 5.0
# Each is on a machine of its own, whose locks nobody else sees, and so slow that others come in between.
SCRIPT = """
import sys, time
from histofast._files import leases, locks, machine, writing
from histofast.cli import main
from histofast.pipeline import encoding, extraction, holding
host, slow_s, stale_s = sys.argv.pop(1), float(sys.argv.pop(1)), float(sys.argv.pop(1))
here = machine.Machine(host=host, installation=host, kernel=host * 16, pids="")
leases.this_machine = writing.this_machine = lambda: here
locks.try_lock = writing.try_lock = lambda descriptor: True
locks.socket.gethostname = lambda: host
leases.STALE_S, extraction.POLL_S = stale_s, 0.05
holding.BEAT_S, holding.TOUCH_S = 0.1, 0.05
encode = encoding.Encoding._encode
def slow(self, event, waited_s):
    encode(self, event, waited_s)
    print("at work", flush=True)
    time.sleep(slow_s)
encoding.Encoding._encode = slow
main()
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")


class Hosts:
    """Starts `extract` as if on other machines, and ends what is left of them."""

    def __init__(self, slides, out, encoder):
        self.slides, self.out, self.encoder = slides, out, encoder
        self.started: list[subprocess.Popen] = []

    def start(self, host, *, slow_s=0.0, at_work=False):
        command = ["extract", self.slides, "-o", self.out, "-e", self.encoder]
        command += ["--min-tissue", "0.1", "--batch-size", "16", "--threads", "1", "--workers", "1"]
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, host, str(slow_s), str(STALE_S), *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        if at_work:
            assert process.stdout.readline() == "at work\n"
        return process

    def end(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def said(process):
    """Exit code and lines of one that ends by itself."""
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def leases_in(folder):
    return sorted(path.name for path in folder.rglob("*.lease"))


@pytest.fixture
def whole(slides, encoder, tmp_path):
    run(slides / "s1.tif", tmp_path / "whole", encoder)
    return content(tmp_path / "whole")


@pytest.fixture
def hosts(slides, encoder, tmp_path):
    together = Hosts(slides / "s1.tif", tmp_path / "f", encoder)
    yield together
    together.end()


@pytest.mark.slow
def test_a_slide_that_another_machine_is_at_is_left_to_it(hosts, whole, monkeypatch):
    first = hosts.start("a", slow_s=1.0, at_work=True)
    second = hosts.start("b")
    monkeypatch.setattr(leases, "this_machine", lambda: replace(this_machine(), host="c"))
    monkeypatch.setattr(locks, "_is_locked", lambda _: False)
    (at_work,) = status_of(hosts.out).at_work
    assert at_work.name == "s1"
    assert at_work.holder.startswith(f"process {first.pid} on a since ")
    code, err = said(first)
    assert (code, "1 slide: 1 done" in err) == (0, True), err
    code, err = said(second)
    assert (code, "1 done" in err) == (0, False), err
    assert content(hosts.out) == whole
    assert (leases_in(hosts.out), no_leftovers(hosts.out)) == ([], True)
    assert status_of(hosts.out).at_work == []


@pytest.mark.slow
def test_of_a_machine_that_was_lost_slides_are_taken_over(hosts, whole):
    first = hosts.start("a", slow_s=1.0, at_work=True)
    first.kill()
    first.wait()
    assert leases_in(hosts.out) == ["s1.h5.lease"]
    code, err = said(hosts.start("b"))
    assert (code, "1 slide: 1 done" in err) == (0, True), err
    assert content(hosts.out) == whole
    assert leases_in(hosts.out) == []


@pytest.mark.slow
def test_machines_that_begin_at_once_make_each_slide_once(encoder, tmp_path):
    (tmp_path / "slides").mkdir()
    for i in range(6):
        write_slide(tmp_path / f"slides/s{i}.tif", seed=i)
    hosts = Hosts(tmp_path / "slides", tmp_path / "f", encoder)
    try:
        both = [hosts.start(host, slow_s=0.02) for host in "ab"]
        answers = [said(process) for process in both]
    finally:
        hosts.end()
    assert [code for code, _ in answers] == [0, 0], answers
    done = [int(n) for _, err in answers for n in re.findall(r"6 slides: .*?([0-9]+) done", err)]
    assert sum(done) == 6, answers
    run(tmp_path / "slides", tmp_path / "whole", encoder)
    assert content(tmp_path / "f") == content(tmp_path / "whole")
    assert (leases_in(tmp_path / "f"), no_leftovers(tmp_path / "f")) == ([], True)


@pytest.mark.slow
@pytest.mark.parametrize("is_over", [False, True])
def test_who_was_only_asleep_drops_what_was_taken_over(hosts, whole, is_over):
    first = hosts.start("a", slow_s=0.1, at_work=True)
    first.send_signal(signal.SIGSTOP)
    second = hosts.start("b", slow_s=0.0 if is_over else 3.0, at_work=True)
    if is_over:
        assert said(second)[0] == 0
        (file,) = hosts.out.rglob("*.h5")
        file.unlink()  # or nobody could tell whether it is put there again
    first.send_signal(signal.SIGCONT)
    code, err = said(first)
    assert code == 1, err
    who = "another process" if is_over else f"process {second.pid} on b since "
    assert f"s1.h5 was taken over by {who}" in err
    assert "for this one has given no sign of life for minutes: start again" in err
    if is_over:
        assert content(hosts.out) == {}
    else:
        assert second.poll() is None
        assert said(second)[0] == 0
        assert content(hosts.out) == whole
    assert (leases_in(hosts.out), no_leftovers(hosts.out)) == ([], True)


def test_a_foreign_lease_is_waited_for_and_told_and_never_an_error(
    slides, encoder, tmp_path, monkeypatch
):
    """However long it takes until it may be taken over: nobody here can end the other process."""
    monkeypatch.setattr("histofast.pipeline.extraction.POLL_S", 0.02)
    monkeypatch.setattr("histofast.pipeline.holding.FROZEN_S", 0.2)
    monkeypatch.setattr(leases, "STALE_S", 2.0)
    path = run(slides, tmp_path / "whole", encoder).slides[1].outputs[0]
    file = tmp_path / "f" / os.path.relpath(path, tmp_path / "whole")
    with monkeypatch.context() as there:
        there.setattr(leases, "this_machine", lambda: replace(this_machine(), host="z"))
        assert leases.Lease(file, leases.Sightings()).acquire()
    began = time.monotonic()
    report = run(slides, tmp_path / "f", encoder)
    assert time.monotonic() - began >= 2.0
    assert len(report.of("done")) == 3
    (note,) = (note for note in report.notes if note.startswith("s1: "))
    assert note.startswith(f"s1: {file} is held by process {os.getpid()} on z since ")
    assert content(tmp_path / "f") == content(tmp_path / "whole")
    assert (leases_in(tmp_path / "f"), no_leftovers(tmp_path / "f")) == ([], True)


def test_where_a_lease_cannot_be_written_a_slide_fails_in_one_line(
    slides, encoder, tmp_path, monkeypatch
):
    create = leases._create

    def refuse(path, data):
        if path.name.startswith("s1."):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return create(path, data)

    monkeypatch.setattr(leases, "_create", refuse)
    report = run(slides, tmp_path / "f", encoder)
    (failed,) = report.of("failed")
    assert re.fullmatch(r"cannot write [^\n]*s1\.h5\.lease: Permission denied", failed.error)
    assert len(report.of("done")) == 2


def test_a_full_disk_ends_the_run_as_ever(slides, encoder, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(leases, "_create", refuse)
    report = run(slides, tmp_path / "f", encoder)
    assert report.exit_code == 1
    assert "s0.h5.lease" in report.error
    assert content(tmp_path / "f") == {}
