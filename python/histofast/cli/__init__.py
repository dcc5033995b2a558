"""The command line: every command is one call of the public API.

Commands import what they need when they run, so that `--help` and typing mistakes answer at once.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

import typer

from histofast.cli import _demo, _extract, _models, _tissue, _tools

app = typer.Typer(
    name="histofast",
    help="Whole-slide images in, verified feature files out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command(name="extract")(_extract.extract)
app.command(name="verify")(_tools.verify)
app.command(name="tissue")(_tissue.tissue)
app.command(name="demo")(_demo.demo)
app.command(name="doctor")(_tools.doctor)
app.add_typer(_models.app, name="models")


def _print_version(wanted: bool) -> None:
    if wanted:
        from histofast import __version__

        typer.echo(f"histofast {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Whole-slide images in, verified feature files out."""


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 something failed, 2 usage, 130 interrupted."""
    # Job schedulers end a job with SIGTERM: leave whole files only, as with Ctrl-C.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away; nothing to say to it
        sys.exit(1)
    except (ValueError, TypeError, FileNotFoundError) as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(str(error), 1)
    except Exception as error:
        from histofast.errors import HistofastError

        if not isinstance(error, HistofastError):
            raise
        _fail(str(error), 1)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"histofast: {' '.join(message.split())}", err=True)
    sys.exit(code)
