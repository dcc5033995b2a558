"""Slides in; where their patches lie, and how any one of them is read by itself, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from histofast._remote import Place
from histofast.patches import Job, read_at, select_shard
from histofast.pipeline.arguments import PlanArguments
from histofast.pipeline.extraction import options_asked, slides_asked
from histofast.pipeline.options import DEFAULT_ENCODER, settled_without_encoders
from histofast.pipeline.reports import Clock
from histofast.pipeline.sources import SlideSource
from histofast.slides import Slide


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PlannedSlide:
    """The patches of a slide, as data: it can go to another process.

    Attributes:
        job: the slide.
        coords_l0: (n, 2) int64 top-left corners, level-0 pixels.
        attributes: what a feature file would say of them: patch_size, mpp, level ...
        made_of: what makes them, as the identity of a feature file has it.
        notes: on how tissue was found and cut.
    """

    job: Job
    coords_l0: NDArray[np.int64]
    attributes: Mapping[str, Any]
    made_of: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.coords_l0)

    def open(self) -> Slide:
        """Open the slide.

        Raises:
            FileNotFoundError, SlideError: as `open_slide`.
        """
        return self.job.open(mpp=self.attributes["level0_mpp"])

    def read(
        self, slide: Slide, rows: NDArray[np.int64], *, workers: Executor | None = None
    ) -> NDArray[np.uint8]:
        """Return (k, p, p, 3) uint8: what an encoder would see of these patches of the open slide.

        Raises:
            SlideError, TileError: pixels that cannot be read.
        """
        return read_at(
            slide,
            self.coords_l0[rows],
            attributes=self.attributes,
            made_of=self.made_of,
            of=self.job.path,
            workers=workers,
        )


def planned_slides(
    slides: str | Place | Sequence[str | Place], **plan: Unpack[PlanArguments]
) -> list[PlannedSlide]:
    """Plan the patches of slides, as `write_patches` would write them.

    Args:
        slides, plan: see `write_patches`; `strict` is as there, other options of runs do nothing.

    Raises:
        ValueError, TypeError, FileNotFoundError: as `extract`, before the first slide.
        SlideError, ValueError: the first slide that cannot be planned.
    """
    given: dict[str, Any] = dict(plan)
    mask, is_recursive = given.pop("mask", None), given.pop("recursive", False)
    asked = options_asked(out=Path(), encoder=DEFAULT_ENCODER, **given)
    options = settled_without_encoders(asked, batch_size=1)
    found = slides_asked(slides, options, mask=mask, recursive=is_recursive)
    planned = []
    with ThreadPoolExecutor(options.workers, thread_name_prefix="histofast-decode") as pool:
        for job in select_shard(found, options.shard):
            with ExitStack() as stack:
                source = SlideSource(job, options, stack)
                there = source.plan(options, pool, Clock({}))
            planned.append(
                PlannedSlide(
                    job=job,
                    coords_l0=there.coords_l0,
                    attributes=there.attributes,
                    made_of=source.made_of | ({"icc": options.icc} if options.icc else {}),
                    notes=there.notes,
                )
            )
    return planned
