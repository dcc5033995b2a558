"""Names of a package that load the module which has them when they are first used; what could be loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def attach(
    package: str, modules: Mapping[str, Sequence[str]], *, rooms: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package whose `__all__` names what it offers.

    Type checkers see the names through the same imports under `if TYPE_CHECKING`.

    Args:
        package: its full name.
        modules: names to offer, by the full name of the module that has them; "load as open" offers
            one under another name.
        rooms: sub-modules to offer as they are.
    """
    places: dict[str, tuple[str, str]] = {room: (f"{package}.{room}", "") for room in rooms}
    for module, names in modules.items():
        for name in names:
            attribute, _, other = name.partition(" as ")
            places[other or attribute] = (module, attribute)

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = places[name]
        found = import_module(module)
        value = getattr(found, attribute) if attribute else found
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: sorted({*sys.modules[package].__all__, *rooms})


def is_installed(name: str) -> bool:
    """Whether a module of that name could be imported; nothing is."""
    try:
        return find_spec(name) is not None
    except ValueError:  # a module that was never found: None among the imported ones
        return False
