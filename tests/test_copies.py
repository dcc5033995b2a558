"""Copies of pictures, against their definition and as laws."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_copies
from histofast.datasets import near_copies, resampled
from slide_files import picture

QUARTERS = ("", "turned by 90°", "turned by 180°", "turned by 270°")
WORDS = (*QUARTERS, "mirrored", *(f"mirrored, {turn}" for turn in QUARTERS[1:]))
SEEDS = st.integers(0, 2**32 - 1)


def texture(seed, *, px=96, coarse=8):
    """A picture of smooth random structure, as tissue is at low power."""
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 220, (coarse, coarse, 3), dtype=np.uint8)
    return resampled(small, px)


def prints_of(*pictures):
    return np.stack([resampled(np.ascontiguousarray(p), 12) for p in pictures])


def as_turns(found):
    return [(i, j, reference_copies.TURNS[WORDS.index(turn)]) for i, j, turn in found.pairs]


@settings(max_examples=40)
@given(seed=SEEDS, n=st.integers(0, 12), noise=st.integers(0, 12))
def test_the_search_is_its_definition(seed, n, noise):
    rng = np.random.default_rng(seed)
    bases = [texture(seed % 1000 + k, px=12, coarse=4) for k in range(3)]
    bases.append(np.full((12, 12, 3), 90, np.uint8))
    smalls = []
    for _ in range(n):
        turn = reference_copies.TURNS[rng.integers(8)]
        small = reference_copies.turned(bases[rng.integers(len(bases))], *turn).astype(int)
        small = small + rng.integers(-noise, noise + 1, small.shape)
        smalls.append(small.clip(0, 255).astype(np.uint8))
    prints = np.array(smalls, np.uint8).reshape(n, 12, 12, 3)
    found = near_copies(prints)
    wanted = reference_copies.near_copies(prints)
    assert [pair[:2] for pair in as_turns(found)] == [pair[:2] for pair in wanted]
    assert (found.found, found.searched + found.flat) == (len(wanted), n)
    if noise:  # no ties of turns
        assert as_turns(found) == wanted


@settings(max_examples=25)
@given(
    seed=SEEDS,
    turn=st.sampled_from(reference_copies.TURNS),
    px=st.integers(40, 130),
    quality=st.sampled_from([90, None]),
)
def test_turned_mirrored_resampled_and_encoded_copies_are_found(seed, turn, px, quality):
    one, other = texture(seed), texture(seed + 1)
    copy = np.ascontiguousarray(reference_copies.turned(resampled(one, px), *turn))
    if quality is not None:
        copy = imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(copy, level=quality))
    found = near_copies(prints_of(one, other, copy))
    assert as_turns(found) == [(0, 2, turn)]


@settings(max_examples=20)
@given(seed=SEEDS)
def test_different_textures_are_not_copies(seed):
    prints = prints_of(
        *(texture(seed + k) for k in range(6)), *(picture(40, 40, seed=k) for k in (1, 2))
    )
    assert near_copies(prints).pairs == ()


def test_the_work_is_bounded_and_what_it_left_out_told():
    one = texture(3, px=12)
    found = near_copies(np.stack([one] * 40), most=100)
    assert found.searched == 2  # 39 + 38 pairs, the next 37 are more than 100
    assert found.found == len(found.pairs) == 77
    assert near_copies(np.stack([one] * 40)).found == 780
    many = near_copies(np.stack([one] * 150))
    assert (many.found, len(many.pairs)) == (11175, 10000)


def test_turns_have_words():
    one = texture(5)
    turns = [np.ascontiguousarray(reference_copies.turned(one, *t)) for t in reference_copies.TURNS]
    for k, copy in enumerate(turns):
        (pair,) = near_copies(prints_of(one, copy)).pairs
        assert pair == (0, 1, WORDS[k])
    # The later one may have been found first: its turn is undone.
    darker = turns[1].clip(2, 255) - 2
    ((_, _, turn),) = near_copies(prints_of(one, darker)).pairs
    assert turn == "turned by 90°"


@pytest.mark.slow
def test_memory_does_not_grow_with_pairs():
    import tracemalloc

    rng = np.random.default_rng(0)
    base = rng.integers(100, 140, (1, 12, 12, 3))
    prints = (base + rng.integers(-40, 41, (6000, 12, 12, 3))).clip(0, 255).astype(np.uint8)
    tracemalloc.start()
    near_copies(prints[:3000])
    small = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    near_copies(prints)
    large = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert large <= 2.2 * small
