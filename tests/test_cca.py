"""CCA, SVCCA, PWCCA and the published protocol against published values, definitions and laws."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from histofast.similarity import Protocol, cca, published_protocol, pwcca, svcca

SEEDS = st.integers(0, 99)


@pytest.fixture(scope="module")
def published():
    """The arrays of Kornblith's published demonstration."""
    random = np.random.RandomState(1337)
    x = random.randn(100, 10)
    return x, random.randn(100, 10) + x


def related(seed, n, p, q):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, p)), rng.normal(size=(n, q))
    y[:, : min(p, q)] += x[:, : min(p, q)]
    return x, y


# --- Published values ---------------------------------------------------------------------------


def test_published_cca(published):
    found = cca(*published)
    assert found.r2 == pytest.approx(0.5453963322, abs=1e-9)
    assert found.mean_rho == pytest.approx(0.7310139588, abs=1e-9)
    assert cca(*published, centre=False).r2 == pytest.approx(0.5431238559, abs=1e-9)
    assert (found.rank_x, found.rank_y, found.rho.shape) == (10, 10, (10,))


def test_published_pwcca(published):
    found = pwcca(*published)
    assert found.x_to_y == pytest.approx(0.7346677196, abs=1e-9)
    assert found.y_to_x == pytest.approx(0.7368405675, abs=1e-9)


def test_published_svcca(published):
    assert svcca(*published, keep=0.9).value == pytest.approx(0.7057648081, abs=1e-9)


@pytest.mark.parametrize(
    ("keep", "of", "kept"), [(0.99, "squares", 54), (0.99, "values", 479), (20, "count", 20)]
)
def test_what_99_percent_keeps(rng, keep, of, kept):
    """Of 512 singular values 1 / i."""
    left, _ = np.linalg.qr(rng.normal(size=(1024, 513)) - rng.normal(size=513))
    left = np.linalg.qr(left - left.mean(axis=0))[0][:, :512]
    x = left / np.arange(1, 513)
    found = svcca(x, x, keep=keep, of=of)
    assert (found.kept_x, found.kept_y, found.keep, found.of) == (kept, kept, keep, of)
    assert found.value == pytest.approx(1)


# --- Definitions --------------------------------------------------------------------------------


@given(
    n=st.integers(30, 80),
    p=st.integers(1, 12),
    q=st.integers(1, 12),
    seed=SEEDS,
    centre=st.booleans(),
)
@settings(max_examples=50)
def test_cca_is_as_defined(n, p, q, seed, centre):
    x, y = related(seed, n, p, q)
    found = cca(x + 1, y, centre=centre)
    wanted = reference.canonical_correlations(x + 1, y, centre)
    np.testing.assert_allclose(found.rho**2, wanted**2, atol=1e-9)
    assert found.mean_rho == found.rho.mean()
    assert found.r2 == pytest.approx((wanted**2).sum() / min(p, q), abs=1e-9)


@given(n=st.integers(30, 80), p=st.integers(1, 12), q=st.integers(1, 12), seed=SEEDS)
@settings(max_examples=50)
def test_pwcca_is_as_defined(n, p, q, seed):
    x, y = related(seed, n, p, q)
    found = pwcca(x, y)
    assert found.x_to_y == pytest.approx(reference.pwcca(x, y), abs=1e-9)
    assert found.y_to_x == pytest.approx(reference.pwcca(y, x), abs=1e-9)
    assert pwcca(y, x).x_to_y == pytest.approx(found.y_to_x, abs=1e-12)


@given(
    n=st.integers(30, 60),
    p=st.integers(1, 90),
    q=st.integers(1, 90),
    rule=st.sampled_from([(0.3, "squares"), (0.2, "values"), (1, "count"), (1.0, "squares")]),
    seed=SEEDS,
)
@settings(max_examples=50)
def test_svcca_is_as_defined(n, p, q, rule, seed):
    keep, of = rule
    if keep == 1.0 and of == "squares":
        p, q = p % 14 + 1, q % 14 + 1
    x, y = related(seed, n, p, q)
    x *= 1 + np.arange(p)
    found = svcca(x, y, keep=keep, of=of)
    assert found.value == pytest.approx(reference.svcca(x, y, keep, of), abs=1e-7)
    assert found.value == found.rho.mean()
    assert len(found.rho) == min(found.kept_x, found.kept_y)


# --- Laws ---------------------------------------------------------------------------------------


@given(
    n=st.integers(40, 80),
    p=st.integers(1, 10),
    q=st.integers(1, 10),
    shift=st.floats(-100, 100),
    seed=SEEDS,
)
@settings(max_examples=40)
def test_invertible_maps_change_nothing(n, p, q, shift, seed):
    x, y = related(seed, n, p, q)
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.normal(size=(p, p)))[0] * rng.uniform(0.01, 100, p)
    mapped = x @ turned @ np.linalg.qr(rng.normal(size=(p, p)))[0] + shift
    np.testing.assert_allclose(cca(mapped, y).rho, cca(x, y).rho, atol=1e-9)
    np.testing.assert_allclose(cca(mapped, x).rho, np.ones(p), atol=1e-9)
    assert pwcca(mapped, y).y_to_x == pytest.approx(pwcca(x, y).y_to_x, abs=1e-9)
    order = rng.permutation(n)
    np.testing.assert_allclose(cca(x[order], y[order]).rho, cca(x, y).rho, atol=1e-9)


@given(n=st.integers(40, 80), p=st.integers(2, 60), scale=st.floats(1e-3, 1e3), seed=SEEDS)
@settings(max_examples=40)
def test_svcca_ignores_rotation_scale_and_shift(n, p, scale, seed):
    x, y = related(seed, n, p, 9)
    x *= 1 + np.arange(p)
    rng = np.random.default_rng(seed)
    moved = scale * (x @ np.linalg.qr(rng.normal(size=(p, p)))[0] - 3)
    wanted, found = svcca(x, y, keep=0.5), svcca(moved, y, keep=0.5)
    assert (found.kept_x, found.kept_y) == (wanted.kept_x, wanted.kept_y)
    assert found.value == pytest.approx(wanted.value, abs=1e-9)


@pytest.mark.parametrize("measure", [cca, svcca, pwcca])
def test_shift_in_float32(rng, measure):
    x, y = rng.normal(size=(200, 8)), rng.normal(size=(200, 9))
    y[:, :8] += x
    found = measure((x + 100).astype(np.float32), y.astype(np.float32))
    # Rounding of the shifted features themselves is 4e-6 of their spread.
    np.testing.assert_allclose(found.rho, measure(x, y).rho, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_neither_overflow_nor_underflow(rng, scale):
    x, y = rng.normal(size=(50, 5)), rng.normal(size=(50, 4))
    np.testing.assert_allclose(cca(scale * x, y).rho, cca(x, y).rho, atol=1e-9)
    assert pwcca(scale * x, y).x_to_y == pytest.approx(pwcca(x, y).x_to_y, abs=1e-9)
    assert svcca(scale * x, y).value == pytest.approx(svcca(x, y).value, abs=1e-9)


def test_redundant_columns_change_nothing(rng):
    x, y = rng.normal(size=(60, 4)), rng.normal(size=(60, 3))
    dead = np.column_stack([x, np.zeros(60), np.full(60, 1e9 / 3), x[:, 0] - x[:, 1]])
    found = cca(dead, y)
    assert (found.rank_x, found.rank_y) == (4, 3)
    np.testing.assert_allclose(found.rho, cca(x, y).rho, atol=1e-9)


def test_correlations_do_not_pass_1(rng):
    for _ in range(20):
        x = rng.normal(size=(50, 5))
        assert cca(x, x).rho.max() <= 1


# --- The published protocol ---------------------------------------------------------------------


def test_protocol_has_the_published_constants():
    published = Protocol()
    assert (published.n_rows, published.n_channels, published.n_repeats) == (10_000, 64, 5)


def test_protocol_draws_whole_images_and_the_same_channels(rng):
    """Every channel of every image holds its number; equal maps are found equal."""
    maps = rng.normal(size=(30, 70, 20, 25)).astype(np.float32)
    found = published_protocol(maps, 3 - 2 * maps, seed=1)
    assert (found.n_images, found.n_rows, found.n_channels) == (20, 10_000, 64)
    assert found.repeats.shape == (5,)
    assert found.value == pytest.approx(1, abs=1e-6)
    # Channels in another order share only those that both draws hit at the same place.
    assert published_protocol(maps, maps[:, ::-1], seed=1).value < 0.999


def test_protocol_is_the_mean_cca_of_folded_maps(rng):
    x = rng.normal(size=(3, 4, 10, 11))
    y = x + rng.normal(size=x.shape)
    found = published_protocol(x, y, protocol=Protocol(n_rows=330, n_repeats=2))
    rows = [a.transpose(0, 2, 3, 1).reshape(330, 4) for a in (x, y)]
    assert found.repeats.tolist() == pytest.approx([cca(*rows).mean_rho] * 2, abs=1e-9)
    assert (found.n_images, found.n_rows, found.n_channels) == (3, 330, 4)


@pytest.mark.parametrize(("side", "images"), [(112, 1), (56, 3), (28, 13), (14, 51), (7, 204)])
def test_images_that_10000_rows_take(side, images):
    maps = np.zeros((1, 1, side, side), np.float32) + np.arange(side, dtype=np.float32)
    maps = np.broadcast_to(maps, (images, 1, side, side))
    found = published_protocol(maps, maps, protocol=Protocol(n_repeats=1))
    assert found.n_images == images
    if images > 1:
        with pytest.raises(ValueError, match=f"x and y must have {images} images of {side} x"):
            published_protocol(maps[1:], maps[1:])


def test_protocol_repeats_by_its_seed(rng):
    x = rng.normal(size=(12, 20, 10, 10))
    y = x + rng.normal(size=x.shape)
    few = Protocol(n_rows=600, n_channels=8)
    first, second = (published_protocol(x, y, protocol=few, seed=4) for _ in range(2))
    assert first.repeats.tolist() == second.repeats.tolist()
    assert len(set(first.repeats)) == 5
    assert published_protocol(x, y, protocol=few, seed=5).value != first.value


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [cca, svcca, pwcca])
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones(9), ValueError, "x must be of shape (n, p), got (9,)"),
        (np.diag([1, 1, np.inf]), ValueError, "x must be finite, got NaN or infinity in 1 of 3"),
        (np.full((9, 2), 0.1), ValueError, "x must vary, got 9 equal rows: CCA is undefined"),
        (np.eye(9, dtype=int), TypeError, "x must be float16, float32 or float64, got int64"),
        (np.eye(1), ValueError, "x must have at least 3 rows, got 1"),
        (np.eye(10), ValueError, "x and y must have the same rows, got 10 and 9"),
    ],
)
def test_bad_arrays_are_refused(measure, x, error, message):
    with pytest.raises(error, match=re.escape(message)):
        measure(x, np.arange(9.0)[:, None])


@pytest.mark.parametrize("measure", [cca, pwcca])
@pytest.mark.parametrize(("n", "p", "q"), [(20, 20, 2), (20, 2, 30), (20, 10, 10), (20, 19, 1)])
def test_too_few_rows_are_refused(measure, n, p, q):
    x, y = related(0, n, p, q)
    message = "x and y must have more rows than both have directions, got 20 rows for "
    with pytest.raises(ValueError, match=message):
        measure(x, y)


def test_bad_rules_are_refused():
    x, y = related(0, 30, 20, 4)
    with pytest.raises(ValueError, match=r"keep must be above 0 and at most 1, got 20: of='count'"):
        svcca(x, y, keep=20)
    with pytest.raises(ValueError, match=r"keep must be above 0 and at most 1, got 0"):
        svcca(x, y, keep=0, of="values")
    with pytest.raises(TypeError, match="keep must be an integer, got float"):
        svcca(x, y, keep=0.99, of="count")
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        svcca(x, y, keep=0, of="count")
    with pytest.raises(ValueError, match="keep must be at most the directions of y, got 5 of 4"):
        svcca(x, y, keep=5, of="count")
    with pytest.raises(ValueError, match="of must be 'squares' or 'values' or 'count', got 'sum'"):
        svcca(x, y, of="sum")
    with pytest.raises(ValueError, match="got 30 rows for 20 \\+ 20: some correlations are 1"):
        svcca(x, x, keep=1.0)


def test_bad_maps_are_refused(rng):
    maps = rng.normal(size=(2, 3, 5, 5))
    with pytest.raises(ValueError, match=r"x must be of shape \(n, c, h, w\), got \(2, 3\)"):
        published_protocol(maps[:, :, 0, 0], maps)
    with pytest.raises(TypeError, match=r"y must be floating point maps \(n, c, h, w\), got int64"):
        published_protocol(maps, np.ones((2, 3, 5, 5), int))
    with pytest.raises(TypeError, match=r"x must be floating point maps \(n, c, h, w\), got list"):
        published_protocol([], maps)
    with pytest.raises(
        ValueError, match=r"x and y must have the same shape, got .*: pool the large"
    ):
        published_protocol(maps, maps[..., :4, :4])
    with pytest.raises(
        ValueError, match="x and y must have 400 images of 5 x 5 for 10000 rows, go"
    ):
        published_protocol(maps, maps)
    with pytest.raises(ValueError, match="n_repeats must be at least 1, got 0"):
        published_protocol(maps, maps, protocol=Protocol(n_repeats=0))
    with pytest.raises(TypeError, match="n_rows must be an integer, got float"):
        published_protocol(maps, maps, protocol=Protocol(n_rows=1e4))
    with pytest.raises(ValueError, match="x must vary, got 25 equal rows: CCA is undefined"):
        published_protocol(0 * maps, maps, protocol=Protocol(n_rows=25))
