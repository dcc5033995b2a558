"""`extract`: many slides to feature files, with prefetch, resume and a report."""

from __future__ import annotations

from histofast.pipeline.arguments import ExtractArguments
from histofast.pipeline.check import check_slides
from histofast.pipeline.extraction import extract
from histofast.pipeline.options import DEFAULT_ENCODER, ExtractOptions
from histofast.pipeline.reports import DeviceReport, Progress, RunReport, SlideReport

__all__ = [
    "DEFAULT_ENCODER",
    "DeviceReport",
    "ExtractArguments",
    "ExtractOptions",
    "Progress",
    "RunReport",
    "SlideReport",
    "check_slides",
    "extract",
]


def __dir__() -> list[str]:
    return __all__
