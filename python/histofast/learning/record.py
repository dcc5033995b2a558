"""The folder of a run: what its numbers follow from, one lock, files that are whole or not there.

    run.json             kind, identity, about
    fold-<i>/            of each fold, by its number from 0
    metrics.json         written last: a run that has it is finished

The *identity* holds everything that the numbers of a run depend on, by content: checksums of features
and weights, targets, patients, folds, options, seeds, and the revision of the method, which is raised
whenever the same input would give other numbers. `about` holds what they do not depend on: device,
threads, memory, paths, verbosity, versions of libraries. Device and torch's release change last bits,
no more; a run that goes on where it was on another machine is worth more than those.

A folder with the same identity is gone on with, or only opened; one with another is refused, with
what differs. A run may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from histofast._files import Lock, existing_folder, make_folder, remove_stale_temporaries
from histofast._words import clipped, one_line
from histofast.errors import ModelError
from histofast.jobs import Part
from histofast.learning.files import read_json, write_json
from histofast.learning.form import misfit
from histofast.learning.scores import Metric

RUN, METRICS, PREDICTIONS = "run.json", "metrics.json", "predictions.csv"

OpenedRun = TypeVar("OpenedRun")

_ASIDE = "aside"  # in the metadata of a field
_ELSEWHERE = "choose another folder, or replace the run with overwrite=True"
_MISSING = object()
_BEGUN_S = 60.0  # for those who do other parts to have begun
_SHORT = 40  # characters of a value that is told; longer ones are checksums and lists


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What run.json holds.

    Attributes:
        kind: of run: train, finetune ...
        identity: what the numbers follow from, as JSON holds it. Values of many things alike are
            {"slides": {name: {"features": ..., "target": ...}}}, so that a difference can be told.
        about: what they do not follow from.
    """

    kind: str
    identity: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make tuples lists and the like: what is asked is compared with what was read."""
        for name in ("identity", "about"):
            plain_value = json.loads(json.dumps(getattr(self, name), allow_nan=False))
            object.__setattr__(self, name, plain_value)

    @property
    def sha256(self) -> str:
        """Checksum of kind and identity."""
        text = json.dumps([self.kind, self.identity], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def is_same(self, other: RunRecord | None) -> bool:
        """Whether another record is of the same numbers."""
        return other is not None and not difference(other, self)


def difference(there: RunRecord, asked: RunRecord) -> str:
    """Say in a few words what differs of what the numbers depend on; "" if nothing."""
    if there.kind != asked.kind:
        return f"of {there.kind}, not {asked.kind}"
    return _difference(there.identity, asked.identity, "")


def _difference(there: Mapping[str, Any], asked: Mapping[str, Any], within: str) -> str:
    for key in {**there, **asked}:
        one, other = there.get(key, _MISSING), asked.get(key, _MISSING)
        if one == other and not (isinstance(one, dict) and list(one) != list(other)):
            continue
        if not isinstance(one, dict) or not isinstance(other, dict):
            return f"{within}{_of_values(key, one, other)}"
        if _is_of_things(one) and _is_of_things(other):
            return f"{within}{_of_things(key, one, other)}"
        # Options need no heading; what holds slides or folds of its own does.
        heading = f"{key}: " if any(map(_is_of_things, one.values())) else ""
        found = _difference(one, other, within + heading)
        return found or f"{within}{key} in another order"
    return ""


def _is_of_things(value: Any) -> bool:
    """Whether it holds many things alike, by their names, and something of each."""
    is_dict = isinstance(value, dict) and bool(value)
    return is_dict and all(isinstance(inner, dict) for inner in value.values())


def _of_values(key: str, one: Any, other: Any) -> str:
    texts = [
        value if isinstance(value, str) else "none" if value is _MISSING else json.dumps(value)
        for value in (one, other)
    ]
    if max(map(len, texts)) > _SHORT:
        return f"other {key}"
    return f"{key} {texts[0]}, not {texts[1]}"


def _of_things(key: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Say in how many slides, folds ... of many what differs."""
    single = sorted(set(one) ^ set(other))
    if single:
        return f"{len(single)} {key} are not in both, first {single[0]}"
    for part in {part: None for value in one.values() for part in value}:
        differ = [n for n in one if one[n].get(part, _MISSING) != other[n].get(part, _MISSING)]
        if differ:
            return f"{part} of {len(differ)} {key} differ, first {differ[0]}"
    return f"{key} in another order"


def aside(default: Any) -> Any:
    """Return the field of a config that no number depends on, but for last bits."""
    return field(default=default, metadata={_ASIDE: True})


def parts_of_config(config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values of a config that numbers depend on, and those marked by `aside`."""
    values = asdict(config)
    left_out = {part.name for part in fields(config) if part.metadata.get(_ASIDE)}
    return (
        {name: value for name, value in values.items() if name not in left_out},
        {name: value for name, value in values.items() if name in left_out},
    )


# --- The folder --------------------------------------------------------------------------------


def read_record(path: Path) -> RunRecord | None:
    """Return what the run.json of a folder holds, None if there is none.

    Raises:
        ModelError: it is no record of a run, or was changed since.
    """
    try:
        record = read_json(path / RUN, remedy=_ELSEWHERE)
    except FileNotFoundError:
        return None
    wanted = {"kind": str, "identity": dict, "about": dict}
    wrong = [name for name, kind in wanted.items() if not isinstance(record.get(name), kind)]
    if wrong:
        raise ModelError(f"{path / RUN} must be of a run, got no {wrong[0]} in it: {_ELSEWHERE}")
    return RunRecord(**{name: record[name] for name in wanted})


def open_recorded(
    path: str | Path, make: Callable[[Path, RunRecord], OpenedRun], *, kind: str, form: Any
) -> OpenedRun:
    """Open the folder of a run, finished or not.

    Args:
        path: of the folder.
        make: makes a run of what run.json holds.
        kind: of run; the command that makes such ones is called so.
        form: of identity and about, as `misfit` takes it: all that is read of them.

    Raises:
        FileNotFoundError, ValueError: no such folder, none of a run, or no folder.
        ModelError: its run.json is broken, or of another kind of run.
    """
    path = existing_folder("path", path)
    record = read_record(path)
    if record is None:
        raise FileNotFoundError(f"no {RUN}, as `{kind}` writes it, in {path}")
    if record.kind != kind:
        raise ModelError(f"{path} must be of `{kind}`, got a folder of `{record.kind}`")
    wrong = misfit({"identity": record.identity, "about": record.about}, form)
    try:
        if not wrong:
            return make(path, record)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        wrong = f"{type(error).__name__}, {clipped(one_line(error), 200)}"  # values that do not go together
    raise ModelError(
        f"{path / RUN} must be of a run of `{kind}`, got another ({wrong}): {_ELSEWHERE}"
    )


def is_finished(path: Path, record: RunRecord) -> bool:
    """Whether a folder holds this run with its metrics: nothing is to be done, nor to be written."""
    try:
        return (path / METRICS).is_file() and record.is_same(read_record(path))
    except ModelError:
        return False


@contextlib.contextmanager
def run_folder(
    path: Path,
    record: RunRecord,
    *,
    files: Sequence[str],
    overwrite: bool,
    part: Part | None = None,
) -> Iterator[None]:
    """Make the folder of a run, or find it made for this very run; it is this process's till the end.

    Args:
        path: of the folder.
        record: of the run.
        files: patterns of what such a run writes, removed when a run of another identity is
            replaced: ("fold-*/log.csv", ...).
        overwrite: replace a run of another identity, or write into a folder that is not empty.
        part: of the run that is to be done; the folder is then shared with those who do other parts.

    Raises:
        ValueError: `path` is a file, or a folder of something else or of a run of another identity.
        ModelError: another process works in this folder, or on this part; a run.json that is broken.
        WriteError: the folder cannot be written, or its disk is full.
    """
    refuse_folder(path, record, overwrite=overwrite)
    make_folder(path)
    lock = _held(path / RUN, wait_s=0.0 if part is None else _BEGUN_S)
    try:
        refuse_folder(path, record, overwrite=overwrite)  # another may have come between
        remove_stale_temporaries(path)
        _settle(path, record, files)
        if part is not None:
            lock.release()
            lock = _held(path / f"part-{part.index}of{part.of}")
        yield
    finally:
        lock.release()


def _held(path: Path, *, wait_s: float = 0.0) -> Lock:
    """Return the lock of what one process does in a folder, taken."""
    lock = Lock(path)
    if not lock.acquire(wait_s=wait_s):
        raise ModelError(
            f"{path.parent} must be worked on by one process, got a second one: wait for "
            f"{lock.holder() or 'the first'}, or end it"
        )
    return lock


def refuse_folder(path: Path, record: RunRecord, *, overwrite: bool) -> None:
    """Refuse what `run_folder` would, before the work that goes before it.

    Raises:
        ValueError, ModelError: as `run_folder`.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"out must be a folder, {path} is a file")
    if overwrite or not path.is_dir():
        return
    there = read_record(path)
    if there is None:
        # Hidden: locks, and what a kill left of a file that was being written.
        if any(not inner.name.startswith(".") for inner in path.iterdir()):
            raise ValueError(
                f"out must be new, empty or of a run, {path} is not: choose another folder, "
                "or write into it all the same with overwrite=True"
            )
        return
    other = difference(there, record)
    if other:
        raise ValueError(
            f"{path} holds another run ({other}): choose another folder, or replace it "
            "with overwrite=True"
        )


def _settle(path: Path, record: RunRecord, files: Sequence[str]) -> None:
    """Write run.json, after removing a run of another identity."""
    try:
        if record.is_same(read_record(path)):
            return
    except ModelError:  # broken, and to be replaced: else `refuse_folder` had raised it
        pass
    # run.json goes first: a folder that lost only some of its files is not taken for the old run.
    for pattern in (RUN, METRICS, PREDICTIONS, *files):
        for old in path.glob(pattern):
            old.unlink()
            if old.parent != path and not any(old.parent.iterdir()):
                old.parent.rmdir()
    write_json(
        path / RUN, {"kind": record.kind, "identity": record.identity, "about": record.about}
    )


def fold_folder(path: Path, fold: int) -> Path:
    """Where the files of a fold are."""
    return path / f"fold-{fold}"


def sha256_of(path: Path) -> str:
    """Return the checksum of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unchanged(path: Path, sha256: object, *, remedy: str) -> Path:
    """Return the path of a file of a run that is as it was written.

    Args:
        path: of the file.
        sha256: of its content, as metrics.json has it.
        remedy: what to do where it is not, the end of the message.

    Raises:
        ModelError: the file was changed or removed since.
    """
    if not path.is_file() or sha256_of(path) != sha256:
        raise ModelError(
            f"{path} must be as it was written, got one changed or removed since: {remedy}"
        )
    return path


# --- Values ------------------------------------------------------------------------------------


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


def without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON can hold of a row: None for NaN."""
    return {k: or_none(v) if isinstance(v, float) else v for k, v in row.items()}


def with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of numbers as it was before `without_nan`."""
    return {key: math.nan if value is None else value for key, value in row.items()}


def plain(metric: Metric) -> dict[str, float | None]:
    """Return a metric and its interval as JSON holds them."""
    return {part.name: or_none(getattr(metric, part.name)) for part in fields(Metric)}
