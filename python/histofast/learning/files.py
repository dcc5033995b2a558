"""The files of a run: whole or not there, and JSON that tells whether it is still as it was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from histofast._files import regular_file, replacing
from histofast._tables import csv_text
from histofast._words import one_line
from histofast.errors import ModelError

_SEAL = "sha256"  # last key: of the canonical JSON of all the others


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; a full disk is a WriteError."""
    with replacing(path, overwrite=True) as pending:
        pending.write_bytes(content)


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a table; floats as short as float32 needs, names that are no text escaped."""
    short = ([f"{v:.9g}" if isinstance(v, float) else v for v in row] for row in rows)
    write_bytes(path, csv_text(short).encode(errors="backslashreplace"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON, one line for each key, and a seal; NaN must not be in it."""
    plain: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    sealed = {**plain, _SEAL: _seal(plain)}
    lines = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sealed.items())
    write_bytes(path, ("{\n " + ",\n ".join(lines) + "\n}\n").encode())


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """Return what `write_json` wrote.

    Args:
        path: of the file.
        remedy: what to do where it cannot be read, the end of the message.

    Raises:
        FileNotFoundError: there is no such file.
        ModelError: it cannot be read, or was changed since.
    """
    regular_file(path, kind="file", error=ModelError)
    try:
        value = json.loads(path.read_bytes().decode(), parse_constant=_refuse_constant)
        is_whole = isinstance(value, dict) and value.pop(_SEAL, None) == _seal(value)
    except OSError as error:
        raise ModelError(f"{path} must be readable, got {one_line(error)}: {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} must be JSON, got {one_line(error)}: {remedy}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must be a JSON object, got {type(value).__name__}: {remedy}")
    if not is_whole:
        raise ModelError(
            f"{path} must be as it was written, got one changed or damaged since: {remedy}"
        )
    return value


def _refuse_constant(name: str) -> None:
    """Refuse what JSON does not have, and `write_json` does not write."""
    raise ValueError(f"{name} for a number")


def _seal(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
