"""A sheet on which panels are laid side by side or below each other, and which ends where they end.

Panels have sizes in inches and are measured once drawn, so that no name is cut off or covered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawn
from matplotlib.transforms import Bbox

from histofast.report.style import INK, LONGEST, shorten

_SIDE = 10.0  # inches; only a unit, as what is saved is `box`
_GAP, _PAD, _DPI = 0.45, 0.12, 100
_TITLE, _BASIS, SMALL = 12, 9, 8.5  # points


class Sheet:
    """A matplotlib figure under construction.

    Attributes:
        figure: the figure.
        tips: what pointing at the marks of a group says, in order, by the group's id.
        box: what of the figure is saved, in inches; known after `finish`.
    """

    def __init__(self) -> None:
        self.figure = Drawn(figsize=(_SIDE, _SIDE), dpi=_DPI, facecolor="none")
        self._renderer = FigureCanvasAgg(self.figure).get_renderer()
        self.tips: dict[str, list[str]] = {}
        self.box = Bbox.unit()
        self._explained: set[str] = set()
        self._groups = 0
        self._panel: list[Any] = []

    def axes(self, width: float, height: float, *, left: float = 0.0) -> Any:
        """Return new axes of the current panel, whose top is at 0."""
        place = (left / _SIDE, -height / _SIDE, width / _SIDE, height / _SIDE)
        axes = self.figure.add_axes(place)
        axes.tick_params(labelsize=9, color=INK, labelcolor=INK)
        axes.spines[:].set_color(INK)
        self._panel.append(axes)
        return axes

    def group(self, kind: str, tips: Sequence[str] = ()) -> str:
        """Return a new id for marks of a kind, and keep what pointing at them says."""
        self._groups += 1
        name = f"{kind}.{self._groups}"
        if any(tips):
            self.tips[name] = list(tips)
        return name

    def name(self, text: Any, whole: str) -> None:
        """Let a name that was shortened say all of itself when pointed at."""
        if text.get_text() != whole:
            text.set_gid(self.group("name", [whole]))

    def name_ticks(
        self,
        axes: Any,
        side: str,
        names: Sequence[str],
        *,
        longest: int = LONGEST,
        size: float = SMALL,
    ) -> None:
        """Write names at 0, 1, 2 ... of the axis of a side, x or y."""
        look: dict[str, Any] = {"fontsize": size, "color": INK}
        look |= {"rotation": 90} if side == "x" else {}
        short = [shorten(name, longest) for name in names]
        getattr(axes, f"set_{side}ticks")(range(len(names)), short, **look)
        for text, name in zip(getattr(axes, f"get_{side}ticklabels")(), names, strict=True):
            self.name(text, name)
        axes.tick_params(axis=side, length=0)

    def extent(self) -> Bbox:
        """Return what the current panel covers, in inches."""
        boxes = [axes.get_tightbbox(self._renderer) for axes in self._panel]
        boxes = [box for box in boxes if box is not None]
        return Bbox.union(boxes).transformed(self.figure.dpi_scale_trans.inverted())

    def explain(self, axes: Any, keys: Sequence[Any]) -> None:
        """Put a legend above the panel, of what no panel before has explained."""
        fresh = [key for key in keys if key.get_label() not in self._explained]
        self._explained |= {key.get_label() for key in fresh}
        if not fresh:
            return
        whole, own = self.extent(), self._place(axes)
        axes.legend(
            handles=fresh,
            loc="lower left",
            bbox_to_anchor=(
                (whole.x0 - own.x0) / own.width,
                max((whole.y1 - own.y0) / own.height, 1.0),
            ),
            ncols=2,
            frameon=False,
            fontsize=SMALL,
            labelcolor=INK,
            borderaxespad=0.2,
            borderpad=0.2,
            handlelength=2.6,
            columnspacing=1.2,
        )

    def end_panel(self, *, corner: tuple[float, float], below: bool) -> tuple[float, float]:
        """Move the panel so that it begins at `corner`, and return the corner of the next."""
        whole = self.extent()
        first = self._place(self._panel[0])
        right = 0.0 - first.x0 if below else corner[0] - whole.x0
        up = corner[1] - whole.y1 if below else 0.0
        for axes in self._panel:
            place = axes.get_position(original=True)
            axes.set_position(place.translated(right / _SIDE, up / _SIDE))
        self._panel = []
        if below:
            return 0.0, whole.y0 + up - _GAP
        return whole.x1 + right + _GAP, 0.0

    def finish(self, *, title: str = "", basis: str = "") -> None:
        """Write the two lines above everything, and find out what is to be saved."""
        self._panel = list(self.figure.axes)
        whole = self.extent()
        y = whole.y1 + 0.12
        for text, size, weight in ((basis, _BASIS, "normal"), (title, _TITLE, "bold")):
            if text:
                drawn = self.figure.text(
                    whole.x0 / _SIDE,
                    y / _SIDE,
                    text,
                    fontsize=size,
                    color=INK,
                    va="bottom",
                    weight=weight,
                )
                covered = drawn.get_window_extent(self._renderer)
                covered = covered.transformed(self.figure.dpi_scale_trans.inverted())
                whole = Bbox.union([whole, covered])
                y = covered.y1 + 0.06
        self.box = whole.padded(_PAD)

    def snap(self, axes: Any, dpi: float) -> tuple[int, int]:
        """Grow what is saved to whole pixels, with `axes` at one; return that, (x, y) from the top."""
        own, box = self._place(axes), self.box
        left = math.ceil((own.x0 - box.x0) * dpi)
        above = math.ceil((box.y1 - own.y1) * dpi)
        x0, y1 = own.x0 - left / dpi, own.y1 + above / dpi
        width = math.ceil((box.x1 - x0) * dpi) + 1e-3  # matplotlib rounds down
        height = math.ceil((y1 - box.y0) * dpi) + 1e-3
        self.box = Bbox.from_extents(x0, y1 - height / dpi, x0 + width / dpi, y1)
        return left, above

    def _place(self, axes: Any) -> Bbox:
        place = axes.get_position(original=True)
        return Bbox(place.get_points() * _SIDE)
