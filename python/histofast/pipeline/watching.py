"""Files in, whether they are still what they were when they were looked at first."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from histofast.errors import SlideError

_WHAT = ("size", "time of change", "time of last write")

State = tuple[int, int, int]  # as `_WHAT` has it


class Watched:
    """Files that must not change while somebody reads them.

    Who writes into a file or puts another one in its place leaves another size or another time:
    `cp --preserve` sets back the time of the last write, and nobody that of the last change. The
    number of a file tells nothing: FUSE gives one file another number when it likes.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        """Look at the files for the first time; to be done before anything is read of them."""
        self._states: dict[Path, State | None] = {}
        self.add(paths)

    def add(self, paths: Iterable[Path]) -> None:
        """Look at further files."""
        for path in paths:
            if path not in self._states:
                self._states[path] = _state(path)

    @property
    def seen(self) -> str:
        """What the files looked like: another text when one of them was written to or replaced."""
        states = [state for _, state in sorted(self._states.items()) if state is not None]
        digest = hashlib.sha256(repr(states).encode()).hexdigest()
        return f"size:{sum(state[0] for state in states)};files:{len(states)};times:{digest[:16]}"

    def check(self) -> None:
        """Refuse files that have changed since.

        Raises:
            SlideError: one has.
        """
        for path, before in self._states.items():
            now = _state(path)
            if now == before:
                continue
            what = "it is gone"
            if now is not None and before is not None:
                differ = [one != other for one, other in zip(before, now, strict=True)]
                what = f"another {_WHAT[differ.index(True)]}"
            raise SlideError(
                f"{path} was changed while it was encoded ({what}): start again when it is whole"
            )


def _state(path: Path) -> State | None:
    """Size and times of a file; None where there is none to be read."""
    try:
        status = os.stat(path)  # noqa: PTH116  # of thousands of images: no Path is made
        if stat.S_ISREG(status.st_mode):
            # On NFS a stat may be a minute old; opening a file asks the server.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            try:
                status = os.fstat(descriptor)
            finally:
                os.close(descriptor)
    except (OSError, ValueError):  # who reads it says why
        return None
    return status.st_size, status.st_ctime_ns, status.st_mtime_ns
