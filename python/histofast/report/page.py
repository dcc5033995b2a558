"""An answer as one page that needs nothing beside itself, and as a folder that holds all of it."""

from __future__ import annotations

import base64
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from histofast import _core
from histofast._files import replacing
from histofast.report.answer import Answer, Table
from histofast.report.files import check_installed, save_figure

_FORMATS = (".png", ".pdf")


def page(answer: Answer) -> str:
    """Return an HTML page that opens offline and holds the numbers as JSON and CSV to download.

    The same answer gives the same page.

    Raises:
        ModuleNotFoundError: matplotlib or jinja2 is not installed.
    """
    check_installed()
    from histofast.report.drawing import panel_svg

    figures = [
        (panel, panel_svg(panel, name=f"{figure.name}{k}"))
        for figure in answer.figures
        for k, panel in enumerate(figure.panels)
    ]
    return _render(
        "page.html",
        a=answer,
        figures=figures,
        tables=[(table, rows) for table in answer.tables if (rows := _rows(table))],
        method=[(key.replace("_", " "), value) for key, value in answer.method.items()],
        version=_core.version,
        downloads=[(name, _data_url(name, text)) for name, text in _texts(answer).items()],
    )


def save(answer: Answer, folder: str | os.PathLike[str]) -> Path:
    """Write the JSON, the CSVs, the figures as PNG and PDF and, last, index.html.

    Args:
        answer: what to write.
        folder: made if missing. Every file is whole or the old one; where the page is, all is.

    Returns:
        The page's path.

    Raises:
        ModuleNotFoundError: matplotlib or jinja2 is not installed.
    """
    check_installed()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in _texts(answer).items():
        _write(folder / name, text)
    for figure in answer.figures:
        save_figure(figure, *(folder / f"{figure.name}{suffix}" for suffix in _FORMATS))
    _write(folder / "index.html", page(answer))
    return folder / "index.html"


def _write(path: Path, text: str) -> None:
    with replacing(path, overwrite=True) as pending:
        pending.write_text(text, encoding="utf-8", newline="")


def _texts(answer: Answer) -> dict[str, str]:
    """Return the files of numbers, by name."""
    tables = {f"{table.name}.csv": table.to_csv() for table in answer.tables}
    return {f"{answer.name}.json": answer.to_json(), **answer.files, **tables}


def _data_url(name: str, text: str) -> str:
    kind = "application/json" if name.endswith(".json") else "text/csv"
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode('ascii')}"


def _rows(table: Table) -> list[tuple[str, list[tuple[Any, str, str]]]]:
    """Return (kind, cells) of each row; a cell is its column, its words and the small ones below."""
    rows = []
    for k, row in enumerate(table.rows[: table.shown]):
        kind = "highlighted" if k in table.highlighted else "aside" if k in table.aside else ""
        cells: list[tuple[Any, str, str]] = []
        for column, cell in zip(table.columns, row, strict=True):
            text = column.write(cell)
            if column.under:
                above, words, _ = cells[-1]
                cells[-1] = (above, words, text)
            elif column.title or not column.names:
                cells.append((column, text, ""))
        rows.append((kind, cells))
    return rows


def _render(template: str, **values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(
            lambda name: files("histofast.report").joinpath("templates", name).read_text("utf-8")
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A number is not parted from its per cent sign.
    environment.filters["tied"] = lambda text: text.replace(" %", "\u00a0%")
    rendered: str = environment.get_template(template).render(**values)
    return rendered
