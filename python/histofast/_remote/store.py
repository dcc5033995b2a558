"""Requests to object stores and web servers, repeated where they fail: all that is asked of obstore.

Of what obstore says nothing is handed on but a reason in our words: its own have addresses in full.
"""

from __future__ import annotations

import base64
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from histofast._remote.addresses import Address
from histofast.errors import StoreError

AT_A_TIME = 16  # requests of a process
RETRIES = 5
FIRST_WAIT_S = 0.1  # before a request is repeated; doubled each time
_LONGEST_WAIT_S = 5.0
_RETRY_S = 60.0  # in all
_REQUEST_S = 120.0
_SILENCE_S = 30.0
_ENVIRONMENT = ("AWS_", "AZURE_", "GOOGLE_")
_STATUS = re.compile(r"status code: (\d{3} [A-Za-z ]{2,40})")
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, or AZURE_SKIP_SIGNATURE=true",
}

_free = threading.BoundedSemaphore(AT_A_TIME)
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An object: `version` is its ETag, else when it was written; "" where the server says neither."""

    key: str  # below the address
    size_bytes: int
    version: str


class Listing(NamedTuple):
    """What lies one step below a key: objects, and keys of folders."""

    objects: list[Found]
    folders: list[str]


class Store:
    """All that lies below an address; see the package. Safe to use from many threads."""

    def __init__(self, address: Address) -> None:
        """Make ready to ask for `address` and what is below it; nothing is asked yet."""
        self.address = address
        self._root = "" if address.is_web else address.key
        self._store = _opened(address)

    def get(self, key: str = "") -> bytes:
        """Return an object, whole.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it cannot be had.
        """
        return self._asked(key, lambda obstore, at: bytes(obstore.get(self._store, at).bytes()))

    def get_range(
        self, key: str, offset: int, count: int, *, version: str = ""
    ) -> tuple[bytes, Found]:
        """Return `count` bytes of an object, fewer at its end, and what object that is.

        Args:
            key: below the address.
            offset: of the first byte.
            count: how many, at least one.
            version: that the object must have; "" takes any.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it cannot be had, or is of another version.
        """
        options: dict[str, Any] = {"range": (offset, offset + count)}
        if version.startswith('"'):  # a weak one matches nothing
            options["if_match"] = version

        def ask(obstore: Any, at: str) -> tuple[bytes, Found]:
            answer = obstore.get(self._store, at, options=options)
            return bytes(answer.bytes()), self._found(answer.meta)

        data, found = self._asked(key, ask)
        if version and found.version != version:
            raise self._changed(key)
        if len(data) != min(count, found.size_bytes - offset):
            raise StoreError(
                f"{self._named(key)} cannot be read: {count:,} bytes at {offset:,} were asked for, "
                f"{len(data):,} came"
            )
        return data, found

    def head(self, key: str = "") -> Found:
        """Return size and version of an object.

        Raises:
            FileNotFoundError: there is none.
            StoreError: nothing can be said of it.
        """
        return self._asked(key, lambda obstore, at: self._found(obstore.head(self._store, at)))

    def below(self, key: str = "") -> Listing:
        """Return what lies one step below a key; nothing where there is no such folder.

        Raises:
            StoreError: it cannot be listed.
        """

        def ask(obstore: Any, at: str) -> Listing:
            answer = obstore.list_with_delimiter(self._store, at or None)
            objects = [self._found(meta) for meta in answer["objects"]]
            return Listing(
                objects, [self._relative(folder) for folder in answer["common_prefixes"]]
            )

        return self._asked(key, ask)

    def all_below(self, key: str = "") -> list[Found]:
        """Return all objects below a key, at any depth.

        Raises:
            StoreError: they cannot be listed.
        """

        def ask(obstore: Any, at: str) -> list[Found]:
            return [self._found(meta) for meta in obstore.list(self._store, at or None).collect()]

        return self._asked(key, ask)

    def _asked(self, key: str, ask: Callable[[Any, str], _T]) -> _T:
        """Ask, and say in one line what came instead of an answer."""
        obstore = _obstore()
        at = "/".join(part for part in (self._root, key) if part)
        try:
            with _free:
                return ask(obstore, at)
        except FileNotFoundError:
            raise FileNotFoundError(f"no such object: {self._named(key)}") from None
        except obstore.exceptions.PreconditionError:
            raise self._changed(key) from None
        except (obstore.exceptions.BaseError, ValueError, OSError) as error:
            raise StoreError(f"{self._named(key)} {_reason(error, self.address)}") from None

    def _changed(self, key: str) -> StoreError:
        return StoreError(
            f"{self._named(key)} was changed while it was read: start again when it is whole"
        )

    def _named(self, key: str) -> str:
        return f"{str(self.address).rstrip('/')}/{key}" if key else str(self.address)

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._root).strip("/")

    def _found(self, meta: Any) -> Found:
        written = meta["last_modified"]
        # Year 1970 stands for no answer.
        when = written.isoformat() if written is not None and written.timestamp() > 0 else ""
        return Found(
            key=self._relative(meta["path"]),
            size_bytes=int(meta["size"]),
            version=meta["e_tag"] or when,
        )


def store_of(address: Address) -> Store:
    """Return what reads below an address.

    Raises:
        StoreError: obstore is not installed, or something that it needs is not in the environment.
    """
    return Store(address)


def _obstore() -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ModuleNotFoundError as error:
        raise StoreError(
            "slides in buckets need obstore, which is not installed: pip install 'histofast[s3]'"
        ) from error
    return obstore


def _opened(address: Address) -> Any:
    if address.is_web:
        return _on_web(address)
    has = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(_ENVIRONMENT)))
    return _in_bucket(address.scheme, address.bucket, has)


@lru_cache(maxsize=8)
def _in_bucket(scheme: str, bucket: str, environment: tuple[tuple[str, str], ...]) -> Any:
    """Open a bucket with the credentials of the environment; connections are kept for others."""
    stores = _obstore().store
    kinds = {"s3": stores.S3Store, "gs": stores.GCSStore, "az": stores.AzureStore}
    endpoints = [value for name, value in environment if "ENDPOINT" in name]
    insecure = any(value.startswith("http://") for value in endpoints)
    try:
        return kinds[scheme](bucket, **_options(insecure=insecure))
    except (_obstore().exceptions.BaseError, ValueError) as error:
        where = Address.of(f"{scheme}://{bucket}")
        raise StoreError(f"{scheme}://{bucket} {_reason(error, where)}") from None


def _on_web(address: Address) -> Any:
    user, query = address.secrets()
    headers = {}
    if user:
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    url = f"{address}?{query}" if query else str(address)
    options = _options(insecure=address.scheme == "http")
    options["client_options"]["default_headers"] = headers
    try:
        return _obstore().store.HTTPStore(url, **options)
    except (_obstore().exceptions.BaseError, ValueError) as error:
        raise StoreError(f"{address} {_reason(error, address)}") from None


def _options(*, insecure: bool) -> dict[str, Any]:
    return {
        "client_options": {
            "allow_http": insecure,
            "timeout": timedelta(seconds=_REQUEST_S),
            "read_timeout": timedelta(seconds=_SILENCE_S),
        },
        "retry_config": {
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=_RETRY_S),
            "backoff": {
                "init_backoff": timedelta(seconds=FIRST_WAIT_S),
                "max_backoff": timedelta(seconds=_LONGEST_WAIT_S),
                "base": 2,
            },
        },
    }


def _reason(error: Exception, address: Address) -> str:
    """Say why nothing came, and what to do; obstore's own words hold addresses, queries and all."""
    kind, said = type(error).__name__, str(error)
    status = _STATUS.search(said)
    if kind == "NotSupportedError":
        return (
            "is on a server that gives whole files only (no range requests): copy it here, or put "
            "it into a bucket"
        )
    remedy = _CREDENTIALS.get(address.scheme, "a user and password, or a signed address")
    # Without credentials obstore asks the machine's own, as if it were in the cloud.
    asks_machine = "169.254." in said or "metadata.google" in said or "Account must be" in said
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or asks_machine:
        why = f" ({status[1].strip()})" if status and not asks_machine else ""
        return f"may not be read with the credentials at hand{why}: give {remedy}"
    if status:
        return f"cannot be read: the server answered {status[1].strip()}"
    if "timed out" in said.lower() or "TimedOut" in said:
        return "cannot be read: the server did not answer in time"
    if "IncompleteBody" in said or "UnexpectedEof" in said:
        return f"cannot be read: its bytes ended too early, {RETRIES} times again"
    if "Connect" in said or "dns" in said.lower():
        return f"cannot be read: no connection to {address.bucket}"
    return f"cannot be read: obstore says {kind}"
