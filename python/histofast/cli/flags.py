"""Names of arguments in messages, as the flags of the command at hand.

Python says `patch_px` and `allow_upsampling=True`; who has typed a command knows `--patch-px` and
`--allow-upsampling`. One becomes the other here and nowhere else, so that no remedy names a flag that
the command lacks: what of a remedy needs one is left out, elsewhere the name becomes plain words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

from histofast._words import one_line, without_secrets
from histofast.cli.config import said_of, typed_in
from histofast.cli.output import say

# Arguments whose flags have other names.
_CALLED = {
    "class_name": "class",
    "classes": "class",
    "methods": "method",
    "overlap_px": "overlap",
    "margin_px": "margin",
    "size_px": "size",
    "tile_px": "patch_px",
    "timm_args": "timm_arg",
}
# Arguments without a flag, in words; of all others the words are in the name.
_IN_WORDS = {
    "patch_px": "patch size",
    "size_px": "patch size",
    "overlap_px": "overlap",
    "min_tissue": "least share of tissue",
    "patch_l0": "patch side at level 0",
}
# What one command calls otherwise, because it does it to something else.
_INSTEAD = {"--bag-from": "--group-column", "--odd-patches": "--px", "--group-column": "--bag-from"}
_SUBJECT = re.compile(r"^([a-z]\w*)(?= must\b)")
_GIVEN = re.compile(r"(?<![\w.-])([a-z]\w*)=(True|\.\.\.|\"[^\"]*\"|[\w.]*\w)")
_NAMED = re.compile(r"(?<![\w./\\=-])([a-z]+(?:_[a-z0-9]+)+)(?![\w./\\=(-])")
_REMEDY = re.compile(r"^(.*): (.*)$", re.DOTALL)
_ALTERNATIVES = re.compile(r"(?:, or|;) ")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """The flags of the command that is run, and the arguments that any command has flags for."""

    flags: Mapping[str, str] = field(default_factory=dict)
    arguments: Collection[str] = ()


_at_hand: ContextVar[_Known] = ContextVar("flags", default=_Known())  # noqa: B039


defaults_from: ContextVar[Path | None] = ContextVar("defaults_from", default=None)
"""The file that sets defaults of commands."""


class Group(TyperGroup):
    """A group of commands that keeps in mind the flags of the one that is run; alone it shows help."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Show the help where nothing is asked for."""
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that `args` name."""
        resolved = super().resolve_command(ctx, args)
        root = ctx.find_root().command
        _at_hand.set(_Known(flags=flags_of(resolved[1]), arguments=arguments_of(root)))
        _, command, left = resolved
        if command is not None and not ctx.resilient_parsing and not hasattr(command, "commands"):
            self._say_defaults(ctx, command, left)
        return resolved

    @staticmethod
    def _say_defaults(ctx: Any, command: Any, arguments: list[str]) -> None:
        path, defaults = defaults_from.get(), (ctx.default_map or {}).get(command.name)
        if path is None or not defaults or {"-h", "--help"} & set(arguments):
            return
        inner = command.context_class(command, info_name=command.name, parent=ctx)
        said = said_of(path, command, defaults, typed_in(command, inner, arguments))
        if said:
            say(f"note: {without_secrets(said)}", err=True)


class Several(TyperCommand):
    """A command without arguments, whose repeatable options also take several values behind one flag."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Write `--data a b` as `--data a --data b`."""
        repeatable = {flag for p in self.params for flag in p.opts if getattr(p, "multiple", False)}
        written: list[str] = []
        flag, values = "", 0
        for arg in args:
            if arg.startswith("-") and len(arg) > 1:
                flag, values = arg, 0
            elif flag in repeatable:
                written += [flag] * (values > 0)
                values += 1
            written.append(arg)
        return super().parse_args(ctx, written)


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


def arguments_of(group: Any) -> frozenset[str]:
    """Return the arguments that any command of a group has a flag for."""
    return frozenset(name for command in _commands(group) for name in flags_of(command))


def owners_of(option: str, group: Any, *, prefix: str = "") -> list[str]:
    """Return the names of a group's commands that have an option."""
    found = []
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found += owners_of(option, command, prefix=f"{prefix}{name} ")
        elif any(option in parameter.opts for parameter in command.params):
            found.append(f"{prefix}{name}")
    return found


def meant_by(option: str, command: Any) -> str:
    """Return the option of a command that does there what another one does elsewhere, "" if none does."""
    instead = _INSTEAD.get(option, "")
    return instead if any(instead in parameter.opts for parameter in command.params) else ""


def _commands(group: Any) -> Iterator[Any]:
    for command in group.commands.values():
        if hasattr(command, "commands"):
            yield from _commands(command)
        else:
            yield command


def told(message: object) -> str:
    """Return a message on one line, with the flags of the command at hand for its arguments.

    Addresses in it, which a user may have typed with a password, are as they may be shown.
    """
    known = _at_hand.get()
    return with_flags(without_secrets(one_line(message)), known.flags, known.arguments)


def with_flags(text: str, flags: Mapping[str, str], arguments: Collection[str] = ()) -> str:
    """Put flags for the arguments of a message: its subject, what is given in it, long names.

    Args:
        text: a message of the library.
        flags: of the command at hand, by argument.
        arguments: those of all commands; one without a flag here is not told as Python has it.

    Example:
        >>> with_flags("patch_px must fit: use a smaller patch_px", {"patch_px": "--patch-px"})
        '--patch-px must fit: use a smaller --patch-px'
        >>> said = 'it is there: take another, or say overwrite=True, or device="cpu"'
        >>> with_flags(said, {"device": "--device"}, ["device", "overwrite"])
        'it is there: take another, or --device cpu'
    """
    foreign = {name for name in arguments if name not in flags}
    text = _possible(text, foreign)

    def given(match: re.Match[str]) -> str:
        name, value = match.groups()
        plain = value.strip('"')
        if name in flags:
            return flags[name] if value in ("True", "...") else f"{flags[name]} {plain}"
        if name in foreign:
            return _in_words(name) if value in ("True", "...") else f"{_in_words(name)} {plain}"
        return match[0]

    def named(match: re.Match[str]) -> str:
        name = match[1]
        return flags.get(name) or (_in_words(name) if name in foreign else name)

    return _NAMED.sub(named, _GIVEN.sub(given, _SUBJECT.sub(named, text)))


def _possible(text: str, foreign: Collection[str]) -> str:
    """Leave out of the remedy of a message what needs an argument that the command lacks."""
    parted = _REMEDY.match(text)
    if parted is None:
        return text
    what, remedy = parted.groups()
    ways = _ALTERNATIVES.split(remedy)
    offered = [way for way in ways if not any(name in foreign for name in _arguments_in(way))]
    if len(offered) == len(ways):
        return text
    return f"{what}: {', or '.join(offered)}" if offered else what


def _arguments_in(text: str) -> Iterator[str]:
    for pattern in (_GIVEN, _NAMED):
        yield from (match[1] for match in pattern.finditer(text))


def _in_words(name: str) -> str:
    return _IN_WORDS.get(name) or name.replace("_", " ")
