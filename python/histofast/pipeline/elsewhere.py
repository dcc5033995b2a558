"""Slides that are encoded on the machines of a cluster.

The driver deals slides and writes the report; workers read slides and write feature files where they
are. So all of them must see the same folders, which is tried before anything is dealt.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from histofast import jobs
from histofast._numbers import real_number, whole_number
from histofast.errors import JobError, ModelError, SlideError, WriteError
from histofast.patches import Job
from histofast.pipeline.encoding import encode_slides
from histofast.pipeline.options import ExtractOptions
from histofast.pipeline.reports import make_folder

SEEN_S = 15.0  # how long a new file may need to be seen on other machines


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Where slides are encoded that are not encoded here; see `extract`.

    Raises:
        TypeError, ValueError: a number out of range.
    """

    address: str
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        cpus = whole_number("cpus_per_worker", self.cpus_per_worker, at_least=1)
        gpus = real_number("gpus_per_worker", self.gpus_per_worker, at_least=0)
        object.__setattr__(self, "cpus_per_worker", cpus)
        object.__setattr__(self, "gpus_per_worker", gpus)


@contextmanager
def engine_on(
    cluster: Cluster,
    slides: Sequence[Job],
    options: ExtractOptions,
    *,
    patience_s: float,
    poll_s: float,
) -> Iterator[tuple[jobs.Engine, list[str]]]:
    """Give the engine of a cluster whose workers see what they need, and their names.

    Raises:
        ModelError: no such cluster, or no workers; it has the words of `JobError`.
        WriteError: a worker has another output folder.
        SlideError: a worker does not see the first slide.
    """
    try:
        with jobs.on_cluster(
            cluster.address, cpus=cluster.cpus_per_worker, gpus=cluster.gpus_per_worker
        ) as crew:
            with _token(options.out) as token:
                crew.ask(
                    look,
                    token=str(token),
                    slides=[
                        str(slide.path.absolute())
                        for slide in slides[:1]
                        if isinstance(slide.path, Path)  # a bucket is seen alike from everywhere
                    ],
                )
            settled = replace(options, threads=crew.cpus, workers=crew.cpus)
            worker = jobs.Worker(function=encode_slides, arguments={"options": settled})
            yield crew.doing(worker, patience_s=patience_s, poll_s=poll_s), crew.names
    except JobError as error:
        raise ModelError(str(error)) from error


@contextmanager
def _token(out: Path) -> Iterator[Path]:
    """Have a file of a new name in the output folder, which others can look for."""
    token = out.absolute() / f".histofast-shared-{secrets.token_hex(8)}"
    is_new = not out.exists()
    make_folder(out)
    try:
        token.write_text(token.name)
        yield token
    except OSError as error:
        raise WriteError(f"cannot write to {out}: {error}") from error
    finally:
        token.unlink(missing_ok=True)
        if is_new:  # nothing is written before all workers are ready
            out.rmdir()


def look(*, token: str, slides: Sequence[str]) -> None:
    """See from a worker what the driver sees.

    Raises:
        WriteError: its output folder is another one.
        SlideError: it does not see a slide.
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
    for slide in slides:
        if not Path(slide).exists():
            raise SlideError(
                f"{slide} cannot be seen on {here}: slides must lie on a file system that all machines of the "
                "cluster share"
            )


def _is_seen(file: Path) -> bool:
    with suppress(OSError):
        return file.read_text() == file.name
    return False
