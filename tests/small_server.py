"""A web server of a few objects in memory, with ranges and ETags, that counts, delays, fails and lies.

It lists what it has as S3 does, the first part of a path being a bucket, and looks at no signature.
"""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class SmallServer:
    """Serves `objects`, by their paths without the first slash. A context manager.

    Attributes:
        requests: what was asked: (method, path and query, headers) in order of arrival.
        delay_s: before every answer.
        refuse: how many of the next requests are answered 503.
        cut: how many of the next bodies end in their middle.
        takes_ranges: whether it gives parts; else whole objects, whatever is asked.
        has_versions: whether it says ETags.
        minds_versions: whether it refuses a request for another version than is there.
        on_request: called with the number of requests so far, before each answer.
    """

    def __init__(self, **objects: bytes) -> None:
        self.objects: dict[str, bytes] = dict(objects)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.delay_s, self.refuse, self.cut = 0.0, 0, 0
        self.takes_ranges = self.has_versions = self.minds_versions = True
        self.user = ""  # "name:password" in base64, where one is asked for
        self.on_request = lambda count: None
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(_Handler):
            server_of = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # In turns of 0.5 s it would see the end late.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def version_of(self, path: str) -> str:
        return f'"{hash(self.objects[path]) & (2**64 - 1):016x}"'  # which Python counts once

    def arrive(self, method: str, path: str, headers: dict[str, str]) -> tuple[bool, bool]:
        """Note a request; whether it is refused, and whether its body is cut."""
        with self._lock:
            self.requests.append((method, path, headers))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            refuse, self.refuse = self.refuse > 0, max(0, self.refuse - 1)
            cut = not refuse and self.cut > 0
            self.cut -= cut
            self.on_request(len(self.requests))
        time.sleep(self.delay_s)
        return refuse, cut

    def leave(self) -> None:
        with self._lock:
            self._at_once -= 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else headers and body, written apart, wait for each other
    server_of: SmallServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        server = self.server_of
        headers = {key.lower(): value for key, value in self.headers.items()}
        refuse, cut = server.arrive(self.command, self.path, headers)
        try:
            status, said, body = (503, {}, b"") if refuse else self._response(headers)
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **said}.items():
                self.send_header(key, value)
            self.end_headers()
            if has_body:
                self.wfile.write(body[: len(body) // 2] if cut else body)
                self.close_connection = cut
        except OSError:  # nobody waits for the answer
            self.close_connection = True
        finally:
            server.leave()

    def _response(self, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        server = self.server_of
        path, asked = (
            unquote(urlsplit(self.path).path).lstrip("/"),
            parse_qs(urlsplit(self.path).query),
        )
        if server.user and headers.get("authorization") != f"Basic {server.user}":
            return 401, {}, b""
        if "list-type" in asked:
            return self._listing(path, asked.get("prefix", [""])[0], "delimiter" in asked)
        if path not in server.objects:
            return 404, {}, b""
        data, said = server.objects[path], {}
        if server.has_versions:
            said["ETag"] = server.version_of(path)
        if server.minds_versions and headers.get("if-match", said.get("ETag")) != said.get("ETag"):
            return 412, {}, b""
        if not (server.takes_ranges and "range" in headers):
            return 200, said, data
        first, _, last = headers["range"].removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(data)) + 1, len(data))
        if start >= len(data):
            return 416, {"Content-Range": f"bytes */{len(data)}"}, b""
        said["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return 206, said, data[start:stop]

    def _listing(
        self, bucket: str, prefix: str, is_flat: bool
    ) -> tuple[int, dict[str, str], bytes]:
        """ListObjectsV2, in one page."""
        server = self.server_of
        keys = [path.partition("/")[2] for path in server.objects if path.startswith(f"{bucket}/")]
        if not keys:
            return 404, {}, b""
        found, folders = [], set()
        for key in sorted(key for key in keys if key.startswith(prefix)):
            inner, slash, _ = key[len(prefix) :].partition("/")
            if is_flat and slash:
                folders.add(f"{prefix}{inner}/")
                continue
            path = f"{bucket}/{key}"
            found.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>{escape(server.version_of(path))}</ETag>"
                f"<Size>{len(server.objects[path])}</Size></Contents>"
            )
        prefixes = "".join(
            f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>"
            for each in sorted(folders)
        )
        body = f"<ListBucketResult>{''.join(found)}{prefixes}</ListBucketResult>"
        return 200, {"Content-Type": "application/xml"}, body.encode()
