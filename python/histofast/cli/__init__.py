"""The command line: every command is one call of the public API.

Commands import what they need when they run, so that `--help` and typing mistakes answer at once.
"""

from __future__ import annotations

import _thread
import os
import shlex
import signal
import sys
import time
import warnings
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TextIO

import typer

from histofast._files import NoLocksWarning
from histofast._notes import log_of
from histofast._stopping import deferred_interrupts, interruptions
from histofast._words import listed, one_line
from histofast.cli import (
    bench,
    classify,
    cluster,
    convert,
    dataset,
    demo,
    explain,
    extract,
    features,
    finetune,
    flags,
    heatmap,
    mil,
    models,
    patches,
    similarity,
    study,
    summaries,
    tissue,
    tools,
    view,
)
from histofast.cli.config import found_config, read_config
from histofast.cli.flags import meant_by, owners_of, told
from histofast.cli.log_file import close_log, log_to
from histofast.cli.output import escape_streams, say

_log = log_of(__name__)

GRACE_S = 0.5  # for work that does not ask whether to stop

# What a shell or a scheduler is told; the only place that says it.
EXIT_CODES = {
    0: "all done",
    1: "something failed, such as one slide of many",
    2: "the command line, or a file that it names, is wrong: nothing was begun",
    130: "interrupted by Ctrl-C, SIGTERM or SIGHUP: the same command goes on",
}

app = typer.Typer(
    name="histofast",
    cls=flags.Group,
    help="Whole-slide images in, verified feature files out.",
    epilog=f"Exit codes: {', '.join(f'{code} {what}' for code, what in EXIT_CODES.items())}.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command(name="extract", short_help="Encode slides into feature files.")(extract.extract)
app.command(name="patches", short_help="Write the patches of slides as picture files.")(
    patches.patches
)
app.command(name="convert", short_help="Write a slide as a pyramidal tiled TIFF.")(convert.convert)
app.command(name="bench", short_help="Say how long a cohort would take on this machine.")(
    bench.bench
)
app.command(name="verify", short_help="Check that feature files are whole and finite.")(
    tools.verify
)
app.command(name="status", short_help="Show where the runs of a folder stand.")(tools.status)
app.command(name="tissue", short_help="Show the tissue found and where patches would lie.")(
    tissue.tissue
)
app.command(name="similarity", short_help="Compare networks layer by layer, or encoders.")(
    similarity.similarity
)
app.command(name="slide-features", short_help="Pool feature files to one vector of each slide.")(
    summaries.slide_features
)
app.command(name="train", short_help="Train models of slides on feature files.")(mil.train)
app.command(name="predict", short_help="Predict slides with trained models.")(mil.predict)
app.command(name="finetune", short_help="Train an encoder on the patches that matter.")(
    finetune.finetune
)
app.command(name="heatmap", short_help="Show on a slide what a model looks at.")(heatmap.heatmap)
app.command(name="view", short_help="Look at slides and what models see, in a browser.")(view.view)
app.command(name="classify", short_help="Train networks on labelled pictures, predict with them.")(
    classify.classify
)
app.command(name="demo", short_help="Make three small slides, encode them, show the result.")(
    demo.demo
)
app.command(name="doctor", short_help="Show what works on this machine, and mend the rest.")(
    tools.doctor
)
app.add_typer(cluster.app, name="cluster", short_help="Write what schedulers run.")
app.add_typer(dataset.app, name="dataset", short_help="Make labelled images ready for training.")
app.add_typer(features.app, name="features", short_help="Write feature files for other tools.")
app.add_typer(explain.app, name="explain", short_help="Show what a network looks at.")
app.add_typer(study.app, name="study", short_help="Answer a question about networks.")
app.add_typer(models.app, name="models", short_help="List and export encoders.")

# What a wrong command line raises: click's, which newer versions of typer carry inside.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def _print_version(wanted: bool) -> None:
    if wanted:
        from histofast import __version__

        say(f"histofast {__version__}")
        raise typer.Exit


def _take_config(context: typer.Context, given: Path | None) -> Path | None:
    """Have the commands take their defaults from a file: the one that is named, or the project's."""
    if context.resilient_parsing:
        return given
    path = None if "--no-config" in sys.argv else given or found_config(Path.cwd())
    if path is not None:
        context.default_map = read_config(path, context.command)
    flags.defaults_from.set(path)
    return given


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version."
    ),
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            is_eager=True,
            callback=_take_config,
            help="defaults of options [histofast.toml, here or above]",
        ),
    ] = None,
    no_config: Annotated[
        bool, typer.Option("--no-config", help="take no defaults from a histofast.toml")
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            metavar="FILE",
            envvar="HISTOFAST_LOG",
            help="append a line on everything, with times, to this file",
        ),
    ] = None,
    log_level: Annotated[
        str,
        typer.Option(
            "--log-level",
            metavar="LEVEL",
            envvar="HISTOFAST_LOG_LEVEL",
            help="of that file: debug, info or warning",
        ),
    ] = "info",
) -> None:
    """Whole-slide images in, verified feature files out."""
    if log is not None:
        log_to(log, level=log_level)
        _log.info("histofast %s", shlex.join(sys.argv[1:]))


class _Interruption:
    """Whether somebody has interrupted this run: some libraries turn that into errors of theirs."""

    came = False


def _stopped(number: int, frame: FrameType | None) -> None:
    _Interruption.came = True
    raise KeyboardInterrupt


def _hear_no_more() -> None:
    """From here on a further signal ends the process at once, where nothing is left to clean up."""
    for number in interruptions():
        if signal.getsignal(number) is _stopped:
            signal.signal(number, signal.SIG_DFL)


def _repeat_lost_interruption(lost: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised in a destructor; a Ctrl-C that came just then must not be."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        _Interruption.came = True
        _thread.start_new_thread(_interrupt_again, ())
    else:
        sys.__unraisablehook__(lost)


def _interrupt_again() -> None:
    time.sleep(0.05)
    _thread.interrupt_main(signal.SIGTERM)


_show_others = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, NoLocksWarning):
        say(f"note: {told(message)}", err=True)
    else:
        _show_others(message, category, filename, lineno, file, line)


def main() -> None:
    """Run the command line; see `EXIT_CODES`."""
    if "_HISTOFAST_COMPLETE" in os.environ:  # a shell asks what could be typed
        _whole()._main_shell_completion({}, "histofast", "_HISTOFAST_COMPLETE")
    try:
        _main()
    finally:
        close_log()


def _main() -> None:
    if not {"--show-completion", "--install-completion"} & set(
        sys.argv[1:2]
    ):  # a script, for a shell
        escape_streams()
    # Job schedulers end a job with SIGTERM, a lost connection with SIGHUP: leave whole files only
    # and a report, as with Ctrl-C. Whoever has them ignored (nohup) wants them ignored.
    _Interruption.came = False
    for number in interruptions():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stopped)
    sys.unraisablehook = _repeat_lost_interruption
    warnings.showwarning = _show_warning
    code = 0
    try:
        # What runs long asks between its batches whether to stop; the rest is interrupted anywhere.
        with deferred_interrupts(grace_s=GRACE_S):
            code = _run(sys.argv[1:] or ["--help"])
            if sys.stdout is not None:
                sys.stdout.flush()  # here its failure can still be told
        _hear_no_more()
    except KeyboardInterrupt:
        _hear_no_more()
        if code != 130:  # else it has said so itself
            _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader went away: nothing to say to it, not even at Python's own last flush.
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                os.dup2(null, stream.fileno())
        sys.exit(1)
    except Exception as error:
        # A library that is interrupted while it is imported says that it is broken.
        if _Interruption.came:
            _hear_no_more()
            _fail("interrupted", 130)
        if isinstance(error, _UsageError):
            _fail(_usage(error), 2)
        if isinstance(error, ValueError | TypeError | FileNotFoundError):
            _fail(error, 2)
        if isinstance(error, ModuleNotFoundError) and "pip install" in str(error):
            _fail(error, 2)  # an extra that is not installed: the message says which
        from histofast.errors import HistofastError

        if not isinstance(error, OSError | HistofastError):
            _log.exception("an error that nobody has thought of")
            raise
        _fail(error, 1)
    sys.exit(code)


@cache
def _whole() -> Any:
    """The tree of all commands, which takes 70 ms to make."""
    return typer.main.get_command(app)


def _run(arguments: list[str]) -> int:
    """Run one command; not through `app()`, which words and colours errors in its own way."""
    command = _whole()
    try:
        with command.make_context("histofast", arguments) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return 0


def _usage(error: Exception) -> str:
    message = str(error.format_message() if hasattr(error, "format_message") else error)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "histofast"
    elsewhere = _elsewhere(getattr(error, "option_name", ""), context)
    return f"{message[:1].lower()}{message[1:].rstrip('.')}{elsewhere} (see {command} --help)"


def _elsewhere(option: str, context: Any) -> str:
    """Say where an option is one that a command lacks, and what stands for it there."""
    if not option or context is None:
        return ""
    owners = owners_of(option, context.find_root().command)
    if not owners:
        return ""
    instead = meant_by(option, context.command)
    return f", which {listed(owners)} have{f': here it is {instead}' if instead else ''}"


def _fail(message: object, code: int) -> NoReturn:
    say(f"histofast: {told(message)}", err=True)
    _log.error("%s", one_line(message))
    sys.exit(code)
