"""Commands of studies: options that all of a kind share, and those of each."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histofast.cli import flags, machines, options
from histofast.cli.output import say

if TYPE_CHECKING:
    from histofast.studies import PictureStudy, SlideStudy, StudyProgress

Jobs = Annotated[
    int | None,
    typer.Option("--jobs", parser=options.whole_number, metavar="N", help="runs side by side [1]"),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", parser=options.whole_number, metavar="N", help="of torch, in each job [1]"
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Instead:
    """What is done of a study, if not all of it."""

    part: str | None
    counts_levels: bool
    plans_only: bool = False

    @property
    def is_a_part(self) -> bool:
        """Whether it is what tasks of arrays ask for."""
        return self.part is not None or self.counts_levels

    def of(self, study: SlideStudy | PictureStudy) -> int | None:
        """Do a part of a study and say so, or return how many steps are done in parts."""
        from histofast.studies import conduct_part, levels_of

        if self.part is None:
            return levels_of(study)
        machines.say_part(self.part, conduct_part(study, self.part))
        return None


def study_command(
    app: typer.Typer,
    short_help: str,
    *,
    setting: Callable[..., tuple[Any, Instead]],
    run: Callable[..., None],
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a command of a function that takes a setting and options of its own, and returns a study.

    Args:
        app: that gets the command.
        short_help: of it.
        setting: makes a setting of the options that all commands of this kind share, and what is to be done
            instead of all of a study.
        run: called with the study and that, unless it is for tasks of arrays, and with `as_json`.
    """

    def make(function: Callable[..., Any]) -> Callable[..., None]:
        shared = _options_of(setting)
        own = [option for option in _options_of(function) if option.name != "setting"]

        @functools.wraps(function)
        def command(*, as_json: bool, **given: Any) -> Any:
            told, instead = setting(**{option.name: given.pop(option.name) for option in shared})
            study = function(setting=told, **given)
            return instead.of(study) if instead.is_a_part else run(study, instead, as_json=as_json)

        last = inspect.Parameter(
            "as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=options.AsJson
        )
        _take(command, [*own, *shared, last])
        app.command(short_help=short_help, cls=flags.Several)(command)
        return command

    return make


def with_options_of(
    shared: Callable[..., Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a function the options of another, after its own; what that makes of them is its first argument."""

    def make(function: Callable[..., Any]) -> Callable[..., Any]:
        theirs, own = _options_of(shared), _options_of(function)[1:]

        @functools.wraps(function)
        def both(**given: Any) -> Any:
            told = shared(**{option.name: given.pop(option.name) for option in theirs})
            return function(told, **given)

        _take(both, [*own, *theirs])
        return both

    return make


def _options_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())


def _take(function: Any, wanted: list[inspect.Parameter]) -> None:
    """Have a function of **given say what it takes, what must be given first."""
    first = sorted(wanted, key=lambda option: option.default is not inspect.Parameter.empty)
    everything = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in first]
    function.__signature__ = inspect.Signature(everything)
    function.__annotations__ = {p.name: p.annotation for p in everything}


def telling() -> Callable[[StudyProgress], None]:
    """Return what says on standard error what a study does."""

    def tell(progress: StudyProgress) -> None:
        say(str(progress), err=True)

    return tell
