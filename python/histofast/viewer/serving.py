"""The server in a thread: a port that is free, its address, and an end."""

from __future__ import annotations

import os
import socket
import threading
from types import TracebackType
from typing import Self

import uvicorn

from histofast.viewer.guard import Guard

_WAIT_S = 5.0  # for what is still sent when it ends
_MOST_CONNECTIONS = 512


class Server:
    """A server of the viewer; listens from the start, and answers while in the block."""

    def __init__(self, app: Guard, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Take a port, a free one where it is 0.

        Raises:
            ValueError: the port is taken, or may not be.
        """
        self._app = app
        self._socket = _listening(host, port)
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            lifespan="on",
            ws="none",
            loop="asyncio",
            http="h11",
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=int(_WAIT_S),
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="histofast-view", daemon=True
        )

    def address(self, *, once: bool = False) -> str:
        """Return the address that opens the page; with `once` it does so one time."""
        token = self._app.one_time.make() if once else self._app.access.token
        return f"http://{self.host}:{self.port}{self._app.access.base_path}/?t={token}"

    @property
    def framed_path(self) -> str:
        """The path of the page in a frame, which has the token in it; see `Access.in_path`."""
        return f"{self._app.access.base_path}/t/{self._app.access.token}/"

    def is_up(self) -> bool:
        """Whether the server still answers."""
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End the server; what is being answered is."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(2 * _WAIT_S)
        self._socket.close()


def _listening(host: str, port: int) -> socket.socket:
    # Named TCP: asyncio sends short answers at once only then, else each waits 40 ms for the one before.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere it would share a port with who is there already
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        reason = error.strerror or error
        raise ValueError(
            f"port must be one that is free, got {port} ({reason}): leave it out, and a free one is taken"
        ) from error
    return listening
