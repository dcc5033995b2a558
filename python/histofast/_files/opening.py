"""A path in, one of a plain file out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from histofast._words import one_line

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_BEGIN_BYTES = 512
_WEB_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")
_POINTER = b"version https://git-lfs"


def path_of(name: str, value: object) -> Path:
    """Return an argument that is a path.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise TypeError(f"{name} must be a path, got {value!r}")
    return Path(value)


def paths_of(name: str, value: object) -> list[Path]:
    """Return an argument that is a path or several.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(value, str | os.PathLike):
        return [path_of(name, value)]
    if not isinstance(value, Iterable) or isinstance(value, bytes):
        raise TypeError(f"{name} must be a path or several, got {value!r}")
    return [path_of(name, each) for each in value]


def regular_file(path: Path | str, *, kind: str, error: type[Exception] = ValueError) -> Path:
    """Return the path of a file that can be opened without waiting for anybody.

    Opening a named pipe waits for whoever writes to it, reading a device may never end: both are
    refused without being opened. A link counts as what it leads to.

    Args:
        path: of the file.
        kind: what it should be, as the message says: "slide", "feature file".
        error: what to raise for anything that is not one.

    Raises:
        TypeError: `path` is none.
        FileNotFoundError: nothing is there, or a link that leads nowhere.
        Exception: `error`, where something else is, or where nobody may look.
    """
    path = path_of(kind, path)
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


def existing_folder(name: str, value: object) -> Path:
    """Return an argument that is the path of a folder that is there.

    Raises:
        TypeError: it is no path.
        FileNotFoundError: nothing is there.
        ValueError: something else is.
    """
    path = path_of(name, value)
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{name} must be a folder, {one_line(path)} is a file")
    raise FileNotFoundError(f"no such folder: {one_line(path)}")


def refuse_stand_in(path: Path, *, error: type[Exception] = ValueError) -> None:
    """Refuse what downloads leave in the place of a file: a web page, or the pointer of Git LFS.

    For the moment before it is said that a file is not what it should be.

    Raises:
        Exception: `error`, where the file is one of these.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_BEGIN_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    except OSError:
        return  # whoever reads it will say
    if text.startswith(_WEB_PAGES):
        raise error(
            f"{path} is a web page, not the file: download it again, signed in if need be"
        ) from None
    if text.startswith(_POINTER):
        raise error(
            f"{path} is a Git LFS pointer, not the file: run `git lfs pull` for it"
        ) from None
