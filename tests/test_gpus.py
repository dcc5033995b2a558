"""`extract` on several devices: processes that share the slides, here two CPUs for want of GPUs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import histofast
from histofast import features
from histofast._files import Lock
from histofast.errors import JobError, ModelError, NoSpaceError
from histofast.jobs import Local, processes, team
from histofast.patches import Job
from histofast.pipeline import (
    ExtractOptions,
    SlideReport,
    extraction,
)
from histofast.pipeline import options as asked
from histofast.pipeline.encoding import BatchDone
from histofast.pipeline.gathering import Gathering
from small_slides import content, no_leftovers, run, write_slide
from tiny_encoder import write_encoder

# As a script would: at its top level, without `if __name__ == "__main__"`.
SCRIPT = """
import sys
from histofast.pipeline import extraction
extraction.devices_of = lambda device, gpus: ["cpu", "cpu"]
from histofast.cli import main
print("once")
main()
"""


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for i in range(5):
        write_slide(folder / f"s{i}.tif", seed=i, size=(384 + 32 * i, 384))
    return folder


@pytest.fixture
def two(monkeypatch):
    """Have `extract` use `devices`, two processes on the CPU; `started` are those it starts."""
    two, popen = SimpleNamespace(devices=["cpu", "cpu"], started=[]), subprocess.Popen

    def start(*arguments, **options):
        two.started.append(popen(*arguments, **options))
        return two.started[-1]

    monkeypatch.setattr(extraction, "devices_of", lambda *_: two.devices)
    monkeypatch.setattr(processes.subprocess, "Popen", start)
    yield two
    assert all(process.returncode is not None for process in two.started)


# Patches in plenty, so that a slide takes a while.
DENSE = {"mpp": 1.0, "overlap_px": 28, "batch_size": 16}


# --- what comes out -------------------------------------------------------------------------------


def test_the_same_bytes_as_one_process_and_every_slide_once(slides, encoder, tmp_path, two):
    seen = []
    report = run(slides, tmp_path / "f", encoder, on_progress=seen.append)
    assert len(two.started) == 2
    assert (report.exit_code, report.notes) == (0, [])
    assert sorted(s.name for s in report.of("done")) == [f"s{i}" for i in range(5)]
    assert sum(device.slides for device in report.devices) == 5
    assert sum(device.patches for device in report.devices) == report.patches > 0
    assert report.limit in {"encoding", "decoding", "writing"}
    assert [path.name for path in (tmp_path / "f").glob("*.json")] == ["run.json"]
    saved = json.loads((tmp_path / "f" / "run.json").read_text())
    assert [device["device"] for device in saved["devices"]] == ["cpu", "cpu"]
    assert saved["about"]["slides"] == len(saved["slides"]) == 5
    assert saved["about"]["encoders"][0]["name"] == "tiny"
    assert [p.finished.name for p in seen if p.finished] == [s.name for s in report.slides]
    assert [p.slides_done for p in seen if p.finished] == [1, 2, 3, 4, 5]
    assert {p.slides_total for p in seen} == {5}
    assert seen[-1].patches_done == report.patches
    assert any(p.slide_patches_done for p in seen)
    assert all(p.slide_patches_done <= p.slide_patches for p in seen)
    assert no_leftovers(tmp_path)
    again = run(slides, tmp_path / "f", encoder)
    assert len(again.of("skipped")) == len(again.slides) == 5
    assert (again.limit, again.patches) == ("", 0)
    two.devices = ["cpu"]
    run(slides, tmp_path / "g", encoder)
    assert len(two.started) == 4
    assert content(tmp_path / "f") == content(tmp_path / "g")


def test_bags(encoder, tmp_path, two):
    from slide_files import picture

    rows = ["file,bag"]
    for i in range(6):
        histofast.slides.write_png(tmp_path / f"{i}.png", picture(40, 40, seed=i))
        rows.append(f"{i}.png,bag{i % 3}")
    (tmp_path / "patches.csv").write_text("\n".join(rows))
    report = run(None, tmp_path / "f", encoder, patches=tmp_path / "patches.csv")
    assert {s.name: s.patches for s in report.of("done")} == {"bag0": 2, "bag1": 2, "bag2": 2}


def test_bad_slides_do_not_stop_the_others(slides, encoder, tmp_path, two):
    folder = tmp_path / "in"
    shutil.copytree(slides, folder)
    (folder / "bad.tif").write_text("no slide")
    report = run(folder, tmp_path / "f", encoder)
    assert (report.exit_code, len(report.of("done"))) == (1, 5)
    assert [s.name for s in report.of("failed")] == ["bad"]
    report = run(folder / "bad.tif", tmp_path / "g", encoder, fail_fast=True)
    assert [s.status for s in report.slides] == ["failed"]


def test_a_slide_that_another_run_is_making_is_left_to_it(slides, encoder, tmp_path, two):
    two.devices = ["cpu"]
    done = run(slides, tmp_path / "g", encoder)
    two.devices = ["cpu", "cpu"]
    made = Path(next(s.outputs[0] for s in done.slides if s.name == "s1"))
    path = tmp_path / "f" / made.relative_to(tmp_path / "g")
    other = Lock(path)
    assert other.acquire()

    def let_go(progress):
        if progress.slides_done == 4 and progress.finished:
            path.write_bytes(made.read_bytes())
            other.release()

    report = run(slides, tmp_path / "f", encoder, on_progress=let_go)
    assert {s.name: s.status for s in report.slides} == {
        "s1": "skipped",
        **dict.fromkeys(("s0", "s2", "s3", "s4"), "done"),
    }
    assert content(tmp_path / "f") == content(tmp_path / "g")


# --- what goes wrong ------------------------------------------------------------------------------


def test_what_no_process_can_do_is_raised_as_ever(slides, encoder, tmp_path, two):
    other = write_encoder(tmp_path / "other.onnx", name="other", patch_px=64)
    with pytest.raises(ValueError, match="patch_px must be given when encoders differ in it"):
        run(slides, tmp_path / "f", [encoder, other])
    (tmp_path / "bad.onnx").write_bytes(b"no encoder")
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        run(slides, tmp_path / "f", tmp_path / "bad.onnx")
    with pytest.raises(FileNotFoundError, match="no such encoder file: "):
        run(slides, tmp_path / "f", tmp_path / "none.onnx")
    assert not (tmp_path / "f").exists()


def test_a_process_that_cannot_start(slides, encoder, tmp_path, two, monkeypatch):
    monkeypatch.setattr(processes, "CODE", "raise SystemExit(3) #{path}{handle}{patience_s}".format)
    with pytest.raises(ModelError, match="the process of cpu ended with code 3 while it started"):
        run(slides, tmp_path / "f", encoder)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_the_slides_of_a_process_that_is_killed_go_to_another(slides, encoder, tmp_path, two):
    def kill(progress):
        if progress.slide_patches_done and two.started[0].poll() is None:
            two.started[0].send_signal(signal.SIGKILL)
            time.sleep(0.1)

    report = run(slides, tmp_path / "f", encoder, on_progress=kill, **DENSE)
    assert sorted(s.name for s in report.of("done")) == [f"s{i}" for i in range(5)]
    assert report.exit_code == 0, report
    (note,) = report.notes
    assert note.startswith("cpu: its process was ended by SIGKILL")
    assert no_leftovers(tmp_path)
    two.devices = ["cpu"]
    run(slides, tmp_path / "g", encoder, **DENSE)
    assert content(tmp_path / "f") == content(tmp_path / "g")
    assert features.verify([tmp_path / "f"]).is_whole


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_when_all_processes_are_killed(slides, encoder, tmp_path, two):
    def kill(progress):
        if progress.slide_patches_done:
            for process in two.started:
                process.send_signal(signal.SIGKILL)

    report = run(slides, tmp_path / "f", encoder, on_progress=kill, **DENSE)
    assert report.exit_code == 1
    assert report.error == "no worker is left: the process of cpu was ended by SIGKILL"
    assert "the process of cpu was ended by SIGKILL" in {s.error for s in report.of("failed")}
    assert len(report.slides) == 5
    assert no_leftovers(tmp_path)


def test_ctrl_c_leaves_whole_files_only(slides, encoder, tmp_path, two):
    def interrupt(progress):
        if 1 <= progress.slides_done < 4:  # two may end between two words
            raise KeyboardInterrupt

    report = run(slides, tmp_path / "f", encoder, on_progress=interrupt, **DENSE)
    assert (report.exit_code, report.interrupted) == (130, True)
    assert len(report.slides) == 5
    assert report.of("interrupted")
    assert json.loads((tmp_path / "f" / "run.json").read_text())["interrupted"]
    written = {Path(name).stem for name in content(tmp_path / "f")}
    assert {s.name for s in report.of("done")} == written
    assert no_leftovers(tmp_path)
    assert features.verify([tmp_path / "f"]).is_whole
    two.devices = ["cpu"]
    assert run(slides, tmp_path / "f", encoder, **DENSE).exit_code == 0


def test_an_error_of_the_caller_ends_the_processes(slides, encoder, tmp_path, two):
    def fails(progress):
        raise LookupError("of the caller")

    with pytest.raises(LookupError, match="of the caller"):
        run(slides, tmp_path / "f", encoder, on_progress=fails, **DENSE)
    assert no_leftovers(tmp_path)


# --- from outside ---------------------------------------------------------------------------------


def start(folder, slides, encoder, out, **options):
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "queue.py").write_text("raise SystemExit('the wrong module')")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    dense = ["--mpp", "1", "--overlap", "28", "--min-tissue", "0.1", "--batch-size", "16"]
    return subprocess.Popen(
        [sys.executable, script, "extract", slides, "-e", encoder, "--out", out, *dense],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder / "elsewhere",
        start_new_session=True,
        **options,
    )


def test_a_script_without_a_main_guard_runs_once(slides, encoder, tmp_path):
    with start(tmp_path, slides, encoder, tmp_path / "f") as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "once\n"), err
    assert len(content(tmp_path / "f")) == 5
    assert "5 slides: 5 done" in err
    assert "limit: " in err
    assert err.count("encoder busy") == 2


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_signals_leave_whole_files_only(slides, encoder, tmp_path, number, to_all):
    out = tmp_path / "f"
    with start(tmp_path, slides, encoder, out) as process:
        assert process.stderr.readline().startswith("[1/5] ")
        (os.killpg if to_all else os.kill)(process.pid, number)
        rest = process.stderr.read()
    assert process.returncode == 130, rest
    assert "interrupted: the same command goes on from here" in rest
    assert "Traceback" not in rest
    assert 1 <= len(content(out)) < 5
    assert no_leftovers(out)
    assert features.verify([out]).is_whole


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_processes_end_with_a_parent_that_is_killed(slides, encoder, tmp_path):
    out = tmp_path / "f"
    process = start(tmp_path, slides, encoder, out)
    assert process.stderr.readline().startswith("[1/5] ")
    process.kill()
    process.wait()
    rest = process.stderr.read()  # until its children have let go of it
    process.stderr.close()
    process.stdout.close()
    assert "Traceback" not in rest
    assert no_leftovers(out)
    assert features.verify([out]).is_whole


# --- which slide goes where -----------------------------------------------------------------------


class Table:
    """Two processes that say what a test has them say; what they are dealt, what is reported."""

    def __init__(self, *sizes, fail_fast=False, folder):
        slides = []
        for i, size in enumerate(sizes):
            (folder / f"s{i}.tif").write_bytes(bytes(size))
            slides.append(Job(name=f"s{i}", path=folder / f"s{i}.tif"))
        self.devices = ["cuda:0", "cuda:1"]
        self.todo = extraction.jobs_of(slides)
        options = ExtractOptions(out=folder / "out", fail_fast=fail_fast)
        self.seen, self.error, self.dealings = [], "", ([], [])
        self.gathering = Gathering(self.todo, options, self.devices, self.seen.append, 0.0)
        workers = extraction.workers_for(options, self.devices)
        self.team = team.Team(
            Local(workers=workers, tries=2, replace=False, poll_s=0.0),
            workers,
            None,
            self.todo,
            self.gathering,
            lambda outcome: (
                (fail_fast and outcome.status == "failed")
                or isinstance(outcome.error, NoSpaceError)
            ),
            team.Wake(),
        )
        self.processes = [self._process(i, worker) for i, worker in enumerate(workers)]
        self.team._alive = list(self.processes)

    def _process(self, number, worker):
        return SimpleNamespace(
            number=number,
            worker=worker,
            title=f"the process of {worker.name}",
            has_asked=False,
            is_over=False,
            answer=lambda job: self.dealings[number].append(job and job.name),
            stop=lambda: None,
            end=lambda: None,
        )

    @property
    def report(self):
        return self.gathering.report

    def says(self, number, message):
        self.team._take(self.processes[number], message)
        self.team._deal()

    def asks(self, number):
        self.says(number, team.Asks())

    def dies(self, number, code):
        try:
            self.says(number, team.Gone(processes._how_ended(code)))
        except JobError as error:
            self.error = str(error)

    def ends(self, number, slide, status="done", *, is_encoders=False, error="", kind=ModelError):
        report = SlideReport(name=slide, path="", status=status, error=error)
        failure = kind(error) if status == "failed" else None
        self.says(number, team.Ends(slide, status, report, failure, 0.0, is_encoders))

    def dealt(self, number):
        return self.dealings[number]

    def ended(self):
        return {slide.name: slide.status for slide in self.report.slides}


def test_big_slides_first_and_the_last_ones_to_who_is_idle(tmp_path):
    table = Table(10, 40, 30, 20, folder=tmp_path)
    table.asks(0)
    table.asks(1)
    assert (table.dealt(0), table.dealt(1)) == (["s1"], ["s2"])
    table.asks(0)  # ahead of its time, while there are enough for all
    table.asks(1)  # the only one left is for who is ready first
    assert (table.dealt(0), table.dealt(1)) == (["s1", "s3"], ["s2"])
    table.ends(0, "s1")
    table.asks(0)
    assert table.dealt(0) == ["s1", "s3"]
    table.ends(1, "s2")
    assert table.dealt(1) == ["s2", "s0"]
    table.ends(0, "s3")
    assert table.dealt(0) == ["s1", "s3"]  # nothing is left, but the other may die
    table.ends(1, "s0")
    assert table.dealt(0) == ["s1", "s3", None]
    table.asks(1)
    assert table.dealt(1) == ["s2", "s0", None]
    assert table.ended() == dict.fromkeys(("s0", "s1", "s2", "s3"), "done")


def test_a_slide_that_one_encoder_fails_on_goes_to_the_other(tmp_path):
    table = Table(2, 1, folder=tmp_path)
    table.asks(0)
    table.asks(1)
    table.ends(0, "s0", "failed", is_encoders=True, error="no memory")
    table.asks(0)
    assert (table.dealt(0), table.ended()) == (["s0"], {})
    table.ends(1, "s1")
    table.asks(1)
    assert table.dealt(1) == ["s1", "s0"]
    table.ends(1, "s0")
    assert table.ended() == {"s1": "done", "s0": "done"}
    assert table.report.notes == [
        "cuda:0: failed on s0, which cuda:1 encoded then: no memory",
    ]
    assert table.dealt(0) == ["s0", None]


def test_a_slide_that_both_fail_on_has_failed(tmp_path):
    table = Table(1, folder=tmp_path)
    table.asks(0)
    table.asks(1)
    table.ends(0, "s0", "failed", is_encoders=True)
    assert table.dealt(1) == ["s0"]
    table.ends(1, "s0", "failed", is_encoders=True)
    assert table.ended() == {"s0": "failed"}


@pytest.mark.parametrize("options", [{"is_encoders": False}, {"is_encoders": True}])
def test_a_slide_that_is_bad_itself_is_not_tried_again(tmp_path, options):
    table = Table(1, folder=tmp_path, fail_fast=options["is_encoders"])
    table.asks(0)
    table.asks(1)
    table.ends(0, "s0", "failed", **options)
    assert table.ended() == {"s0": "failed"}


def test_a_slide_is_not_given_a_third_process_to_end(tmp_path):
    table = Table(3, 2, 1, folder=tmp_path)
    table.asks(0)
    table.asks(1)
    table.dies(0, -9)
    assert table.ended() == {}
    table.asks(1)
    assert table.dealt(1) == ["s1", "s0"]
    table.dies(1, -9)
    assert table.ended() == {"s0": "failed", "s1": "failed"}
    assert table.error == "no worker is left: the process of cuda:1 was ended by SIGKILL"
    assert len(table.report.notes) == 2


def test_a_slide_refused_by_the_only_one_left_has_failed(tmp_path):
    table = Table(1, 1, folder=tmp_path)
    table.asks(0)
    table.asks(1)
    table.ends(0, "s0", "failed", is_encoders=True, error="no memory")
    table.dies(1, 1)
    assert [(s.name, s.error) for s in table.report.slides] == [("s0", "no memory")]
    table.asks(0)
    assert table.dealt(0) == ["s0", "s1"]


@pytest.mark.parametrize("full", [False, True])
def test_what_ends_the_run(tmp_path, full):
    table = Table(2, 1, 1, folder=tmp_path, fail_fast=not full)
    table.asks(0)
    table.asks(1)
    if full:
        table.ends(0, "s0", "failed", error="no space left", kind=NoSpaceError)
        assert table.report.error == "no space left"
    else:
        table.ends(0, "s0", "failed")
    table.asks(0)
    table.dies(1, 130)
    assert (table.dealt(0), table.dealt(1)) == (["s0"], ["s1"])
    assert (table.ended(), table.report.notes) == ({"s0": "failed"}, [])


def test_progress_is_of_all_at_work(tmp_path):
    table = Table(2, 1, folder=tmp_path)
    table.asks(0)
    table.asks(1)

    def told(number, name, done, of):
        what = BatchDone(slide_patches=of, slide_patches_done=done, patches=done)
        table.says(number, team.Tells(name, what))

    told(0, "s0", 10, 100)
    told(1, "s1", 5, 50)
    last = table.seen[-1]
    assert (last.name, last.slide_patches_done, last.slide_patches) == ("s0, s1", 15, 150)
    assert (last.patches_done, last.slides_total) == (15, 2)
    table.dies(1, 1)
    told(0, "s0", 20, 100)
    assert table.seen[-1].patches_done == 20  # not those that were lost


# --- what is asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gpus": []}, ValueError, "gpus must name at least one GPU, got none"),
        ({"gpus": [0, -1]}, ValueError, "gpus must not be negative, got -1"),
        ({"gpus": [1, 0, 1]}, ValueError, "gpus must be given once each, got 1, 0, 1"),
        ({"gpus": "01"}, TypeError, "gpus must be a whole number, got '0'"),
        ({"gpus": [0], "device": "cpu"}, ValueError, "device must be auto, cuda or tensorrt with"),
        ({"gpus": [0], "device": "cuda:1"}, ValueError, "device must be auto, cuda or tensorrt"),
        ({"gpus": [0, 2]}, ValueError, r"gpus must be within 0..1, the GPUs that .*, got 2"),
    ],
)
def test_wrong_gpus_are_refused_before_anything_starts(
    slides, encoder, tmp_path, monkeypatch, options, error, message
):
    monkeypatch.setattr("histofast.encoders.runtime.why_no_cuda", lambda: None)
    monkeypatch.setattr(asked, "driver_gpu_count", lambda: 2)
    with pytest.raises(error, match=message):
        run(slides, tmp_path / "f", encoder, **options)
    assert not (tmp_path / "f").exists()


def test_gpus_that_do_not_work(slides, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "histofast.encoders.runtime.why_no_cuda", lambda: "there is no NVIDIA driver"
    )
    monkeypatch.setattr(
        "histofast.encoders.runtime.why_no_tensorrt", lambda: "TensorRT 10 is missing"
    )
    with pytest.raises(ModelError, match="device cuda does not work: there is no NVIDIA driver"):
        run(slides, tmp_path / "f", encoder, gpus=[0, 1])
    with pytest.raises(ModelError, match="device tensorrt does not work: TensorRT 10 is missing"):
        run(slides, tmp_path / "f", encoder, gpus=[0], device="tensorrt")


def test_gpus_become_devices(monkeypatch):
    monkeypatch.setattr("histofast.encoders.runtime.why_no_cuda", lambda: None)
    monkeypatch.setattr("histofast.encoders.runtime.why_no_tensorrt", lambda: None)
    monkeypatch.setattr(asked, "driver_gpu_count", lambda: 4)
    assert asked.devices_of("auto", None) == ["auto"]
    assert asked.devices_of("auto", [2]) == ["cuda:2"]
    assert asked.devices_of("cuda", (3, 1)) == ["cuda:3", "cuda:1"]
    assert asked.devices_of("tensorrt", [0, 1]) == ["tensorrt:0", "tensorrt:1"]


def test_threads_are_shared_out():
    assert extraction.shares(16, 3) == [6, 5, 5]
    assert extraction.shares(1, 2) == [1, 1]


def test_nobody_waits_for_a_replacement_that_is_not_needed(tmp_path):
    table = Table(2, folder=tmp_path)
    table.asks(0)
    table.asks(1)
    killed = []
    late = table._process(1, table.processes[1].worker)
    late.kill = lambda: killed.append(1)
    table.team._alive[1] = late  # started for the one that asked, and has not asked yet
    table.team._dismiss()
    assert not killed
    table.ends(0, "s0")
    table.team._dismiss()
    table.team._dismiss()
    assert killed == [1]
    assert late.is_over
