"""Figures into files: the same figure gives the same bytes, whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from histofast._files import replacing
from histofast.report.bars import check_figure_path
from histofast.report.style import RC

_UNDATED: dict[str, dict[str, None]] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}


def save_figure(draw: Callable[[], Figure], path: Path) -> None:
    """Write what `draw` draws as PNG, PDF or SVG by the suffix of `path`, which is overwritten.

    Raises:
        What `check_figure_path` raises.
    """
    check_figure_path(path)
    suffix = path.suffix.lower()
    drawn = io.BytesIO()
    with rc_context(RC):
        draw().savefig(drawn, format=suffix[1:], dpi=200, metadata=_UNDATED.get(suffix))
    with replacing(path, overwrite=True) as pending:
        pending.write_bytes(drawn.getvalue())
