"""Which machine this is, as far as its locks reach and its processes can be looked up."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Where a process is.

    Attributes:
        host: name of the machine; several may have one.
        installation: mark of its system, which stays when it is started again; "" where it has none.
        kernel: mark of the running kernel, the same in all its containers: as far as every lock reaches.
        pids: mark of what process numbers count in; containers have their own.
    """

    host: str
    installation: str
    kernel: str
    pids: str

    def is_gone(self, other: Machine, pid: int) -> bool:
        """Whether the process of that number on another, or this, machine has ended for certain."""
        if other.host != self.host:
            return False
        if other.kernel == self.kernel:
            return other.pids == self.pids and not is_running(pid)
        return other.installation == self.installation != ""  # it was started again


@functools.cache
def this_machine() -> Machine:
    """Where this process is."""
    host = socket.gethostname()
    try:
        pids = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        pids = ""
    return Machine(
        host=host,
        installation=_mark(Path("/etc/machine-id"), otherwise=""),
        kernel=_mark(Path("/proc/sys/kernel/random/boot_id"), otherwise=host),
        pids=pids,
    )


def _mark(file: Path, *, otherwise: str) -> str:
    """Return a short mark of what a file says, for it goes into files that others read."""
    try:
        known = file.read_bytes().strip()
    except OSError:
        known = b""
    known = known or otherwise.encode()
    return hashlib.sha256(known).hexdigest()[:16] if known else ""


def is_running(pid: int) -> bool:
    """Whether a process of this machine is there; True where nobody can tell."""
    if sys.platform == "win32" or pid <= 0:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
