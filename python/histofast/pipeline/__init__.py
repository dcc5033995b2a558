"""`extract`: many slides to feature files, with prefetch, resume and a report."""

from __future__ import annotations

from histofast.pipeline.arguments import ExtractArguments, PlanArguments
from histofast.pipeline.check import check_slides
from histofast.pipeline.extraction import extract, options_asked
from histofast.pipeline.forecast import Forecast, forecast
from histofast.pipeline.options import DEFAULT_ENCODER, ExtractOptions
from histofast.pipeline.patch_files import PatchFormat, write_patches
from histofast.pipeline.places import PlannedSlide, planned_slides
from histofast.pipeline.reports import DeviceReport, Progress, RunReport, SlideReport
from histofast.pipeline.sampling import FeatureSample, pixels_asked, sample_features
from histofast.pipeline.selecting import (
    Ranking,
    Selection,
    attention_on,
    checked_shares,
    selected_rows,
    selected_sizes,
)
from histofast.pipeline.status import AtWork, RunStatus, status_of

__all__ = [
    "DEFAULT_ENCODER",
    "AtWork",
    "DeviceReport",
    "ExtractArguments",
    "ExtractOptions",
    "FeatureSample",
    "Forecast",
    "PatchFormat",
    "PlanArguments",
    "PlannedSlide",
    "Progress",
    "Ranking",
    "RunReport",
    "RunStatus",
    "Selection",
    "SlideReport",
    "attention_on",
    "check_slides",
    "checked_shares",
    "extract",
    "forecast",
    "options_asked",
    "pixels_asked",
    "planned_slides",
    "sample_features",
    "selected_rows",
    "selected_sizes",
    "status_of",
    "write_patches",
]


def __dir__() -> list[str]:
    return __all__
