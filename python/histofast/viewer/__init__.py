"""Slides, what networks see in them and how patches are alike, in a browser. The door to starlette, uvicorn.

A server on this machine (`app`, behind `guard`) gives a page (`static/`) tiles, places and values of patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histofast._lazy import attach

if TYPE_CHECKING:
    from histofast.viewer import clusters as clusters
    from histofast.viewer import cohort as cohort
    from histofast.viewer import colours as colours
    from histofast.viewer import inspecting as inspecting
    from histofast.viewer import keeping as keeping
    from histofast.viewer import maps as maps
    from histofast.viewer import neighbours as neighbours
    from histofast.viewer import regions as regions
    from histofast.viewer.catalogue import Catalogue, Entry
    from histofast.viewer.guard import Access
    from histofast.viewer.layers import Layer, Layers
    from histofast.viewer.listing import list_catalogue
    from histofast.viewer.viewing import Listening, Viewer, open_viewer
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "histofast.viewer.catalogue": ["Catalogue", "Entry"],
            "histofast.viewer.guard": ["Access"],
            "histofast.viewer.layers": ["Layer", "Layers"],
            "histofast.viewer.listing": ["list_catalogue"],
            "histofast.viewer.viewing": ["Listening", "Viewer", "open_viewer"],
        },
        rooms=[
            "clusters",
            "cohort",
            "colours",
            "inspecting",
            "keeping",
            "maps",
            "neighbours",
            "regions",
        ],
    )

__all__ = [
    "Access",
    "Catalogue",
    "Entry",
    "Layer",
    "Layers",
    "Listening",
    "Viewer",
    "clusters",
    "cohort",
    "colours",
    "inspecting",
    "keeping",
    "list_catalogue",
    "maps",
    "neighbours",
    "open_viewer",
    "regions",
]
