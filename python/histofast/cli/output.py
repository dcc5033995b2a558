"""The one way out for what the command line says, to a terminal or a log.

Names of slides, patients and columns, values of options and errors of libraries come from outside:
what could steer a terminal in them is shown as JSON writes it. Nothing else here prints.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from histofast._progress import TimeLeft
from histofast._words import printable

if TYPE_CHECKING:
    from rich.progress import Progress

_OF_TEXT = "\n\r\t"
_SAY_S = 10.0  # between lines on work that goes on


class Escaped(io.TextIOBase):
    """A text stream that shows control characters, and letters that it has no code for, escaped."""

    # No `buffer`: what looks for one would write past this.

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write text whose line ends, tabs and returns (of bars) are its own."""
        shown = printable(text, keep=_OF_TEXT)
        try:
            self.stream.write(shown)
        except UnicodeEncodeError as error:
            self.stream.write(printable(shown, encoding=error.encoding, keep=_OF_TEXT))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()

    def close(self) -> None:
        """Do nothing: Python 3.13 closes this at its end, and the stream is somebody else's."""

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        return self.stream.fileno()

    def isatty(self) -> bool:
        """Say whether somebody is watching."""
        return self.stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """Of the stream."""
        return self.stream.errors


def escape_streams() -> None:
    """Have all that is written from now on escaped: tracebacks, warnings, what libraries print."""
    if sys.stdout is not None and not isinstance(sys.stdout, Escaped):  # None: started closed
        sys.stdout = Escaped(sys.stdout)
    if sys.stderr is not None and not isinstance(sys.stderr, Escaped):
        sys.stderr = Escaped(sys.stderr)


def say(*lines: str, err: bool = False) -> None:
    """Print lines; a line end inside of one came with a name and is shown escaped."""
    _write("".join(f"{printable(line)}\n" for line in lines), err=err)


def say_document(document: str, *, err: bool = False) -> None:
    """Print JSON, or a text made of lines, whose line ends are ours."""
    say(*document.removesuffix("\n").split("\n"), err=err)


def _write(text: str, *, err: bool) -> None:
    stream = sys.stderr if err else sys.stdout
    if stream is not None:
        stream.write(text)
        stream.flush()


class Bars:
    """Bars of progress on a terminal, and lines above them."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def say(self, line: str) -> None:
        """Print a line above the bars; brackets and colons of names are text."""
        self._progress.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def add(self, description: str) -> Callable[..., None]:
        """Add a bar; what is returned sets its `description`, `completed`, `total` and `note`."""
        task = self._progress.add_task(printable(description), total=None, note="")

        def update(**values: Any) -> None:
            texts = {k: printable(v) for k, v in values.items() if isinstance(v, str)}
            self._progress.update(task, **{**values, **texts})

        return update


def watched(*, quiet: bool) -> bool:
    """Say whether bars would be seen."""
    return not quiet and sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def bars() -> Iterator[Bars]:
    """Show bars on standard error while in the block."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    # rich steers the terminal itself: its codes go past what escapes them.
    stream = sys.stderr.stream if isinstance(sys.stderr, Escaped) else sys.stderr
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(file=stream, emoji=False),
        transient=True,
    ) as progress:
        yield Bars(progress)


@contextmanager
def counted(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Yield what is told (done, total) of one thing: a bar on a terminal, else a line now and then."""
    if not watched(quiet=quiet):
        yield None if quiet else now_and_then(what)
        return
    with bars() as shown:
        update, left = shown.add(what), TimeLeft()
        yield lambda done, total: update(completed=done, total=total, note=left.told(done, total))


@contextmanager
def counted_in_turn(*, quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """Yield what is told (what, done, total) of one thing after the other; see `counted`."""
    if quiet:
        yield None
        return
    with ExitStack() as stack:
        at_hand: tuple[str, Callable[[int, int], None] | None] = ("", None)

        def tell(what: str, done: int, total: int) -> None:
            nonlocal at_hand
            if what != at_hand[0]:
                stack.close()  # the bar of what was before
                at_hand = (what, stack.enter_context(counted(what, quiet=False)))
            assert at_hand[1] is not None
            at_hand[1](done, total)

        yield tell


def now_and_then(what: str) -> Callable[[int, int], None]:
    """Return what says how many are done and how long the rest takes, but for work that is done soon."""
    said, left = time.monotonic(), TimeLeft()

    def tell(done: int, total: int) -> None:
        nonlocal said
        told = left.told(done, total)
        if done < total and time.monotonic() - said > _SAY_S:
            said = time.monotonic()
            say(f"{what}: {done} of {total}{f', {told}' if told else ''}", err=True)

    return tell
