"""The files of a run's folder: whole or not there, so that a run may be killed at any moment."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from histofast._files import replacing
from histofast.errors import ModelError
from histofast.learning.scores import Metric

RUN, METRICS, PREDICTIONS = "run.json", "metrics.json", "predictions.csv"


def refuse_out_of_range(
    config: object, least: Mapping[str, int], *, above_0: Sequence[str]
) -> None:
    """Refuse numbers of a config below the least that they may be, not above 0, or infinite.

    Raises:
        ValueError: naming the first.
    """
    for name, wanted in least.items():
        value = getattr(config, name)
        if value is not None and not wanted <= value < math.inf:
            raise ValueError(f"{name} must be at least {wanted}, got {value}")
    for name in above_0:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} must be above 0, got {getattr(config, name)}")


def or_none(value: float) -> float | None:
    """Return what JSON can hold: None for NaN."""
    return value if math.isfinite(value) else None


def plain(metric: Metric) -> dict[str, float | None]:
    """Return a metric and its interval as JSON holds them."""
    return {part.name: or_none(getattr(metric, part.name)) for part in fields(Metric)}


def read_record(path: Path) -> dict[str, Any] | None:
    """Return what the run.json of a folder holds, None if there is none.

    Raises:
        ModelError: it is no JSON object.
    """
    try:
        record = json.loads((path / RUN).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ModelError(f"{path / RUN} must be JSON, got {error}") from error
    if not isinstance(record, dict):
        raise ModelError(f"{path / RUN} must be a JSON object, got {type(record).__name__}")
    return record


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; a full disk is an OSError."""
    with replacing(path, overwrite=True) as pending:
        pending.write_bytes(content)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON, one line for each key; NaN must not be in it."""
    lines = (f"{json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in value.items())
    write_bytes(path, ("{\n " + ",\n ".join(lines) + "\n}\n").encode())


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a table; floating point numbers as short as float32 needs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow([f"{v:.9g}" if isinstance(v, float) else v for v in row])
    write_bytes(path, text.getvalue().encode())


def fold_folder(path: Path, fold: int) -> Path:
    """Where the files of a fold are."""
    return path / f"fold-{fold}"
