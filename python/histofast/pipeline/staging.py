"""Slides of buckets that must be files: copied into a bounded folder of this machine, and removed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

from histofast._files import passing_folder, write_error
from histofast._stopping import stop_if_asked
from histofast.errors import SlideError
from histofast.pipeline.holding import Stopped
from histofast.pipeline.options import StageOptions
from histofast.slides import RemoteParts

_POLL_S = 0.2


class _Room:
    """How much of a folder this process has taken."""

    def __init__(self, most_bytes: float) -> None:
        self._most_bytes, self._taken_bytes = most_bytes, 0
        self._changed = threading.Condition()

    def take(self, size_bytes: int, *, is_unwanted: Callable[[], bool]) -> None:
        """Wait until there is room, and take it.

        Raises:
            Stopped, Interrupted: nobody wants it any more.
        """
        with self._changed:
            while self._taken_bytes and self._taken_bytes + size_bytes > self._most_bytes:
                if is_unwanted():
                    raise Stopped
                stop_if_asked()
                self._changed.wait(_POLL_S)
            self._taken_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        with self._changed:
            self._taken_bytes -= size_bytes
            self._changed.notify_all()


@lru_cache(maxsize=8)
def _room_in(options: StageOptions) -> _Room:
    return _Room(options.most_bytes)


def staged(
    parts: RemoteParts,
    options: StageOptions,
    stack: ExitStack,
    *,
    is_unwanted: Callable[[], bool],
) -> Path:
    """Copy a slide, once there is room for it; return its path. `stack` removes it.

    Raises:
        SlideError: it is larger than all the room, cannot be had, or was changed meanwhile.
        WriteError: the folder cannot be written, or its disk is full.
    """
    first = parts.parts[0].address
    if parts.size_bytes > options.most_bytes:
        raise SlideError(
            f"{first} must have room in {options.folder}, got {options.most_bytes / 1e9:.3g} GB for its "
            f"{parts.size_bytes / 1e9:.3g}: give more with stage_gb=..."
        )
    room = _room_in(options)
    room.take(parts.size_bytes, is_unwanted=is_unwanted)
    stack.callback(room.give_back, parts.size_bytes)
    folder = stack.enter_context(passing_folder(options.folder, first.stem))
    try:
        return parts.copy_to(folder)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise write_error(folder / first.name, error) from error
