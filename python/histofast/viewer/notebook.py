"""Slides in, the page of the viewer in a notebook's cell out, for as long as the kernel lives.

The page is in a frame of the notebook's page, which browsers often take for one of another site: the notebook
is at localhost and the frame at 127.0.0.1, or both are in an editor's window. They send no cookie there. So the
token is in the path of the frame, which all addresses of the page are relative to: /t/TOKEN/... It is in the
notebook's file when that is saved, and opens nothing any more once the kernel has ended.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Self

from histofast._notes import noted
from histofast._numbers import whole_number
from histofast._words import count
from histofast.slides import Slide
from histofast.viewer.viewing import Listening, Viewer, open_viewer

_HUB = "JUPYTERHUB_SERVICE_PREFIX"  # in the environment of kernels that JupyterHub has started
# Notebooks on this machine, those of the proxy's own origin, and those in an editor.
_FRAMES = (
    "'self'",
    *(f"{s}://{h}:*" for s in ("http", "https") for h in ("localhost", "127.0.0.1")),
)
_EDITOR = "vscode-webview:"
_LEAST_PX = 200


class Shown:
    """A page of slides that a notebook shows; it ends with the kernel, or with `close`. A context manager.

    Attributes:
        url: of the page; it has the token in it, so that whoever has it sees the slides.
        notes: what does not fit together, one line each.
    """

    def __init__(self, viewer: Viewer, *, proxy: str | None, height_px: int) -> None:
        """Begin to answer."""
        self._viewer, self._height_px = viewer, height_px
        server = viewer.server
        before = f"http://{server.host}:{server.port}" if proxy is None else f"{proxy}{server.port}"
        self.url = before + server.framed_path
        self.notes = viewer.notes
        self._is_closed = False
        server.start()
        atexit.register(self.close)

    def close(self) -> None:
        """End the server and close the slides; a second time does nothing."""
        if not self._is_closed:
            self._is_closed = True
            atexit.unregister(self.close)
            self._viewer.server.stop()

    def _repr_html_(self) -> str:
        if self._is_closed:
            return f"<p>{escape(repr(self))}</p>"
        attributes = {
            "src": self.url,
            "title": self._what,
            "width": "100%",
            "height": self._height_px,
            "style": "border: 0",
            "allow": "fullscreen",
        }
        told = " ".join(f'{name}="{escape(str(value))}"' for name, value in attributes.items())
        return f"<iframe {told}></iframe>"

    @property
    def _what(self) -> str:
        return f"{count(len(self._viewer.catalogue.entries), 'slide')} in the viewer of histofast"

    def __repr__(self) -> str:
        return f"<{self._what}, {'closed' if self._is_closed else f'at {self.url}'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@noted
def view(
    slides: Slide | str | Path | Sequence[str | Path],
    *,
    features: str | Path | None = None,
    run: str | Path | None = None,
    explain: str | Path | None = None,
    labels: str | Path | None = None,
    export: str | Path | None = None,
    proxy: str | None = None,
    height_px: int = 720,
    **options: Any,
) -> Shown:
    """Show slides in a notebook, with what a run sees in them, in the page of `histofast view`.

    Args:
        slides: an open slide, or files, folders, globs or CSV lists, as `extract` takes them.
        features: folder of their feature files.
        run: folder of `train`.
        explain: folder of maps of `histofast heatmap`.
        labels: CSV with columns slide and label.
        export: folder that regions drawn on the page are written into; None: they are not.
        proxy: what the address of a port begins with where the browser cannot reach this machine, such as
            /user/me/proxy/; needs jupyter-server-proxy. None: JupyterHub's, in a kernel of one.
        height_px: of the frame.
        options: encoder, recursive, mpp_override and anonymous of `viewer.open_viewer`.

    Raises:
        As `viewer.open_viewer`.

    Example:
        histofast.view("slides/", features="features/", run="runs/abmil")
    """
    whole_number("height_px", height_px, at_least=_LEAST_PX)
    if proxy is None and _HUB in os.environ:
        proxy = f"{os.environ[_HUB].rstrip('/')}/proxy/"
    if proxy is not None and not proxy.endswith("/"):
        proxy = f"{proxy}/"
    viewer = open_viewer(
        str(slides.path) if isinstance(slides, Slide) else slides,
        features=features,
        run=run,
        explain=explain,
        labels=labels,
        export=export,
        listening=Listening(framed_by=(*_FRAMES, _EDITOR)),
        **options,
    )
    return Shown(viewer, proxy=proxy, height_px=height_px)
