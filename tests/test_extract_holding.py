"""Slides that another process is at: waited for while it lives, told of when it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from histofast._files import Lock
from small_slides import content, no_leftovers, run


@pytest.fixture
def soon(monkeypatch):
    """Have patience end, and signs of life be given, in fractions of a second."""
    monkeypatch.setattr("histofast.pipeline.extraction.POLL_S", 0.02)
    monkeypatch.setattr("histofast.pipeline.holding.FROZEN_S", 0.5)
    monkeypatch.setattr("histofast.pipeline.holding.TOUCH_S", 0.05)


@pytest.fixture
def whole(slides, encoder, tmp_path):
    """The feature file of the second slide as it should be, and where it would be in `f`."""
    report = run(slides, tmp_path / "whole", encoder)
    path = Path(report.slides[1].outputs[0])
    return path.read_bytes(), tmp_path / "f" / path.relative_to(tmp_path / "whole")


@pytest.mark.usefixtures("soon")
def test_a_frozen_owner_is_named_and_not_waited_for(slides, encoder, tmp_path, whole, cli):
    _, path = whole
    with Lock(path) as held:
        assert held
        seen = []
        report = run(slides, tmp_path / "f", encoder, on_progress=seen.append)
        owner = f"{path} is held by process {os.getpid()} on {os.uname().nodename} since 20"
        (failed,) = report.of("failed")
        assert failed.error.startswith(owner)
        assert "which has given no sign of life for" in failed.error
        assert failed.error.endswith("s: end that process, and start again")
        assert [s.name for s in report.slides] == ["s0", "s2", "s1"]  # the others went first
        assert report.exit_code == 1
        answer = cli("extract", slides, "-o", tmp_path / "f", "-e", encoder, "--min-tissue", "0.1")
        assert answer.code == 1
        assert any(line.startswith(f"[3/3] s1: failed: {owner}") for line in answer.err)
    assert run(slides, tmp_path / "f", encoder).of("done")
    assert no_leftovers(tmp_path)


@pytest.mark.usefixtures("soon")
def test_an_owner_that_lives_is_waited_for_and_named(slides, encoder, tmp_path, whole):
    data, path = whole
    lock = Lock(path)
    assert lock.acquire()

    def work():
        for _ in range(40):  # twice as long as patience with a frozen one
            time.sleep(0.05)
            os.utime(lock.path)
        written = tmp_path / "written"
        written.write_bytes(data)
        written.replace(path)  # whole at once, as an owner's file appears
        lock.release()

    worker = threading.Thread(target=work)
    worker.start()
    seen = []
    report = run(slides, tmp_path / "f", encoder, on_progress=seen.append)
    worker.join()
    assert {s.name: s.status for s in report.slides} == {
        "s0": "done",
        "s1": "skipped",
        "s2": "done",
    }
    (note,) = (note for note in report.notes if note.startswith("s1: "))
    assert note.startswith(f"s1: {path} is held by process {os.getpid()} on ")
    assert note.endswith(" and will be waited for")
    assert [progress.note for progress in seen if progress.note] == [note]


@pytest.mark.usefixtures("soon")
def test_a_run_shows_that_it_lives(slides, encoder, tmp_path, whole):
    _, path = whole
    times = set()

    def look(progress):
        if progress.name == "s1":
            for _ in range(4):
                time.sleep(0.06)
                times.add(Lock(path).path.stat().st_mtime_ns)

    run(slides, tmp_path / "f", encoder, on_progress=look, batch_size=8)
    assert len(times) > 3


@pytest.mark.usefixtures("soon")
def test_a_run_shows_that_it_lives_until_its_last_slide_is_written(
    slides, encoder, tmp_path, whole
):
    path = whole[1].with_name("s2.h5")
    times = set()

    def look(progress):
        is_last_batch = progress.slide_patches_done == progress.slide_patches > 0
        if progress.name == "s2" and is_last_batch:  # nothing is left to be supplied
            for _ in range(8):
                time.sleep(0.06)
                times.add(Lock(path).path.stat().st_mtime_ns)

    run(slides, tmp_path / "f", encoder, on_progress=look)
    assert len(times) > 3


SCRIPT = """
import sys, time
from histofast.cli import main
from histofast.pipeline import encoding
encode = encoding.Encoding._encode
def slow(self, event, waited_s):
    encode(self, event, waited_s)
    print("at work", flush=True)
    time.sleep(0.1)
encoding.Encoding._encode = slow
main()
"""


@pytest.mark.usefixtures("soon")
def test_a_process_that_is_stopped_is_not_waited_for(slides, encoder, tmp_path, whole):
    command = ["extract", str(slides), "-o", str(tmp_path / "f"), "-e", str(encoder)]
    command += ["--min-tissue", "0.1", "--batch-size", "16"]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *command], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "at work\n"
        process.send_signal(signal.SIGSTOP)
        report = run(slides, tmp_path / "f", encoder)
        held = [s.error for s in report.of("failed")]
        assert held
        assert all(f"is held by process {process.pid} on " in error for error in held)
        assert len(report.of("done")) == 3 - len(held)
    finally:
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert content(tmp_path / "f") == content(tmp_path / "whole")
    assert no_leftovers(tmp_path / "f")
