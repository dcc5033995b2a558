"""From slides, features and a run to a server that shows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histofast._files import path_of
from histofast._lazy import is_installed
from histofast._numbers import whole_number
from histofast._remote import Place
from histofast._words import one_line
from histofast.errors import missing_extra
from histofast.viewer.guard import Access, Guard
from histofast.viewer.listing import list_catalogue

if TYPE_CHECKING:
    from histofast.viewer.catalogue import Catalogue
    from histofast.viewer.serving import Server

LOOPBACK = "127.0.0.1"
_MOST_PORT = 65535
_PATH = re.compile(r"(/[\w.~%@+-]+)+/?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listening:
    """Where the server listens, and who may ask.

    Attributes:
        host: address to listen at.
        port: to listen at; 0: one that is free.
        base_path: what a proxy puts before the paths, such as /user/me/proxy/8000.
        allow_hosts: names that a proxy is asked by, beside 127.0.0.1 and localhost.
        framed_by: origins whose pages may show this one in a frame, at `Server.framed_path`.
        open_to_network: take another `host` than this machine alone.

    Raises:
        TypeError, ValueError: a host, port or path that cannot be.
    """

    host: str = LOOPBACK
    port: int = 0
    base_path: str = ""
    allow_hosts: Sequence[str] = ()
    framed_by: Sequence[str] = ()
    open_to_network: bool = False

    def __post_init__(self) -> None:
        """Refuse what other machines could reach unasked."""
        whole_number("port", self.port, at_least=0, at_most=_MOST_PORT)
        if self.base_path and not _PATH.fullmatch(self.base_path):
            raise ValueError(
                f"base_path must be a path such as /user/me/proxy/8000, got {self.base_path}"
            )
        if self.host not in (LOOPBACK, "localhost") and not self.open_to_network:
            raise ValueError(
                f"host must be {LOOPBACK}, got {self.host}, where everybody in the network can ask: leave it, "
                f"and run ssh -L 8000:{LOOPBACK}:8000 where the browser is, with port=8000 here, or say "
                "open_to_network=True"
            )

    def access(self) -> Access:
        """Return who may ask, with a new token."""
        names = (LOOPBACK, "localhost", self.host, *self.allow_hosts)
        return Access(
            hosts=frozenset(name.lower() for name in names),
            base_path=self.base_path.rstrip("/"),
            framed_by=tuple(self.framed_by),
            in_path=bool(self.framed_by),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Viewer:
    """A server that listens, and what it shows.

    Attributes:
        server: to be entered.
        app: what it serves, ASGI.
        catalogue: the slides.
        notes: what does not fit together, one line each.
    """

    server: Server
    app: Guard
    catalogue: Catalogue
    notes: tuple[str, ...]


def open_viewer(
    slides: str | Place | Sequence[str | Place],
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
    listening: Listening | None = None,
    words: Callable[[object], str] = one_line,
) -> Viewer:
    """Get ready to show slides in a browser.

    Args:
        slides: files, folders, globs, addresses or CSV lists, as `extract` takes them.
        features: folder of their feature files.
        encoder: whose features, where there are several; that of the run when None.
        run: folder of `histofast train`.
        explain: folder of maps of `histofast heatmap`.
        labels: CSV with columns slide and label.
        export: folder that regions drawn on the page are written into; None: they are not.
        recursive: look for slides in sub-folders too.
        mpp_override: level-0 um per pixel, instead of what the slides say.
        anonymous: show numbers instead of names.
        listening: where and for whom; on this machine, for who has the token, when None.
        words: puts an error for the page; the command line's own flags, say.

    Raises:
        ModuleNotFoundError: starlette or uvicorn is not installed; torch, for a run.
        FileNotFoundError, SlideError, FeatureError, ModelError, TypeError, ValueError: as `list_catalogue`
            and `Layers`; a port that is taken.
    """
    for module in ("starlette", "uvicorn"):
        if not is_installed(module):
            raise missing_extra(module, by="histofast view", extra="view")
    listening = listening or Listening()
    to = None if export is None else _folder(path_of("export", export))
    listed = list_catalogue(
        slides,
        features=features,
        encoder=encoder,
        run=run,
        labels=labels,
        recursive=recursive,
        mpp_override=mpp_override,
        anonymous=anonymous,
        words=words,
    )
    from histofast.viewer.app import make_app
    from histofast.viewer.layers import Layers
    from histofast.viewer.serving import Server

    layers = Layers(listed.catalogue, run=run, explain=explain)
    app = make_app(listed.catalogue, layers, access=listening.access(), export=to)
    server = Server(app, host=listening.host, port=listening.port)
    return Viewer(server=server, app=app, catalogue=listed.catalogue, notes=listed.notes)


def _folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise ValueError(f"export must be a folder, {path} is a file")
    return path
