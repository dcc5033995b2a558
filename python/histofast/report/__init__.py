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

from histofast.report._bars import check_figure_path, plot_speeds
from histofast.report._comparison_page import comparison_page
from histofast.report._comparison_text import comparison_text
from histofast.report._curves import plot_curves
from histofast.report._findings import describe_comparison
from histofast.report._heatmap import plot_comparison
from histofast.report._study import Difference, Study, StudyRow
from histofast.report._study_page import study_page
from histofast.report._study_plot import plot_study
from histofast.report._study_words import describe_study

__all__ = [
    "Difference",
    "Study",
    "StudyRow",
    "check_figure_path",
    "comparison_page",
    "comparison_text",
    "describe_comparison",
    "describe_study",
    "plot_comparison",
    "plot_curves",
    "plot_speeds",
    "plot_study",
    "study_page",
]
