"""Commands of studies: options that all of a kind share, and those of each."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histofast.cli import flags, options
from histofast.cli.output import say

if TYPE_CHECKING:
    from histofast.studies import StudyProgress

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


def study_command(
    app: typer.Typer,
    short_help: str,
    *,
    setting: Callable[..., Any],
    run: Callable[..., None],
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a command of a function that takes a setting and options of its own.

    Args:
        app: that gets the command.
        short_help: of it.
        setting: makes a setting of the options that all commands of this kind share.
        run: called with the setting, the function, `as_json` and the function's own options.
    """

    def make(function: Callable[..., Any]) -> Callable[..., None]:
        shared = inspect.signature(setting, eval_str=True).parameters
        own = [
            parameter
            for name, parameter in inspect.signature(function, eval_str=True).parameters.items()
            if name != "setting"
        ]

        @functools.wraps(function)
        def command(*, as_json: bool, **given: Any) -> None:
            made = setting(**{name: given.pop(name) for name in shared})
            run(made, function, as_json=as_json, **given)

        last = inspect.Parameter(
            "as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=options.AsJson
        )
        everything = [p.replace(kind=last.kind) for p in (*own, *shared.values())] + [last]
        command.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in everything}
        app.command(short_help=short_help, cls=flags.Several)(command)
        return command

    return make


def telling() -> Callable[[StudyProgress], None]:
    """Return what says on standard error what a study does."""

    def tell(progress: StudyProgress) -> None:
        say(str(progress), err=True)

    return tell
