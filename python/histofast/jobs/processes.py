"""A worker in a process of its own: how it is started, and what goes between it and its parent.

Children are started as `python -c` with one end of a pipe, not by `multiprocessing.Process`: spawn
imports the user's script again in every child, so that one without `if __name__ == "__main__"`
starts itself there once more, and one from standard input or of a notebook cannot be imported at
all. Fork is no choice beside threads and GPUs. What goes over the pipe is pickled by `pickle`
itself: torch teaches multiprocessing's pickler to hand over tensors by reference, which a process
that ends must not do. Standard output is no part of it: libraries print what they like.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from typing import Any, NoReturn

from histofast._files import NoLocksWarning
from histofast._notes import LOG
from histofast._stopping import deferred_interrupts, interruptions, request_stop, should_stop
from histofast.errors import HistofastError, JobError
from histofast.jobs.feed import Worker
from histofast.jobs.job import Job, Outcome, Status

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

# --- messages to a process: bytes, which only the thread that needs them reads ------------------

_STOP, _NO_MORE = b"stop", b"none"  # anything else: a pickled name, and a pickled job of it


# --- messages of a process ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asks:
    """For a job."""


@dataclass(frozen=True, slots=True)
class Begins:
    """With a job."""

    name: str


@dataclass(frozen=True, slots=True)
class GivesBack:
    """A job that another run is at."""

    name: str


@dataclass(frozen=True, slots=True)
class Tells:
    """Something of a job, or of itself (name "")."""

    name: str
    what: Any


@dataclass(frozen=True, slots=True)
class Logs:
    """Something under `histofast` that its parent wants to hear of."""

    record: logging.LogRecord


@dataclass(frozen=True, slots=True)
class Ends:
    """A job is over; an `Outcome` without the job itself."""

    name: str
    status: Status
    value: Any
    error: BaseException | None
    seconds: float
    elsewhere: bool


@dataclass(frozen=True, slots=True)
class Over:
    """All is done that can be; `is_interrupted`: by itself, nobody asked for it."""

    is_interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Fails:
    """With an error that is none of a job's."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Gone:
    """The process has ended; not sent but found."""

    code: int

    @property
    def how(self) -> str:
        """How it ended: "was ended by SIGKILL", "ended with code 3"."""
        if self.code < 0:
            with suppress(ValueError):
                return f"was ended by {signal.Signals(-self.code).name}"
        return f"ended with code {self.code}"


Message = Asks | Begins | GivesBack | Tells | Logs | Ends | Over | Fails | Gone


# --- the parent's end ---------------------------------------------------------------------------


class Process:
    """A worker in a process, as its parent sees it. Its messages come to a queue, with itself."""

    def __init__(
        self,
        number: int,
        worker: Worker,
        *,
        messages: queue.SimpleQueue[tuple[Process, Message] | None],
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
        self._send(pickle.dumps((self.worker.function, dict(self.worker.arguments), level)))

    def answer(self, job: Job | None) -> None:
        """Give it a job, or none, as it asked."""
        self._send(_NO_MORE if job is None else pickle.dumps((job.name, pickle.dumps(job))))

    def stop(self) -> None:
        """Tell it to end where it can; it ends itself when it has not in time."""
        self._send(_STOP)

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
                    self._messages.put((self, _read_message(self._connection.recv_bytes())))
                elif self.popen.poll() is not None and not self._connection.poll(0):
                    break
        self._messages.put((self, Gone(self.popen.wait())))


def _output() -> int:
    """Where a process may print: where errors go, or nowhere."""
    try:
        os.fstat(2)
    except OSError:  # closed
        return subprocess.DEVNULL
    return 2


def _read_message(data: bytes) -> Message:
    try:
        message = pickle.loads(data)
    except Exception as error:  # noqa: BLE001  # somebody's value: handed to who can raise it
        return Fails(JobError(f"what a process sends cannot be read: {error}"))
    assert isinstance(message, Message)
    return message


def _environment(threads: int | None) -> dict[str, str]:
    if threads is None:
        return dict(os.environ)
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}


def _beyond_standard_streams(handle: int) -> int:
    """Duplicate a handle to one above 2: a parent that has closed those gets them for its pipes."""
    import fcntl

    return fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 3)


def as_sendable(error: BaseException) -> BaseException:
    """Return the error, with where it came from as a note, as pickle can carry it."""
    error.add_note("".join(traceback.format_exception(error)).rstrip())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # somebody's exception that cannot be made from its parts
        return HistofastError(f"{type(error).__name__}: {error}")
    return error


# --- the end of a process -----------------------------------------------------------------------


class Link:
    """The `Feed` of a worker in a process."""

    def __init__(self, connection: Connection, *, patience_s: float) -> None:
        self._connection, self._patience_s = connection, patience_s
        self._lock = threading.Lock()
        self._answers = queue.SimpleQueue[bytes]()
        self._has_asked = False

    def receive(self) -> tuple[Any, Mapping[str, Any]]:
        """Return the worker's function and arguments."""
        try:
            function, arguments, level = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(130)  # nothing was begun
        threading.Thread(target=self._listen, name="histofast-link", daemon=True).start()
        LOG.setLevel(level)
        LOG.addHandler(_Sender(self))
        return function, arguments

    def _listen(self) -> None:
        with suppress(EOFError, OSError):  # a parent that is gone says stop, too
            while (message := self._connection.recv_bytes()) != _STOP:
                self._answers.put(message)
        if not self._has_asked:
            os._exit(130)  # nothing was begun
        request_stop()
        self._answers.put(_NO_MORE)
        time.sleep(self._patience_s)
        os._exit(130)

    def take(self) -> Job | None:
        while not should_stop():
            self._has_asked = True
            self._send(Asks())
            message = self._answers.get()
            if message == _NO_MORE:
                self._answers.put(_NO_MORE)
                return None
            name, data = pickle.loads(message)
            try:
                job = pickle.loads(data)
            except Exception as error:  # noqa: BLE001  # what it needs cannot be imported here
                self._send(Ends(name, "failed", None, as_sendable(error), 0.0, elsewhere=False))
                continue
            assert isinstance(job, Job)
            return job
        return None

    def close(self) -> None:
        self._answers.put(_NO_MORE)

    def give_back(self, job: Job) -> None:
        self._send(GivesBack(job.name))

    def start(self, job: Job) -> None:
        self._send(Begins(job.name))

    def tell(self, what: Any, *, job: Job | None = None) -> None:
        self._send(Tells(job.name if job is not None else "", what))

    def log(self, record: logging.LogRecord) -> None:
        """Have the parent log something."""
        self._send(Logs(record))

    def end(self, outcome: Outcome, *, elsewhere: bool = False) -> None:
        if outcome.error is not None:
            outcome = replace(outcome, error=as_sendable(outcome.error))
        try:
            self._send_outcome(outcome, elsewhere=elsewhere)
        except Exception as error:  # noqa: BLE001  # whatever pickle meets in somebody's value
            name = outcome.job.name
            failure = JobError(f"what job {name} returns must be what pickle takes: {error}")
            failed = replace(outcome, status="failed", value=None, error=failure)
            self._send_outcome(failed, elsewhere=False)

    def _send_outcome(self, outcome: Outcome, *, elsewhere: bool) -> None:
        self._send(
            Ends(
                outcome.job.name,
                outcome.status,
                outcome.value,
                outcome.error,
                outcome.seconds,
                elsewhere,
            )
        )

    def should_stop(self) -> bool:
        return should_stop()

    def finish(self, last: Over | Fails) -> NoReturn:
        """End the process, without what libraries of GPUs do last, for some crash in it."""
        self._send(last)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.flush()
        os._exit(0)

    def _send(self, message: Message) -> None:
        data = pickle.dumps(message)
        with self._lock, suppress(OSError):  # a parent that is gone is noticed by `_listen`
            self._connection.send_bytes(data)


class _Sender(logging.Handler):
    """Sends what is logged here to the parent, its text made of its parts."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        plain = logging.makeLogRecord(record.__dict__)
        plain.msg, plain.args, plain.exc_info = record.getMessage(), (), None
        self._link.log(plain)


def serve(handle: int, patience_s: float) -> NoReturn:
    """Be a worker: what a process is started for."""
    # The parent alone says when to stop: schedulers signal every process of a job at once.
    for number in interruptions():
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore", NoLocksWarning)  # the parent has said so
    sys.stdout = sys.stderr
    os.set_inheritable(handle, False)
    link = Link(Connection(handle), patience_s=patience_s)
    last: Over | Fails = Over()
    try:
        with deferred_interrupts():
            function, arguments = link.receive()
            try:
                function(link, **arguments)
            except KeyboardInterrupt:
                last = Over(is_interrupted=not should_stop())
    except KeyboardInterrupt:
        last = Over()
    except BaseException as error:  # noqa: BLE001  # handed to the process that can raise it
        last = Fails(as_sendable(error))
    link.finish(last)
