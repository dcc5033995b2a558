"""Concepts against their definitions; regressions of them: what is told, and what only seems told."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_concepts as reference
from histofast.explain.concepts import (
    CONCEPTS,
    GLCM_FEATURES,
    check_concepts,
    deal,
    glcm,
    measure,
    regress,
)

ALL = tuple(CONCEPTS)

# --- Concepts -------------------------------------------------------------------------------------


def stained(rng, n=3, side=24):
    """Pink pictures with a dark blue square each: nuclei of a kind."""
    images = np.full((n, side, side, 3), (225, 170, 200), np.int64)
    for image in images:
        y, x = rng.integers(0, side - 8, 2)
        image[y : y + 7, x : x + 6] = (70, 40, 130)
    return np.clip(images + rng.integers(-12, 13, images.shape), 0, 255).astype(np.uint8)


@settings(max_examples=40)
@given(
    image=hnp.arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 9), st.just(3))),
    threshold=st.floats(0.05, 1.5),
)
def test_concepts_are_those_of_the_definitions(image, threshold):
    found = dict(
        zip(ALL, measure(image[np.newaxis], names=ALL, nuclei_threshold=threshold)[0], strict=True)
    )
    amounts = reference.stain_amounts(image)
    areas = reference.nuclei(image, threshold)
    texture = reference.glcm_features(reference.glcm_counts(image, 0, 1, 256))
    want = dict(zip(GLCM_FEATURES, texture, strict=True)) | {
        "haematoxylin": amounts[..., 0].mean(),
        "eosin": amounts[..., 1].mean(),
        "haematoxylin_entropy": reference.entropy(amounts[..., 0]),
        "eosin_entropy": reference.entropy(amounts[..., 1]),
        "colourfulness": reference.colourfulness(image),
        "brightness": (image @ [0.2125, 0.7154, 0.0721]).mean(),
        "nuclei_count": len(areas),
        "nuclei_area": sum(areas) / image[..., 0].size,
    }
    assert set(found) == set(want)
    for name, value in want.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name


def test_nuclei_of_a_plain_threshold(rng):
    images = stained(rng)
    found = measure(images, names=["nuclei_area", "nuclei_count"])
    for image, (area, count) in zip(images, found, strict=True):
        areas = reference.nuclei(image, 0.5)
        assert (area, count) == (sum(areas) / 24**2, len(areas))
    assert (found[:, 1] == 1).all()


def test_what_is_measured_by_default_needs_no_threshold(rng):
    names = check_concepts(None)
    assert set(ALL) - set(names) == {"nuclei_count", "nuclei_area"}
    assert measure(stained(rng)).shape == (3, len(names))


def test_batches_change_nothing(rng):
    images = rng.integers(0, 256, (67, 8, 8, 3), dtype=np.uint8)
    seen = []
    found = measure(images, on_progress=lambda done, of: seen.append((done, of)))
    assert seen == [(64, 67), (67, 67)]
    np.testing.assert_array_equal(found[66], measure(images[66:])[0])
    np.testing.assert_array_equal(found[:, 0], glcm(images)[:, 0, 0, 0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"names": ["contrst"]},
            ValueError,
            "^concepts must be of dissimilarity, .*got 'contrst': did you mean contrast",
        ),
        ({"names": []}, ValueError, "^concepts must name at least one, got none$"),
        ({"nuclei_threshold": 0}, ValueError, "^nuclei_threshold must be above 0, got 0$"),
        ({"nuclei_threshold": "x"}, TypeError, "^nuclei_threshold must be a number, got 'x'$"),
        ({"distance": 0}, ValueError, "^distances must be at least 1, got 0$"),
        ({"levels": 1}, ValueError, "^levels must be .*got 1$"),
    ],
)
def test_measure_refuses(options, error, message):
    with pytest.raises(error, match=message):
        measure(np.zeros((1, 4, 4, 3), np.uint8), **options)


def test_measure_refuses_other_arrays():
    with pytest.raises(TypeError, match=r"^images must be uint8 of shape"):
        measure(np.zeros((1, 4, 4, 3)))


# --- Regression -----------------------------------------------------------------------------------

PENALTIES = (0.1, 10.0, 1e3, 1e5)


def made(rng, *, n=60, d=12, groups=10, noise=0.3):
    """Features of two scales, three concepts: told well, told badly, and of the group alone."""
    x = rng.normal(size=(n, d)) * np.geomspace(0.1, 10, d) + 3
    group = np.arange(n) % groups
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    clean = standard @ rng.normal(size=d)
    y = np.stack(
        [clean + noise * rng.normal(size=n), rng.normal(size=n), rng.normal(size=groups)[group]], 1
    )
    return x, y, np.array([f"p{g}" for g in group])


@pytest.mark.parametrize(("n", "d"), [(60, 12), (40, 55)])
def test_held_out_r2_is_that_of_the_definition(rng, n, d):
    x, y, groups = made(rng, n=n, d=d)
    found = regress(x, y, groups=groups, folds=4, penalties=PENALTIES, permutations=3, seed=5)
    fold_of = deal(groups, folds=4, seed=5)
    for k in range(3):
        errors, totals = reference.held_out(x, y[:, k], fold_of, PENALTIES)
        assert found.r2[k] == pytest.approx(1 - errors.sum() / totals.sum(), abs=1e-8)
    in_sample = [reference.r2_in_sample(x, y[:, k]) for k in range(3)]
    np.testing.assert_allclose(found.in_sample, in_sample, atol=1e-8)


def test_directions_are_those_of_the_definition(rng):
    x, y, groups = made(rng)
    found = regress(x, y, groups=groups, folds=4, penalties=PENALTIES, permutations=0, seed=5)
    for k in range(3):
        np.testing.assert_allclose(found.patterns[k], reference.pattern(x, y[:, k]), atol=1e-9)
        weights = reference.ridge(x, y[:, k], found.penalties[k])[0]
        np.testing.assert_allclose(found.filters[k], weights / np.linalg.norm(weights), atol=1e-8)
    assert found.permuted.shape == (0, 3)


def test_patterns_stay_where_noise_turns_filters():
    """One feature carries the concept and a distractor, another the distractor alone (Haufe 2014)."""
    rng = np.random.default_rng(3)
    concept, distractor = rng.normal(size=(2, 4000))
    x = np.stack([concept + distractor, distractor], 1)
    found = regress(x, concept[:, np.newaxis], groups=np.arange(4000), permutations=0)
    np.testing.assert_allclose(found.patterns[0], [1, 0], atol=0.05)
    np.testing.assert_allclose(found.filters[0], [0.5**0.5, -(0.5**0.5)], atol=0.01)


def test_in_sample_r2_measures_degrees_of_freedom(rng):
    """Random features, fewer rows than features: 1.0 on its own rows, about 0 on those of others."""
    x, y = rng.normal(size=(100, 300)), rng.normal(size=(100, 2))
    found = regress(x, y, groups=np.arange(100) // 5)
    np.testing.assert_allclose(found.in_sample, 1.0, atol=1e-9)
    assert (np.abs(found.r2) < 0.2).all()
    assert (found.p > 0.02).all()


def test_what_is_told_lies_above_its_shuffles_and_what_is_of_the_slide_does_not(rng):
    x, y, groups = made(rng, n=300)
    found = regress(x, y, groups=groups, permutations=39)
    assert found.r2[0] > 0.9
    assert found.low[0] < found.r2[0] < found.high[0]
    assert found.low[0] > found.permuted[:, 0].max()
    assert found.p[0] == 1 / 40
    assert found.p[1] > 1 / 40
    np.testing.assert_allclose(found.permuted[:, 2], found.r2[2])  # constant within groups
    assert found.p[2] == 1


@settings(max_examples=20)
@given(
    scale=hnp.arrays(np.float64, 6, elements=st.floats(0.01, 100)),
    shift=hnp.arrays(np.float64, 6, elements=st.floats(-50, 50)),
    unit=st.floats(0.01, 100),
)
def test_units_of_features_and_concepts_do_not_matter(scale, shift, unit):
    x, y, groups = made(np.random.default_rng(1), d=6)
    options = {"groups": groups, "folds": 3, "permutations": 2}
    one, other = regress(x, y, **options), regress(x * scale + shift, y * unit - 7, **options)
    np.testing.assert_allclose(one.r2, other.r2, atol=1e-6)
    np.testing.assert_allclose(one.permuted, other.permuted, atol=1e-6)
    np.testing.assert_allclose(one.in_sample, other.in_sample, atol=1e-6)


def test_a_feature_that_is_constant_changes_nothing(rng):
    x, y, groups = made(rng)
    x = x[:, :6]
    more = np.column_stack([x, np.full(len(x), 1e6)])
    one, other = (regress(v, y, groups=groups, permutations=1) for v in (x, more))
    np.testing.assert_allclose(one.r2, other.r2, atol=1e-7)
    assert not other.filters[:, 6].any()
    assert not other.patterns[:, 6].any()


def test_float32_features_are_summed_in_float64(rng):
    x, y, groups = made(rng)
    x = (x + 100).astype(np.float32)
    one, other = (regress(v, y, groups=groups, permutations=0) for v in (x, x.astype(np.float64)))
    np.testing.assert_array_equal(one.r2, other.r2)


@settings(max_examples=50)
@given(
    groups=st.lists(st.integers(0, 30), min_size=1, max_size=80),
    folds=st.integers(3, 6),
    seed=st.integers(0, 5),
)
def test_groups_are_dealt_whole_and_every_fold_has_some(groups, folds, seed):
    count = len(set(groups))
    if count < folds:
        with pytest.raises(ValueError, match=f"at most the number of groups, {count}, got {folds}"):
            deal(groups, folds=folds, seed=seed)
        return
    fold_of = deal(groups, folds=folds, seed=seed)
    assert len({(g, f) for g, f in zip(groups, fold_of.tolist(), strict=True)}) == count
    assert set(fold_of.tolist()) == set(range(folds))


def test_few_groups_have_no_interval(rng):
    x, y, groups = made(rng, groups=4)
    found = regress(x, y, groups=groups, folds=3, permutations=0)
    assert np.isnan(found.low).all()
    assert np.isnan(found.high).all()
    assert np.isfinite(found.r2).all()


X, Y = np.eye(8), np.arange(16.0).reshape(8, 2)


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (X.astype(int), Y, {}, TypeError, "^features must be float32 or float64"),
        (X, Y[:7], {}, ValueError, r"^concepts must be float64 of shape \(8, k\)"),
        (X, Y.astype(np.float32), {}, TypeError, "^concepts must be float64"),
        (X[:, :0], Y, {}, ValueError, "^features and concepts must have columns, got 0 and 2$"),
        (X + np.nan, Y, {}, ValueError, "^features must be finite, got NaN or infinity$"),
        (X, Y + np.inf, {}, ValueError, "^concepts must be finite"),
        (
            X,
            Y * [1, 0],
            {},
            ValueError,
            "^concepts must vary, got 0 in all rows of column 1: leave it out$",
        ),
        (X, Y, {"groups": range(7)}, ValueError, "^groups must be 8, one for each row, got 7$"),
        (
            X,
            Y,
            {"groups": [0, 0, 0, 1, 1, 1, 2, 2]},
            ValueError,
            "^folds must be at most the number of groups, 3, got 5$",
        ),
        (X, Y, {"folds": 2}, ValueError, "^folds must be at least 3, got 2$"),
        (
            X,
            Y,
            {"penalties": ()},
            ValueError,
            r"^penalties must be at least one, each above 0, got \(\)$",
        ),
        (X, Y, {"penalties": (0.0,)}, ValueError, "^penalties must be .* above 0"),
        (X, Y, {"permutations": -1}, ValueError, "^permutations must be at least 0, got -1$"),
        (X, Y, {"draws": 0}, ValueError, "^draws must be at least 1, got 0$"),
    ],
)
def test_regress_refuses(x, y, options, error, message):
    with pytest.raises(error, match=message):
        regress(x, y, **{"groups": range(8), **options})
