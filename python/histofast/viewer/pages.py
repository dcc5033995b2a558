"""The files of the page: those of the package's own folder and no others."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
}


class Pages:
    """Files by name; a name that was not there at the start is none."""

    @cached_property
    def names(self) -> dict[str, Path]:
        """Paths by what the page calls them."""
        return {
            path.relative_to(FOLDER).as_posix(): path
            for path in FOLDER.rglob("*")
            if path.suffix in _TYPES and path.is_file()
        }

    def answer(self, request: Request, name: str, *, is_kept: bool = True) -> Response:
        """Return a file, or that the browser has it."""
        path = self.names.get(name)
        if path is None:
            raise HTTPException(404, "there is no such file")
        data = path.read_bytes()
        headers = {"content-type": _TYPES[path.suffix]}
        if is_kept:
            tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            headers |= {"etag": tag, "cache-control": "private, no-cache"}
            if request.headers.get("if-none-match") == tag:
                return Response(status_code=304, headers=headers)
        return Response(data, headers=headers)
