"""Objects on web servers and in buckets: what is asked, what failures become, and that nothing secret shows."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from buckets import KINDS, bucket_of
from extras import need
from histofast._remote import Address, RemoteFile, store_of
from histofast.errors import StoreError
from small_server import SmallServer

need("obstore")

DATA = np.random.default_rng(0).bytes(5_000_000)


@pytest.fixture
def server():
    with SmallServer(**{"dir/x.svs": DATA, "dir/empty": b"", "dir/small": b"abc"}) as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("histofast._remote.store.FIRST_WAIT_S", 0.001)


def opened(server, path="dir/x.svs", query=""):
    return RemoteFile(Address.of(f"{server.url}/{path}{query}"))


def test_one_request_opens_an_object(server):
    file = opened(server)
    assert file.size_bytes == len(DATA)
    version = server.version_of("dir/x.svs")
    assert file.identity == f"address:{server.url}/dir/x.svs;size:5000000;version:{version}"
    assert file.read(10, 1000) == DATA[10:1010]
    assert len(server.requests) == 1


def test_what_is_read_is_what_is_there(server):
    file = opened(server)
    for offset, count in ((0, 1 << 20), ((1 << 20) - 5, 10), (4_999_990, 100), (5_000_000, 5)):
        assert file.read(offset, count) == DATA[offset : offset + count]
        assert file.read_around(offset, count) == DATA[offset : offset + count]
    with file.open() as stream:
        assert stream.seek(-7, io.SEEK_END) == 4_999_993
        assert stream.read() == DATA[-7:]
        stream.seek(2_500_000)
        before = len(server.requests)
        assert stream.read(100) == DATA[2_500_000:2_500_100]
        assert stream.read(300_000) == DATA[2_500_100:2_800_100]
        assert len(server.requests) == before + 1  # a page for all of it
        with pytest.raises(OSError, match="Invalid argument"):
            stream.seek(-1)
    empty = opened(server, "dir/empty")
    assert (empty.size_bytes, empty.read(0, 5)) == (0, b"")


def test_what_is_prefetched_costs_few_requests_and_not_too_many_at_a_time(server):
    server.delay_s = 0.005
    file = opened(server)
    ranges = np.array([(1_100_000 + 3000 * i, 2000) for i in range(1000)])
    file.prefetch(ranges)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda r: file.read(*r), ranges.tolist()))
    assert got == [DATA[offset : offset + count] for offset, count in ranges.tolist()]
    assert len(server.requests) == 2
    file.prefetch(np.array([(1_100_000 + 100_000 * i, 100) for i in range(39)]))
    for i in range(39):
        assert file.read(1_100_000 + 100_000 * i, 100) == DATA[1_100_000 + 100_000 * i :][:100]
    assert len(server.requests) == 2 + 39
    assert 1 < server.most_at_once <= 16
    file.close()


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["refuse", "cut"])
def test_failures_that_pass_are_not_seen(server, trouble):
    setattr(server, trouble, 3)
    file = opened(server)
    setattr(server, trouble, 3)
    assert file.read(2_000_000, 500_000) == DATA[2_000_000:2_500_000]
    assert len(server.requests) == 8


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("refuse", "cannot be read: the server answered 503 Service Unavailable"),
        ("cut", "cannot be read: its bytes ended too early, 5 times again"),
    ],
)
def test_failures_that_stay_are_said(server, trouble, said):
    file = opened(server)
    setattr(server, trouble, 1000)
    with pytest.raises(StoreError, match=rf"^{server.url}/dir/x.svs {said}$"):
        file.read(2_000_000, 500_000)
    assert len(server.requests) == 1 + 6


@pytest.mark.parametrize("minds", [True, False])
def test_an_object_that_changes_is_no_more_the_same(server, minds):
    server.minds_versions = minds
    file = opened(server)
    server.objects["dir/x.svs"] = DATA[:-1] + b"?"
    with pytest.raises(StoreError, match=r"dir/x.svs was changed while it was read: start again"):
        file.read(2_000_000, 10)
    assert opened(server).identity != file.identity


def test_servers_that_cannot_serve_parts_or_versions_are_refused(server):
    server.takes_ranges = False
    with pytest.raises(StoreError, match=r"gives whole files only \(no range requests\): copy it"):
        opened(server)
    server.takes_ranges, server.has_versions = True, False
    with pytest.raises(StoreError, match="must be on a server that tells versions apart"):
        opened(server)


def test_what_is_not_there_or_may_not_be_read_is_said(server):
    with pytest.raises(FileNotFoundError, match=rf"no such object: {server.url}/dir/y.svs"):
        opened(server, "dir/y.svs")
    server.user = "bWU6aHVudGVyMg=="
    with pytest.raises(StoreError, match=r"may not be read .* \(401 Unauthorized\): give a user"):
        opened(server)
    url = server.url.replace("http://", "http://me:hunter2@")
    file = RemoteFile(Address.of(f"{url}/dir/x.svs"))
    assert file.read(0, 100) == DATA[:100]
    with pytest.raises(StoreError, match=r"no connection to 127.0.0.1:9$"):
        RemoteFile(Address.of("http://127.0.0.1:9/x.svs"))


def test_no_failure_tells_what_is_secret(server):
    url = server.url.replace("http://", "http://me:hunter2@") + "/dir/x.svs?X-Amz-Signature=s3cret"
    file = RemoteFile(Address.of(url))
    assert server.requests[0][1] == "/dir/x.svs?X-Amz-Signature=s3cret"
    for change in ({"refuse": 1000}, {"cut": 1000, "refuse": 0}, {"user": "x"}, {"objects": {}}):
        for name, value in change.items():
            setattr(server, name, value)
        with pytest.raises((StoreError, FileNotFoundError)) as raised:
            file.read(2_000_000, 100)
        seen = f"{raised.value} {raised.value!r} {file.identity} {file}"
        assert "hunter2" not in seen
        assert "s3cret" not in seen
        assert raised.value.__cause__ is None
        assert raised.value.__suppress_context__


# --- stores ---------------------------------------------------------------------------------------


def test_a_store_gives_what_is_below_its_address(server):
    store = store_of(Address.of(f"{server.url}/dir"))
    assert store.get("small") == b"abc"
    assert store.get_range("x.svs", 7, 9)[0] == DATA[7:16]
    found = store.head("small")
    assert (found.key, found.size_bytes) == ("small", 3)
    assert found.version == server.version_of("dir/small")
    with pytest.raises(FileNotFoundError, match=r"no such object: .*/dir/nothing"):
        store.get("nothing")


@pytest.fixture(params=KINDS)
def bucket(request, monkeypatch):
    """A function that puts an object into a bucket, where three are."""
    with bucket_of(request.param, monkeypatch) as put:
        for key in ("a/x y.svs", "a/b/z+ä.svs", "top.svs"):
            put(key, DATA)
        yield put


@pytest.mark.usefixtures("bucket")
def test_a_bucket_is_listed_and_read():
    bucket = store_of(Address.of("s3://cohort"))
    there = bucket.below()
    assert [found.key for found in there.objects] == ["top.svs"]
    assert there.folders == ["a"]
    below = sorted(found.key for found in bucket.all_below())
    assert below == ["a/b/z+ä.svs", "a/x y.svs", "top.svs"]
    folder = store_of(Address.of("s3://cohort/a/"))
    there = folder.below()
    assert [found.key for found in there.objects] == ["x y.svs"]
    assert there.folders == ["b"]
    assert there.objects[0] == folder.head("x y.svs")
    assert folder.get("b/z+ä.svs") == DATA
    assert store_of(Address.of("s3://cohort/nothing")).below() == ([], [])
    file = RemoteFile(Address.of("s3://cohort/a/x y.svs"))
    assert file.read(3_000_000, 1000) == DATA[3_000_000:3_001_000]


def test_an_object_of_a_bucket_that_changes_is_no_more_the_same(bucket):
    file = RemoteFile(Address.of("s3://cohort/top.svs"))
    bucket("top.svs", DATA[::-1])
    with pytest.raises(StoreError, match=r"s3://cohort/top.svs was changed while it was read"):
        file.read(3_000_000, 1000)


@pytest.mark.usefixtures("bucket")
def test_what_is_not_in_a_bucket_is_said():
    with pytest.raises(FileNotFoundError, match=r"no such object: s3://cohort/none.svs"):
        RemoteFile(Address.of("s3://cohort/none.svs"))
    with pytest.raises(StoreError, match="s3://none/ cannot be read: the server answered 404"):
        store_of(Address.of("s3://none")).below()


def test_what_a_bucket_refuses_is_said_without_keys(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    server.user = "somebody"
    with pytest.raises(StoreError, match=r"may not be read .* give AWS_ACCESS_KEY_ID and AWS_SEC"):
        RemoteFile(Address.of("s3://dir/x.svs"))


def test_without_an_account_it_is_said_what_to_give(monkeypatch):
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StoreError, match=r"az://box may not be read .* AZURE_STORAGE_ACCOUNT_NAME"):
        store_of(Address.of("az://box/x.svs"))
