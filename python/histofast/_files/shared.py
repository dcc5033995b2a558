"""What a folder that several processes share must do, tried from two of them."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from histofast._files.failing import write_error
from histofast._files.locks import Lock
from histofast._words import one_line

_ASK_S = 60.0
# What the other process answers: whether it gets the lock, whether it can make a file that is
# there anew, and what it reads.
_OTHER = (
    "import sys; sys.path[:] = {path!r}\n"
    "from histofast._files.shared import answer\n"
    "print(answer({folder!r}))"
).format


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """One thing tried: `text` says what was found, `means` what follows where it does not work."""

    what: str
    works: bool
    text: str
    means: str = ""


def try_shared(folder: Path) -> Iterator[Tried]:
    """Try in a folder of one's own inside of `folder`, which is removed again.

    Raises:
        WriteError: nothing can be written there.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".histofast-doctor-", dir=folder) as scratch:
            yield from _tries(Path(scratch))
    except OSError as error:
        raise write_error(folder, error) from error


def _tries(folder: Path) -> Iterator[Tried]:
    word = secrets.token_hex(8)
    (folder / "old").write_text("old")
    fsync = _fsync(folder / "new", word)
    with Lock(folder / "locked") as is_held:
        (folder / "new").replace(folder / "old")
        said = _ask(folder).split()
    if len(said) != 3:
        yield Tried(what="second process", works=False, text=f"has not answered: {' '.join(said)}")
        return
    lock, exclusive, read = said
    yield Tried(
        what="locks",
        works=is_held and lock == "refused",
        text="are seen by another process"
        if lock == "refused"
        else "are not seen by another process",
        means="leases keep two runs from one slide, other work may be done twice; files stay whole",
    )
    yield Tried(
        what="exclusive creation",
        works=exclusive == "refused",
        text="makes a file once" if exclusive == "refused" else "makes a file twice",
        means="use another file system",
    )
    yield Tried(
        what="renaming",
        works=read == word,
        text="puts a whole file in the place of another"
        if read == word
        else "leaves the former file for another process",
        means="feature files may be read half written: use another file system",
    )
    yield Tried(
        what="fsync",
        works=not fsync,
        text="works" if not fsync else f"does not work: {fsync}",
        means="files may be lost with a machine",
    )
    leftover = _ask(folder).split()[:1]
    yield Tried(
        what="released locks",
        works=leftover == ["given"],
        text="are free for another process" if leftover == ["given"] else "stay taken",
        means="runs would wait for nobody: use another file system",
    )


def _fsync(file: Path, text: str) -> str:
    with file.open("w") as opened:
        opened.write(text)
        opened.flush()
        try:
            os.fsync(opened.fileno())
        except OSError as error:
            return one_line(error)
    return ""


def _ask(folder: Path) -> str:
    code = _OTHER(path=list(map(str, sys.path)), folder=str(folder))
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            timeout=_ASK_S,
        )
        return done.stdout or one_line(done.stderr)[-200:]
    return f"in {_ASK_S:.0f} s"


def answer(folder: str) -> str:
    """Say from another process what it finds; see `try_shared`."""
    lock = Lock(Path(folder) / "locked")
    taken = lock.acquire()
    lock.release()
    try:
        os.close(os.open(Path(folder) / "old", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        exclusive = "given"
    except FileExistsError:
        exclusive = "refused"
    read = (Path(folder) / "old").read_text()
    return f"{'given' if taken else 'refused'} {exclusive} {read}"
