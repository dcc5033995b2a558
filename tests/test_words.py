"""Words of messages: one line, near names, counts; and numbers given as options."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from histofast import _words
from histofast._numbers import mpp_number, real_number, whole_number
from histofast._words import (
    clipped,
    count,
    did_you_mean,
    duration,
    first_line,
    one_line,
    without_secrets,
)


def test_examples():
    assert doctest.testmod(_words).failed == 0


def test_one_line_says_something_on_one_line():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(KeyError()) == "KeyError"
    assert one_line(PermissionError(13, "Permission denied", "/x")) == "/x: Permission denied"
    assert one_line(OSError(28, "No space left on device")) == "No space left on device"
    assert one_line("slide\nname") == "slide name"


def test_first_line_of_a_page():
    assert first_line(RuntimeError("\n  what it is\n at 0x12\n")) == "what it is"
    assert first_line(RuntimeError()) == "RuntimeError"


def test_clipped_is_never_longer():
    assert clipped("abcdef", 6) == "abcdef"
    assert clipped("abcdefg", 6) == "abc..."


def test_did_you_mean_says_nothing_where_no_name_is_near():
    assert did_you_mean("xyz", ["resnet50"]) == ""
    assert did_you_mean("resnet05", ["resnet50", "resnet18"]).startswith(": did you mean resnet50")


def test_durations():
    assert [duration(s) for s in (0.04, 9.99, 10, 99, 100, 5999, 6000)] == [
        *("0.0 s", "10.0 s", "10 s", "99 s", "2 min", "100 min", "1.7 h")
    ]


def test_counts():
    assert count(2, "box") == "2 boxes"
    assert count(-1, "slide") == "-1 slides"


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_of_any_type(value):
    number = whole_number("n", value, at_least=1, at_most=3)
    assert number == 3
    assert type(number) is int


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5)])
def test_real_numbers_of_any_type(value):
    number = real_number("x", value, at_least=0, at_most=1)
    assert number == 0.5
    assert type(number) is float
    assert type(mpp_number("mpp", np.int32(1))) is float


def test_none_stays_none():
    assert whole_number("n", None, at_least=1) is None
    assert real_number("x", None, above=1) is None
    assert mpp_number("mpp", None) is None


@pytest.mark.parametrize("value", ["3", 3.0, True, [3]])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(TypeError, match="n must be a whole number, got"):
        whole_number("n", value)


@pytest.mark.parametrize("value", ["3", True, [3], 1j])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="x must be a number, got"):
        real_number("x", value)


@pytest.mark.parametrize(
    ("read", "value", "bounds", "message"),
    [
        (whole_number, 0, {"at_least": 1}, "n must be at least 1, got 0"),
        (whole_number, 256, {"at_least": 0, "at_most": 255}, "n must be within 0..255, got 256"),
        (whole_number, 4, {"at_most": 3}, "n must be at most 3, got 4"),
        (real_number, float("nan"), {"at_least": 0}, "n must be at least 0 and finite, got nan"),
        (real_number, float("inf"), {"above": 0}, "n must be above 0, got inf"),
        (real_number, 0, {"above": 0}, "n must be above 0, got 0"),
        (real_number, 1.5, {"at_least": 0, "at_most": 1}, "n must be within 0..1, got 1.5"),
        (mpp_number, 0.01, {}, "n must be within 0.05..20 um per pixel, got 0.01"),
        (mpp_number, float("nan"), {}, "n must be within 0.05..20 um per pixel, got nan"),
    ],
)
def test_numbers_out_of_range(read, value, bounds, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        read("n", value, **bounds)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:p%40s@h:8/a b", "https://h:8/a b"),
        ("'http://h/x.svs?sig=1&b=2' -o f", "'http://h/x.svs' -o f"),
        ("HTTPS:/me:pw@h/x#y, s3://key:pw@bkt/a?.svs", "HTTPS:/h/x s3://bkt/a?.svs"),
        ("mail me@h about s3://bkt/a@b.svs?", "mail me@h about s3://bkt/a@b.svs?"),
    ],
)
def test_addresses_are_shown_without_what_is_secret(text, shown):
    assert without_secrets(text) == shown
