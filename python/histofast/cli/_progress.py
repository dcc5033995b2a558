"""Progress of a run: bars on a terminal, one plain line per slide in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from histofast.pipeline import Progress, RunReport, SlideReport


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Yield what `extract(on_progress=...)` wants."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bars() as update:
            yield update
    else:
        yield _plain


def _plain(progress: Progress) -> None:
    if progress.finished is not None:
        typer.echo(
            f"[{progress.slides_done}/{progress.slides_total}] {describe(progress.finished)}",
            err=True,
        )


@contextmanager
def _bars() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    with bars:
        slides = bars.add_task("slides", total=None, note="")
        patches = bars.add_task("patches", total=None, note="")

        def update(progress: Progress) -> None:
            if progress.finished is not None:
                bars.console.print(describe(progress.finished), markup=False, highlight=False)
            rate = progress.patches_done / max(progress.seconds, 1e-9)
            bars.update(
                slides,
                total=progress.slides_total,
                completed=progress.slides_done,
                note=_time_left(progress),
            )
            bars.update(
                patches,
                description=_clip(progress.name) if progress.slide_patches else "patches",
                total=progress.slide_patches or None,
                completed=progress.slide_patches_done,
                note=f"{rate:.1f} patches/s",
            )

        yield update


def _time_left(progress: Progress) -> str:
    """From the slides so far: how many patches the others have is not known yet."""
    part = progress.slide_patches_done / progress.slide_patches if progress.slide_patches else 0.0
    done = progress.slides_done + part
    if done < 0.02 * progress.slides_total or done == 0:
        return ""
    left_s = progress.seconds / done * (progress.slides_total - done)
    return f"about {_duration(left_s)} left"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _clip(text: str, width: int = 28) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def describe(slide: SlideReport) -> str:
    """One line on what became of a slide."""
    if slide.status == "failed":
        return f"{slide.name}: failed: {slide.error}"
    if slide.status == "skipped":
        return f"{slide.name}: already there"
    if slide.status == "planned":
        return f"{slide.name}: {slide.patches} patches"
    if slide.status == "interrupted":
        return f"{slide.name}: not done"
    total_s = slide.seconds.get("total", 0.0)
    text = f"{slide.name}: {slide.patches} patches in {total_s:.1f} s"
    if slide.unreadable:
        text += f", {slide.unreadable} unreadable regions in {slide.damaged_patches} patches"
    return text


def summarise(report: RunReport) -> str:
    """The last lines of a run: totals, and once more what failed."""
    planned = report.of("planned")
    lines = []
    if planned:
        total = sum(slide.patches for slide in planned)
        lines.append(
            f"{len(planned)} slides, {total} patches: about "
            f"{_duration(report.about['estimated_seconds'])} at "
            f"{report.about['estimated_patches_per_s']:.1f} patches/s (nothing was written)"
        )
    else:
        counts = [
            f"{len(report.of('done'))} done",
            *(
                f"{len(found)} {word}"
                for word, found in (
                    ("already there", report.of("skipped")),
                    ("failed", report.of("failed")),
                    ("not done", report.of("interrupted")),
                )
                if found
            ),
        ]
        rate = report.patches / max(report.seconds, 1e-9)
        lines.append(
            f"{len(report.slides)} slides: {', '.join(counts)}; {report.patches} patches in "
            f"{_duration(report.seconds)} ({rate:.1f} patches/s)"
        )
    lines += [f"  {describe(slide)}" for slide in report.of("failed")]
    if report.error:
        lines.append(f"stopped: {report.error}")
    if report.path:
        lines.append(f"report: {report.path}")
    return "\n".join(lines)
