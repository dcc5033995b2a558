"""The routes of single patches: what is said of one, its pixels, who is like it, and regions to be kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from histofast._words import one_line
from histofast.errors import HistofastError, WriteError
from histofast.slides import encode_tile
from histofast.viewer.catalogue import Catalogue
from histofast.viewer.cohort import Busy, Cohort
from histofast.viewer.inspecting import about_patch, pixels_of_patch
from histofast.viewer.layers import Layers
from histofast.viewer.regions import Exported, Exporter

T = TypeVar("T")

_QUALITY = 95  # of patches: to be looked at closely
_KEPT = "private, max-age=600"


def data_routes(catalogue: Catalogue, layers: Layers, export: Path | None) -> list[Route]:
    """Return the routes; without a folder to `export` into, nothing is written."""
    data = _Data(catalogue, layers, export)
    return [
        Route("/api/slide/{index:int}/patch/{row:int}", data.patch),
        Route("/patch/{index:int}/{row:int}.jpg", data.pixels),
        Route("/api/similar", data.similar),
        Route("/api/export", data.write, methods=["POST"]),
    ]


class _Data:
    """What the routes share."""

    def __init__(self, catalogue: Catalogue, layers: Layers, export: Path | None) -> None:
        self._catalogue, self._layers = catalogue, layers
        self._cohort = Cohort(catalogue)
        self._exporter = None if export is None else Exporter(catalogue, layers, export)

    def patch(self, request: Request) -> Response:
        index, row = request.path_params["index"], request.path_params["row"]
        return JSONResponse(
            self._told(index, lambda: about_patch(self._catalogue, self._layers, index, row))
        )

    def pixels(self, request: Request) -> Response:
        index, row = request.path_params["index"], request.path_params["row"]
        tag = self._told(index, lambda: self._tag(index, row))
        headers = {"etag": tag, "cache-control": _KEPT}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        pixels = self._told(index, lambda: pixels_of_patch(self._catalogue, index, row))
        data = encode_tile(pixels, codec="jpeg", quality=_QUALITY)
        return Response(data, media_type="image/jpeg", headers=headers)

    def similar(self, request: Request) -> Response:
        index, row, k = (
            _number_in(request, name, default)
            for name, default in (("slide", None), ("patch", None), ("k", 24))
        )
        scope: Any = request.query_params.get("scope", "slide")
        return JSONResponse(
            self._told(index, lambda: self._cohort.similar(index, row, k=k, scope=scope))
        )

    async def write(self, request: Request) -> Response:
        exporter = self._exporter
        if exporter is None:
            raise HTTPException(
                403, "no folder to write into was named: `histofast view SLIDES --export DIR`"
            )
        asked = _asked(await request.body())
        index = asked.pop("slide")
        made = await run_in_threadpool(self._told, index, lambda: _written(exporter, index, asked))
        return JSONResponse({"file": made.path.name, "objects": made.objects})

    def _tag(self, index: int, row: int) -> str:
        """Return what changes when the pixels of a patch do."""
        file = self._catalogue.features(index)
        made_of = file and (file.sha256 or str(file.path))
        told = f"{_QUALITY} {self._catalogue.identity(index)} {made_of} {row}"
        return f'"{hashlib.sha256(told.encode()).hexdigest()[:32]}"'

    def _told(self, index: int, make: Callable[[], T]) -> T:
        """Return what is made; what fails is a status and its sentence."""
        entries = self._catalogue.entries
        if not 0 <= index < len(entries):
            raise HTTPException(404, "there is no such slide")
        if (problem := entries[index].error) is not None:
            raise HTTPException(422, problem)
        try:
            return make()
        except FileExistsError as error:
            raise HTTPException(409, one_line(error)) from error
        except WriteError as error:
            raise HTTPException(500, self._catalogue.told(index, error)) from error
        except (FileNotFoundError, HistofastError) as error:
            raise HTTPException(422, self._catalogue.told(index, error)) from error
        except KeyError as error:
            raise HTTPException(404, "there is no such layer") from error
        except IndexError as error:
            raise HTTPException(404, one_line(error)) from error
        except Busy as error:
            raise HTTPException(503, one_line(error)) from error
        except (TypeError, ValueError) as error:
            raise HTTPException(400, one_line(error)) from error


def _number_in(request: Request, name: str, default: int | None) -> int:
    """Return a whole number of the query."""
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 12):
        raise HTTPException(400, f"{name} must be a whole number")
    return int(text)


def _asked(body: bytes) -> dict[str, Any]:
    """Return what a body asks to write: a dict with the number of a slide."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body must be JSON") from None
    slide = asked.get("slide") if isinstance(asked, dict) else None
    if not isinstance(slide, int) or isinstance(slide, bool):
        raise HTTPException(400, "slide must be the number of a slide")
    return dict(asked)


def _written(exporter: Exporter, index: int, asked: dict[str, Any]) -> Exported:
    name = asked.get("name")
    keys = asked.keys() - {"name"}
    if keys == {"polygon"}:
        return exporter.polygon(index, name, asked["polygon"])
    if keys == {"layer", "low", "high"}:
        return exporter.between(index, name, **{key: asked[key] for key in keys})
    raise ValueError("either polygon, or layer, low and high must be given, and a name")
