"""What a file looks like from outside, to see whether it is still the same one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

State = tuple[int, int, int]  # size in bytes, times of the last change and of the last write in ns


def state_of(path: Path) -> State | None:
    """Return size and times of a file; None where there is none to be read.

    Who writes into a file or puts another one in its place leaves another size or another time:
    `cp --preserve` sets back the time of the last write, and nobody that of the last change. The
    number of a file tells nothing: FUSE gives one file another number when it likes.
    """
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
