"""Jobs: done once, here or in processes; what fails, dies, stops, and what is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import small_jobs
from histofast import jobs
from histofast.errors import HistofastError, JobError
from histofast.jobs import Ended, Interrupted, Job, Local, Lost, Outcome, Started, Told, execute
from histofast.jobs.dealing import Dealer

posix = pytest.mark.skipif(os.name != "posix", reason="needs signals")
TWO = Local(processes=2)
ENGINES = pytest.mark.parametrize("engine", [None, TWO], ids=["here", "processes"])


def job(name, function, **arguments):
    return Job(name=name, function=function, arguments=arguments)


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def wait_until(is_so, timeout_s=30.0):
    end_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end_s, "never came"
        time.sleep(0.01)


# --- what comes out -------------------------------------------------------------------------------


@ENGINES
def test_outcomes_come_in_the_order_of_the_jobs(engine):
    seen = []
    todo = [job(f"j{i}", small_jobs.add, a=i, b=10) for i in range(5)]
    outcomes = jobs.run(todo, engine=engine, on_event=seen.append)
    assert [outcome.job for outcome in outcomes] == todo
    assert statuses(outcomes) == ["done"] * 5
    assert jobs.values_of(outcomes) == [10, 11, 12, 13, 14]
    assert all(outcome.error is None and outcome.seconds >= 0 for outcome in outcomes)
    for one in todo:
        mine = [
            type(event)
            for event in seen
            if (event.job if isinstance(event, Started) else event.outcome.job) is one
        ]
        assert mine == [Started, Ended]


def test_nothing_to_do():
    assert jobs.run([], engine=TWO) == jobs.run([]) == []


@ENGINES
def test_a_failure_stays_with_its_job(engine):
    todo = [
        job("good", small_jobs.add, a=1),
        job("bad", small_jobs.fail, message="no such thing"),
        job("leaves", small_jobs.leave, code=3),
        job("last", small_jobs.add, a=2),
    ]
    good, bad, leaves, last = outcomes = jobs.run(todo, engine=engine)
    assert (good.value, last.value) == (1, 2)
    assert (bad.status, leaves.status) == ("failed", "failed")
    assert isinstance(bad.error, ValueError)
    assert str(bad.error) == "no such thing"
    assert isinstance(leaves.error, SystemExit)
    with pytest.raises(ValueError, match="no such thing"):
        jobs.values_of(outcomes)


def test_where_an_error_of_a_process_came_from_is_in_its_notes():
    (outcome, _) = jobs.run(
        [job("bad", small_jobs.fail), job("good", small_jobs.add, a=1)], engine=TWO
    )
    assert "small_jobs.py" in "".join(outcome.error.__notes__)


@ENGINES
def test_fail_fast_leaves_the_others(engine):
    todo = [job("bad", small_jobs.fail)] + [
        job(f"long{i}", small_jobs.count, n=1000, wait_s=0.05) for i in range(3)
    ]
    begin = time.monotonic()
    outcomes = jobs.run(todo, engine=engine, fail_fast=True)
    assert statuses(outcomes) == ["failed", "interrupted", "interrupted", "interrupted"]
    assert [outcome.error for outcome in outcomes[1:]] == [None] * 3
    assert time.monotonic() - begin < 20
    with pytest.raises(ValueError, match="of the job"):
        jobs.values_of(outcomes)


@ENGINES
def test_stop_when(engine):
    todo = [job("a", small_jobs.add, a=1)] + [
        job(f"long{i}", small_jobs.count, n=1000, wait_s=0.05) for i in range(2)
    ]
    outcomes = jobs.run(todo, engine=engine, stop_when=lambda outcome: outcome.value == 1)
    assert statuses(outcomes) == ["done", "interrupted", "interrupted"]


@ENGINES
def test_what_a_job_tells_comes_in_its_order(engine):
    seen = []
    jobs.run(
        [job("a", small_jobs.count, n=3), job("b", small_jobs.count, n=2)],
        engine=engine,
        on_event=seen.append,
    )
    told = [event for event in seen if isinstance(event, Told)]
    assert [event.what for event in told if event.name == "a"] == [0, 1, 2]
    assert [event.what for event in told if event.name == "b"] == [0, 1]


def test_outside_of_a_job_nobody_hears_and_nobody_stops():
    assert small_jobs.count(2) == 2
    assert not jobs.should_stop()


def test_a_job_within_a_job_is_heard_by_its_own_run():
    inner, outer = [], []

    def nested():
        jobs.run([job("inner", small_jobs.count, n=1)], on_event=inner.append)
        jobs.tell("outer")

    jobs.run([Job(name="outer", function=nested)], on_event=outer.append)
    assert [(e.name, e.what) for e in inner if isinstance(e, Told)] == [("inner", 0)]
    assert [(e.name, e.what) for e in outer if isinstance(e, Told)] == [("outer", "outer")]


# --- done once ------------------------------------------------------------------------------------


def stored(folder, name="a", function=small_jobs.write, **identity):
    return Job(
        name=name,
        function=function,
        arguments={"folder": folder},
        folder=folder,
        identity={"seed": 0, **identity},
    )


@ENGINES
def test_what_is_done_is_there_and_not_run(tmp_path, engine):
    todo = [stored(tmp_path / name, name) for name in "ab"]
    assert statuses(jobs.run(todo, engine=engine)) == ["done", "done"]
    assert (tmp_path / "a" / "done.json").read_text() == '{"seed": 0}\n'
    (tmp_path / "a" / "result.txt").write_text("kept")
    seen = []
    again = jobs.run([*todo, stored(tmp_path / "c", "c")], engine=engine, on_event=seen.append)
    assert statuses(again) == ["there", "there", "done"]
    assert jobs.values_of(again) == [None, None, "whole"]
    assert (tmp_path / "a" / "result.txt").read_text() == "kept"
    assert [event.job.name for event in seen if isinstance(event, Started)] == ["c"]
    assert {event.outcome.job.name for event in seen if isinstance(event, Ended)} == set("abc")


@ENGINES
def test_what_failed_is_not_there(tmp_path, engine):
    def todo(function):
        return [
            stored(tmp_path / "a", function=function),
            Job(name="b", function=small_jobs.add, arguments={"a": 1}),
        ]

    def broken(function):
        one, other = todo(function)
        return [Job(name="a", function=function, folder=one.folder, identity=one.identity), other]

    assert statuses(jobs.run(broken(small_jobs.fail), engine=engine)) == ["failed", "done"]
    assert not (tmp_path / "a" / "done.json").exists()
    assert statuses(jobs.run(todo(small_jobs.write), engine=engine)) == ["done", "done"]


@ENGINES
@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"seed": 1}, r"was made by something else \(seed: 0, not 1\): choose another folder, or"),
        ({"rate": {"a": 1}}, r"\(rate: null, not \{\"a\": 1\}\)"),
    ],
)
def test_another_identity_is_refused_with_what_differs(tmp_path, engine, identity, message):
    jobs.run([stored(tmp_path)])
    (tmp_path / "result.txt").write_text("kept")
    todo = [stored(tmp_path, **identity), job("other", small_jobs.add, a=1)]
    outcome, other = jobs.run(todo, engine=engine)
    assert (outcome.status, other.status) == ("failed", "done")
    assert (tmp_path / "result.txt").read_text() == "kept"
    with pytest.raises(JobError, match=message):
        jobs.values_of([outcome])
    stopped = jobs.run(todo, engine=engine, fail_fast=True)
    assert statuses(stopped) == ["failed", "interrupted"]


def test_equal_identities_are_equal_however_they_are_written(tmp_path):
    one = {"a": (1, 2), "b": {"x": 1, "y": None}}
    jobs.run([Job(name="a", function=small_jobs.add, arguments={"a": 1}, folder=tmp_path,
                  identity=one)])  # fmt: skip
    other = {"b": {"y": None, "x": 1}, "a": [1, 2]}
    (outcome,) = jobs.run([Job(name="a", function=small_jobs.fail, folder=tmp_path,
                               identity=other)])  # fmt: skip
    assert outcome.status == "there"


def test_a_broken_marker_is_told(tmp_path):
    (tmp_path / "done.json").write_text("{")
    (outcome,) = jobs.run([stored(tmp_path)])
    with pytest.raises(JobError, match=r"done\.json is broken: remove it, or choose another"):
        jobs.values_of([outcome])


def test_a_job_that_another_run_has_done_meanwhile_is_there(tmp_path):
    def of_another_run():
        jobs.run([stored(tmp_path)])

    late = stored(tmp_path, "late")
    outcomes = jobs.run([Job(name="first", function=of_another_run), late])
    assert statuses(outcomes) == ["done", "there"]


@ENGINES
def test_a_folder_that_cannot_be_made_fails_its_job(tmp_path, engine):
    (tmp_path / "file").write_text("")
    todo = [stored(tmp_path / "file" / "a"), stored(tmp_path / "b", "b")]
    assert statuses(jobs.run(todo, engine=engine)) == ["failed", "done"]


# --- processes ------------------------------------------------------------------------------------


def test_two_run_side_by_side(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    outcomes = jobs.run(
        [job("a", small_jobs.meet, ours=a, other=b), job("b", small_jobs.meet, ours=b, other=a)],
        engine=TWO,
    )
    pids = jobs.values_of(outcomes)
    assert len({*pids, os.getpid()}) == 3
    assert [outcome.worker for outcome in outcomes] in ([0, 1], [1, 0])
    assert not any(map(is_alive, pids))


def test_a_process_lives_for_many_jobs():
    outcomes = jobs.run([job(f"j{i}", small_jobs.where) for i in range(8)], engine=TWO)
    assert len(set(jobs.values_of(outcomes))) <= 2


def test_one_process_is_this_one():
    outcomes = jobs.run([job(f"j{i}", small_jobs.where) for i in range(2)], engine=Local())
    assert jobs.values_of(outcomes) == [os.getpid()] * 2


def test_costly_jobs_go_first():
    seen = []
    todo = [
        Job(
            name=f"j{cost}", function=small_jobs.count, arguments={"n": 2, "wait_s": 0.1}, cost=cost
        )
        for cost in (1, 5, 3, 4)
    ]
    jobs.run(todo, engine=TWO, on_event=seen.append)
    started = [event.job.cost for event in seen if isinstance(event, Started)]
    assert {*started[:2]} == {5, 4}
    assert {*started[2:]} == {3, 1}


def test_threads_of_a_process():
    todo = [job(f"j{i}", small_jobs.threads) for i in range(2)]
    assert jobs.values_of(jobs.run(todo, engine=Local(processes=2, threads=3))) == [["3", "3"]] * 2


def test_threads_here(monkeypatch):
    class Torch:
        threads = 7

        def get_num_threads(self):
            return self.threads

        def set_num_threads(self, n):
            self.threads = n

    torch = Torch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    (outcome,) = jobs.run([Job(name="a", function=torch.get_num_threads)], engine=Local(threads=2))
    assert (outcome.value, torch.threads) == (2, 7)


def test_noise_breaks_nothing(capfd):
    outcomes = jobs.run([job(f"j{i}", small_jobs.noisy) for i in range(2)], engine=TWO)
    assert jobs.values_of(outcomes) == ["quiet"] * 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("on standard output") == err.count("on standard error") == 2


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (job("bad", small_jobs.unsendable), JobError, "what job bad returns must be what pickle"),
        (job("bad", small_jobs.fail_oddly), HistofastError, "OddError: one and two"),
        (job("bad", small_jobs.take, what=small_jobs.Unreadable()), ValueError, "made again"),
    ],
)
def test_what_pickle_does_not_take_fails_its_job(bad, error, message):
    outcome, other = jobs.run([bad, job("good", small_jobs.add, a=1)], engine=TWO)
    assert (other.status, other.value) == ("done", 1)
    with pytest.raises(error, match=message):
        jobs.values_of([outcome])


def test_functions_that_no_process_finds_are_refused_before_any_starts(monkeypatch):
    good = job("good", small_jobs.add, a=1)
    with pytest.raises(TypeError, match="function and arguments of job bad must be what pickle"):
        jobs.run([good, Job(name="bad", function=lambda: None)], engine=TWO)
    with pytest.raises(TypeError, match="of job bad must be what pickle takes"):
        jobs.run([good, job("bad", small_jobs.add, a=threading.Lock())], engine=TWO)
    monkeypatch.setattr(small_jobs.fail, "__module__", "__main__")
    with pytest.raises(ValueError, match="must be in a module that can be imported, got fail of"):
        jobs.run([good, job("bad", small_jobs.fail)], engine=TWO)


@posix
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV"])
def test_a_process_that_dies_fails_its_job_and_is_replaced(how):
    seen = []
    todo = [job("bad", small_jobs.die, how=how)] + [
        job(f"j{i}", small_jobs.count, n=3, wait_s=0.05) for i in range(4)
    ]
    outcomes = jobs.run(todo, engine=TWO, on_event=seen.append)
    assert statuses(outcomes) == ["failed", *["done"] * 4]
    assert str(outcomes[0].error) == f"its process was ended by {how}"
    assert isinstance(outcomes[0].error, JobError)
    (lost,) = [event for event in seen if isinstance(event, Lost)]
    assert (lost.how, lost.unfinished) == (f"was ended by {how}", (todo[0],))


def test_jobs_that_end_whoever_takes_them_do_not_end_them_all():
    todo = [job(f"bad{i}", small_jobs.exit_hard, code=7) for i in range(5)]
    outcomes = jobs.run([*todo, job("good", small_jobs.add, a=1)], engine=TWO)
    assert statuses(outcomes) == ["failed"] * 5 + ["done"]
    assert {str(outcome.error) for outcome in outcomes[:5]} == {"its process ended with code 7"}


def test_with_more_tries_a_job_has_another_process():
    todo = [job("bad", small_jobs.exit_hard, code=7), job("good", small_jobs.add, a=1)]
    seen = []
    outcomes = jobs.run(todo, engine=Local(processes=2, tries=2), on_event=seen.append)
    assert statuses(outcomes) == ["failed", "done"]
    assert len([event for event in seen if isinstance(event, Lost)]) == 2


def test_processes_that_cannot_start(monkeypatch):
    from histofast.jobs import processes

    monkeypatch.setattr(processes, "CODE", "raise SystemExit(3) #{path}{handle}{patience_s}".format)
    with pytest.raises(JobError, match="its process ended with code 3 while it started: look at"):
        jobs.run([job(f"j{i}", small_jobs.add, a=1) for i in range(2)], engine=TWO)


# --- workers with something to set up -------------------------------------------------------------


def serving(folder, *, fails_on=((), ())):
    workers = tuple(
        jobs.Worker(
            function=small_jobs.serve,
            arguments={"factor": 10, "folder": folder, "fails_on": each},
            name=f"gpu{i}",
        )
        for i, each in enumerate(fails_on)
    )
    return Local(workers=workers, tries=2, replace=False, poll_s=0.05)


@pytest.mark.parametrize("n", [1, 2])
def test_workers_load_once_and_take_ahead(tmp_path, n):
    seen = []
    todo = [job(f"j{i}", small_jobs.add, n=i) for i in range(6)]
    outcomes = jobs.run(todo, engine=serving(tmp_path, fails_on=((),) * n), on_event=seen.append)
    assert jobs.values_of(outcomes) == [0, 10, 20, 30, 40, 50]
    assert len(list(tmp_path.glob("loaded-*"))) == n
    ready = [event for event in seen if isinstance(event, Told)]
    assert {(event.name, event.worker, event.what) for event in ready} == {
        ("", i, ("ready", 10)) for i in range(n)
    }
    first = next(i for i, event in enumerate(seen) if isinstance(event, Started))
    assert all(isinstance(event, Told) for event in seen[:first])
    assert first == n  # nobody begins before all are ready


def test_a_job_that_one_worker_fails_on_is_tried_by_the_other(tmp_path):
    seen = []
    todo = [job("hard", small_jobs.add, n=1), job("easy", small_jobs.add, n=2)]
    engine = serving(tmp_path, fails_on=(("hard",), ()))
    for _ in range(20):  # until the one that cannot has had it first
        outcomes = jobs.run(todo, engine=engine, on_event=seen.append)
        assert jobs.values_of(outcomes) == [10, 20]
        if any(isinstance(event, jobs.Retried) for event in seen):
            break
    (retried,) = [event for event in seen if isinstance(event, jobs.Retried)]
    assert str(retried.outcome.error) == "this worker cannot"
    assert (retried.outcome.worker, outcomes[0].worker) == (0, 1)


def test_a_job_that_both_fail_on_has_failed(tmp_path):
    todo = [job("hard", small_jobs.add, n=1), job("easy", small_jobs.add, n=2)]
    outcomes = jobs.run(todo, engine=serving(tmp_path, fails_on=(("hard",), ("hard",))))
    assert statuses(outcomes) == ["failed", "done"]


@pytest.mark.parametrize("n", [1, 2])
def test_what_another_run_is_at_is_asked_for_again(tmp_path, n):
    worker = jobs.Worker(
        function=small_jobs.give_back_once, arguments={"marker": str(tmp_path / "was-busy")}
    )
    todo = [job(name, small_jobs.add) for name in ("busy", "a", "b")]
    outcomes = jobs.run(todo, engine=Local(workers=(worker,) * n, poll_s=0.05))
    assert jobs.values_of(outcomes) == ["busy", "a", "b"]
    assert (tmp_path / "was-busy").exists()


@pytest.mark.parametrize("n", [1, 2])
def test_an_error_of_a_worker_that_is_no_jobs_is_raised(n):
    workers = (jobs.Worker(function=small_jobs.cannot_start),) * n
    with pytest.raises(ValueError, match="no such encoder"):
        jobs.run([job("a", small_jobs.add)], engine=Local(workers=workers))


def test_a_worker_that_dies_in_its_setup():
    workers = (
        jobs.Worker(function=small_jobs.ends_at_once, name="cuda:0"),
        jobs.Worker(function=jobs.work, name="cuda:1"),
    )
    with pytest.raises(JobError, match="the process of cuda:0 ended with code 3 while it started"):
        jobs.run([job("a", small_jobs.add)], engine=Local(workers=workers))


class Backwards:
    """Another engine: all that one must do."""

    def run(self, jobs, emit, is_last):
        for one in reversed(jobs):
            emit(Started(job=one))
            outcome = execute(one)
            emit(Ended(outcome=outcome))
            if is_last(outcome):
                return


def test_the_seam_for_another_engine_is_small(tmp_path):
    todo = [stored(tmp_path / name, name) for name in "abc"]
    todo[1] = Job(name="b", function=small_jobs.fail, folder=tmp_path / "b", identity={"seed": 0})
    seen = []
    outcomes = jobs.run(todo, engine=Backwards(), on_event=seen.append, fail_fast=True)
    assert statuses(outcomes) == ["interrupted", "failed", "done"]
    assert [event.job.name for event in seen if isinstance(event, Started)] == ["c", "b"]
    assert statuses(jobs.run(todo, engine=Backwards())) == ["done", "failed", "there"]


# --- interruptions --------------------------------------------------------------------------------


def test_ctrl_c_here_is_raised_as_ever_and_leaves_the_rest():
    def interrupts():
        raise KeyboardInterrupt

    todo = [
        job("a", small_jobs.add, a=1),
        Job(name="b", function=interrupts),
        job("c", small_jobs.add, a=1),
    ]
    outcomes = jobs.run(todo)
    assert statuses(outcomes) == ["done", "interrupted", "interrupted"]
    with pytest.raises(KeyboardInterrupt):
        jobs.values_of(outcomes)


@ENGINES
def test_an_interruption_ends_jobs_where_they_ask(tmp_path, engine):
    marks = [tmp_path / "a.pid", tmp_path / "b.pid"]

    def interrupt(event):
        if isinstance(event, Told) and (engine is None or all(m.exists() for m in marks)):
            raise KeyboardInterrupt

    todo = [job(mark.stem, small_jobs.count_on, started=mark) for mark in marks]
    outcomes = jobs.run(todo, engine=engine, on_event=interrupt)
    assert statuses(outcomes) == ["interrupted"] * 2
    assert all(isinstance(outcome.error, KeyboardInterrupt) for outcome in outcomes)
    if engine is not None:
        assert all(mark.with_suffix(".asked").exists() for mark in marks)
        assert not any(is_alive(int(mark.read_text())) for mark in marks)
    assert not jobs.should_stop()


def test_a_job_that_never_asks_is_ended_after_a_while(tmp_path):
    marks = [tmp_path / "a.pid", tmp_path / "b.pid"]
    todo = [job("short", small_jobs.count, n=1)] + [
        job(mark.stem, small_jobs.never_asks, started=mark) for mark in marks
    ]

    def stop(outcome):
        wait_until(lambda: any(m.exists() for m in marks))
        return True

    begin = time.monotonic()
    engine = Local(processes=2, patience_s=0.2)
    outcomes = jobs.run(todo, engine=engine, stop_when=stop)
    assert statuses(outcomes) == ["done", "interrupted", "interrupted"]
    assert time.monotonic() - begin < 30
    assert not any(is_alive(int(m.read_text())) for m in marks if m.exists())


def test_an_error_of_the_listener_ends_the_run_and_is_raised(tmp_path):
    for engine in (None, TWO):

        def fails(event):
            if isinstance(event, Told):
                raise ValueError("of the listener")  # noqa: TRY004  # not the job's

        todo = [job(f"j{i}", small_jobs.count, n=100, wait_s=0.01) for i in range(3)]
        with pytest.raises(ValueError, match="of the listener"):
            jobs.run(todo, engine=engine, on_event=fails)


def script(tmp_path, body, *, name="script.py"):
    """A script that runs jobs at its top level, without `if __name__ == "__main__"`."""
    path = tmp_path / name
    path.write_text(
        "import sys; IS_SCRIPT = True\n"
        f"sys.path.insert(0, {str(Path(small_jobs.__file__).parent)!r})\n"
        "print('once', flush=True)\n"
        "from pathlib import Path\n"
        "import small_jobs\n"
        "from histofast import jobs\n"
        f"here = Path({str(tmp_path)!r})\n"
        "def job(name, function, **arguments):\n"
        "    return jobs.Job(name=name, function=function, arguments=arguments)\n" + body
    )
    return path


GUARDLESS = """
todo = [job(f"j{i}", small_jobs.modules) for i in range(2)]
print(jobs.values_of(jobs.run(todo, engine=jobs.Local(processes=2))))
"""


@pytest.mark.parametrize("how", ["script", "-c", "stdin", "no standard streams"])
def test_the_script_is_not_run_again_in_the_processes(tmp_path, how):
    path = script(tmp_path, GUARDLESS)
    text = path.read_text()
    if how == "no standard streams":
        path.write_text(text + "(here / 'end').write_text('reached')\n")
        command = f"{sys.executable} {path} <&- >&- 2>&-"
        assert subprocess.run(command, shell=True, timeout=60, check=False).returncode == 0
        assert (tmp_path / "end").read_text() == "reached"
        return
    arguments = {"script": [path], "-c": ["-c", text], "stdin": ["-"]}[how]
    done = subprocess.run(
        [sys.executable, *arguments],
        input=text if how == "stdin" else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        ["once", "[(False, None), (False, None)]"],
    ), done.stderr


LONG = """
marks = [here / "a.pid", here / "b.pid"]
outcomes = jobs.run(
    [job(mark.stem, small_jobs.{function}, started=mark) for mark in marks],
    engine=jobs.Local(processes=2, patience_s={patience_s}),
)
print([outcome.status for outcome in outcomes], flush=True)
jobs.values_of(outcomes)
"""


def start_long(tmp_path, function, patience_s):
    path = script(tmp_path, LONG.format(function=function, patience_s=patience_s))
    process = subprocess.Popen(
        [sys.executable, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    marks = [tmp_path / "a.pid", tmp_path / "b.pid"]
    wait_until(lambda: all(mark.exists() and mark.read_text() for mark in marks))
    return process, [int(mark.read_text()) for mark in marks]


@posix
@pytest.mark.parametrize("to_all", [True, False])
def test_ctrl_c_of_a_script(tmp_path, to_all):
    process, pids = start_long(tmp_path, "count_on", 10)
    with process:
        if to_all:
            os.killpg(process.pid, signal.SIGINT)
            for pid in pids:  # as schedulers do
                for number in (signal.SIGINT, signal.SIGTERM):
                    with contextlib.suppress(ProcessLookupError):  # it may have ended by then
                        os.kill(pid, number)
        else:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert out.splitlines() == ["once", "['interrupted', 'interrupted']"]
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert len(list(tmp_path.glob("*.asked"))) == 2
    assert not any(map(is_alive, pids))


@posix
@pytest.mark.parametrize("function", ["count_on", "never_asks"])
def test_nothing_is_left_of_a_parent_that_is_killed(tmp_path, function):
    process, pids = start_long(tmp_path, function, 0.2)
    process.kill()
    process.communicate(timeout=60)  # until its children have let go of its output
    wait_until(lambda: not any(map(is_alive, pids)))
    assert len(list(tmp_path.glob("*.asked"))) == (2 if function == "count_on" else 0)


# --- interruptions that are deferred --------------------------------------------------------------


@posix
class TestDeferred:
    def test_the_flag_instead_of_an_exception_anywhere(self):
        woken = []
        with pytest.raises(Interrupted), jobs.deferred_interrupts(lambda: woken.append(1)):  # noqa: PT012
            signal.raise_signal(signal.SIGINT)
            assert jobs.should_stop()
            assert woken == [1]
            with pytest.raises(Interrupted):
                jobs.stop_if_asked()
        assert not jobs.should_stop()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_a_second_one_is_raised_at_once(self):
        reached = False
        with pytest.raises(KeyboardInterrupt), jobs.deferred_interrupts():  # noqa: PT012
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            reached = True
        assert not reached

    def test_an_error_of_the_body_is_not_hidden(self):
        with pytest.raises(LookupError, match="of the body"), jobs.deferred_interrupts():  # noqa: PT012
            signal.raise_signal(signal.SIGINT)
            raise LookupError("of the body")

    def test_one_within_another(self):
        with pytest.raises(Interrupted), jobs.deferred_interrupts():  # noqa: PT012
            with suppress(KeyboardInterrupt), jobs.deferred_interrupts():
                signal.raise_signal(signal.SIGINT)
            assert jobs.should_stop()
        assert not jobs.should_stop()

    def test_a_handler_that_raises_nothing_is_left_alone(self):
        heard = []
        former = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
        try:
            with jobs.deferred_interrupts():
                signal.raise_signal(signal.SIGTERM)
                assert not jobs.should_stop()
        finally:
            signal.signal(signal.SIGTERM, former)
        assert heard == [signal.SIGTERM]

    def test_no_lock_of_a_queue_is_left_taken(self):
        """With a plain handler about one of a hundred is, and whoever cleans up hangs."""
        former = signal.signal(
            signal.SIGALRM, lambda _, frame: signal.getsignal(signal.SIGINT)(signal.SIGINT, frame)
        )
        delays_s = np.random.default_rng(0).uniform(1e-5, 4e-4, 1500)
        before = signal.getsignal(signal.SIGINT)
        try:
            for delay_s in delays_s:
                channel = queue.Queue(2)
                with pytest.raises(Interrupted), jobs.deferred_interrupts():  # noqa: PT012
                    signal.setitimer(signal.ITIMER_REAL, delay_s)
                    while True:
                        jobs.stop_if_asked()
                        channel.put(1)
                        channel.get()
                        with suppress(queue.Empty):
                            channel.get(timeout=1e-6)
                assert not channel.mutex.locked()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, former)
        assert signal.getsignal(signal.SIGINT) is before

    def test_other_threads_defer_nothing(self):
        errors = []

        def work():
            try:
                with jobs.deferred_interrupts():
                    pass
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert errors == []


# --- who gets which job ---------------------------------------------------------------------------


class Table:
    """Two workers that say what a test has them say; what they are dealt."""

    def __init__(self, *costs, tries=2):
        self.jobs = [
            Job(name=f"s{i}", function=small_jobs.add, cost=cost) for i, cost in enumerate(costs)
        ]
        self.dealer = Dealer(self.jobs, workers=2, tries=tries, poll_s=1.0)
        self.dealt = ([], [])
        self.failed = {}

    def deal(self, now_s=0.0):
        for worker, one in self.dealer.deal(now_s):
            self.dealt[worker].append(one and one.name)

    def asks(self, worker):
        self.dealer.ask(worker)
        self.deal()

    def outcome(self, worker, name, **options):
        return Outcome(job=self.dealer.find(worker, name), status="done", worker=worker, **options)

    def ends(self, worker, name):
        self.dealer.end(self.outcome(worker, name))
        self.deal()

    def fails(self, worker, name):
        outcome = self.outcome(worker, name, error=ValueError("no memory"))
        if not self.dealer.retry(outcome):
            self.dealer.end(outcome)
            self.failed[name] = "no memory"
        self.deal()

    def dies(self, worker):
        for outcome in self.dealer.bury(worker, JobError("died"), replaced=False):
            self.failed[outcome.job.name] = str(outcome.error)
        self.deal()


def test_big_ones_first_and_the_last_ones_to_who_is_idle():
    table = Table(10, 40, 30, 20)
    table.asks(0)
    table.asks(1)
    assert table.dealt == (["s1"], ["s2"])
    table.asks(0)  # ahead of its time, while there are enough for all
    table.asks(1)  # the only one left is for who is ready first
    assert table.dealt == (["s1", "s3"], ["s2"])
    table.ends(0, "s1")
    table.asks(0)
    assert table.dealt[0] == ["s1", "s3"]
    table.ends(1, "s2")
    assert table.dealt[1] == ["s2", "s0"]
    table.ends(0, "s3")
    assert table.dealt[0] == ["s1", "s3"]  # nothing is left, but the other may die
    table.ends(1, "s0")
    assert table.dealt[0] == ["s1", "s3", None]
    table.asks(1)
    assert table.dealt[1] == ["s2", "s0", None]


def test_a_job_that_one_fails_on_goes_to_the_other():
    table = Table(2, 1)
    table.asks(0)
    table.asks(1)
    table.fails(0, "s0")
    table.asks(0)
    assert table.dealt[0] == ["s0"]
    table.ends(1, "s1")
    table.asks(1)
    assert table.dealt[1] == ["s1", "s0"]
    table.ends(1, "s0")
    assert (table.dealt[0], table.failed) == (["s0", None], {})


@pytest.mark.parametrize("tries", [1, 2])
def test_a_job_that_both_fail_on_has_failed_at_last(tries):
    table = Table(1, tries=tries)
    table.asks(0)
    table.asks(1)
    table.fails(0, "s0")
    assert table.dealt[1] == (["s0"] if tries == 2 else [None])
    if tries == 2:
        table.fails(1, "s0")
    assert table.failed == {"s0": "no memory"}


def test_a_job_is_not_given_a_third_process_to_end():
    table = Table(3, 2, 1)
    table.asks(0)
    table.asks(1)
    table.dies(0)
    assert table.failed == {}
    table.asks(1)
    assert table.dealt[1] == ["s1", "s0"]
    table.dies(1)
    assert table.failed == {"s0": "died", "s1": "died"}
    assert table.dealer.has_more


def test_a_job_refused_by_the_only_one_left_has_failed():
    table = Table(1, 1)
    table.asks(0)
    table.asks(1)
    table.fails(0, "s0")
    table.dies(1)
    assert table.failed == {"s0": "no memory"}
    table.asks(0)
    assert table.dealt[0] == ["s0", "s1"]


def test_what_is_given_back_is_for_anybody_after_a_while():
    table = Table(2, 1)
    table.asks(0)
    table.asks(1)
    table.dealer.give_back(0, "s0", 10.0)
    table.dealer.ask(0)
    table.deal(10.5)
    assert (table.dealt[0], table.dealer.is_waiting) == (["s0"], True)
    table.deal(11.0)
    assert (table.dealt[0], table.dealer.is_waiting) == (["s0", "s0"], False)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"processes": 0}, ValueError, "processes must be at least 1, got 0"),
        ({"processes": "2"}, TypeError, "processes must be a whole number, got '2'"),
        ({"processes": 1.5}, TypeError, r"processes must be a whole number, got 1\.5"),
        ({"threads": True}, TypeError, "threads must be a whole number, got True"),
        ({"threads": -1}, ValueError, "threads must be at least 1, got -1"),
        ({"tries": 0}, ValueError, "tries must be at least 1, got 0"),
        ({"processes": None}, TypeError, "processes must be a whole number, got None"),
        ({"patience_s": -1}, ValueError, "patience_s must be at least 0"),
        ({"poll_s": "soon"}, TypeError, "poll_s must be a number, got 'soon'"),
    ],
)
def test_wrong_engines_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Local(**options)


def test_numbers_of_numpy_are_taken():
    assert Local(processes=np.int64(2)).processes == 2


def test_wrong_jobs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="jobs must have different names, got 'a' twice"):
        jobs.run([job("a", small_jobs.add), job("a", small_jobs.fail)])
    with pytest.raises(TypeError, match=r"identity must be as JSON can hold it: .*int64"):
        Job(name="a", function=small_jobs.add, folder=tmp_path, identity={"n": np.int64(1)})
    with pytest.raises(ValueError, match="identity must have finite numbers"):
        Job(name="a", function=small_jobs.add, folder=tmp_path, identity={"n": float("nan")})
    with pytest.raises(ValueError, match="folder of job a must be given with its identity"):
        Job(name="a", function=small_jobs.add, identity={"n": 1})


def test_what_differs_between_identities():
    one = json.loads('{"a": {"b": 1, "c": [1]}, "d": "x"}')
    assert jobs.differences(one, one) == []
    assert jobs.differences(one, {"a": {"b": 2, "c": [1]}}) == ["a.b: 1, not 2", 'd: "x", not null']
    assert jobs.differences(None, one)[0].startswith("identity: null, not {")


# --- jobs that need others -----------------------------------------------------------------------


def chained(name, function, *needs, **arguments):
    return Job(name=name, function=function, arguments=arguments, needs=needs)


def heard():
    """A list, and a listener that puts the beginnings and ends of jobs into it."""
    order = []

    def hear(event):
        if isinstance(event, (Started, Ended)):
            one = event.job if isinstance(event, Started) else event.outcome.job
            order.append((type(event), one.name))

    return order, hear


@ENGINES
def test_a_job_begins_when_its_needs_are_done(engine):
    """A diamond, asked for the wrong way round, whose costs would have the last go first."""
    order, hear = heard()
    todo = [
        chained("end", small_jobs.add, "left", "right", a=4),
        chained("left", small_jobs.add, "start", a=2),
        chained("right", small_jobs.add, "start", a=3),
        chained("start", small_jobs.add, a=1),
    ]
    todo = [replace(one, cost=10.0 - i) for i, one in enumerate(todo)]
    assert jobs.values_of(jobs.run(todo, engine=engine, on_event=hear)) == [4, 2, 3, 1]
    for one in todo:
        for need in one.needs:
            assert order.index((Ended, need)) < order.index((Started, one.name))


@ENGINES
def test_a_failure_fails_those_that_need_it_and_the_rest_goes_on(engine):
    todo = [
        chained("a", small_jobs.fail, message="no weights"),
        chained("b", small_jobs.add, "a", a=1),
        chained("c", small_jobs.add, "b", a=1),
        chained("d", small_jobs.add, a=7),
        chained("e", small_jobs.add, "d", "c", a=7),
        chained("f", small_jobs.add, "d", a=8),
    ]
    seen = []
    outcomes = jobs.run(todo, engine=engine, on_event=seen.append)
    assert statuses(outcomes) == ["failed", "failed", "failed", "done", "failed", "done"]
    assert str(outcomes[1].error) == "b needs a, which failed: no weights"
    assert str(outcomes[4].error).startswith("e needs c, which failed: c needs b, which failed")
    ended = [event.outcome.job.name for event in seen if isinstance(event, Ended)]
    assert sorted(ended) == list("abcdef")
    assert isinstance(outcomes[1].error, JobError)


@ENGINES
def test_a_job_comes_after_others_whatever_became_of_them(engine):
    order, hear = heard()
    todo = [
        replace(chained("last", small_jobs.add, a=4), after=("fails", "done", "never"), cost=9.0),
        chained("fails", small_jobs.fail, message="no weights"),
        chained("never", small_jobs.add, "fails", a=2),
        chained("done", small_jobs.add, a=3),
    ]
    outcomes = jobs.run(todo, engine=engine, on_event=hear)
    assert statuses(outcomes) == ["done", "failed", "failed", "done"]
    for former in todo[0].after:
        assert order.index((Ended, former)) < order.index((Started, "last"))


@posix
def test_a_worker_that_dies_fails_those_that_need_its_job():
    todo = [
        chained("dies", small_jobs.die),
        chained("needs", small_jobs.add, "dies", a=1),
        chained("free", small_jobs.add, a=2),
    ]
    outcomes = jobs.run(todo, engine=TWO)
    assert statuses(outcomes) == ["failed", "failed", "done"]
    assert "needs dies, which failed" in str(outcomes[1].error)


@ENGINES
def test_what_is_there_is_not_waited_for(engine, tmp_path):
    first = replace(folder_job(tmp_path, "first"), needs=())
    assert statuses(jobs.run([first])) == ["done"]
    todo = [chained("second", small_jobs.add, "first", a=1), first]
    assert statuses(jobs.run(todo, engine=engine)) == ["done", "there"]


def test_what_is_in_the_way_of_a_need_fails_those_that_need_it(tmp_path):
    first = folder_job(tmp_path, "first")
    jobs.run([first])
    other = replace(first, identity={"of": "something else"})
    todo = [
        chained("second", small_jobs.add, "first", a=1),
        chained("third", small_jobs.add, "second", a=1),
        other,
    ]
    outcomes = jobs.run(todo)
    assert statuses(outcomes) == ["failed"] * 3
    assert "was made by something else" in str(outcomes[1].error)


@ENGINES
def test_a_run_that_stops_leaves_those_that_wait(engine):
    todo = [chained("a", small_jobs.fail), chained("b", small_jobs.add, "c", a=1)]
    todo += [chained("c", small_jobs.count, n=1000, wait_s=0.01)]
    outcomes = jobs.run(todo, engine=engine, fail_fast=True)
    assert statuses(outcomes) == ["failed", "interrupted", "interrupted"]


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (["b", ""], "needs of job x must be jobs of the run, got 'b'"),
        (["y", "x"], "needs must not go in a ring, got one among x, y"),
        (["x", ""], "needs must not go in a ring, got one among x"),
    ],
)
def test_needs_that_no_job_can_meet(needs, message):
    todo = [
        Job(name=name, function=small_jobs.where, needs=(need,) if need else ())
        for name, need in zip("xy", needs, strict=True)
    ]
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        jobs.run(todo)


# --- plans ---------------------------------------------------------------------------------------


def folder_job(tmp_path, name):
    folder = tmp_path / name
    return Job(
        name=name,
        function=small_jobs.write,
        arguments={"folder": folder},
        folder=folder,
        identity={"of": name},
    )


def planned(plan, name, text="whole", needs=(), after=()):
    return plan.add(
        small_jobs.write_out,
        name=name,
        kind="text",
        arguments={"text": text},
        identity={"text": text},
        needs=needs,
        after=after,
    )


def test_what_is_asked_for_twice_is_one_job(tmp_path):
    plan = jobs.Plan(tmp_path)
    one, same, other = planned(plan, "a"), planned(plan, "b"), planned(plan, "c", text="other")
    assert one is same
    assert plan.jobs == [one, other]
    assert one.folder.parent == tmp_path
    assert one.folder.name == f"text-{jobs.key_of(one)}"
    assert plan.made_in(one.folder) is one
    assert plan.made_in(tmp_path) is None
    assert statuses(jobs.run(plan.jobs)) == ["done", "done"]
    assert (one.folder / "result.txt").read_text() == "whole"


def test_a_key_is_of_what_is_needed_too(tmp_path):
    plan = jobs.Plan(tmp_path)
    sources = [planned(plan, "a", text="1"), planned(plan, "b", text="2")]
    keys = {jobs.key_of(planned(plan, "c", needs=need)) for need in ([], *([s] for s in sources))}
    assert len(keys) == 3
    again = planned(plan, "d", needs=[sources[0]])
    assert again.needs == ("a",)
    assert len(plan) == 5
    assert len({job.name for job in plan}) == 5


def test_a_key_is_of_what_a_job_comes_after_too(tmp_path):
    plan = jobs.Plan(tmp_path)
    source = planned(plan, "a", text="1")
    keys = {
        jobs.key_of(planned(plan, "c")),
        jobs.key_of(planned(plan, "c", needs=[source])),
        jobs.key_of(planned(plan, "c", after=[source])),
    }
    assert len(keys) == 3
    assert plan.jobs[-1].after == ("a",)
    assert plan.jobs[-1].needs == ()


def test_two_plans_on_one_folder_share_what_is_done(tmp_path):
    first, second = jobs.Plan(tmp_path), jobs.Plan(tmp_path)
    shared = planned(first, "by one name")
    jobs.run(first.jobs)
    planned(second, "by another")
    lacking = planned(second, "more", text="more", needs=[planned(second, "by another")])
    assert second.left() == [lacking]
    assert statuses(jobs.run(second.jobs)) == ["there", "done"]
    assert second.left() == first.left() == []
    assert shared.folder == second.jobs[0].folder


def test_a_need_of_another_plan_is_refused(tmp_path):
    elsewhere = planned(jobs.Plan(tmp_path / "a"), "elsewhere")
    with pytest.raises(
        ValueError, match=r"^needs of job here must be of its plan, got .elsewhere."
    ):
        planned(jobs.Plan(tmp_path / "b"), "here", needs=[elsewhere])
