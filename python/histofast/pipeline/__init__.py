"""`extract`: many slides to feature files, with prefetch, resume and a report."""

from __future__ import annotations

from histofast.pipeline.arguments import ExtractArguments
from histofast.pipeline.check import check_slides
from histofast.pipeline.extraction import extract, options_asked
from histofast.pipeline.options import DEFAULT_ENCODER, ExtractOptions
from histofast.pipeline.reports import DeviceReport, Progress, RunReport, SlideReport
from histofast.pipeline.sampling import FeatureSample, pixels_asked, sample_features

__all__ = [
    "DEFAULT_ENCODER",
    "DeviceReport",
    "ExtractArguments",
    "ExtractOptions",
    "FeatureSample",
    "Progress",
    "RunReport",
    "SlideReport",
    "check_slides",
    "extract",
    "options_asked",
    "pixels_asked",
    "sample_features",
]


def __dir__() -> list[str]:
    return __all__
