"""CKA against published values, its definition and its laws; intervals and nulls."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import reference
from histofast.similarity import (
    CkaAccumulator,
    block_bootstrap,
    cka,
    cka_interval,
    cka_minibatch,
    cka_pairs,
    hsic1,
    pack,
    permutation_null,
)

SEEDS = st.integers(0, 99)
ESTIMATORS = st.sampled_from(["debiased", "biased"])
KERNELS = st.sampled_from(["linear", "rbf"])


@pytest.fixture(scope="module")
def published():
    """The arrays of Kornblith's published demonstration."""
    random = np.random.RandomState(1337)
    x = random.randn(100, 10)
    return x, random.randn(100, 10) + x


def grams(x, y, kernel, rbf_scale=1.0):
    if kernel == "rbf":
        return reference.rbf_gram(x, rbf_scale), reference.rbf_gram(y, rbf_scale)
    return reference.linear_gram(x), reference.linear_gram(y)


def accumulated(x, y, batch_size, estimator="debiased"):
    similarity = CkaAccumulator()
    for start in range(0, len(x), batch_size):
        similarity.update(x[start : start + batch_size], y[start : start + batch_size])
    return similarity.value(estimator=estimator)


# --- Published values ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"estimator": "biased"}, 0.5576132566),
        ({"estimator": "debiased"}, 0.5134564895),
        ({"estimator": "biased", "kernel": "rbf", "rbf_scale": 0.5}, 0.6548311823),
        ({"estimator": "debiased", "kernel": "rbf", "rbf_scale": 0.5}, 0.4192767510),
        ({"estimator": "biased", "kernel": "rbf"}, 0.5758322230),
        ({"estimator": "debiased", "kernel": "rbf"}, 0.5016102704),
    ],
)
def test_published_cka(published, options, value):
    x, y = published
    assert cka(x, y, **options) == pytest.approx(value, abs=1e-9)
    assert cka_pairs([x], [y], **options)[0, 0] == pytest.approx(value, abs=1e-9)
    assert pack(x, **options) @ pack(y, **options) == pytest.approx(value, abs=1e-9)
    wide = [np.hstack([a, np.zeros((100, 100))]) for a in published]  # through Grams
    assert cka(*wide, **options) == pytest.approx(value, abs=1e-9)
    if "kernel" not in options:
        assert accumulated(x, y, 30, options["estimator"]) == pytest.approx(value, abs=1e-9)


def test_published_hsic(published):
    x, y = published
    k, gram_y = x @ x.T, y @ y.T
    assert hsic1(k, gram_y) == pytest.approx(9.89595578705, abs=1e-9)
    assert hsic1(k, k) == pytest.approx(9.24660370355, abs=1e-9)
    assert hsic1(gram_y, gram_y) == pytest.approx(40.1722311899, abs=1e-9)


@pytest.mark.parametrize(
    ("batch_size", "value"),
    [
        (10, 0.5437308120),
        (20, 0.5337183634),
        (25, 0.5132675064),
        (50, 0.5308439528),
        (100, 0.5134564895),
    ],
)
def test_published_minibatch_cka(published, batch_size, value):
    assert cka_minibatch(*published, batch_size=batch_size) == pytest.approx(value, abs=1e-9)


# --- Definitions --------------------------------------------------------------------------------


@given(
    n=st.integers(5, 40),
    p=st.integers(2, 60),
    q=st.integers(2, 60),
    kernel=KERNELS,
    estimator=ESTIMATORS,
    rbf_scale=st.sampled_from([0.3, 1.0, 4.0]),
    seed=SEEDS,
)
@settings(max_examples=60)
def test_cka_is_as_defined(n, p, q, kernel, estimator, rbf_scale, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, p)), rng.normal(size=(n, q))
    y[:, 0] += x[:, 0]
    wanted = getattr(reference, f"{estimator}_cka")(*grams(x, y, kernel, rbf_scale))
    options = {"kernel": kernel, "estimator": estimator, "rbf_scale": rbf_scale}
    assert cka(x, y, **options) == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    assert cka_pairs([x, y], **options)[1, 0] == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(n=st.integers(4, 40), p=st.integers(1, 60), q=st.integers(1, 60), seed=SEEDS)
@settings(max_examples=40)
def test_hsic_is_as_defined_and_centring_changes_nothing(n, p, q, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, p)), rng.normal(size=(n, q))
    wanted = reference.hsic1(x @ x.T, y @ y.T)
    size = np.sqrt(reference.hsic1(x @ x.T, x @ x.T) * reference.hsic1(y @ y.T, y @ y.T))
    assert hsic1(x @ x.T, y @ y.T) == pytest.approx(wanted, abs=1e-9 * (1 + size))
    x -= x.mean(axis=0)
    assert hsic1(x @ x.T, y @ y.T) == pytest.approx(wanted, abs=1e-9 * (1 + size))


@given(
    n=st.integers(8, 60),
    p=st.integers(2, 20),
    q=st.integers(2, 20),
    batch_size=st.integers(4, 30),
    seed=SEEDS,
)
@settings(max_examples=60)
def test_minibatch_cka_is_as_defined(n, p, q, batch_size, seed):
    rng = np.random.default_rng(seed)
    x, y = 1e3 * rng.normal(size=(n, p)) ** 3, rng.normal(size=(n, q))
    if 0 < n % batch_size < 4 and n > batch_size:
        with pytest.raises(ValueError, match="batch_size must leave at least 4 rows for the last"):
            cka_minibatch(x, y, batch_size=batch_size)
    else:
        wanted = reference.minibatch_cka(x, y, batch_size)
        assert cka_minibatch(x, y, batch_size=batch_size) == pytest.approx(
            wanted, rel=1e-9, abs=1e-9
        )


@given(
    n=st.integers(5, 60),
    p=st.integers(2, 20),
    q=st.integers(2, 20),
    estimator=ESTIMATORS,
    batch_size=st.integers(1, 60),
    shift=st.sampled_from([0, 100, -1e4]),
    seed=SEEDS,
)
@settings(max_examples=60)
def test_accumulated_cka_is_that_of_all_rows(n, p, q, estimator, batch_size, shift, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, p)), rng.normal(size=(n, q))
    y[:, 0] += x[:, 0]
    wanted = getattr(reference, f"{estimator}_cka")(x @ x.T, y @ y.T)
    found = accumulated(1e6 * (x + shift), y, batch_size, estimator)
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(
    counts=st.lists(st.integers(0, 30), min_size=2, max_size=4).filter(lambda c: sum(c) > 8),
    units=st.tuples(*[st.sampled_from([1e-80, 1e-3, 1.0, 1e50])] * 2),
    seed=SEEDS,
)
@example(counts=[1, 8], units=(1e-80, 1e-80), seed=16)
@settings(max_examples=40)
def test_merged_accumulators_have_seen_all_rows(counts, units, seed):
    rng = np.random.default_rng(seed)
    n = sum(counts)
    x = units[0] * (rng.normal(size=(n, 5)) + np.arange(n)[:, None])
    y = units[1] * (rng.normal(size=(n, 4)) + 7)
    y[:, :2] += x[:, :2] / units[0] * units[1]
    total = CkaAccumulator()
    for start, count in zip(np.cumsum([0, *counts]), counts, strict=False):
        part = CkaAccumulator()
        for row in range(start, start + count, 7):
            rows = slice(row, min(row + 7, start + count))
            part.update(x[rows], y[rows])
        total.merge(part)
        assert part.n == count
    assert total.n == n
    assert total.value() == pytest.approx(cka(x, y), abs=1e-9)
    assert total.value(estimator="biased") == pytest.approx(cka(x, y, estimator="biased"), abs=1e-9)


def test_merging_copies():
    x = np.random.default_rng(0).normal(size=(20, 3))
    first, copy = CkaAccumulator(), CkaAccumulator()
    first.update(x, x**2)
    before = first.value()
    copy.merge(first)
    copy.update(x + 1, x)
    assert (first.n, copy.n) == (20, 40)
    assert first.value() == before


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_accumulated_float32_is_close_to_float64(rng, dtype):
    x = rng.normal(size=(9000, 40)).astype(dtype)
    y = (rng.normal(size=(9000, 30)) + x[:, :30]).astype(dtype)
    for estimator in ("debiased", "biased"):
        wanted = cka(x.astype(np.float64), y.astype(np.float64), estimator=estimator)
        assert accumulated(x, y, 5000, estimator) == pytest.approx(wanted, abs=1e-7)
        assert cka(x, y, estimator=estimator) == pytest.approx(wanted, abs=1e-12)


def test_accumulator_goes_on_where_float32_ends(rng):
    """The first rows set the unit; later ones are 1e20 times as large."""
    x, y = (rng.normal(size=(60, 3)).astype(np.float32) for _ in range(2))
    x[30:] *= 1e20
    assert accumulated(x, y, 30) == pytest.approx(cka(x, y), abs=1e-6)


def test_accumulator_starts_with_equal_rows(rng):
    x, y = rng.normal(size=(60, 3)), rng.normal(size=(60, 4))
    x[:20] = x[0]
    assert accumulated(x, y, 20) == pytest.approx(cka(x, y), abs=1e-9)


@given(
    n_groups=st.integers(3, 8),
    n=st.integers(24, 60),
    p=st.integers(1, 20),
    estimator=ESTIMATORS,
    kernel=KERNELS,
    seed=SEEDS,
)
@settings(max_examples=25)
def test_interval_is_as_defined(n_groups, n, p, estimator, kernel, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, p)), rng.normal(size=(n, 4))
    y[:, 0] += x[:, 0]
    group_of = np.r_[np.arange(n_groups), rng.integers(n_groups, size=n - n_groups)]
    k, gram_y = grams(x, y, kernel)
    if estimator == "debiased":
        k, gram_y = reference.u_centred(k), reference.u_centred(gram_y)
    else:
        h = np.eye(n) - 1 / n
        k, gram_y = h @ k @ h, h @ gram_y @ h
    draws = np.random.default_rng(5).multinomial(n_groups, [1 / n_groups] * n_groups, size=15)
    resamples = [
        reference.resampled_cka(k, gram_y, group_of, np.repeat(np.arange(n_groups), times))
        for times in draws
    ]
    found = cka_interval(
        x,
        y,
        groups=group_of,
        estimator=estimator,
        kernel=kernel,
        n_resamples=15,
        seed=5,
        confidence=0.8,
    )
    assert (found.n_groups, found.n_resamples, found.confidence) == (n_groups, 15, 0.8)
    assert found.value == pytest.approx(cka(x, y, estimator=estimator, kernel=kernel), abs=1e-9)
    assert [found.low, found.high] == pytest.approx(np.quantile(resamples, [0.1, 0.9]), abs=1e-9)


# --- Laws ---------------------------------------------------------------------------------------


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100), seed=SEEDS, kernel=KERNELS)
@settings(max_examples=40)
def test_rotation_scale_and_shift_change_nothing(scale, shift, seed, kernel):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(30, 7)), rng.normal(size=(30, 5))
    rotation, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    moved = scale * (x @ rotation) + shift
    for estimator in ("debiased", "biased"):
        options = {"kernel": kernel, "estimator": estimator}
        assert cka(moved, y, **options) == pytest.approx(cka(x, y, **options), abs=1e-9)
        assert cka(moved, x, **options) == pytest.approx(1, abs=1e-9)
    assert cka_minibatch(moved, y, batch_size=10) == pytest.approx(
        cka_minibatch(x, y, batch_size=10), abs=1e-9
    )
    assert accumulated(moved, y, 11) == pytest.approx(cka(x, y), abs=1e-9)


@given(n=st.integers(5, 40), seed=SEEDS, kernel=KERNELS, estimator=ESTIMATORS)
@settings(max_examples=30)
def test_order_and_sides_change_nothing(n, seed, kernel, estimator):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 7)), rng.normal(size=(n, 5))
    order = rng.permutation(n)
    options = {"kernel": kernel, "estimator": estimator}
    assert cka(x[order], y[order], **options) == pytest.approx(cka(x, y, **options), abs=1e-9)
    assert cka(y, x, **options) == pytest.approx(cka(x, y, **options), abs=1e-12)


@pytest.mark.parametrize("dims", [5, 32])  # through cross products, and through Grams
def test_shift_in_float32(rng, dims):
    x, y = rng.normal(size=(64, dims)), rng.normal(size=(64, dims))
    y += x
    shifted = (x + 100).astype(np.float32)
    small = y.astype(np.float32)
    assert cka(shifted, y) == pytest.approx(cka(x, y), abs=1e-6)
    assert cka_minibatch(shifted, y, batch_size=16) == pytest.approx(
        cka_minibatch(x, y, batch_size=16), abs=1e-6
    )
    assert cka_pairs([shifted], [small])[0, 0] == pytest.approx(cka(x, y), abs=1e-6)
    assert accumulated(shifted, small, 16) == pytest.approx(cka(x, y), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
@pytest.mark.parametrize("dims", [5, 32])
def test_neither_overflow_nor_underflow(rng, scale, dims):
    x, y = rng.normal(size=(50, dims)), rng.normal(size=(50, dims))
    y += x
    assert cka(scale * x, y) == pytest.approx(cka(x, y), abs=1e-9)
    assert cka_pairs([scale * x], [y])[0, 0] == pytest.approx(cka(x, y), abs=1e-9)
    assert accumulated(scale * x, y, 20) == pytest.approx(cka(x, y), abs=1e-9)
    assert cka_interval(scale * x, y, seed=3).high == pytest.approx(
        cka_interval(x, y, seed=3).high, abs=1e-9
    )


def test_large_constant_column_changes_nothing(rng):
    x, y = rng.normal(size=(60, 8)), rng.normal(size=(60, 9))
    with_offset = np.column_stack([x, np.full(60, 1e9 / 3)])
    assert cka(with_offset, y) == pytest.approx(cka(x, y), abs=1e-9)
    for p in (8, 70):
        wide = np.hstack([with_offset, np.zeros((60, p))])
        for estimator in ("debiased", "biased"):
            assert cka(wide, y, estimator=estimator) == pytest.approx(
                cka(x, y, estimator=estimator), abs=1e-9
            )


def test_both_routes_agree(rng):
    """Columns of zeros change nothing but the route that is cheaper."""
    x, y = rng.normal(size=(90, 20)), rng.normal(size=(90, 30))
    y[:, :20] += x
    wide = np.hstack([x, np.zeros((90, 60))])
    groups = np.arange(90) // 15
    for estimator in ("debiased", "biased"):
        options = {"estimator": estimator, "seed": 1}
        assert cka(wide, y, estimator=estimator) == pytest.approx(
            cka(x, y, estimator=estimator), abs=1e-9
        )
        narrow = permutation_null(x, y, n_permutations=5, **options)
        through_grams = permutation_null(wide, y, n_permutations=5, **options)
        np.testing.assert_allclose(narrow.shuffled, through_grams.shuffled, atol=1e-9)
        assert narrow.value == pytest.approx(through_grams.value, abs=1e-9)
        found = cka_interval(x, y, groups=groups, **options)
        assert found.low < found.value < found.high
        through_grams = cka_interval(wide, y, groups=groups, **options)
        assert [found.low, found.high] == pytest.approx(
            [through_grams.low, through_grams.high], abs=1e-9
        )


def test_independent_features_have_no_debiased_similarity(rng):
    x, y = rng.normal(size=(256, 4096)), rng.normal(size=(256, 4096))
    assert abs(cka(x, y)) < 0.02
    assert cka(x, y, estimator="biased") > 0.9


def test_interval_of_independent_features_covers_0():
    """Repeats taken for samples of their own would put all of the interval above 0."""
    covered, naive = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(40, 100)), rng.normal(size=(40, 100))
        found = cka_interval(x, y, n_resamples=200, seed=seed)
        covered += found.low <= 0 <= found.high
        if seed < 3:
            repeats = block_bootstrap(
                lambda rows, x=x, y=y: cka(x[rows], y[rows]), np.arange(40), n_resamples=50
            )
            naive += repeats.low <= 0
    assert covered >= 36
    assert naive == 0


def test_interval_covers_the_similarity_of_many_samples():
    """Slides of 8 patches that share much; 30 slides against what 6,000 rows tell."""

    def sample(rng, n_groups):
        slide = rng.normal(size=(n_groups, 1, 6)).repeat(8, axis=1).reshape(-1, 6)
        x = slide + rng.normal(size=(8 * n_groups, 6))
        y = x @ np.diag([1, 1, 1, 0, 0, 0]) + rng.normal(size=x.shape)
        return x, y, np.arange(n_groups).repeat(8)

    truth = cka(*sample(np.random.default_rng(99), 5000)[:2])
    covered, blind = 0, 0
    for seed in range(60):
        x, y, groups = sample(np.random.default_rng(seed), 30)
        found = cka_interval(x, y, groups=groups, n_resamples=300, seed=seed)
        covered += found.low <= truth <= found.high
        rows = cka_interval(x, y, n_resamples=300, seed=seed)
        blind += rows.high - rows.low < found.high - found.low
    assert covered >= 50
    assert blind >= 55


def test_null_is_about_0_and_below_what_is_related(rng):
    x = rng.normal(size=(80, 60))
    y = x + rng.normal(size=x.shape)
    null = permutation_null(x, y, n_permutations=200)
    assert null.value == pytest.approx(cka(x, y), abs=1e-12)
    assert abs(null.shuffled.mean()) < 0.01
    assert null.p_value == pytest.approx(1 / 201)
    assert null.shuffled.max() >= null.upper(0.99) >= null.upper(0.5) > null.shuffled.min()
    order = np.random.default_rng(0).permutation(80)
    assert null.shuffled[0] == pytest.approx(cka(x, y[order]), abs=1e-9)
    unrelated = permutation_null(x, rng.normal(size=x.shape), n_permutations=200)
    assert unrelated.p_value > 0.01


def test_p_values_of_unrelated_features_are_even():
    values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 3))
        values.append(permutation_null(x, y, n_permutations=39, seed=seed).p_value)
    assert 0.35 < np.mean(values) < 0.65


def test_block_bootstrap_draws_whole_groups():
    groups = np.array(["b", "a", "a", "c", "b", "c"])
    drawn = []

    def share_of_a(rows):
        drawn.append(groups[rows])
        return np.mean(groups[rows] == "a")

    found = block_bootstrap(share_of_a, groups, n_resamples=300, seed=1, confidence=0.9)
    assert found.value == pytest.approx(1 / 3)
    assert (found.low, found.high) == (0, pytest.approx(2 / 3))
    assert (found.n_groups, found.n_resamples, found.confidence) == (3, 300, 0.9)
    for rows in drawn:
        assert len(rows) == 6
        assert all(np.sum(rows == group) % 2 == 0 for group in "abc")
    again = block_bootstrap(share_of_a, groups, n_resamples=300, seed=1, confidence=0.9)
    assert again == found


def test_pairs_of_undefined_layers(rng):
    x, dead = rng.normal(size=(10, 3)), np.ones((10, 5))
    with pytest.raises(ValueError, match=r"features_b\[1\] must vary, got 10 equal rows"):
        cka_pairs([x], [x, dead])
    found = cka_pairs([x], [x, dead], undefined="nan")
    assert found[0, 0] == pytest.approx(1)
    assert np.isnan(found[0, 1])
    assert np.isnan(np.diag(cka_pairs([x, dead], undefined="nan"))).tolist() == [False, True]


def test_inputs_are_left_as_they_are(rng):
    x, y = rng.normal(size=(30, 5)), rng.normal(size=(30, 40))
    x.flags.writeable = y.flags.writeable = False
    cka(x, y)
    cka(x, x)
    hsic1(y @ y.T, x @ x.T)
    cka_interval(x, y)
    permutation_null(x, x, n_permutations=2)
    accumulated(x, y, 10)
    cka(x[::-1, ::2], np.asfortranarray(y))


# --- Refusals -----------------------------------------------------------------------------------

TWO_SIDES = {
    "cka": cka,
    "minibatch": lambda x, y: cka_minibatch(x, y, batch_size=4),
    "accumulator": lambda x, y: accumulated(x, y, 10**6),
    "interval": cka_interval,
    "null": permutation_null,
}


@pytest.mark.parametrize("measure", TWO_SIDES.values(), ids=TWO_SIDES)
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((4, 2, 2)), ValueError, "x must be of shape (n, p), got (4, 2, 2)"),
        (np.ones((4, 0)), ValueError, "x must have at least 1 column, got shape (4, 0)"),
        (
            np.diag([1, 1, np.inf, np.nan]),
            ValueError,
            "x must be finite, got NaN or infinity in 2 of 4 rows",
        ),
        (np.full((4, 2), 0.1), ValueError, "x must vary, got 4 equal rows: CKA is undefined"),
        (np.full((40, 2), 0.1), ValueError, "x must vary, got 40 equal rows: CKA is undefined"),
        (
            np.full((9, 1), 1e301),
            ValueError,
            "x must be at most 1e+300 in size, got 1e+301: scale it",
        ),
        (
            np.arange(12).reshape(4, 3),
            TypeError,
            "x must be float16, float32 or float64, got int64: convert it with .astype",
        ),
        (np.full((4, 2), "a"), TypeError, "x must be float16, float32 or float64, got str"),
        ([[1.0]] * 4, TypeError, "x must be a NumPy array (n, p), got list"),
    ],
)
def test_bad_arrays_are_refused(measure, x, error, message):
    good = np.random.default_rng(0).normal(size=(len(x), 3))
    with pytest.raises(error, match=re.escape(message)):
        measure(x, good)
    with pytest.raises(error, match=re.escape("y" + message[1:])):
        measure(good, x)


@pytest.mark.parametrize("measure", TWO_SIDES.values(), ids=TWO_SIDES)
def test_too_few_rows_and_rows_that_do_not_match_are_refused(measure):
    for n in (1, 3):
        with pytest.raises(ValueError, match=f"at least 4 rows, got {n}"):
            measure(np.eye(n), np.eye(n))
    with pytest.raises(ValueError, match="x and y must have the same rows, got 4 and 5"):
        measure(np.eye(4), np.eye(5))


@pytest.mark.parametrize("p", [2, 30])
def test_equally_far_rows_have_no_debiased_similarity(rng, p):
    """One row apart from equal others, or a simplex: nothing is left when U-centred."""
    one_apart = np.zeros((20, p))
    one_apart[3] = 5
    y = rng.normal(size=(20, 3))
    for x in (one_apart, np.eye(20)):
        assert 0 < cka(x, y, estimator="biased") < 1
        for measure in (
            cka,
            lambda x, y: accumulated(x, y, 7),
            lambda x, y: accumulated(x.astype(np.float32), y.astype(np.float32), 7),
            lambda x, y: cka_minibatch(x, y, batch_size=10),
        ):
            with pytest.raises(ValueError, match="x must differ in its distances, got rows equal"):
                measure(x, y)


def test_bad_arguments_are_refused(rng):
    x = rng.normal(size=(12, 3))
    for measure in (cka, cka_interval, permutation_null):
        with pytest.raises(ValueError, match="estimator must be 'debiased' or 'biased', got 'ha"):
            measure(x, x, estimator="half")
        with pytest.raises(ValueError, match="kernel must be 'linear' or 'rbf', got 'cubic'"):
            measure(x, x, kernel="cubic")
        with pytest.raises(ValueError, match="rbf_scale must be between 1e-6 and 1e6, got 0"):
            measure(x, x, kernel="rbf", rbf_scale=0)
        with pytest.raises(ValueError, match="rbf needs a median distance above 0, got equal rows"):
            measure(np.r_[x[:2], np.ones((10, 3))], x, kernel="rbf")
    with pytest.raises(ValueError, match="batch_size must be at least 4, got 3"):
        cka_minibatch(x, x, batch_size=3)
    with pytest.raises(TypeError, match="batch_size must be an integer, got float"):
        cka_minibatch(x, x, batch_size=4.0)
    with pytest.raises(
        ValueError, match="got 10 for 12 rows, which leaves 2: leave them out or change it"
    ):
        cka_minibatch(x, x, batch_size=10)
    with pytest.raises(ValueError, match="undefined must be 'raise' or 'nan', got 'no'"):
        cka_pairs([x], undefined="no")
    with pytest.raises(ValueError, match="n_permutations must be at least 1, got 0"):
        permutation_null(x, x, n_permutations=0)
    with pytest.raises(ValueError, match="confidence must be between 0 and 1, got 95"):
        permutation_null(x, x, n_permutations=2).upper(95)


def test_bad_lists_of_features_are_refused(rng):
    x = rng.normal(size=(12, 3))
    with pytest.raises(TypeError, match=r"features_a must be a sequence of arrays \(n, p\), got n"):
        cka_pairs(x)
    with pytest.raises(ValueError, match="features_b must hold at least 1 array, got none"):
        cka_pairs([x], [])
    with pytest.raises(ValueError, match=r"features_b\[0\] must have the rows of features_a\[0\],"):
        cka_pairs([x], [x[1:]])
    with pytest.raises(TypeError, match=r"features_a\[1\] must be float16, float32 or float64"):
        cka_pairs([x, np.eye(12, dtype=int)])
    with pytest.raises(ValueError, match="features must vary, got 12 equal rows"):
        pack(np.ones((12, 2)))


def test_bad_grams_are_refused():
    with pytest.raises(ValueError, match=r"gram_x must be of shape \(n, n\), got \(4, 5\)"):
        hsic1(np.ones((4, 5)), np.eye(4))
    with pytest.raises(ValueError, match="gram_y must have at least 4 rows, got 3"):
        hsic1(np.eye(4), np.eye(3))
    with pytest.raises(ValueError, match="gram_y must be symmetric, got one that is not"):
        hsic1(np.eye(4), np.triu(np.ones((4, 4))))
    with pytest.raises(ValueError, match="gram_x and gram_y must have the same rows, got 4 and 5"):
        hsic1(np.eye(4), np.eye(5))
    with pytest.raises(TypeError, match="gram_x must be a NumPy array"):
        hsic1(None, np.eye(5))


def test_bad_batches_are_refused_whole(rng):
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 4))
    similarity = CkaAccumulator()
    with pytest.raises(ValueError, match="CKA needs at least 4 rows, got 0"):
        similarity.value()
    similarity.update(x, y)
    before = similarity.value()
    with pytest.raises(ValueError, match="y must have 4 columns as before, got 3"):
        similarity.update(x, x)
    with pytest.raises(ValueError, match="y must be finite, got NaN or infinity in 1 of 12 rows"):
        similarity.update(x, np.where(np.arange(12)[:, None] == 11, np.nan, y))
    with pytest.raises(ValueError, match="x must have at least 1 rows, got 0"):
        similarity.update(x[:0], y[:0])
    with pytest.raises(ValueError, match="estimator must be 'debiased' or 'biased', got 'half'"):
        similarity.value(estimator="half")
    other = CkaAccumulator()
    similarity.merge(other)
    other.update(x, x)
    with pytest.raises(ValueError, match=r"other must have features of sizes \(3, 4\), got \(3, "):
        similarity.merge(other)
    with pytest.raises(TypeError, match="other must be a CkaAccumulator, got int"):
        similarity.merge(3)
    assert similarity.n == 12
    assert similarity.value() == before


def test_bad_groups_are_refused(rng):
    x = rng.normal(size=(12, 3))

    def mean(rows):
        return float(x[rows].mean())

    for resample in (
        lambda groups, **options: cka_interval(x, x, groups=groups, **options),
        lambda groups, **options: block_bootstrap(mean, groups, **options),
    ):
        with pytest.raises(TypeError, match=r"groups must be a NumPy array \(n,\), got list"):
            resample(["a"] * 12)
        with pytest.raises(ValueError, match=r"groups must be of shape \(n,\), got \(12, 1\)"):
            resample(np.ones((12, 1)))
        with pytest.raises(ValueError, match="groups must be at least 2, got 1: one cannot be re"):
            resample(np.ones(12))
        groups = np.arange(12) // 3
        with pytest.raises(ValueError, match="n_resamples must be at least 2, got 1"):
            resample(groups, n_resamples=1)
        with pytest.raises(ValueError, match="confidence must be between 0 and 1, got 1"):
            resample(groups, confidence=1)
    with pytest.raises(ValueError, match="groups must have one entry per row, got 11 for 12 rows"):
        cka_interval(x, x, groups=np.arange(11))
    with pytest.raises(ValueError, match="groups must be more than 4, got no pairs that vary in"):
        cka_interval(x[:4], x[:4])
    with pytest.raises(ValueError, match="statistic_of_rows must be finite, got NaN or infinity"):
        block_bootstrap(lambda rows: np.nan, np.arange(12))
