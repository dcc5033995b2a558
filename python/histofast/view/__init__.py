"""Slides, what networks see in them and how patches are alike, in a browser. The door to starlette, uvicorn.

A server on this machine (`app`, behind `guard`) gives a page (`static/`) tiles, places and values of patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histofast._lazy import attach

if TYPE_CHECKING:
    from histofast.view.catalogue import Catalogue, Entry
    from histofast.view.guard import Access
    from histofast.view.layers import Layer, Layers
    from histofast.view.listing import list_catalogue
    from histofast.view.viewing import Viewer, open_viewer
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "histofast.view.catalogue": ["Catalogue", "Entry"],
            "histofast.view.guard": ["Access"],
            "histofast.view.layers": ["Layer", "Layers"],
            "histofast.view.listing": ["list_catalogue"],
            "histofast.view.viewing": ["Viewer", "open_viewer"],
        },
    )

__all__ = [
    "Access",
    "Catalogue",
    "Entry",
    "Layer",
    "Layers",
    "Viewer",
    "list_catalogue",
    "open_viewer",
]
