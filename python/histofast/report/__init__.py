"""Answers as figures, tables and one page; knows no study and no comparison by name.

What an answer is made of needs nothing installed. Drawing needs matplotlib, the page jinja2: only
this room imports them, and only when something is drawn.
"""

from __future__ import annotations

from histofast.report.answer import Answer, Cell, Column, Table
from histofast.report.charts import (
    Axis,
    Chart,
    Figure,
    Grid,
    Matrix,
    Panel,
    Picture,
    Point,
    Rule,
    Series,
    Tile,
)
from histofast.report.curves import curves
from histofast.report.differences import (
    after_holm,
    difference_cells,
    difference_columns,
    finding_of,
)
from histofast.report.files import (
    check_figure_path,
    check_installed,
    colors_of,
    pixels_of,
    save_figure,
)
from histofast.report.looking import view_command
from histofast.report.mosaic import strip
from histofast.report.numbers import interval, number, percent, round_number, signed, size
from histofast.report.page import page, save

__all__ = [
    "Answer",
    "Axis",
    "Cell",
    "Chart",
    "Column",
    "Figure",
    "Grid",
    "Matrix",
    "Panel",
    "Picture",
    "Point",
    "Rule",
    "Series",
    "Table",
    "Tile",
    "after_holm",
    "check_figure_path",
    "check_installed",
    "colors_of",
    "curves",
    "difference_cells",
    "difference_columns",
    "finding_of",
    "interval",
    "number",
    "page",
    "percent",
    "pixels_of",
    "round_number",
    "save",
    "save_figure",
    "signed",
    "size",
    "strip",
    "view_command",
]


def __dir__() -> list[str]:
    return __all__
