"""The routes of the viewer: what the page may ask for, and what it is answered.

Coordinates are level-0 pixels. Numbers of patches go as plain little-endian arrays. Whatever fails is a
status and {"error": "one sentence"}.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from histofast import __version__
from histofast._notes import log_of
from histofast.errors import FeatureError, HistofastError
from histofast.features import FeatureFile
from histofast.viewer.blocks import Abandoned
from histofast.viewer.catalogue import Catalogue, Entry
from histofast.viewer.data_routes import data_routes
from histofast.viewer.guard import Access, Guard
from histofast.viewer.layers import Layers
from histofast.viewer.outlines import Outlines
from histofast.viewer.pages import Pages
from histofast.viewer.pyramid import TILE_PX
from histofast.viewer.tile_queue import Crowded, TileQueue
from histofast.viewer.tiles import QUALITY

_log = log_of(__name__)

_BROKEN, _CROWDED, _GONE = 422, 503, 499  # statuses
_SLIDE_FAILURES = (FileNotFoundError, HistofastError)
_STATUS: dict[type[Exception], int] = {
    **dict.fromkeys(_SLIDE_FAILURES, _BROKEN),
    **dict.fromkeys((KeyError, IndexError), 404),
    **dict.fromkeys((TypeError, ValueError), 400),
}
_KEPT = "private, max-age=86400, immutable"


class _Viewer:
    """What the routes share."""

    def __init__(self, catalogue: Catalogue, layers: Layers, export: Path | None) -> None:
        self.catalogue, self.layers, self.export = catalogue, layers, export
        self.outlines, self.pages, self.queue = Outlines(catalogue), Pages(), TileQueue()

    def entry(self, request: Request) -> Entry:
        """Return the slide that is asked for."""
        entries = self.catalogue.entries
        index: int = request.path_params["index"]
        if index >= len(entries):
            raise HTTPException(404, "there is no such slide")
        return entries[index]

    def index(self, request: Request) -> int:
        """Return the index of the slide that is asked for, one that can be opened as far as is known."""
        entry = self.entry(request)
        if entry.error is not None:
            raise HTTPException(_BROKEN, entry.error)
        return entry.index

    # --- errors ---------------------------------------------------------------------------------

    def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)

    def said(self, request: Request, error: Exception) -> Response:
        """Answer with the sentence of an error of ours."""
        status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
        index = request.path_params.get("index", len(self.catalogue.entries))
        told = self.catalogue.told(index if index < len(self.catalogue.entries) else None, error)
        return JSONResponse({"error": told}, status)

    def failed(self, request: Request, error: Exception) -> Response:
        """Say nothing of an error that nobody has thought of but that it is in the log."""
        _log.error("%s", "".join(traceback.format_exception(error)))
        return JSONResponse(
            {"error": "the viewer failed: `histofast --log FILE view ...` keeps why"}, 500
        )

    # --- page -----------------------------------------------------------------------------------

    def page(self, request: Request) -> Response:
        return self.pages.answer(request, "index.html", is_kept=False)

    def static(self, request: Request) -> Response:
        return self.pages.answer(request, request.path_params["name"])

    # --- slides ---------------------------------------------------------------------------------

    def session(self, request: Request) -> Response:
        with_features = sum(entry.features is not None for entry in self.catalogue.entries)
        return JSONResponse(
            {
                "version": __version__,
                "title": self.catalogue.title,
                "anonymous": self.catalogue.anonymous,
                "can_export": self.export is not None,
                "run": self.layers.run_told(),
                "cohort": with_features > 1,
            }
        )

    def slides(self, request: Request) -> Response:
        return JSONResponse([self._listed(entry) for entry in self.catalogue.entries])

    def _listed(self, entry: Entry) -> dict[str, Any]:
        predicted = self.layers.prediction(entry.index)
        return {
            "id": entry.index,
            "name": entry.name,
            "patches": self.catalogue.n_patches(entry.index),
            "label": entry.label,
            "prediction": predicted
            and {"class": predicted["class"], "p": max(predicted["p"], default=None)},
            "error": entry.error,
        }

    def slide(self, request: Request) -> Response:
        entry = self.entry(request)
        about: dict[str, Any] = {
            "id": entry.index,
            "name": entry.name,
            **dict.fromkeys(("width", "height", "mpp", "objective", "max_level", "origin")),
            "tile_px": TILE_PX,
            "patches": None,
            "layers": [],
            "notes": [],
            "error": entry.error,
        }
        if entry.error is None:
            try:
                about |= self._geometry(entry)
            except _SLIDE_FAILURES as error:
                about["error"] = self.catalogue.told(entry.index, error)
                return JSONResponse(about)
            about["patches"], note = self._patches(entry)
            about["notes"] = [*self.catalogue.notes(entry.index), *([note] if note else [])]
            of_layers = self.layers.notes(entry.index)
            about["notes"] += [self.catalogue.shown(entry.index, each) for each in of_layers]
            if about["patches"] is not None:
                about["layers"] = [asdict(layer) for layer in self.layers.of(entry.index)]
        return JSONResponse(about)

    def _geometry(self, entry: Entry) -> dict[str, Any]:
        max_level, mpp = (
            self.catalogue.pyramid(entry.index).max_level,
            self.catalogue.mpp(entry.index),
        )
        with self.catalogue.slide(entry.index) as slide:
            width, height = slide.dimensions
            return {
                "width": width,
                "height": height,
                "mpp": mpp,
                "objective": _number(slide.properties.get("objective_power")),
                "max_level": max_level,
                "origin": list(slide.origin_l0),
            }

    def _patches(self, entry: Entry) -> tuple[dict[str, Any] | None, str | None]:
        """Return what the patches of a slide are, and what is wrong with them."""
        try:
            file = self.catalogue.features(entry.index)
        except (FileNotFoundError, FeatureError) as error:
            return None, self.catalogue.told(entry.index, error)
        if file is None:
            return None, None
        if file.coords is None or file.patch_l0 is None:
            return None, f"the feature file of {entry.name} does not say where its patches are"
        return self._about_patches(file), None

    def _about_patches(self, file: FeatureFile) -> dict[str, Any]:
        told = file.attributes
        patch_px, mpp, level0 = (told.get(k) for k in ("patch_size", "mpp", "level0_mpp"))
        side_l0 = float(file.patch_l0 or 0)
        step_l0 = side_l0
        if patch_px and mpp and level0:
            step_l0 = (patch_px - told.get("overlap", 0)) * mpp / level0
        return {
            "n": len(file.features),
            "side_l0": side_l0,
            "step_l0": float(step_l0),
            "patch_px": None if patch_px is None else int(patch_px),
            "mpp": None if mpp is None else float(mpp),
            "encoder": self.catalogue.encoder,
        }

    def tissue(self, request: Request) -> Response:
        return JSONResponse(self.outlines.of(self.index(request)))

    async def tile(self, request: Request) -> Response:
        index, asked = self.index(request), request.path_params
        place = asked["z"], asked["x"], asked["y"]
        catalogue = self.catalogue

        def made(is_wanted: Callable[[], bool]) -> Response:
            tag = _tag(catalogue.identity(index), place)
            if request.headers.get("if-none-match") == tag:
                return Response(status_code=304, headers={"etag": tag, "cache-control": _KEPT})
            tile = catalogue.tile(index, *place, is_wanted=is_wanted)
            if tile is None:
                raise HTTPException(404, "there is no such tile")
            headers = {"etag": tag, "cache-control": _KEPT}
            if tile.unreadable:
                headers = {"x-unreadable": str(len(tile.unreadable))}
            return Response(tile.data, media_type="image/jpeg", headers=headers)

        try:
            return await self.queue.run(request, made)
        except Crowded:
            raise HTTPException(_CROWDED, "too many tiles are asked for at a time") from None
        except Abandoned:
            return Response(status_code=_GONE)

    # --- patches --------------------------------------------------------------------------------

    def patches(self, request: Request) -> Response:
        coords = self._features(self.entry(request)).coords
        assert coords is not None
        return _binary(coords.astype("<i4"))

    def values(self, request: Request) -> Response:
        entry = self.entry(request)
        self._features(entry)
        values = self.layers.values(entry.index, request.path_params["layer"])
        return _binary(values.astype(np.uint8 if values.ndim == 2 else "<f4", copy=False))

    def _features(self, entry: Entry) -> FeatureFile:
        """Return the features of a slide that has some, with their places."""
        file = self.catalogue.features(entry.index)
        if file is None or file.coords is None:
            raise HTTPException(404, f"{entry.name} has no patches")
        return file


def make_app(
    catalogue: Catalogue,
    layers: Layers | None = None,
    *,
    access: Access | None = None,
    export: Path | None = None,
) -> Guard:
    """Return the ASGI application that shows a catalogue.

    Args:
        catalogue: the slides; it is closed with the application.
        layers: what may be laid over them.
        access: the token and from where the page may be opened; a new one when None.
        export: the one folder that regions are written into; None: they are not.
    """
    viewer = _Viewer(catalogue, layers or Layers(catalogue), export)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> Any:
        yield
        viewer.queue.close()
        viewer.layers.close()
        catalogue.close()

    slide = "/api/slide/{index:int}"
    app = Starlette(
        routes=[
            Route("/tile/{index:int}/{z:int}/{x:int}_{y:int}.jpg", viewer.tile),
            Route("/", viewer.page),
            Route("/static/{name:path}", viewer.static),
            Route("/api/session", viewer.session),
            Route("/api/slides", viewer.slides),
            Route(slide, viewer.slide),
            Route(f"{slide}/tissue", viewer.tissue),
            Route(f"{slide}/patches", viewer.patches),
            Route(f"{slide}/values/{{layer}}", viewer.values),
            *data_routes(catalogue, viewer.layers, export),
        ],
        exception_handlers={
            **dict.fromkeys(_STATUS, viewer.said),
            HTTPException: viewer.refused,
            Exception: viewer.failed,
        },
        lifespan=lifespan,
    )
    return Guard(app, access or Access())


def _binary(values: np.ndarray[Any, Any]) -> Response:
    return Response(np.ascontiguousarray(values).tobytes(), media_type="application/octet-stream")


def _tag(identity: str, place: tuple[int, int, int]) -> str:
    """Return what changes when the pixels of a tile do."""
    told = f"{__version__} {QUALITY} {identity} {place}"
    return f'"{hashlib.sha256(told.encode()).hexdigest()[:32]}"'


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
