"""Training logs as curves: loss and validation metric of every fold by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from histofast.report.charts import Axis, Chart, Figure, Point, Series

Row = Mapping[str, Any]


def curves(
    logs: Sequence[Sequence[Row]],
    *,
    metric: str = "validation_metric",
    losses: tuple[str, str] = ("train_loss", "validation_loss"),
    higher_is_better: bool = True,
    title: str = "",
    name: str = "curves",
) -> Figure:
    """Return the losses and the validation metric of a run by epoch, one colour per fold.

    A ring marks the best epoch of each fold, the first of equals. Values that are empty or NaN
    leave a gap.

    Args:
        logs: of each fold, its rows by epoch, with `epoch` and the columns below; text of a CSV is
            read as numbers.
        metric: column that is drawn on the right.
        losses: columns of the loss in training, dashed, and in validation.
        higher_is_better: of the metric.
        title, name: of the figure.

    Raises:
        ValueError: no folds, a fold without rows, a column that is missing or holds no numbers.
    """
    if not logs:
        raise ValueError("logs must hold at least one fold, got none")
    columns = ("epoch", *losses, metric)
    folds = [
        {column: _column(rows, column, fold) for column in columns}
        for fold, rows in enumerate(logs)
    ]
    in_training, in_validation = (_words(loss) for loss in losses)
    epochs = Axis(label="epoch", form="whole")
    of_loss = [
        Series(
            name="" if dashed else f"fold {k}",
            points=_points(fold, loss, f"fold {k}, {_words(loss)}"),
            look=k,
            dashed=dashed,
            mark="none",
        )
        for dashed, loss in ((True, losses[0]), (False, losses[1]))
        for k, fold in enumerate(folds)
    ]
    of_metric = [
        Series(
            name=f"fold {k}",
            points=_points(
                fold, metric, f"fold {k}, {_words(metric)}", _best(fold[metric], higher_is_better)
            ),
            look=k,
            mark="none",
        )
        for k, fold in enumerate(folds)
    ]
    return Figure(
        name=name,
        title=title,
        panels=(
            Chart(
                places=epochs,
                values=Axis(label=f"{in_validation} (dashed: {in_training})"),
                series=tuple(of_loss),
                alt=f"Losses of {len(folds)} folds by epoch.",
            ),
            Chart(
                places=epochs,
                values=Axis(label=_words(metric)),
                series=tuple(of_metric),
                ring="best epoch",
                alt=f"{_words(metric)} of {len(folds)} folds by epoch.",
            ),
        ),
    )


def _points(
    fold: Mapping[str, Sequence[float]], column: str, said: str, best: int | None = None
) -> tuple[Point, ...]:
    return tuple(
        Point(
            place=epoch,
            value=value,
            ringed=k == best,
            tip="" if math.isnan(value) else f"{said}: {value:.4g}",
        )
        for k, (epoch, value) in enumerate(zip(fold["epoch"], fold[column], strict=True))
    )


def _best(values: Sequence[float], higher_is_better: bool) -> int | None:
    sign = 1 if higher_is_better else -1
    known = [k for k, value in enumerate(values) if not math.isnan(value)]
    return max(known, key=lambda k: sign * values[k], default=None)


def _words(column: str) -> str:
    return column.replace("_", " ")


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
