"""A path in, one of a plain file out."""

from __future__ import annotations

import stat
from pathlib import Path

from histofast._words import one_line

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular_file(path: Path | str, *, kind: str, error: type[Exception] = ValueError) -> Path:
    """Return the path of a file that can be opened without waiting for anybody.

    Opening a named pipe waits for whoever writes to it, reading a device may never end: both are
    refused without being opened. A link counts as what it leads to.

    Args:
        path: of the file.
        kind: what it should be, as the message says: "slide", "feature file".
        error: what to raise for anything that is not one.

    Raises:
        FileNotFoundError: nothing is there, or a link that leads nowhere.
        Exception: `error`, where something else is, or where nobody may look.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        what = f"no such {kind}: {one_line(path)}"
        if path.is_symlink():
            what += f", a link to {one_line(path.readlink())}, which is not there"
        raise FileNotFoundError(what) from None
    except (OSError, ValueError) as reason:  # versions of Python word the second differently
        why = getattr(reason, "strerror", None) or "no name of a file has a NUL character"
        raise error(f"cannot look at {kind} {one_line(path)}: {why}") from reason
    if not stat.S_ISREG(mode):
        got = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise error(f"{kind} {one_line(path)} must be a file, got {got}")
    return path
