"""`histofast --log FILE`: everything that the library logs, in a file, beside what the terminal shows."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import Any

from histofast._files import regular_file, write_error
from histofast._notes import LOG
from histofast._words import one_line, printable
from histofast.cli.flags import told
from histofast.cli.output import say

LEVELS = ("debug", "info", "warning")


def log_to(path: Path, *, level: str) -> None:
    """Have everything from `level` on appended to a file: a line each, with time and process.

    Raises:
        ValueError: no such level, or something that is no file.
        WriteError: it cannot be written.
    """
    if level not in LEVELS:
        raise ValueError(f"--log-level must be one of {', '.join(LEVELS)}, got {level!r}")
    if path.exists():
        regular_file(path, kind="log")
    try:
        handler = _File(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise write_error(path, error) from error
    close_log()
    handler.setFormatter(_Lines("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    LOG.setLevel(level.upper())
    LOG.addHandler(handler)


def close_log() -> None:
    """Close the file, if there is one."""
    for handler in [each for each in LOG.handlers if isinstance(each, _File)]:
        LOG.removeHandler(handler)
        LOG.setLevel(logging.NOTSET)
        with contextlib.suppress(OSError):  # what is wrong with it has been said
            handler.close()


class _File(logging.FileHandler):
    """A log that ends, with a word on why, where it cannot be written: the work goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say once what is wrong."""
        close_log()
        say(f"note: {self.baseFilename} ends here: {one_line(sys.exception())}", err=True)


class _Lines(logging.Formatter):
    """One line for each record, with flags for arguments; tracebacks as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line."""
        record.message = told(record.message)
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Return the traceback."""
        return printable(super().formatException(ei), keep="\n")
