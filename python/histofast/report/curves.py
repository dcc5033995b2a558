"""Training logs as curves: loss and validation metric of every fold by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from histofast.report.figure_files import save_figure
from histofast.report.style import FAINT, INK, SERIES

_STYLES = ("--", "-")  # of the losses

Row = Mapping[str, Any]


def plot_curves(
    logs: Sequence[Sequence[Row]],
    path: Path,
    *,
    metric: str = "validation_metric",
    losses: tuple[str, str] = ("train_loss", "validation_loss"),
    higher_is_better: bool = True,
    title: str = "",
) -> None:
    """Draw the losses and the validation metric of a run by epoch, one colour per fold.

    A dot marks the best epoch of each fold, the first of equals. Values that are empty or NaN
    leave a gap. The same logs give the same file.

    Args:
        logs: of each fold, its rows by epoch, with `epoch` and the columns below; text of a CSV is
            read as numbers.
        path: of the image (PNG, PDF or SVG by its suffix), overwritten, whole or not at all.
        metric: column that is drawn on the right.
        losses: columns of the loss in training and in validation.
        higher_is_better: of the metric.
        title: of the figure.

    Raises:
        ValueError: no folds, a fold without rows, a column that is missing or holds no numbers.
        What `check_figure_path` raises.
    """
    if not logs:
        raise ValueError("logs must hold at least one fold, got none")
    columns = ("epoch", *losses, metric)
    folds = [
        {name: _column(rows, name, fold) for name in columns} for fold, rows in enumerate(logs)
    ]
    save_figure(
        lambda: _figure(
            folds, metric=metric, losses=losses, higher_is_better=higher_is_better, title=title
        ),
        path,
    )


def _column(rows: Sequence[Row], name: str, fold: int) -> list[float]:
    if not rows:
        raise ValueError(f"logs must have rows for every fold, got none for fold {fold}")
    values = []
    for row in rows:
        if name not in row:
            raise ValueError(
                f"logs must have a column {name!r}, got {', '.join(row)} in fold {fold}"
            )
        try:
            values.append(math.nan if row[name] in ("", None) else float(row[name]))
        except (TypeError, ValueError):
            raise ValueError(
                f"column {name!r} of logs must hold numbers, got {row[name]!r} in fold {fold}"
            ) from None
    return values


def _figure(
    folds: Sequence[Mapping[str, Sequence[float]]],
    *,
    metric: str,
    losses: tuple[str, str],
    higher_is_better: bool,
    title: str,
) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)  # inches
    figure = Figure(figsize=(9, 3.9), layout=layout)
    left, right = figure.subplots(1, 2)
    for fold, columns in enumerate(folds):
        color, epochs = SERIES[fold % len(SERIES)], columns["epoch"]
        for name, style in zip(losses, _STYLES, strict=True):
            left.plot(epochs, columns[name], style, **_look(color, epochs))
        right.plot(epochs, columns[metric], "-", **_look(color, epochs))
        known = [i for i, value in enumerate(columns[metric]) if not math.isnan(value)]
        if known:
            sign = 1 if higher_is_better else -1
            best = max(known, key=lambda i: sign * columns[metric][i])
            right.plot(epochs[best], columns[metric][best], "o", color=color, ms=6, zorder=4)
    for axes, label in ((left, "loss"), (right, metric.replace("_", " "))):
        axes.set_xlabel("epoch", fontsize=10)
        axes.set_ylabel(label, fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color=FAINT, lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    named = zip(losses, _STYLES, strict=True)
    keys = [Line2D([], [], color=INK, ls=ls, label=name.replace("_", " ")) for name, ls in named]
    keys.append(Line2D([], [], color=INK, ls="none", marker="o", label="best epoch"))
    keys += [
        Line2D([], [], color=SERIES[fold % len(SERIES)], lw=2.5, label=f"fold {fold}")
        for fold in range(len(folds))
    ]
    figure.legend(
        handles=keys,
        loc="outside lower left",
        ncols=8,
        frameon=False,
        fontsize=8.5,
        columnspacing=1.2,
    )
    if title:
        figure.suptitle(title, x=0.013, ha="left", fontsize=12, color=INK, weight="bold")
    return figure


def _look(color: str, epochs: Sequence[float]) -> dict[str, Any]:
    """Return the style of a line; one epoch alone is a point, as it has no line."""
    return {"color": color, "lw": 1.5, "marker": "." if len(epochs) == 1 else "none"}
