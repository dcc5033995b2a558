"""A unit of work, what became of it, and what is told meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from histofast._files import regular_file, replacing
from histofast.errors import JobError

MARKER = "done.json"

Status = Literal["done", "there", "failed", "interrupted"]


def by_worker(**_: Any) -> NoReturn:
    """Stand in for the function of a job that only workers of its own kind can do."""
    raise JobError("a job without a function needs an engine whose workers know what to do")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """A folder, an identity and a function: `function(**arguments)` fills the folder.

    Attributes:
        name: one for each job of a run, for people.
        function: of the top level of a module, so that another process finds it. None is needed where
            workers of an engine know by themselves what to do with the arguments.
        arguments: of the function; they go to another process by pickle.
        folder: what the function writes to; made before it is called. A job that has one is done
            when `done.json` is in it, which is written last and holds the identity.
        identity: all that the content of the folder depends on, as JSON can hold it.
        cost: about how long it takes beside the others; costly ones are dealt first.
        needs: names of the jobs that must be done before; where one of them fails, so does this one.
        after: names of jobs that it begins after, whatever became of them: its function sees what is there.

    Raises:
        TypeError: an identity that JSON cannot hold.
        ValueError: an identity without a folder, a NaN or infinity in it.
    """

    name: str
    function: Callable[..., Any] = by_worker
    arguments: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    identity: Mapping[str, Any] | None = None
    cost: float = 0.0
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.folder is not None:
            object.__setattr__(self, "folder", Path(self.folder))
        elif self.identity is not None:
            raise ValueError(f"folder of job {self.name} must be given with its identity, got none")
        canonical(self.identity)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outcome:
    """What became of a job.

    Attributes:
        job: which.
        status: "done"; "there": it was done before; "failed"; "interrupted": it has not ended, or
            was not begun.
        value: what its function returned; None unless it is done.
        error: what failed it. Of an interrupted one: KeyboardInterrupt if somebody asked for it,
            None if the run stopped for another reason.
        seconds: from its beginning to its end.
        worker: number of the worker that had it, from 0.
    """

    job: Job
    status: Status
    value: Any = None
    error: BaseException | None = None
    seconds: float = 0.0
    worker: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """A worker has begun with a job."""

    job: Job
    worker: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A job, or a worker without one (name ""), tells something: of progress, say."""

    name: str
    what: Any
    worker: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Retried:
    """A job failed so that another worker may do better; it will be tried once more."""

    outcome: Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """The process of a worker has died; `how` says it: "was ended by SIGKILL"."""

    worker: int
    how: str
    unfinished: tuple[Job, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A job is over."""

    outcome: Outcome


Event = Started | Told | Retried | Lost | Ended


# --- what a function may say while it runs ------------------------------------------------------

_teller: ContextVar[Callable[[Any], None] | None] = ContextVar("teller", default=None)


def tell(what: Any) -> None:
    """Tell whoever follows the run something, such as how far this job is.

    Outside of a job nobody hears it. A thread that a job starts is inside of it only in a copy of
    its context (`contextvars.copy_context`).
    """
    teller = _teller.get()
    if teller is not None:
        teller(what)


@contextmanager
def telling(teller: Callable[[Any], None]) -> Iterator[None]:
    """Have `tell` call `teller` inside."""
    token = _teller.set(teller)
    try:
        yield
    finally:
        _teller.reset(token)


# --- whether it is done -------------------------------------------------------------------------


def canonical(identity: Mapping[str, Any] | None) -> str:
    """Return the identity as text that is the same for equal identities.

    Raises:
        TypeError: something in it that JSON cannot hold.
        ValueError: a NaN or an infinity.
    """
    try:
        return json.dumps(identity, sort_keys=True, allow_nan=False)
    except TypeError as error:
        raise TypeError(f"identity must be as JSON can hold it: {error}") from None
    except ValueError:
        raise ValueError(f"identity must have finite numbers, got {identity}") from None


def differences(found: Any, wanted: Any, *, name: str = "") -> list[str]:
    """Say what differs between two identities, one text per leaf: `tissue.threshold: 30, not null`.

    Both as they come from JSON.
    """
    if found == wanted:
        return []
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return [
            text
            for key in sorted(found.keys() | wanted.keys())
            for text in differences(
                found.get(key), wanted.get(key), name=f"{name}.{key}".strip(".")
            )
        ]
    return [f"{name or 'identity'}: {_short(found)}, not {_short(wanted)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else text[:57] + "..."


def is_there(job: Job) -> bool:
    """Whether a job was done before.

    Raises:
        JobError: its folder holds something of another identity, or cannot be read.
    """
    if job.folder is None:
        return False
    marker = job.folder / MARKER
    try:
        regular_file(marker, kind="file", error=JobError)
        found = json.loads(marker.read_bytes().decode())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise JobError(f"cannot read {marker}: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise JobError(f"{marker} is broken: remove it, or choose another folder") from None
    differs = differences(found, json.loads(canonical(job.identity)))
    if differs:
        raise JobError(
            f"{job.folder} was made by something else ({'; '.join(differs)}): choose another "
            "folder, or remove it"
        )
    return True


def execute(job: Job) -> Outcome:
    """Do a job here and now, unless it is done; its failure is in the outcome.

    This is all that an engine calls, wherever it does. An interruption is raised.
    """
    begin = time.perf_counter()
    value: Any = None
    error: BaseException | None = None
    status: Status = "done"
    try:
        if is_there(job):
            status = "there"
        else:
            if job.folder is not None:
                job.folder.mkdir(parents=True, exist_ok=True)
            value = job.function(**job.arguments)
            if job.folder is not None:
                with replacing(job.folder / MARKER, overwrite=True) as pending:
                    pending.write_text(canonical(job.identity) + "\n")
    except (Exception, SystemExit) as failure:  # noqa: BLE001  # it stays with its job
        status, value, error = "failed", None, failure
    return Outcome(
        job=job, status=status, value=value, error=error, seconds=time.perf_counter() - begin
    )
