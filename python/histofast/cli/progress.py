"""Progress of a run: bars on a terminal, one plain line per slide in a log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from histofast._words import clipped, duration, one_line
from histofast.cli.flags import told
from histofast.cli.output import Bars, bars, say, watched

_NAME_WIDTH = 28  # of a slide beside its bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from histofast.pipeline import Progress, RunReport, SlideReport


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Yield what `extract(on_progress=...)` wants."""
    if watched(quiet=quiet):
        with bars() as shown:
            yield _drawn(shown)
    else:
        yield None if quiet else _plain


def _plain(progress: Progress) -> None:
    if progress.note:
        say(told(progress.note), err=True)
    # A run that goes on after days says nothing on the thousands that are there.
    if progress.finished is not None and progress.finished.status != "skipped":
        say(
            f"[{progress.slides_done}/{progress.slides_total}] {describe(progress.finished)}",
            err=True,
        )


def _drawn(shown: Bars) -> Callable[[Progress], None]:
    slides, patches = shown.add("slides"), shown.add("patches")

    def update(progress: Progress) -> None:
        if progress.note:
            shown.say(told(progress.note))
        if progress.finished is not None and progress.finished.status != "skipped":
            shown.say(describe(progress.finished))
        slides(
            total=progress.slides_total,
            completed=progress.slides_done,
            note=duration(progress.seconds) + progress.time_left,
        )
        if progress.slide_patches:  # between two slides the bar of the last one stays
            patches(
                description=clipped(one_line(progress.name), _NAME_WIDTH),
                total=progress.slide_patches,
                completed=progress.slide_patches_done,
                note=f"{progress.patches_done / max(progress.seconds, 1e-9):.1f} patches/s",
            )

    return update


def describe(slide: SlideReport) -> str:
    """One line on what became of a slide, with flags for arguments."""
    return slide.in_words(told)


def noted(notes: Sequence[str]) -> str:
    """What is to be known of a slide's tissue, as the end of its line."""
    return f" ({'; '.join(told(note) for note in notes)})" if notes else ""


def summarise(report: RunReport, *, quiet: bool) -> list[str]:
    """The last lines of a run; `quiet`: only what failed, which nothing has shown before."""
    failed = report.of("failed")
    lines = [describe(slide) for slide in failed] if quiet else [report.totals]
    if not quiet:
        if report.limit:
            lines.append(f"limit: {report.limit} ({_busy(report)} of the time)")
        lines += [f"note: {told(note)}" for note in report.notes if _is_news(note)]
    if report.unsaved:
        lines.append(f"no report: {told(report.unsaved)}")
    if report.error:
        lines.append(f"stopped: {told(report.error)}")
    if report.interrupted:
        lines.append("interrupted: the same command goes on from here")
    if report.path and not quiet:
        lines.append(f"report: {report.path}")
    return lines


def _busy(report: RunReport) -> str:
    """`encoder busy 96 %`, `cuda:0 busy 96 %, cuda:1 busy 94 %`."""
    return ", ".join(
        f"{'encoder' if each.device == 'cpu' else each.device} busy {100 * each.busy:.0f} %"
        for each in report.devices
    )


def _is_news(note: str) -> bool:
    """Whether to tell it: nobody without a GPU wants to read that none is used."""
    if "CUDA is not used" not in note:
        return True
    from histofast.encoders import driver_gpu_count

    return bool(driver_gpu_count())
