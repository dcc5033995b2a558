"""Whether the work of this process is to end: one flag, asked between batches.

An interruption that is raised wherever it hits may leave the lock of a queue or of a future taken
for ever, or be lost in a destructor. Work that asks often enough defers it instead.
"""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTIONS = ("SIGINT", "SIGTERM", "SIGHUP")  # those that Windows lacks are left out


class Interrupted(KeyboardInterrupt):
    """Raised by work that was asked to stop and has not finished."""


class _Stop:
    """The flag, and whom to wake when it is set: one entry for each `deferred_interrupts`."""

    def __init__(self) -> None:
        self.is_asked = self.is_heard = False
        self.wakes: list[Callable[[], None]] = []


_stop = _Stop()


def should_stop() -> bool:
    """Whether what runs in this process is to end at the next good place."""
    _stop.is_heard = _stop.is_heard or _stop.is_asked
    return _stop.is_asked


def stop_if_asked() -> None:
    """Raise `Interrupted` when the work is to end; for calling between batches."""
    if should_stop():
        raise Interrupted


def request_stop() -> None:
    """Ask what runs inside of `deferred_interrupts` to end; also from a signal handler."""
    _stop.is_asked = True
    for wake in list(_stop.wakes):
        wake()


def interruptions() -> list[signal.Signals]:
    """The signals that end a run: Ctrl-C, a scheduler's, a lost connection's."""
    return [number for number in signal.Signals if number.name in INTERRUPTIONS]


@contextmanager
def deferred_interrupts(
    wake: Callable[[], None] = lambda: None, *, grace_s: float | None = None
) -> Iterator[None]:
    """Inside, Ctrl-C sets what `should_stop` asks for, instead of being raised anywhere.

    Whatever handler of SIGINT, SIGTERM or SIGHUP raises KeyboardInterrupt is held back so, once: a
    second signal is raised at once. At the end, what came is raised if nobody has done it before.
    In threads other than the main one nothing is deferred, for no signals are delivered there.

    Args:
        wake: called when the flag is set, by a signal handler: to wake whoever waits inside. It may
            put something into a `queue.SimpleQueue`; a lock it must not take.
        grace_s: raise it after all when nobody has asked for so long, as work that cannot ask needs
            it; not within another one of these. Never when None.

    Raises:
        Interrupted: at the end, if a stop was asked for and the body has ended without an error.
    """
    former: dict[int, Callable[[int, FrameType | None], Any]] = {}
    ended: list[bool] = []  # no lock: a signal handler may look

    def held_back(number: int, frame: FrameType | None) -> None:
        try:
            former[number](number, frame)
        except KeyboardInterrupt:
            if _stop.is_asked:
                raise
            request_stop()
            if grace_s is not None:
                _thread.start_new_thread(raise_unheard, (number, grace_s, len(_stop.wakes)))

    def raise_unheard(number: int, grace_s: float, depth: int) -> None:
        time.sleep(grace_s)
        while len(_stop.wakes) > depth and not _stop.is_heard and not ended:
            time.sleep(grace_s)
        if not _stop.is_heard and not ended:
            _thread.interrupt_main(signal.Signals(number))

    try:
        if threading.current_thread() is threading.main_thread():
            for number in interruptions():
                handler = signal.getsignal(number)
                if callable(handler):
                    former[number] = handler
                    signal.signal(number, held_back)
        _stop.wakes.append(wake)
        yield
    finally:
        ended.append(True)
        for signalled, handler in former.items():
            signal.signal(signalled, handler)
        is_asked = _stop.is_asked
        if wake in _stop.wakes:
            _stop.wakes.remove(wake)
        if not _stop.wakes:
            _stop.is_asked = _stop.is_heard = False
    if is_asked:
        _stop.is_heard = bool(_stop.wakes)
        raise Interrupted
