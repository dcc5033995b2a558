"""Slides, what networks see in them and how patches are alike, in a browser. The door to starlette, uvicorn.

A server on this machine (`app`, behind `guard`) gives a page (`static/`) tiles, places and values of patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histofast._lazy import attach

if TYPE_CHECKING:
    from histofast.viewer import blocks as blocks
    from histofast.viewer import catalogue as catalogue
    from histofast.viewer import clusters as clusters
    from histofast.viewer import cohort as cohort
    from histofast.viewer import colours as colours
    from histofast.viewer import guard as guard
    from histofast.viewer import inspecting as inspecting
    from histofast.viewer import keeping as keeping
    from histofast.viewer import maps as maps
    from histofast.viewer import neighbours as neighbours
    from histofast.viewer import pyramid as pyramid
    from histofast.viewer import regions as regions
    from histofast.viewer import tile_queue as tile_queue
    from histofast.viewer import tiles as tiles
    from histofast.viewer.catalogue import Catalogue, Entry
    from histofast.viewer.guard import Access
    from histofast.viewer.layers import Layer, Layers
    from histofast.viewer.listing import list_catalogue
    from histofast.viewer.notebook import Shown, view
    from histofast.viewer.viewing import Listening, Viewer, open_viewer
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "histofast.viewer.catalogue": ["Catalogue", "Entry"],
            "histofast.viewer.guard": ["Access"],
            "histofast.viewer.layers": ["Layer", "Layers"],
            "histofast.viewer.listing": ["list_catalogue"],
            "histofast.viewer.notebook": ["Shown", "view"],
            "histofast.viewer.viewing": ["Listening", "Viewer", "open_viewer"],
        },
        rooms=[
            "blocks",
            "catalogue",
            "clusters",
            "cohort",
            "colours",
            "guard",
            "inspecting",
            "keeping",
            "maps",
            "neighbours",
            "pyramid",
            "regions",
            "tile_queue",
            "tiles",
        ],
    )

__all__ = [
    "Access",
    "Catalogue",
    "Entry",
    "Layer",
    "Layers",
    "Listening",
    "Shown",
    "Viewer",
    "blocks",
    "catalogue",
    "clusters",
    "cohort",
    "colours",
    "guard",
    "inspecting",
    "keeping",
    "list_catalogue",
    "maps",
    "neighbours",
    "open_viewer",
    "pyramid",
    "regions",
    "tile_queue",
    "tiles",
    "view",
]
