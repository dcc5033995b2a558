"""Errors of the operating system and of HDF5 in, one line that says why nothing can be written out."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path

from histofast._files.names import longest_name_bytes
from histofast._words import one_line
from histofast.errors import NoSpaceError, WriteError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
FULL = {*_NO_SPACE, errno.EFBIG}  # what only who writes can meet
_REMEDIES = {
    errno.EROFS: ": choose another folder",
    errno.EFBIG: ": the file system or `ulimit -f` allows no file of this size",
}


def write_error(path: Path, error: BaseException, *, needs_bytes: int | None = None) -> WriteError:
    """Say in one line why `path` cannot be written; HDF5's errors are understood as well."""
    if isinstance(error, WriteError):
        return error
    code = getattr(error, "errno", None)
    inner = re.search(r"errno = (\d+)", str(error))  # HDF5 hides it in the text
    if inner:
        code = int(inner[1])
    if code in _NO_SPACE:
        needs = "" if needs_bytes is None else f" needs {needs_bytes / 1e6:.1f} MB"
        left = _what_is_full(path.parent, code)
        return NoSpaceError(
            f"{left} left on {path.parent}: {path.name}{needs}; free some or choose another folder"
        )
    why = os.strerror(code) if code else one_line(error)
    if code == errno.ENAMETOOLONG:
        length, most = len(os.fsencode(path.name)), longest_name_bytes(path.parent)
        why += f" ({length} bytes; {most} are possible there): choose a shorter name"
    return WriteError(f"cannot write {path}: {why}{_REMEDIES.get(code or 0, '')}")


def _what_is_full(folder: Path, code: int | None) -> str:
    """A quota, the number of files that a file system may hold, or simply its space."""
    if code == errno.EDQUOT:
        return "no quota"
    with contextlib.suppress(AttributeError, OSError):
        while not folder.exists():  # the folder itself may be what has no room
            folder = folder.parent
        about = os.statvfs(folder)
        if about.f_files and not about.f_favail:  # some count no inodes and say 0 of 0
            return "no inodes (room for more files, whatever their size)"
    return "no space"
