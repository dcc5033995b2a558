"""Who may ask the server for anything, and what every answer says to the browser.

A server on this machine can be reached by every page that its browser shows, and by everybody who is
logged in. So: names of hosts that are ours only (a page that has its own name lead here is refused), a token
with every request, no answer that another origin may read, no script but ours, and bounds on what a request
may be. Headers are put on refusals too.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL = ("127.0.0.1", "localhost")
MOST_BODY_BYTES = 1 << 20
_MOST_PATH = 2048  # characters, of the query too
_TOKEN_BYTES = 32
# Of the one style element that OpenSeadragon 6.1.1 puts into a page.
_STYLE_OF_OPENSEADRAGON = "sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE="


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Access:
    """What opens the server.

    Attributes:
        token: what the address of the page and the cookie hold.
        hosts: names of hosts that a request may be to; those of a proxy too, where there is one.
        base_path: what addresses begin with behind a proxy, "" or such as "/user/me/proxy/8000".
        framed_by: origins whose pages may show ours in a frame; () for none.
        in_path: whether addresses may begin with /t/TOKEN/ instead of a cookie, which browsers keep from
            frames in pages of another site (notebooks).
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(_TOKEN_BYTES))
    hosts: Collection[str] = LOCAL
    base_path: str = ""
    framed_by: tuple[str, ...] = ()
    in_path: bool = False

    @property
    def cookie(self) -> str:
        """Name of the cookie: cookies of all ports of a machine lie in one jar."""
        return f"histofast-{hashlib.sha256(self.token.encode()).hexdigest()[:12]}"

    def is_token(self, value: str) -> bool:
        """Whether a text is the token; takes as long whatever it is."""
        return secrets.compare_digest(value.encode(), self.token.encode())


class OneTime:
    """Tokens that open the page once: what a browser is started with, other users of the machine see."""

    def __init__(self) -> None:
        self._left: set[str] = set()
        self._lock = threading.Lock()

    def make(self) -> str:
        """Return a new one."""
        with self._lock:
            self._left.add(made := secrets.token_urlsafe(_TOKEN_BYTES))
        return made

    def take(self, value: str) -> bool:
        """Whether a text is one of them; it is none from then on."""
        with self._lock:
            found = [
                one for one in self._left if secrets.compare_digest(one.encode(), value.encode())
            ]
            self._left.difference_update(found)
        return bool(found)


class Guard:
    """The server's door: lets through what may be asked, in ASGI."""

    def __init__(self, app: App, access: Access) -> None:
        self._app, self.access, self.one_time = app, access, OneTime()
        self._headers = [
            (name.encode(), value.encode()) for name, value in _headers(access.framed_by).items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        send = self._with_headers(send)
        path = _below(scope["path"], self.access.base_path)
        inner = self._below_token(path)
        refused = self._refusal(scope, any_host=inner is not None)
        if refused is not None:
            await _refuse(send, *refused)
            return
        cookies: list[bytes] = []
        if inner is not None:
            path = inner
        elif not self._has_cookie(scope):
            if path != "/" or not self._opens(scope):
                await _refuse(
                    send, 403, "the token is missing: open the address that the command has printed"
                )
                return
            cookies.append(self._set_cookie())
        scope = {**scope, "path": path, "raw_path": path.encode(), "root_path": ""}
        await self._app(scope, _bounded(receive), _with_cookies(send, cookies))

    def _refusal(self, scope: Scope, *, any_host: bool) -> tuple[int, str] | None:
        """Return what is wrong with a request, whoever asks.

        To `any_host`: a page whose name leads here does not know a token in the path, and a notebook's proxy
        may have any name.
        """
        headers = _first_headers(scope)
        if not any_host and _host_of(headers.get(b"host", b"")) not in self.access.hosts:
            return (
                400,
                "the host is not one of this server's: open the address that the command has printed",
            )
        if len(scope["path"]) + len(scope["query_string"]) > _MOST_PATH:
            return 414, f"the address must have at most {_MOST_PATH} characters"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "the method must be GET or POST"
        if scope["method"] == "POST":
            if headers.get(b"sec-fetch-site") != b"same-origin":
                return 403, "what is written must be asked for by the page itself"
            if headers.get(b"content-type", b"").split(b";")[0].strip() != b"application/json":
                return 415, "the body must be JSON"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 12 or int(length) > MOST_BODY_BYTES:
            return 413, f"the body must have at most {MOST_BODY_BYTES} bytes"
        return None

    def _below_token(self, path: str) -> str | None:
        """Return a path without the token before it; None where there is none."""
        if not self.access.in_path or not path.startswith("/t/"):
            return None
        token, _, inner = path[len("/t/") :].partition("/")
        return f"/{inner}" if self.access.is_token(token) else None

    def _has_cookie(self, scope: Scope) -> bool:
        # Not by http.cookies, which reads nothing behind another server's odd cookie.
        text = _first_headers(scope).get(b"cookie", b"").decode("latin-1")
        pairs = (part.strip().partition("=") for part in text.split(";"))
        return any(
            self.access.is_token(value) for name, _, value in pairs if name == self.access.cookie
        )

    def _opens(self, scope: Scope) -> bool:
        """Whether the address has the token."""
        asked = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=16)
        given = asked.get("t", [""])[0]
        return self.access.is_token(given) or self.one_time.take(given)

    def _set_cookie(self) -> bytes:
        access = self.access
        path = f"{access.base_path}/"
        return f"{access.cookie}={access.token}; Path={path}; HttpOnly; SameSite=Strict".encode()

    def _with_headers(self, send: Send) -> Send:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = list(message.get("headers", ()))
                names = {name.lower() for name, _ in told}
                told += [(name, value) for name, value in self._headers if name not in names]
                message = {**message, "headers": told}
            await send(message)

        return with_headers


def _headers(framed_by: tuple[str, ...]) -> dict[str, str]:
    """Return what every answer says; it may say more of `cache-control` itself."""
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": f"'self' '{_STYLE_OF_OPENSEADRAGON}'",
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        "frame-ancestors": " ".join(framed_by) or "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    headers = {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-store",
    }
    return headers if framed_by else {**headers, "x-frame-options": "DENY"}


def _first_headers(scope: Scope) -> dict[bytes, bytes]:
    return dict(reversed(scope["headers"]))


def _host_of(header: bytes) -> str:
    """Return the name in a header Host, without its port."""
    text = header.decode("latin-1").lower()
    name, colon, port = text.rpartition(":")
    return name if colon and port.isdigit() else text


def _below(path: str, base_path: str) -> str:
    """Return a path without what a proxy puts before it, which some take off themselves."""
    if base_path and (path == base_path or path.startswith(f"{base_path}/")):
        return path[len(base_path) :] or "/"
    return path


def _bounded(receive: Receive) -> Receive:
    """Cut a body off that is longer than it said."""
    left = MOST_BODY_BYTES

    async def bounded() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        return message if left >= 0 else {"type": "http.disconnect"}

    return bounded


def _with_cookies(send: Send, cookies: list[bytes]) -> Send:
    if not cookies:
        return send

    async def with_cookies(message: Message) -> None:
        if message["type"] == "http.response.start":
            told = [*message.get("headers", ()), *((b"set-cookie", cookie) for cookie in cookies)]
            message = {**message, "headers": told}
        await send(message)

    return with_cookies


async def _refuse(send: Send, status: int, why: str) -> None:
    body = json.dumps({"error": why}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
