"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """As `becoming`, and the bytes are on the disk before the file takes its name.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        FileNotFoundError: the folder does not exist.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name, or ask to overwrite it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} in")
    with becoming(path) as pending:
        yield pending
        with pending.open("rb") as file:
            os.fsync(file.fileno())


@contextlib.contextmanager
def becoming(path: Path) -> Iterator[Path]:
    """Yield a path to write to; what is there at the end takes the name `path`, if nothing raised.

    Two threads or processes may write the same `path`: each has a file of its own.
    """
    pending = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield pending
        pending.replace(path)
    finally:
        with contextlib.suppress(OSError):  # nothing may be there, not even its folder
            pending.unlink()
