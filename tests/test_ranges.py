"""Addresses, ranges that are merged, and what is fetched ahead: nothing here asks a server."""

from __future__ import annotations

import itertools
import pickle
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histofast._remote import Address, Ahead, merge_ranges, place_of, store_of
from histofast.errors import StoreError

# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown", "bucket", "key", "name"),
    [
        ("s3://bkt/a/b c.svs", "s3://bkt/a/b c.svs", "bkt", "a/b c.svs", "b c.svs"),
        ("S3://bkt/a?b#c.svs", "s3://bkt/a?b#c.svs", "bkt", "a?b#c.svs", "a?b#c.svs"),
        ("gs://bkt", "gs://bkt/", "bkt", "", ""),
        ("az://box/dir/", "az://box/dir/", "box", "dir", "dir"),
        ("https://h:81/a%20b.svs?sig=x", "https://h:81/a%20b.svs", "h:81", "a%20b.svs", "a b.svs"),
        ("http://u:p%40@h/o/a%2Fb.tif#1", "http://h/o/a%2Fb.tif", "h", "o/a%2Fb.tif", "b.tif"),
    ],
)
def test_an_address_has_the_parts_of_a_path(text, shown, bucket, key, name):
    address = place_of("slides", text)
    assert (str(address), address.bucket, address.key) == (shown, bucket, key)
    assert (address.name, address.stem) == (name, Path(name).stem)
    assert address.suffix == Path(name).suffix


def test_a_path_that_was_an_address_is_one_again():
    assert place_of("slides", Path("s3://bkt/a/x.svs")) == Address.of("s3://bkt/a/x.svs")
    for path in ("slides/s3.svs", "s3/x.svs", "C:/x.svs", "s3:x.svs", Path("/a/https/x.svs")):
        assert place_of("slides", path) == Path(path)
    with pytest.raises(TypeError, match="slides must be a path, got 3"):
        place_of("slides", 3)


def test_what_is_secret_is_not_shown():
    address = Address.of("https://me:hunter2@h/x.svs?X-Amz-Signature=abc#top")
    shown = f"{address} {address!r} {address.parent} {address.at('y')!r}"
    assert "hunter2" not in shown
    assert "abc" not in shown
    assert address == Address.of("https://h/x.svs")
    assert address.secrets() == pickle.loads(pickle.dumps(address)).secrets()
    assert address.secrets() == ("me:hunter2", "X-Amz-Signature=abc")
    assert address.at("y").secrets() == address.secrets()


def test_addresses_that_name_nothing_are_refused_without_what_is_secret():
    for text, said in (
        ("x.svs", "x.svs is no address: it must begin with s3://"),
        ("s3:///x.svs", "s3:// must be followed by a bucket or a server"),
        ("s3://", "s3:// must be followed by a bucket or a server"),
        ("https://u:hunter2@/x.svs", "https:// must be followed by a bucket or a server"),
        ("s3://key:hunter2@bkt/x", "s3://bkt must be without credentials"),
    ):
        with pytest.raises(ValueError, match=said) as raised:
            Address.of(text)
        assert "hunter2" not in str(raised.value)


# --- merging --------------------------------------------------------------------------------------


def some_ranges(seed, n):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, 300, n), rng.integers(1, 41, n)], axis=1).tolist()


# Drawn one by one they take long where the machine is busy, which hypothesis takes for a fault.
RANGES = st.builds(some_ranges, st.integers(0, 2**32 - 1), st.integers(0, 40))


def array_of(ranges):
    return np.array(ranges, np.int64).reshape(-1, 2)


@settings(max_examples=60)
@given(ranges=RANGES, gap=st.integers(0, 20))
def test_merged_ranges_are_the_bytes_with_small_gaps_closed(ranges, gap):
    """By definition: mark every byte, fill runs of unmarked ones that are short, read off the runs."""
    marked = np.zeros(400, bool)
    for offset, count in ranges:
        marked[offset : offset + count] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(int)))
    runs = edges.reshape(-1, 2).tolist()
    wanted = runs[:1]
    for start, stop in runs[1:]:
        if start - wanted[-1][1] <= gap:
            wanted[-1][1] = stop
        else:
            wanted.append([start, stop])
    got = merge_ranges(array_of(ranges), gap_bytes=gap, block_bytes=10**6)
    assert [[block.start, block.stop] for block in got] == wanted


@settings(max_examples=60)
@given(ranges=RANGES, gap=st.integers(0, 20), most=st.integers(1, 80))
def test_every_range_lies_in_one_block_and_blocks_are_bounded(ranges, gap, most):
    blocks = merge_ranges(array_of(ranges), gap_bytes=gap, block_bytes=most)
    members = [i for block in blocks for i in block.members.tolist()]
    assert sorted(members) == list(range(len(ranges)))
    for block in blocks:
        inside = [ranges[i] for i in block.members.tolist()]
        assert block.start == min(offset for offset, _ in inside)
        assert block.stop == max(offset + count for offset, count in inside)
        longest = max(count for _, count in inside)
        assert block.stop - block.start <= max(most, longest)
    for one, other in itertools.pairwise(blocks):
        next_stop = sum(ranges[int(other.members[0])])
        is_far, is_full = other.start - one.stop > gap, max(next_stop, one.stop) - one.start > most
        assert is_far or is_full


# --- fetching ahead -------------------------------------------------------------------------------

DATA = np.random.default_rng(0).bytes(1 << 20)


class Source:
    """Bytes that count how often they are asked for."""

    def __init__(self):
        self.asked, self.lock = [], threading.Lock()

    def fetch(self, offset, count):
        with self.lock:
            self.asked.append((offset, count))
        return DATA[offset : offset + count]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60))
def test_what_is_taken_is_what_is_there_in_any_order_near_the_planned_one(seed, n):
    rng = np.random.default_rng(seed)
    offsets = rng.permutation(900_000)[:n].tolist()
    ranges = array_of([(offset, 1 + offset % 5000) for offset in offsets])
    order = np.argsort(np.arange(n) + rng.integers(0, 7, n)).tolist()
    ahead = Ahead(Source().fetch)
    ahead.plan(ranges)
    for i in order:
        offset, count = ranges[i].tolist()
        assert ahead.take(offset, count) == DATA[offset : offset + count]
        assert ahead.take(offset, count) is None  # once
    assert ahead.held_bytes == 0


def test_a_range_that_is_planned_twice_is_fetched_once_and_taken_twice():
    source = Source()
    ahead = Ahead(source.fetch)
    ahead.plan(array_of([(5000, 10), (0, 10), (300_000, 10), (5000, 10)]))
    for offset in (0, 5000, 300_000, 5000):
        assert ahead.take(offset, 10) == DATA[offset : offset + 10]
    assert ahead.take(5000, 10) is None
    assert ahead.held_bytes == 0
    assert sorted(source.asked) == [(0, 5010), (300_000, 10)]


def test_no_more_is_held_than_fits(monkeypatch):
    monkeypatch.setattr("histofast._remote.ahead.BUFFER_BYTES", 100_000)
    monkeypatch.setattr("histofast._remote.ahead._WINDOW_BYTES", 20_000)
    monkeypatch.setattr("histofast._remote.ahead._WINDOW_MOST_BYTES", 40_000)
    ranges = array_of([(i * 1000, 1000) for i in range(1000)])
    source = Source()
    ahead = Ahead(source.fetch)
    ahead.plan(ranges)
    held = []
    for offset, count in ranges.tolist():
        held.append(ahead.held_bytes)
        assert ahead.take(offset, count) == DATA[offset : offset + count]
    assert 40_000 < max(held) <= 100_000
    assert sum(count for _, count in source.asked) == 1_000_000  # each byte once
    assert len(source.asked) == 50

    ahead.plan(
        ranges
    )  # whoever asks far from the order is served, and what it passes over is let go
    assert ahead.take(900_000, 1000) == DATA[900_000:901_000]
    assert ahead.held_bytes <= 100_000
    assert ahead.take(0, 1000) is None
    ahead.close()
    assert ahead.held_bytes == 0


def test_a_failure_is_told_to_who_takes_what_failed():
    def fetch(offset, count):
        if offset >= 500_000:
            raise StoreError("it is gone")
        return DATA[offset : offset + count]

    ahead = Ahead(fetch)
    ahead.plan(array_of([(0, 1000), (600_000, 1000)]))
    assert ahead.take(0, 1000) == DATA[:1000]
    with pytest.raises(StoreError, match="it is gone"):
        ahead.take(600_000, 1000)


def test_many_threads_take_what_was_planned():
    ranges = array_of([(i * 500, 500) for i in range(2000)])
    ahead = Ahead(Source().fetch)
    ahead.plan(ranges)
    wrong = []

    def work(part):
        for offset, count in ranges[part::4].tolist():
            if ahead.take(offset, count) != DATA[offset : offset + count]:
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_without_obstore_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StoreError, match=r"need obstore, .*: pip install 'histofast\[s3\]'$"):
        store_of(Address.of("https://h/x.svs"))
