"""How long a cohort would take on this machine, from some of its slides and a minute of work."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from histofast._numbers import real_number, whole_number
from histofast._words import count, duration
from histofast.errors import HistofastError
from histofast.patches import Job
from histofast.pipeline.arguments import ExtractArguments
from histofast.pipeline.estimate import estimate
from histofast.pipeline.extraction import (
    encode_found,
    options_asked,
    refuse_two_sources,
    slides_asked,
)
from histofast.pipeline.options import DEFAULT_ENCODER, ExtractOptions, devices_of
from histofast.pipeline.reports import Progress

CONFIDENCE = 0.95
FEWEST = 5  # slides that an interval can be drawn from
RESAMPLES = 2000
COORDS_BYTES = 16 + 4  # of a row beside its features: corner and share of tissue


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a cohort of slides like these would take.

    Attributes:
        cohort: slides of the cohort.
        looked_at: slides that were planned, of those given.
        failed: of them.
        patches: of each that did not fail, in the order of its name.
        plan_s: seconds that finding tissue and planning took of each, with nothing beside it.
        patches_per_s: of the whole pipeline, encoding `measured` patches: decoding, resampling, encoding and
            writing, all encoders together.
        measured: patches that were encoded for that.
        bytes_per_patch: on disk, of all encoders.
        overlaps: whether tissue is found while the encoder is at work (on a GPU); on CPUs both want the cores.
        seed: of the draw of slides.
    """

    cohort: int
    looked_at: int
    failed: int
    patches: tuple[int, ...]
    plan_s: tuple[float, ...]
    patches_per_s: float
    measured: int
    bytes_per_patch: float
    overlaps: bool
    seed: int

    @property
    def seconds_by_slide(self) -> NDArray[np.float64]:
        """(n,) seconds of each slide that was looked at."""
        encode_s = np.array(self.patches) / self.patches_per_s
        plan_s = np.array(self.plan_s)
        seconds: NDArray[np.float64] = (
            np.maximum(encode_s, plan_s) if self.overlaps else encode_s + plan_s
        )
        return seconds

    @property
    def hours(self) -> float:
        """Of the whole cohort; slides that cannot be read take none."""
        return float(self.seconds_by_slide.mean() * self._readable / 3600)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Hours at 95 % confidence over slides drawn like these; None of fewer than five.

        It holds how much slides differ, not how much the machine does.
        """
        seconds = self.seconds_by_slide
        if len(seconds) < FEWEST:
            return None
        rng = np.random.default_rng(self.seed)
        means = rng.choice(seconds, (RESAMPLES, len(seconds))).mean(axis=1)
        tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        low, high = np.quantile(means, tails) * self._readable / 3600
        return float(low), float(high)

    @property
    def gigabytes(self) -> float:
        """Of the feature files of the cohort, 1e9 bytes each."""
        return float(np.mean(self.patches) * self._readable * self.bytes_per_patch / 1e9)

    @property
    def _readable(self) -> float:
        return self.cohort * (1 - self.failed / self.looked_at)

    def __str__(self) -> str:
        """Say all of it in a few lines."""
        patches = np.array(self.patches)
        lines = [
            f"{count(self.looked_at, 'slide')} looked at"
            + (f", {self.failed} cannot be read" if self.failed else ""),
            f"patches of a slide: {patches.mean():,.0f} ({patches.min():,} to {patches.max():,})",
            f"tissue of a slide: {np.mean(self.plan_s):.2f} s",
            f"encoding: {self.patches_per_s:.1f} patches/s (measured on {count(self.measured, 'patch')})",
        ]
        low_high = self.interval
        spread = "; of fewer than 5 slides no interval is drawn"
        if low_high is not None:
            low, high = (duration(hours * 3600) for hours in low_high)
            spread = f" ({low} to {high}, 95 % over slides)"
        takes = f"{count(self.cohort, 'slide')} like these: {duration(self.hours * 3600)}"
        lines.append(f"{takes}{spread}, {self.gigabytes:.1f} GB of features")
        return "\n".join(lines)


class _Enough(Exception):
    """The time is over."""


def forecast(
    slides: str | Path | Sequence[str | Path],
    *,
    cohort: int = 1000,
    look: int = 12,
    seconds: float = 60.0,
    encoder: str | Path | Sequence[str | Path] = DEFAULT_ENCODER,
    patch_px: int | None = None,
    mpp: float | None = None,
    seed: int = 0,
    **options: Unpack[ExtractArguments],
) -> Forecast:
    """Measure how long `extract` would take of many slides like these.

    Some are drawn; of each, tissue is found and patches are planned. Then the pipeline as it is encodes
    them, in a folder that is removed, until the time is over.

    Args:
        slides: as of `extract`.
        cohort: slides that are to be encoded.
        look: slides to draw, at most.
        seconds: of encoding to measure, 1 at least.
        encoder, patch_px, mpp: as of `extract`.
        seed: of the draw.
        options: of `extract`: mag, overlap_px, min_tissue, tissue, stain, device, threads and the like.

    Raises:
        What `extract` raises of its arguments.
        ValueError: a number out of range.
        HistofastError: none of the slides drawn has a patch, or could be encoded.
    """
    cohort, look = (
        whole_number(name, value, at_least=1)
        for name, value in (("cohort", cohort), ("look", look))
    )
    seconds = real_number("seconds", seconds)
    if not 1 <= seconds < float("inf"):
        raise ValueError(f"seconds must be at least 1, got {seconds:g}")
    refuse_two_sources(slides)
    mask, recursive = options.pop("mask", None), options.pop("recursive", False)
    given: dict[str, Any] = {**options, "encoder": encoder, "patch_px": patch_px, "mpp": mpp}
    with tempfile.TemporaryDirectory(prefix="histofast-") as folder:
        asked = options_asked(out=folder, **given)
        devices = devices_of(asked.device, None)
        found = slides_asked(slides, asked, mask=mask, recursive=recursive)
        drawn = _drawn(found, look, seed)
        planned = estimate(drawn, asked, devices, None, time.perf_counter())
        known = {slide.name: slide for slide in planned.of("planned") + planned.of("empty")}
        if not any(slide.patches for slide in known.values()):
            raise HistofastError(
                f"none of {count(len(drawn), 'slide')} has a patch to measure encoding on: "
                "look at their tissue, `histofast tissue SLIDE --out qc/`"
            )
        filled = [job for job in drawn if job.name in known and known[job.name].patches]
        measured, rate = _measured(filled, asked, devices, seconds)
    looked = [known[name] for name in sorted(known)]
    return Forecast(
        cohort=cohort,
        looked_at=len(drawn),
        failed=len(drawn) - len(known),
        patches=tuple(slide.patches for slide in looked),
        plan_s=tuple(
            sum(slide.seconds.get(part, 0.0) for part in ("open", "tissue", "plan"))
            for slide in looked
        ),
        patches_per_s=rate,
        measured=measured,
        bytes_per_patch=_bytes_per_patch(planned.about, asked),
        overlaps=not devices[0].startswith("cpu"),
        seed=seed,
    )


def _drawn(found: Sequence[Job], look: int, seed: int) -> list[Job]:
    order = np.random.default_rng(seed).permutation(len(found))[:look]
    return [found[i] for i in order]


def _measured(
    slides: Sequence[Job], options: ExtractOptions, devices: Sequence[str], seconds: float
) -> tuple[int, float]:
    """Encode until the time is over; return how many patches, and how many a second."""
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        if progress.patches_done:
            seen.append(progress)
            if progress.seconds - seen[0].seconds > seconds:
                raise _Enough

    with contextlib.suppress(_Enough):
        encode_found(slides, options, devices, None, watch, time.perf_counter())
    if not seen:
        raise HistofastError(
            f"none of {count(len(slides), 'slide')} could be encoded: `histofast extract` says why"
        )
    first, end = seen[0], seen[-1]
    if end.patches_done == first.patches_done:  # one batch was all there is
        return end.patches_done, end.patches_done / end.seconds
    patches = end.patches_done - first.patches_done
    return patches, patches / (end.seconds - first.seconds)


def _bytes_per_patch(about: dict[str, Any], options: ExtractOptions) -> float:
    number_bytes = 2 if options.half or options.layout == "stamp" else 4
    return float(sum(e["d"] * number_bytes + COORDS_BYTES for e in about["encoders"]))
