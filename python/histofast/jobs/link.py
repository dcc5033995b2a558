"""The end of a worker that is elsewhere: the `Feed` whose jobs come over a channel."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from histofast._notes import LOG
from histofast._stopping import deferred_interrupts, request_stop, should_stop
from histofast.errors import JobError
from histofast.jobs.job import Job, Outcome
from histofast.jobs.messages import (
    NO_MORE,
    STOP,
    Asks,
    Begins,
    Ends,
    Fails,
    GivesBack,
    Logs,
    Message,
    Over,
    Tells,
    as_sendable,
)


class Channel(Protocol):
    """Carries whole messages, in order and each once."""

    def send_bytes(self, data: bytes, /) -> None:
        """Send one. Raises OSError where nobody is at the other end."""

    def recv_bytes(self) -> bytes:
        """Wait for one. Raises EOFError or OSError where nobody is at the other end."""


class Link:
    """The `Feed` of a worker whose jobs come over a channel."""

    def __init__(self, channel: Channel, *, patience_s: float) -> None:
        self._channel, self._patience_s = channel, patience_s
        self._lock = threading.Lock()
        self._answers = queue.SimpleQueue[bytes]()
        self._has_asked = False

    def receive(self) -> tuple[Any, Mapping[str, Any]]:
        """Return the worker's function and arguments."""
        try:
            function, arguments, level = pickle.loads(self._channel.recv_bytes())
        except (EOFError, OSError):
            os._exit(130)  # nothing was begun
        threading.Thread(target=self._listen, name="histofast-link", daemon=True).start()
        LOG.setLevel(level)
        LOG.addHandler(_Sender(self))
        return function, arguments

    def _listen(self) -> None:
        with suppress(EOFError, OSError):  # a parent that is gone says stop, too
            while (message := self._channel.recv_bytes()) != STOP:
                self._answers.put(message)
        if not self._has_asked:
            os._exit(130)  # nothing was begun
        request_stop()
        self._answers.put(NO_MORE)
        time.sleep(self._patience_s)
        os._exit(130)

    def take(self) -> Job | None:
        while not should_stop():
            self._has_asked = True
            self.send(Asks())
            message = self._answers.get()
            if message == NO_MORE:
                self._answers.put(NO_MORE)
                return None
            name, data = pickle.loads(message)
            try:
                job = pickle.loads(data)
            except Exception as error:  # noqa: BLE001  # what it needs cannot be imported here
                self.send(Ends(name, "failed", None, as_sendable(error), 0.0, elsewhere=False))
                continue
            assert isinstance(job, Job)
            return job
        return None

    def close(self) -> None:
        self._answers.put(NO_MORE)

    def give_back(self, job: Job) -> None:
        self.send(GivesBack(job.name))

    def start(self, job: Job) -> None:
        self.send(Begins(job.name))

    def tell(self, what: Any, *, job: Job | None = None) -> None:
        self.send(Tells(job.name if job is not None else "", what))

    def log(self, record: logging.LogRecord) -> None:
        """Have the parent log something."""
        self.send(Logs(record))

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
        self.send(
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

    def send(self, message: Message) -> None:
        data = pickle.dumps(message)
        with self._lock, suppress(OSError):  # a parent that is gone is noticed by `_listen`
            self._channel.send_bytes(data)


class _Sender(logging.Handler):
    """Sends what is logged here to the parent, its text made of its parts."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        plain = logging.makeLogRecord(record.__dict__)
        plain.msg, plain.args, plain.exc_info = record.getMessage(), (), None
        self._link.log(plain)


def attend(link: Link) -> None:
    """Be a worker: do what the first message says, and send how it ended."""
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
    link.send(last)
