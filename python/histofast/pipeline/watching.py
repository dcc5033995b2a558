"""Files in, whether they are still what they were when they were looked at first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from histofast._files import State, state_of
from histofast._remote import Address, Place, version_of
from histofast.errors import SlideError

_WHAT = ("size", "time of change", "time of last write")  # of a state
_WHAT_REMOTE = ("size", "ETag")


class Watched:
    """Files that must not change while somebody reads them; what tells is said by `state_of`.

    Of objects in buckets size and version tell.
    """

    def __init__(self, paths: Iterable[Place]) -> None:
        """Look at the files for the first time; to be done before anything is read of them.

        Raises:
            FileNotFoundError, SlideError: an object that is not there, or cannot be had.
        """
        self._states: dict[Place, State | tuple[int, str] | None] = {}
        self.add(paths)

    def add(self, paths: Iterable[Place]) -> None:
        """Look at further files."""
        for path in paths:
            if path not in self._states:
                self._states[path] = (
                    version_of(path) if isinstance(path, Address) else state_of(path)
                )

    @property
    def seen(self) -> str:
        """What the files looked like: another text when one of them was written to or replaced."""
        states = [
            state
            for _, state in sorted(self._states.items(), key=lambda item: str(item[0]))
            if state is not None
        ]
        digest = hashlib.sha256(repr(states).encode()).hexdigest()
        return f"size:{sum(state[0] for state in states)};files:{len(states)};times:{digest[:16]}"

    def check(self) -> None:
        """Refuse files that have changed since.

        Raises:
            SlideError: one has.
        """
        for path, before in self._states.items():
            now = _now(path)
            if now == before:
                continue
            what = "it is gone"
            if now is not None and before is not None:
                differ = [one != other for one, other in zip(before, now, strict=True)]
                names = _WHAT_REMOTE if isinstance(path, Address) else _WHAT
                what = f"another {names[differ.index(True)]}"
            raise SlideError(
                f"{path} was changed while it was encoded ({what}): start again when it is whole"
            )


def _now(path: Place) -> State | tuple[int, str] | None:
    if isinstance(path, Path):
        return state_of(path)
    try:
        return version_of(path)
    except FileNotFoundError:
        return None
