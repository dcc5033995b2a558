"""`histofast view`."""

from __future__ import annotations

import threading
import time
import webbrowser
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlencode

import typer

from histofast._stopping import should_stop
from histofast._words import count
from histofast.cli import options
from histofast.cli.flags import told
from histofast.cli.output import say

_PLACE = ("slide", "x", "y", "zoom", "layer", "patch")  # of the page's links
_LOOK_S = 0.1  # between two looks whether to end


def view(
    slides: Annotated[
        list[str],  # no paths, which have no two slashes in a row
        typer.Argument(help="slides, folders, globs, addresses (s3://...), or a CSV list"),
    ],
    features: Annotated[
        Path | None,
        typer.Option("--features", "-f", metavar="FOLDER", help="of `histofast extract`"),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", metavar="NAME", help="whose features, where there are several [RUN's]"
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN", help="folder of `histofast train`: its attention"),
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option("--explain", metavar="FOLDER", help="of `histofast heatmap`: its maps"),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="CSV", help="slide, label")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FOLDER", help="that regions drawn are written into"),
    ] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="show slide 1, slide 2 ... instead of names")
    ] = False,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="PLACE",
            help="where the page opens, as its link says behind #: 'slide=NAME&x=PX&y=PX'",
        ),
    ] = None,
    mpp_override: options.MppOverride = None,
    recursive: options.Recursive = False,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="print the address and open nothing")
    ] = False,
    port: Annotated[
        int,
        typer.Option(
            "--port", parser=options.whole_number, metavar="N", help="to listen at [a free one]"
        ),
    ] = 0,
    base_path: Annotated[
        str,
        typer.Option("--base-path", metavar="/PATH", help="what a proxy puts before every path"),
    ] = "",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host", metavar="NAME", help="of the proxy as browsers see it; repeatable"
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="to listen at")
    ] = "127.0.0.1",
    open_to_network: Annotated[
        bool,
        typer.Option(
            "--open-to-network",
            help="allow a --host that other machines can ask; nothing is encrypted",
        ),
    ] = False,
) -> None:
    """Look at slides in a browser: attention, features, and the patches that are alike.

    Prints the address of the page and shows it until Ctrl-C. Nothing leaves this machine. From elsewhere:
    ssh -L 8000:127.0.0.1:8000 MACHINE histofast view --port 8000 --no-browser ...
    """
    from histofast.viewer import Listening, open_viewer

    place = _fragment(at)

    viewer = open_viewer(
        slides,
        features=features,
        encoder=encoder,
        run=run,
        explain=explain,
        labels=labels,
        export=export,
        recursive=recursive,
        mpp_override=mpp_override,
        anonymous=anonymous,
        listening=Listening(
            host=host,
            port=port,
            base_path=base_path,
            allow_hosts=allow_host or (),
            open_to_network=open_to_network,
        ),
        words=_in_flags(),
    )
    with viewer.server as server:
        for note in viewer.notes:
            say(f"note: {told(note)}", err=True)
        say(f"{count(len(viewer.catalogue.entries), 'slide')}, until Ctrl-C:", err=True)
        say(server.address() + place)
        if not no_browser:
            _open_browser(server.address(once=True) + place)
        while server.is_up():
            if should_stop():
                say("stopped", err=True)
                raise typer.Exit(130)
            time.sleep(_LOOK_S)
    raise RuntimeError("the server has ended by itself")


def _fragment(at: str | None) -> str:
    """Return what an address ends with that opens the page at a place."""
    if at is None:
        return ""
    asked = dict(parse_qsl(at, keep_blank_values=True))
    if not asked or asked.keys() - set(_PLACE):
        raise ValueError(
            f"--at must have some of {', '.join(_PLACE)}, got {at}: such as --at 'slide=s0&x=1200&y=800'"
        )
    return f"#{urlencode(asked)}"


def _in_flags() -> Callable[[object], str]:
    """Return `told` for the threads of the server, which do not know what command is run."""
    context = copy_context()
    return lambda message: context.copy().run(told, message)


def _open_browser(address: str) -> None:
    """Open the page; a browser that is slow to start keeps nobody waiting."""
    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
