"""Templates into pages that need nothing beside themselves."""

from __future__ import annotations

import base64
from importlib.resources import files
from typing import Any

import jinja2

from histofast.report.findings import number


def render(template: str, **values: Any) -> str:
    """Return the page that a template of this package makes of `values`, escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(
            lambda name: files("histofast.report").joinpath("templates", name).read_text("utf-8")
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_compact,
    )
    environment.filters["number"] = lambda value: "" if value is None else number(value)
    page: str = environment.get_template(template).render(**values)
    return page


def data_url(kind: str, text: str) -> str:
    """Return a text as an address that holds it."""
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode('ascii')}"


def undash(key: str) -> str:
    """Return a key as words."""
    return key.replace("_", " ")


def _compact(value: Any) -> Any:
    """Write positions without the noise of their last digits."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
