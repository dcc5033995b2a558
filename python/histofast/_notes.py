"""What the library tells while it works: to loggers under `histofast`, and to whoever asked for it.

Nothing is shown unless a program sets `logging` up. WARNING: what to know of a result, and what was
done otherwise than asked; INFO: what is done, and what came of each slide, epoch and part of a study;
DEBUG: files that are opened, and jobs. What processes log arrives in the one that started them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, ParamSpec, Protocol, TypeVar

from histofast._words import printable

LOG = logging.getLogger("histofast")
LOG.addHandler(logging.NullHandler())  # else Python would print warnings of whoever sets nothing up

OnNote = Callable[[str], None]


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines are one line each and can be written anywhere, whatever names files have."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log what `logging.Logger.log` would, with what steers a terminal or is no text escaped."""
        if self.isEnabledFor(level):
            text = str(msg) % args if args else str(msg)
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            self.logger.log(level, "%s", printable(text), **kwargs)


def log_of(module: str) -> Log:
    """Return the log of a module, by its `__name__`."""
    return Log(logging.getLogger(module))


class HasNotes(Protocol):
    """A result that says what is to be known of it, a line each."""

    @property
    def notes(self) -> Sequence[str]:
        """Those lines."""


P = ParamSpec("P")
R = TypeVar("R", bound=HasNotes)

_logged: ContextVar[set[str] | None] = ContextVar("logged", default=None)


def note(log: Log, text: str, *, to: OnNote | None = None, level: int = logging.WARNING) -> None:
    """Log a line, and tell it to who asked for it."""
    log.log(level, "%s", text)
    if to is not None:
        to(text)


def noted(function: Callable[P, R]) -> Callable[P, R]:
    """Have the notes of what a function returns logged: each once, whichever other such function it calls."""
    log = log_of(function.__module__)

    @functools.wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        known = _logged.get()
        token = None
        if known is None:
            token = _logged.set(known := set())
        try:
            found = function(*args, **kwargs)
            for text in dict.fromkeys(found.notes):
                if text not in known:
                    known.add(text)
                    note(log, text)
            return found
        finally:
            if token is not None:
                _logged.reset(token)

    return told
