"""Results as figures. The only part of histofast that imports matplotlib."""

from __future__ import annotations

try:
    import matplotlib as _matplotlib  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "histofast.report needs matplotlib, which is not installed: pip install 'histofast[train]'",
        name="matplotlib",
    ) from None

from histofast.report._bars import check_figure_path, plot_speeds

__all__ = ["check_figure_path", "plot_speeds"]
