"""Results as figures and pages. The only part of histofast that imports matplotlib and jinja2."""

from __future__ import annotations

try:
    import jinja2 as _jinja2  # noqa: F401
    import matplotlib as _matplotlib  # noqa: F401
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"histofast.report needs {missing.name}, which is not installed: "
        "pip install 'histofast[train]'",
        name=missing.name,
    ) from None

from histofast.report.bars import check_figure_path, plot_speeds
from histofast.report.comparison_lines import comparison_text
from histofast.report.comparison_pages import comparison_page
from histofast.report.curves import plot_curves
from histofast.report.findings import describe_comparison
from histofast.report.heatmaps import plot_comparison
from histofast.report.overlay import colors_of, plot_overlay
from histofast.report.scales import log_ticks, range_of, spread, ticks
from histofast.report.study_pages import study_page
from histofast.report.study_plots import plot_study
from histofast.report.study_types import Difference, Study, StudyRow
from histofast.report.study_wording import describe_study

__all__ = [
    "Difference",
    "Study",
    "StudyRow",
    "check_figure_path",
    "colors_of",
    "comparison_page",
    "comparison_text",
    "describe_comparison",
    "describe_study",
    "log_ticks",
    "plot_comparison",
    "plot_curves",
    "plot_overlay",
    "plot_speeds",
    "plot_study",
    "range_of",
    "spread",
    "study_page",
    "ticks",
]


def __dir__() -> list[str]:
    return __all__
