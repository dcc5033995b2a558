"""Functions of jobs for tests, in a module that other processes can import."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from histofast import jobs


def add(a, b=0):
    return a + b


def write(folder, text="whole"):
    (folder / "result.txt").write_text(text)
    return text


def write_out(out, text):
    return write(out, text)


def fail(message="of the job"):
    raise ValueError(message)


def fail_in(out, message):
    raise ValueError(message)


def leave(code):
    sys.exit(code)


def die(how="SIGKILL"):
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(60)


def exit_hard(code):
    os._exit(code)


def count(n, wait_s=0.0):
    for i in range(n):
        jobs.stop_if_asked()
        jobs.tell(i)
        time.sleep(wait_s)
    return n


def count_on(started):
    """Count to no end, and leave a file beside when asked to stop."""
    started.write_text(str(os.getpid()))
    while not jobs.should_stop():
        jobs.tell("at it")
        time.sleep(0.01)
    started.with_suffix(".asked").write_text("")
    raise jobs.Interrupted


def never_asks(started):
    started.write_text(str(os.getpid()))
    time.sleep(60)


def meet(ours, other):
    """Wait for somebody who runs at the same time."""
    ours.write_text("")
    end_s = time.monotonic() + 30
    while not other.exists():
        if time.monotonic() > end_s:
            raise TimeoutError(f"{other} never came")
        time.sleep(0.01)
    return os.getpid()


def threads():
    return [os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]


def gpus():
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def where():
    return os.getpid()


def noisy():
    print("on standard output", flush=True)  # noqa: T201
    os.write(1, b"\x00\x00\x00\x04junk\n")
    print("on standard error", file=sys.stderr, flush=True)  # noqa: T201
    return "quiet"


def unsendable():
    return lambda: None


class OddError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def fail_oddly():
    raise OddError("one", "two")


class Unreadable:
    """Pickled well, but cannot be made again."""

    def __reduce__(self):
        return (fail, ("cannot be made again",))


def take(what):
    return what


def signals():
    return [signal.getsignal(number).name for number in (signal.SIGINT, signal.SIGTERM)]


def modules():
    return "small_jobs_main" in sys.modules, sys.modules["__main__"].__dict__.get("IS_SCRIPT")


# --- workers with something to set up -------------------------------------------------------------


def serve(feed, *, factor, folder, fails_on=()):
    """Multiply by a factor that was loaded once; take the next one ahead, as a stream does."""
    (folder / f"loaded-{os.getpid()}").write_text("")
    feed.tell(("ready", factor))
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(feed.take)
        while (job := upcoming.result()) is not None:
            feed.start(job)
            upcoming = ahead.submit(feed.take)
            error = ValueError("this worker cannot") if job.name in fails_on else None
            feed.end(
                jobs.Outcome(
                    job=job,
                    status="failed" if error else "done",
                    value=job.arguments["n"] * factor,
                    error=error,
                ),
                elsewhere=bool(error),
            )


def give_back_once(feed, *, marker):
    while (job := feed.take()) is not None:
        if job.name == "busy" and not Path(marker).exists():
            Path(marker).write_text("")
            feed.give_back(job)
            continue
        feed.start(job)
        feed.end(jobs.Outcome(job=job, status="done", value=job.name))


def cannot_start(feed):
    raise ValueError("no such encoder")


def ends_at_once(feed):
    os._exit(3)


def say_all(n):
    log = logging.getLogger("histofast.of_a_test")
    log.debug("%s says %s", n, "debug")
    log.warning("%s says %s", n, "warning")
