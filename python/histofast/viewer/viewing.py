"""From slides, features and a run to a server that shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histofast._files import path_of
from histofast._lazy import is_installed
from histofast._numbers import whole_number
from histofast._words import one_line
from histofast.errors import missing_extra
from histofast.viewer.listing import list_catalogue

if TYPE_CHECKING:
    from histofast.viewer.catalogue import Catalogue
    from histofast.viewer.serving import Server

LOOPBACK = "127.0.0.1"
_MOST_PORT = 65535


@dataclass(frozen=True, kw_only=True, slots=True)
class Viewer:
    """A server that listens, and what it shows.

    Attributes:
        server: to be entered.
        catalogue: the slides.
        notes: what does not fit together, one line each.
    """

    server: Server
    catalogue: Catalogue
    notes: tuple[str, ...]


def open_viewer(
    slides: str | Path | Sequence[str | Path],
    *,
    features: str | Path | None = None,
    encoder: str | None = None,
    run: str | Path | None = None,
    explain: str | Path | None = None,
    labels: str | Path | None = None,
    export: str | Path | None = None,
    recursive: bool = False,
    mpp_override: float | None = None,
    anonymous: bool = False,
    host: str = LOOPBACK,
    port: int = 0,
    base_path: str = "",
    allow_hosts: Sequence[str] = (),
    framed_by: Sequence[str] = (),
    open_to_network: bool = False,
    words: Callable[[object], str] = one_line,
) -> Viewer:
    """Get ready to show slides in a browser.

    Args:
        slides: files, folders, globs or CSV lists, as `extract` takes them.
        features: folder of their feature files.
        encoder: whose features, where there are several.
        run: folder of `histofast train`.
        explain: folder of maps of `histofast heatmap`.
        labels: CSV with columns slide and label.
        export: folder that regions drawn on the page are written into; None: they are not.
        recursive: look for slides in sub-folders too.
        mpp_override: level-0 um per pixel, instead of what the slides say.
        anonymous: show numbers instead of names.
        host: address to listen at.
        port: to listen at; 0: one that is free.
        base_path: what a proxy puts before the paths, such as /user/me/proxy/8000.
        allow_hosts: names of hosts that a proxy is asked by, beside 127.0.0.1 and localhost.
        framed_by: origins whose pages may show this one in a frame, at `Server.framed_path`.
        open_to_network: take another `host` than this machine alone.
        words: puts an error for the page; the command line's own flags, say.

    Raises:
        ModuleNotFoundError: starlette or uvicorn is not installed.
        FileNotFoundError, SlideError, FeatureError, TypeError, ValueError: as `list_catalogue`; a host,
            port or path that cannot be.
    """
    for module in ("starlette", "uvicorn"):
        if not is_installed(module):
            raise missing_extra(module, by="histofast view", extra="view")
    hosts = _hosts(host, allow_hosts, open_to_network=open_to_network)
    port = whole_number("port", port, at_least=0, at_most=_MOST_PORT)
    if base_path and not base_path.startswith("/"):
        raise ValueError(f"base_path must begin with a slash, got {base_path}")
    listed = list_catalogue(
        slides,
        features=features,
        encoder=encoder,
        labels=labels,
        recursive=recursive,
        mpp_override=mpp_override,
        anonymous=anonymous,
        words=words,
    )
    from histofast.viewer.app import make_app
    from histofast.viewer.guard import Access
    from histofast.viewer.layers import Layers
    from histofast.viewer.serving import Server

    layers = Layers(
        listed.catalogue,
        run=None if run is None else path_of("run", run),
        explain=None if explain is None else path_of("explain", explain),
    )
    access = Access(
        hosts=hosts,
        base_path=base_path.rstrip("/"),
        framed_by=tuple(framed_by),
        in_path=bool(framed_by),
    )
    app = make_app(
        listed.catalogue,
        layers,
        access=access,
        export=None if export is None else _folder(path_of("export", export)),
    )
    server = Server(app, host=host, port=port)
    return Viewer(server=server, catalogue=listed.catalogue, notes=listed.notes)


def _hosts(host: str, allowed: Sequence[str], *, open_to_network: bool) -> frozenset[str]:
    """Return the names that requests may be to; refuse to listen to other machines unasked."""
    if host not in (LOOPBACK, "localhost") and not open_to_network:
        raise ValueError(
            f"host must be {LOOPBACK}, got {host}, where everybody in the network can ask: reach this machine "
            f"by ssh -L 8000:{LOOPBACK}:8000 with port=8000, or say open_to_network=True"
        )
    return frozenset(name.lower() for name in (LOOPBACK, "localhost", host, *allowed))


def _folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise ValueError(f"export must be a folder, {path} is a file")
    return path
