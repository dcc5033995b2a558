"""What goes between a worker that is elsewhere and who deals to it: bytes, whatever carries them."""

from __future__ import annotations

import logging
import pickle
import traceback
from dataclasses import dataclass
from typing import Any

from histofast.errors import HistofastError, JobError
from histofast.jobs.feed import Worker
from histofast.jobs.job import Job, Status

# --- to a worker: bytes, which only the thread that needs them reads ----------------------------

STOP, NO_MORE = b"stop", b"none"  # anything else: a pickled name, and a pickled job of it


def order(worker: Worker, level: int) -> bytes:
    """Return the first message: what it is to do, and which records to send."""
    return pickle.dumps((worker.function, dict(worker.arguments), level))


def answer(job: Job | None) -> bytes:
    """Return a job, or that there is none, for one that asked."""
    return NO_MORE if job is None else pickle.dumps((job.name, pickle.dumps(job)))


# --- of a worker --------------------------------------------------------------------------------


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
    """The worker has ended; not sent but found. `how`: "was ended by SIGKILL", "ended with code 3"."""

    how: str


Message = Asks | Begins | GivesBack | Tells | Logs | Ends | Over | Fails | Gone


def read(data: bytes) -> Message:
    """Return the message in what a worker has sent."""
    try:
        message = pickle.loads(data)
    except Exception as error:  # noqa: BLE001  # somebody's value: handed to who can raise it
        return Fails(JobError(f"what a process sends cannot be read: {error}"))
    assert isinstance(message, Message)
    return message


def as_sendable(error: BaseException) -> BaseException:
    """Return the error, with where it came from as a note, as pickle can carry it."""
    error.add_note("".join(traceback.format_exception(error)).rstrip())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # somebody's exception that cannot be made from its parts
        return HistofastError(f"{type(error).__name__}: {error}")
    return error
