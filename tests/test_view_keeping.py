"""What is kept is made once for all who ask, and never weighs more than it may."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from histofast.viewer.keeping import Kept


def test_a_value_is_made_once_for_all_who_ask():
    kept, made, go = Kept(most_bytes=10, weigh=len), [], threading.Event()

    def make():
        made.append(1)
        assert go.wait(30)
        return "abc"

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(kept.get, "key", make) for _ in range(4)]
        go.set()
        assert [each.result() for each in waiting] == ["abc"] * 4
    assert kept.get("key", make) == "abc"
    assert len(made) == 1


def test_the_least_recently_used_goes():
    kept = Kept(most_bytes=6, weigh=len)
    for key in "ab":
        kept.get(key, lambda: "xxx")
    kept.get("a", lambda: "not made again")
    kept.get("c", lambda: "xx")
    assert [kept.seen(key) for key in "abc"] == ["xxx", None, "xx"]
    assert kept.held_bytes == 5


def test_what_is_too_heavy_is_given_and_not_kept():
    kept = Kept(most_bytes=2, weigh=len)
    assert kept.get("a", lambda: "xxx") == "xxx"
    assert (kept.seen("a"), kept.held_bytes) == (None, 0)


def test_what_raises_is_tried_again():
    kept = Kept(most_bytes=2, weigh=len)
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: 1 // 0)
    assert kept.get("a", lambda: "x") == "x"
