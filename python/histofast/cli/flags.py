"""Names of arguments in messages, as the flags of the command at hand.

Python says `patch_px` and `allow_upsampling=True`; who has typed a command knows `--patch-px` and
`--allow-upsampling`. One becomes the other here and nowhere else, so that no remedy names a flag that
the command lacks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from typer.core import TyperGroup

from histofast._words import one_line

# Arguments whose flags have other names.
_CALLED = {"overlap_px": "overlap", "size_px": "size"}
_SUBJECT = re.compile(r"^([a-z]\w*)(?= must\b)")
_GIVEN = re.compile(r"(?<![\w.-])([a-z]\w*)=(True|\.\.\.|\"[^\"]*\"|[\w.]*\w)")
_NAMED = re.compile(r"(?<![\w./\\=-])([a-z]+(?:_[a-z0-9]+)+)(?![\w./\\=(-])")

_at_hand: ContextVar[Mapping[str, str]] = ContextVar("flags", default={})  # noqa: B039


class Group(TyperGroup):
    """A group of commands that keeps in mind the flags of the one that is run; alone it shows help."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Show the help where nothing is asked for."""
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that `args` name."""
        resolved = super().resolve_command(ctx, args)
        _at_hand.set(flags_of(resolved[1]))
        return resolved


def flags_of(command: Any) -> dict[str, str]:
    """Return the flag of each argument that a command has flags for."""
    flags: dict[str, str] = {}
    for parameter in () if command is None else command.params:
        long = [option for option in parameter.opts if option.startswith("--")]
        for option in long:
            flags[option[2:].replace("-", "_")] = long[0]
    for argument, called in _CALLED.items():
        if called in flags:
            flags.setdefault(argument, flags[called])
    return flags


def told(message: object) -> str:
    """Return a message on one line, with the flags of the command at hand for its arguments."""
    return with_flags(one_line(message), _at_hand.get())


def with_flags(text: str, flags: Mapping[str, str]) -> str:
    """Put flags for the arguments of a message: its subject, what is given in it, long names.

    Example:
        >>> with_flags("patch_px must fit: use a smaller patch_px", {"patch_px": "--patch-px"})
        '--patch-px must fit: use a smaller --patch-px'
        >>> with_flags('it is there: say overwrite=True, or device="cpu"', {"device": "--device"})
        'it is there: say overwrite=True (in Python), or --device cpu'
    """

    def given(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in flags:
            return f"{match[0]} (in Python)" if value == "True" else match[0]
        plain = value.strip('"')
        return flags[name] if value in ("True", "...") else f"{flags[name]} {plain}"

    def named(match: re.Match[str]) -> str:
        return flags.get(match[1], match[1])

    return _NAMED.sub(named, _GIVEN.sub(given, _SUBJECT.sub(named, text)))
