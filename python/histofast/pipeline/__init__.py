"""`extract`: many slides to feature files, with prefetch, resume and a report."""

from histofast.pipeline._check import check_slides
from histofast.pipeline._jobs import Job, list_bags, list_jobs, select_shard
from histofast.pipeline._report import DeviceReport, Progress, RunReport, SlideReport
from histofast.pipeline._rows import PatchReader
from histofast.pipeline._run import DEFAULT_ENCODER, extract
from histofast.pipeline._sample import PatchSample, sample_patches
from histofast.pipeline._slides import TissueOptions

__all__ = [
    "DEFAULT_ENCODER",
    "DeviceReport",
    "Job",
    "PatchReader",
    "PatchSample",
    "Progress",
    "RunReport",
    "SlideReport",
    "TissueOptions",
    "check_slides",
    "extract",
    "list_bags",
    "list_jobs",
    "sample_patches",
    "select_shard",
]
