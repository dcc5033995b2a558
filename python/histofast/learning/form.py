"""Whether JSON has the form that its reader needs: the first thing that is missing or of another kind.

A form is a type or several, `[form]` for a list of such, `[form, form]` for one of so many, `{name: form}` for an object with these names
(others are nobody's business), or `Each(form)` for an object of any names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from histofast._words import clipped, printable

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
_SHOWN = 60  # characters of a name


@dataclass(frozen=True, slots=True)
class Each:
    """An object of any names whose values all have a form."""

    form: Any


def misfit(value: Any, form: Any) -> str:
    """Say what does not fit, `identity.network.mean must be a list, got null`; "" if all does."""
    return next(_misfits(value, form, ""), "")


def _misfits(value: Any, form: Any, where: str) -> Iterator[str]:
    kinds: tuple[type, ...] = form if isinstance(form, tuple) else (form,)
    if isinstance(form, list):
        kinds = (list,)
    elif isinstance(form, dict | Each):
        kinds = (dict,)
    # A whole number is a number; true is neither.
    got = type(value)
    if got not in kinds and not (got is int and float in kinds and _is_float(value)):
        wanted = " or ".join(_KINDS[kind] for kind in kinds)
        yield f"{where or 'all of it'} must be {wanted}, got {_KINDS.get(got, got.__name__)}"
        return
    if isinstance(form, list):
        if len(value) != len(form) > 1:
            yield f"{where} must have {len(form)} values, got {len(value)}"
        for i, inner in enumerate(value):
            yield from _misfits(inner, form[min(i, len(form) - 1)], f"{where}[{i}]")
    elif isinstance(form, Each):
        for name, inner in value.items():
            yield from _misfits(inner, form.form, _joined(where, name))
    elif isinstance(form, dict):
        for name, inner in form.items():
            if name in value:
                yield from _misfits(value[name], inner, _joined(where, name))
            else:
                yield f"{_joined(where, name)} must be there, got none"


def _joined(where: str, name: str) -> str:
    shown = printable(clipped(name, _SHOWN))
    return f"{where}.{shown}" if where else shown


def _is_float(value: int) -> bool:
    try:
        return bool(float(value) or True)
    except OverflowError:
        return False
