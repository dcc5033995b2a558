"""Slides that are encoded on the machines of a cluster.

The driver deals slides and writes the report; workers read slides and write feature files where they
are. So all of them must see the same folders, which is tried before anything is dealt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from histofast import jobs
from histofast.errors import JobError, ModelError
from histofast.patches import Job
from histofast.pipeline.encoding import encode_slides
from histofast.pipeline.options import ExtractOptions


@contextmanager
def engine_on(
    cluster: jobs.Cluster,
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
        FileNotFoundError: a worker does not see the first slide.
    """
    try:
        with jobs.hired(
            cluster,
            folder=options.out,
            # A bucket is seen alike from everywhere.
            sees=[slide.path for slide in slides[:1] if isinstance(slide.path, Path)],
            at_most=len(slides),
        ) as crew:
            settled = replace(options, threads=crew.cpus, workers=crew.cpus)
            worker = jobs.Worker(function=encode_slides, arguments={"options": settled})
            yield crew.doing(worker, patience_s=patience_s, poll_s=poll_s), crew.names
    except JobError as error:
        raise ModelError(str(error)) from error
