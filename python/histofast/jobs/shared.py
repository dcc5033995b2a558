"""A folder that all machines of a cluster must share: shown by who deals, looked for by who works."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from histofast._files import make_folder
from histofast.errors import JobError, WriteError

SEEN_S = 15.0  # how long a new file may need to be seen on other machines


@contextmanager
def shown(folder: Path) -> Iterator[Path]:
    """Have a file of a new name in a folder, which others can look for.

    Raises:
        WriteError: the folder cannot be made or written to.
    """
    token = folder.absolute() / f".histofast-shared-{secrets.token_hex(8)}"
    is_new = not folder.exists()
    make_folder(folder)
    try:
        try:
            token.write_text(token.name)
        except OSError as error:
            raise WriteError(f"cannot write to {folder}: {error}") from error
        yield token
    finally:
        token.unlink(missing_ok=True)
        if is_new:  # nothing is written before all workers are ready
            with suppress(OSError):
                folder.rmdir()


def look(*, token: str, paths: Sequence[str], packages: Mapping[str, str]) -> None:
    """See from a worker what the driver sees.

    Args:
        token: what `shown` gave.
        paths: that must be there.
        packages: version of each that must be the same here.

    Raises:
        WriteError: its folder is another one.
        FileNotFoundError: it does not see a path.
        JobError: it has another version of a package, or none.
    """
    here, file = socket.gethostname(), Path(token)
    until = time.monotonic() + SEEN_S
    while not _is_seen(file):
        if time.monotonic() > until:
            raise WriteError(
                f"the output folder {file.parent} is not the same on {here}: give out= on a file system "
                "that all machines of the cluster share"
            )
        time.sleep(0.2)
    for path in paths:
        if not Path(path).exists():
            raise FileNotFoundError(
                f"{path} cannot be seen on {here}: it must lie on a file system that all machines of the "
                "cluster share"
            )
    found = versions_of(packages)
    for name, wanted in packages.items():
        if found.get(name) != wanted:
            has = f"{name} {found[name]}" if name in found else f"no {name}"
            raise JobError(
                f"{here} has {has}, and this machine {wanted}: install the same version on all machines of "
                "the cluster"
            )


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package that is installed here."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _is_seen(file: Path) -> bool:
    with suppress(OSError):
        return file.read_text() == file.name
    return False
