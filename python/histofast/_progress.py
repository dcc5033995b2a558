"""Progress as plain text: by itself in a notebook, elsewhere where it is asked for.

What is told of a piece of work is an object whose text says where it is, and whose `line` is to stay; or
numbers of what is done and of all. Nothing of this prints unless `progress` says so.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TextIO, TypeVar

from histofast._words import duration, printable

_REWRITE_S = 0.5  # between two states of the last line
_SAY_S = 10.0  # between lines, where none can be written over
_KNOWN_S = 2.0  # from when on it is said how long the rest takes

P = ParamSpec("P")
R = TypeVar("R")


def is_notebook() -> bool:
    """Whether a notebook shows what is printed; a terminal of IPython is none."""
    find = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return find is not None and hasattr(find(), "kernel")


class Screen:
    """Lines that stay, and a last one that is written over.

    Args:
        stream: to write to.
        rewrites: whether a carriage return begins the line anew there; else the state is a line now and then.
        what: is done, for numbers.
    """

    def __init__(self, stream: TextIO, *, rewrites: bool, what: str = "") -> None:
        self._stream, self._rewrites, self._what = stream, rewrites, what
        self._last = ""
        self._at = -float("inf") if rewrites else time.monotonic()
        self._left = TimeLeft()

    def tell(self, *told: Any) -> None:
        """Show one thing that is told: progress, or (done, of), or (what, done, of)."""
        if len(told) == 1:
            for line in filter(None, told[0].line.split("\n")):
                self.say(line)
            if not told[0].line:
                self._show(str(told[0]))
            return
        what, (done, of) = (told[0], told[1:]) if len(told) == 3 else (self._what, told)
        left = self._left.told(done, of)
        self._show(f"{what}: {done} of {of}{f', {left}' if left else ''}", is_last=done >= of)

    def say(self, line: str) -> None:
        """Write a line that stays."""
        self._write(f"{printable(line)}\n")

    def close(self) -> None:
        """Take the last line away."""
        self._write("")

    def _show(self, text: str, *, is_last: bool = False) -> None:
        wait_s = _REWRITE_S if self._rewrites else _SAY_S
        if not text or (time.monotonic() - self._at < wait_s):
            return
        self._at = time.monotonic()
        if self._rewrites:
            self._write(printable(text))
            self._last = printable(text)
        elif not is_last:
            self.say(text)

    def _write(self, text: str) -> None:
        blank = f"\r{' ' * len(self._last)}\r" if self._last else ""
        self._last = ""
        try:
            self._stream.write(blank + text)
        except UnicodeEncodeError as error:
            self._stream.write(blank + printable(text, encoding=error.encoding, keep="\n"))
        self._stream.flush()


class TimeLeft:
    """How long what is left takes, from what was done since it was first asked."""

    def __init__(self) -> None:
        self._begun: tuple[float, int] | None = None

    def told(self, done: int, total: int) -> str:
        """Return `about 3 min left`, "" where nothing can be said yet."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = (now, done)
        began, before = self._begun
        if not before < done < total or now - began < _KNOWN_S:
            return ""
        return f"about {duration((now - began) / (done - before) * (total - done))} left"


def screen_for(progress: bool | None, *, is_heard: bool, what: str = "") -> Screen | None:
    """Return where progress is shown, None where it is not.

    Args:
        progress: True shows it, False does not; None shows it in a notebook, unless somebody hears it.
        is_heard: somebody is told of it.
        what: see `Screen`.

    Raises:
        TypeError: progress is something else.
    """
    if progress is not None and not isinstance(progress, bool):
        raise TypeError(f"progress must be True, False or None, got {progress!r}")
    shown = is_notebook() and not is_heard if progress is None else progress
    stream = sys.stdout if is_notebook() else sys.stderr
    if not shown or stream is None:
        return None
    return Screen(stream, rewrites=is_notebook() or stream.isatty(), what=what)


def shows(what: str = "") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function with the arguments `progress` and `on_progress`, and maybe `on_note`, show its progress.

    Args:
        what: it does, where it tells numbers only.
    """

    def make(function: Callable[P, R]) -> Callable[P, R]:
        heard = {"on_progress": "tell", "on_note": "say"}
        heard = {
            name: heard[name] for name in inspect.signature(function).parameters if name in heard
        }

        @wraps(function)
        def shown(*args: P.args, **kwargs: P.kwargs) -> R:
            listeners: dict[str, Any] = {name: kwargs.get(name) for name in heard}
            is_heard = any(each is not None for each in listeners.values())
            progress: Any = kwargs.get("progress")
            with _closing(screen_for(progress, is_heard=is_heard, what=what)) as screen:
                if screen is not None:
                    for name, method in heard.items():
                        kwargs[name] = _both(getattr(screen, method), listeners[name])
                return function(*args, **kwargs)

        return shown

    return make


def listening(
    progress: bool | None, on_progress: Callable[..., None] | None
) -> Callable[..., None] | None:
    """Return what is told of work that has no one end: `on_progress`, a screen, both or none."""
    screen = screen_for(progress, is_heard=on_progress is not None)
    return on_progress if screen is None else _both(screen.tell, on_progress)


@contextmanager
def _closing(screen: Screen | None) -> Iterator[Screen | None]:
    try:
        yield screen
    finally:
        if screen is not None:
            screen.close()


def _both(first: Callable[..., None], second: Callable[..., None] | None) -> Callable[..., None]:
    def tell(*told: Any) -> None:
        first(*told)
        if second is not None:
            second(*told)

    return first if second is None else tell
