"""A worker in a process of its own: how it is started, and what goes between it and its parent.

Children are started as `python -c` with one end of a pipe, not by `multiprocessing.Process`: spawn
imports the user's script again in every child, so that one without `if __name__ == "__main__"`
starts itself there once more, and one from standard input or of a notebook cannot be imported at
all. Fork is no choice beside threads and GPUs. What goes over the pipe is pickled by `pickle`
itself: torch teaches multiprocessing's pickler to hand over tensors by reference, which a process
that ends must not do. Standard output is no part of it: libraries print what they like.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import NoReturn

from histofast._files import NoLocksWarning
from histofast._notes import LOG
from histofast._stopping import interruptions
from histofast.jobs.feed import Worker
from histofast.jobs.job import Job
from histofast.jobs.link import Link, attend
from histofast.jobs.messages import STOP, Gone, answer, order, read
from histofast.jobs.team import Messages

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
LOOK_S = 1.0  # how often to look whether a process whose pipe is still held has ended
# Its path is the parent's, so that it finds the same modules and none of the folder it runs in.
CODE = (
    "import sys; sys.path[:] = {path!r}; "
    "from histofast.jobs.processes import serve; serve({handle}, {patience_s})"
).format


class Process:
    """A worker in a process, as its parent sees it. Its messages come to a queue, with itself."""

    def __init__(
        self,
        number: int,
        worker: Worker,
        *,
        messages: Messages,
        threads: int | None,
        patience_s: float,
    ) -> None:
        self.number, self.worker = number, worker
        self.has_asked = self.is_over = False
        self._messages = messages
        ours, theirs = Pipe()
        output = _output()
        try:
            handle = _beyond_standard_streams(theirs.fileno())
            try:
                self.popen = subprocess.Popen(
                    [
                        sys.executable,
                        "-c",
                        CODE(path=list(map(str, sys.path)), handle=handle, patience_s=patience_s),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(handle,),
                    env=_environment(threads),
                    start_new_session=True,  # a Ctrl-C at the terminal is the parent's
                )
            finally:
                os.close(handle)
        finally:
            theirs.close()
        self._connection = ours
        self._reader = threading.Thread(target=self._read, name="histofast-link", daemon=True)
        self._reader.start()

    @property
    def title(self) -> str:
        """How to call it in a sentence."""
        return f"the process of {self.worker.name}" if self.worker.name else "its process"

    def begin(self) -> None:
        """Send what it is to do: when all are starting, for one reads only when it has."""
        level = LOG.getEffectiveLevel()
        self._send(order(self.worker, level))

    def answer(self, job: Job | None) -> None:
        """Give it a job, or none, as it asked."""
        self._send(answer(job))

    def stop(self) -> None:
        """Tell it to end where it can; it ends itself when it has not in time."""
        self._send(STOP)

    def kill(self) -> None:
        """Have it end now."""
        self.popen.kill()

    def end(self) -> None:
        """Kill it if it still lives, and see it off."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._reader.join()
        self._connection.close()

    def _send(self, message: bytes) -> None:
        with suppress(OSError):  # of one that is dead: its end is coming as a message
            self._connection.send_bytes(message)

    def _read(self) -> None:
        # A child of the child may hold the pipe longer than itself lives.
        with suppress(EOFError, OSError):
            while True:
                if self._connection.poll(LOOK_S):
                    self._messages.put((self, read(self._connection.recv_bytes())))
                elif self.popen.poll() is not None and not self._connection.poll(0):
                    break
        self._messages.put((self, Gone(_how_ended(self.popen.wait()))))


def _output() -> int:
    """Where a process may print: where errors go, or nowhere."""
    try:
        os.fstat(2)
    except OSError:  # closed
        return subprocess.DEVNULL
    return 2


def _how_ended(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _environment(threads: int | None) -> dict[str, str]:
    if threads is None:
        return dict(os.environ)
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}


def _beyond_standard_streams(handle: int) -> int:
    """Duplicate a handle to one above 2: a parent that has closed those gets them for its pipes."""
    import fcntl

    return fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 3)


def serve(handle: int, patience_s: float) -> NoReturn:
    """Be a worker: what a process is started for."""
    # The parent alone says when to stop: schedulers signal every process of a job at once.
    for number in interruptions():
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore", NoLocksWarning)  # the parent has said so
    sys.stdout = sys.stderr
    os.set_inheritable(handle, False)
    attend(Link(Connection(handle), patience_s=patience_s))
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.flush()
    os._exit(0)  # without what libraries of GPUs do last, for some crash in it
