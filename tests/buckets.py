"""A bucket of S3 for a test, by the small server here and by moto where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

import pytest

from extras import need
from small_server import SmallServer

KINDS = ("ours", "moto")
NAME = "cohort"
Put = Callable[[str, bytes], None]


@contextmanager
def bucket_of(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    """Have an empty bucket s3://cohort, and the environment name it; yield what puts an object into it."""
    with _of_moto() if kind == "moto" else _of_ours() as (put, url):
        for name, value in (
            ("AWS_ENDPOINT_URL", url),
            ("AWS_ACCESS_KEY_ID", "me"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ("AWS_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        yield put


@contextmanager
def _of_ours() -> Iterator[tuple[Put, str]]:
    with SmallServer() as server:
        yield lambda key, body: server.objects.update({f"{NAME}/{key}": body}), server.url


@contextmanager
def _of_moto() -> Iterator[tuple[Put, str]]:
    need("moto", "boto3")
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        # What other servers of this process were given would be there still.
        urlopen(Request(f"{url}/moto-api/reset", method="POST")).close()
        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="me",
            aws_secret_access_key="hunter2",
        )
        client.create_bucket(Bucket=NAME)
        yield lambda key, body: client.put_object(Bucket=NAME, Key=key, Body=body), url
    finally:
        server.stop()
