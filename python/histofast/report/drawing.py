"""Figures into images and SVG: one drawing for all of them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from numpy.typing import NDArray

from histofast.report.charts import Chart, Figure, Grid, Matrix, Panel, Picture
from histofast.report.draw_chart import draw_chart
from histofast.report.draw_grid import draw_grid
from histofast.report.draw_matrix import draw_matrix
from histofast.report.draw_picture import dpi_of, draw_picture
from histofast.report.sheet import Sheet
from histofast.report.style import RC
from histofast.report.svg import for_page

_DPI = 200
_UNDATED: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}


def images(figure: Figure, kinds: Sequence[str]) -> list[bytes]:
    """Return a figure as files of some kinds: png, pdf or svg."""
    with rc_context(RC):
        sheet = draw(figure)
        return [_saved(sheet, kind) for kind in kinds]


def panel_svg(panel: Panel, *, name: str) -> str:
    """Return a panel as an svg element for a page.

    Args:
        panel: what to draw.
        name: begins every id in it; no two elements of a page have one name.
    """
    with rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the page has fonts of its own
        sheet = lay_out([panel])
        return for_page(_saved(sheet, "svg"), name=name, alt=panel.alt, tips=sheet.tips)


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """As `pixels_of` of this room."""
    picture = figure.panels[0]
    if len(figure.panels) != 1 or not isinstance(picture, Picture):
        raise ValueError(f"figure {figure.name} must be one picture to be drawn as pixels")
    dpi = dpi_of(picture)
    with rc_context(RC):
        sheet = draw(figure)
        left, top = sheet.snap(sheet.figure.axes[0], dpi)
        flat = np.frombuffer(_saved(sheet, "rgba", dpi=dpi), np.uint8)
    width = int(sheet.box.width * dpi)
    drawn = np.ascontiguousarray(flat.reshape(-1, width, 4)[..., :3])
    # Put in afterwards: matplotlib would resample it, through floats.
    h, w, _ = picture.pixels.shape
    drawn[top : top + h, left : left + w] = picture.pixels
    return drawn


def draw(figure: Figure) -> Sheet:
    """Return a sheet with all of a figure on it."""
    return lay_out(figure.panels, title=figure.title, basis=figure.basis, stacked=figure.stacked)


def lay_out(
    panels: Sequence[Panel], *, title: str = "", basis: str = "", stacked: bool = False
) -> Sheet:
    """Return a sheet with panels on it."""
    sheet, corner = Sheet(), (0.0, 0.0)
    for panel in panels:
        if isinstance(panel, Chart):
            draw_chart(sheet, panel)
        elif isinstance(panel, Matrix):
            draw_matrix(sheet, panel)
        elif isinstance(panel, Grid):
            draw_grid(sheet, panel, titled=len(panels) > 1)
        else:
            draw_picture(sheet, panel, titled=len(panels) > 1)
        corner = sheet.end_panel(corner=corner, below=stacked)
    sheet.finish(title=title, basis=basis)
    return sheet


def _saved(sheet: Sheet, kind: str, *, dpi: float = _DPI) -> bytes:
    drawn = io.BytesIO()
    sheet.figure.savefig(
        drawn,
        format=kind,
        dpi=dpi,
        bbox_inches=sheet.box,
        facecolor="none" if kind == "svg" else "white",
        metadata=_UNDATED.get(kind),
    )
    return drawn.getvalue()
