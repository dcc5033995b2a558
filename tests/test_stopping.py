"""Ctrl-C that sets a flag: nothing it hits is left half done."""

from __future__ import annotations

import os
import queue
import signal
from contextlib import suppress

import numpy as np
import pytest

from histofast._stopping import Interrupted, deferred_interrupts, should_stop

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")


@pytest.fixture
def alarm():
    """`alarm(seconds)` presses Ctrl-C later, in the midst of whatever runs then."""
    former = [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGINT)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in zip((signal.SIGALRM, signal.SIGINT), former, strict=True):
        signal.signal(number, handler)


def passes_on(channel, alarm, delay_s):
    """Work with a queue that takes locks, until Ctrl-C comes."""
    with deferred_interrupts():
        alarm(delay_s)
        while not should_stop():
            channel.put(1)
            channel.get()
            with suppress(queue.Empty):
                channel.get(timeout=1e-6)


def test_interruptions_leave_no_queue_locked(alarm):
    """Raised where they hit, one of a hundred does, and the cleaning up waits for ever."""
    for delay_s in np.random.default_rng(0).uniform(1e-5, 4e-4, 2000):
        channel = queue.Queue(2)
        with pytest.raises(Interrupted):
            passes_on(channel, alarm, delay_s)
        assert not channel.mutex.locked()
