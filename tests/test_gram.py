"""The native Gram kernel against its definition, for every type, shape, thread count and ISA."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from extras import need
from histofast import _core, similarity
from histofast.similarity import check_grams, cka, gram_products, packed_grams, start_grams, unpack

ISAS = [isa for isa in _core.Isa if isa.value <= _core.best_isa().value]


@pytest.fixture(params=ISAS, ids=lambda isa: isa.name)
def isa(request):
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(_core.best_isa())


def assert_matches(packed, x, *, tolerance=1e-6, **options):
    """Equal to the float64 definition within a share of the samples' squared norms."""
    x = np.asarray(x).astype(np.float64)
    x = x - x.mean(axis=0)
    wanted = reference.packed_gram(x, **options)
    size = (x**2).sum(axis=1).max() if options.get("kernel", "linear") == "linear" else 1
    np.testing.assert_allclose(packed, wanted, rtol=0, atol=tolerance * size + 1e-300)


def bfloat16_bits(x):
    """Rounded towards zero, which is as good as any rounding here."""
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def bfloat16_values(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


# n and p around the sizes of vectors, strips, blocks, packed columns and chunks.
@pytest.mark.parametrize("estimator", ["debiased", "biased"])
@pytest.mark.parametrize(
    ("n", "p"),
    [(4, 1), (5, 3), (16, 64), (17, 65), (31, 255), (33, 257), (48, 512), (100, 1000), (129, 70)],
)
def test_matches_definition(isa, rng, n, p, estimator):
    x = rng.normal(size=(n, p)).astype(np.float32)
    packed, _ = packed_grams([x], estimator=estimator)
    assert_matches(packed[0], x, estimator=estimator)


def test_several_panels(isa, rng):
    """More columns than a panel holds, and a number that nothing divides."""
    x = rng.normal(size=(250, 4999)).astype(np.float32)
    packed, _ = packed_grams([x])
    assert_matches(packed[0], x)


@given(
    n=st.integers(4, 70),
    p=st.integers(1, 150),
    estimator=st.sampled_from(["debiased", "biased"]),
    kernel=st.sampled_from(["linear", "rbf"]),
    half=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_any_shape_and_kernel(n, p, estimator, kernel, half, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)).astype(np.float16 if half else np.float32)
    options = {"estimator": estimator, "kernel": kernel, "rbf_scale": 0.7}
    packed, _ = packed_grams([x], **options)
    if kernel == "linear":
        assert_matches(packed[0], x, estimator=estimator)
    else:
        wanted = reference.packed_gram(x.astype(np.float64), "rbf", 0.7, estimator)
        # Distances are differences of squared norms: those of near neighbours lose digits.
        np.testing.assert_allclose(packed[0], wanted, rtol=0, atol=2e-6)


def test_half_precision_is_exact_before_the_products(isa, rng):
    """All bit patterns of finite float16 and many of bfloat16 mean what they should."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    half = bits.view(np.float16)
    half = rng.permutation(half[np.isfinite(half)]).reshape(-1, 256)  # 248 rows
    assert_matches(packed_grams([half])[0][0], half)
    small = np.ldexp(rng.integers(-9, 10, (20, 33)), -24).astype(np.float16)  # subnormal
    assert_matches(packed_grams([small])[0][0], small)
    brain = bfloat16_bits(rng.normal(size=(40, 100)))
    packed = np.empty((1, 40 * 39 // 2))
    squares, problems = np.empty(1), np.empty(1, np.uint8)
    _core.packed_grams([brain], packed, squares, problems, False, 1.0, True, 1)
    assert_matches(packed[0], bfloat16_values(brain))


def test_tensors_are_read_where_they_lie(rng):
    torch = need("torch")
    x = torch.from_numpy(rng.normal(size=(30, 80)).astype(np.float32))
    for tensor in (x, x.half(), x.bfloat16(), x.bfloat16()[::2, 3:]):
        assert_matches(packed_grams([tensor])[0][0], tensor.float().numpy())


def test_bfloat16_arrays(rng):
    import ml_dtypes

    x = rng.normal(size=(30, 80)).astype(ml_dtypes.bfloat16)
    assert_matches(packed_grams([x])[0][0], x)


def test_strided_rows(isa, rng):
    whole = rng.normal(size=(60, 300)).astype(np.float32)
    whole.flags.writeable = False
    one_column = whole[:, 5:6]
    views = [
        whole[::2, 7:205],
        whole[::-1][:30],
        np.broadcast_to(whole[0], (30, 300)),
        one_column[::2],
    ]
    packed, squares = packed_grams(views)
    for row, view in zip(packed, views, strict=True):
        assert_matches(row, view)
    assert squares[2] == 0
    assert not packed[2].any()


def test_many_layers_are_each_as_alone(rng):
    layers = [
        rng.normal(size=(70, p)).astype(dtype)
        for p, dtype in [(1, "f4"), (5000, "f2"), (64, "f4"), (20_000, "f4"), (3, "f2")]
    ]
    for kernel in ("linear", "rbf"):
        packed, squares = packed_grams(layers, kernel=kernel)
        for i, layer in enumerate(layers):
            alone, square = packed_grams([layer], kernel=kernel)
            assert np.array_equal(packed[i], alone[0])
            assert squares[i] == square[0]


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("estimator", ["debiased", "biased"])
def test_threads_do_not_change_a_bit(isa, rng, kernel, estimator):
    layers = [rng.normal(size=(200, p)).astype(np.float32) for p in (7000, 1, 513)]
    results = [
        packed_grams(layers, kernel=kernel, estimator=estimator, threads=threads)
        for threads in (1, 2, 5)
    ]
    for packed, squares in results[1:]:
        assert np.array_equal(packed, results[0][0])
        assert np.array_equal(squares, results[0][1])


def test_offset_in_float32_costs_nothing(isa, rng):
    x, y = rng.normal(size=(2, 64, 500))
    y += 0.5 * x
    shifted = (x + 100).astype(np.float32)
    assert_matches(packed_grams([shifted])[0][0], shifted)
    packed, _ = packed_grams([shifted, y.astype(np.float32)])
    products = gram_products(packed, packed)
    ours = products[0, 1] / np.sqrt(products[0, 0] * products[1, 1])
    assert ours == pytest.approx(cka(x, y), abs=1e-6)


def test_half_precision_whose_own_gram_would_overflow(isa, rng):
    x = (60_000 + 32 * rng.integers(-20, 20, (50, 4000))).astype(np.float16)
    with np.errstate(over="ignore"):
        assert np.isinf(x @ x.T).all()
    packed, _ = packed_grams([x])
    assert_matches(packed[0], x)


@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e20, 1e37])
def test_very_large_and_small_features(isa, rng, scale):
    x = (rng.normal(size=(30, 700)) * scale).astype(np.float32)
    packed, _ = packed_grams([x])
    assert_matches(packed[0], x)
    # A large offset of padded rows must not decide on the range.
    shifted = (np.ldexp(rng.integers(-8, 9, (30, 70)), 50) + 2.0**70).astype(np.float32)
    assert_matches(packed_grams([shifted])[0][0], shifted)
    with pytest.raises(ValueError, match=r"layers\[0\] must have a Gram of norm 1e-18 to 1e18 "):
        packed_grams([x], dtype=np.float32)


@pytest.mark.parametrize("estimator", ["debiased", "biased"])
def test_products_are_those_of_the_grams(rng, estimator):
    layers = [rng.normal(size=(40, p)).astype(np.float32) for p in (3, 30, 300)]
    packed, squares = packed_grams(layers, estimator=estimator)
    grams = [unpack(row, estimator=estimator) for row in packed]
    wanted = [[np.vdot(a, b) for b in grams] for a in grams]
    np.testing.assert_allclose(gram_products(packed, packed), wanted, rtol=1e-12, atol=1e-9)
    for gram, square, layer in zip(grams, squares, layers, strict=True):
        assert np.array_equal(gram, gram.T)
        assert abs(gram.sum(axis=0)).max() < 1e-12 * np.sqrt(square) * len(gram)
        x = layer - layer.mean(axis=0, dtype=np.float64)
        assert square == pytest.approx(((x @ x.T) ** 2).sum(), rel=1e-6)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("estimator", ["debiased", "biased"])
def test_similarities_are_those_of_the_measure(rng, kernel, estimator):
    base = rng.normal(size=(120, 50))
    layers = [(base @ rng.normal(size=(50, p)) + 3).astype(np.float32) for p in (20, 400, 3000)]
    options = {"kernel": kernel, "estimator": estimator}
    wanted = [[cka(a, b, **options) for b in layers] for a in layers]
    for dtype, tolerance in ((np.float64, 1e-7), (np.float32, 1e-7)):
        packed, _ = packed_grams(layers, dtype=dtype, **options)
        assert packed.dtype == dtype
        products = gram_products(packed, packed)
        norms = np.sqrt(products.diagonal())
        np.testing.assert_allclose(products / np.outer(norms, norms), wanted, atol=tolerance)


def test_constant_features_are_zero(isa):
    x = np.full((21, 100), 0.1, np.float32)
    for kernel in ("linear", "rbf"):
        packed, squares = packed_grams([x], kernel=kernel)
        assert not packed.any()
        assert squares[0] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_not_finite_is_refused(isa, rng, bad, dtype):
    good = rng.normal(size=(30, 300)).astype(dtype)
    spoilt = good.copy()
    spoilt[[3, 29], [299, 0]] = bad
    message = r"layers\[1\] must be finite, got NaN or infinity in 2 of 30 rows"
    with pytest.raises(ValueError, match=message):
        packed_grams([good, spoilt, good])
    with pytest.raises(ValueError, match="conv1 must be finite, got NaN or infinity in 2 of 30"):
        packed_grams([good, spoilt], names=["conv0", "conv1"])


def test_bad_values_are_refused(rng):
    x = rng.normal(size=(8, 6)).astype(np.float32)
    huge = np.full((8, 1), -3e38, np.float32)
    huge[0] = 3e38
    cases = [
        ([], {}, "layers must hold at least 1 array, got none"),
        ([x[0]], {}, r"layers\[0\] must be of shape \(n, p\), got \(6,\)"),
        ([x[:3]], {}, r"layers\[0\] must have at least 4 rows, got 3"),
        ([x[:, :0]], {}, r"layers\[0\] must have at least 1 column, got shape \(8, 0\)"),
        ([x, x[:6]], {}, r"layers\[1\] must have the rows of layers\[0\], got 6 and 8"),
        ([x, x[:, ::2]], {}, r"layers\[1\] must have contiguous rows, got strides of \(24, 8\)"),
        ([np.asfortranarray(x)], {}, r"layers\[0\] must have contiguous rows"),
        ([huge], {}, r"layers\[0\] must differ by less than 3.4e38 in a column: scale it down"),
        ([x], {"kernel": "poly"}, "kernel must be 'linear' or 'rbf', got 'poly'"),
        ([x], {"estimator": "half"}, "estimator must be 'debiased' or 'biased', got 'half'"),
        ([x], {"rbf_scale": 0}, "rbf_scale must be between 1e-6 and 1e6, got 0"),
        ([x], {"threads": 0}, "threads must be at least 1, got 0"),
    ]
    for layers, options, message in cases:
        with pytest.raises(ValueError, match=message):
            packed_grams(layers, **options)
    outlier = np.zeros((9, 3), np.float32)
    outlier[0] = 1
    with pytest.raises(
        ValueError, match=r"rows in half of the pairs of layers\[1\]: take the linear"
    ):
        packed_grams([np.eye(9, dtype=np.float32), outlier], kernel="rbf")


def test_bad_types_are_refused(rng):
    x = rng.normal(size=(8, 6)).astype(np.float32)
    cases = [
        (x, {}, r"layers must be a sequence of arrays \(n, p\), got ndarray"),
        ([[1, 2]], {}, r"layers\[0\] must be an array \(n, p\), got list"),
        ([x.astype(float)], {}, r"layers\[0\] must be float16, bfloat16 or float32, got float64"),
        ([x.astype(np.uint16)], {}, "got uint16: pass bfloat16 as a torch tensor"),
        ([x], {"dtype": np.float16}, "dtype must be numpy.float32 or numpy.float64, got"),
        ([x], {"threads": 1.5}, "threads must be an integer, got float"),
    ]
    for layers, options, message in cases:
        with pytest.raises(TypeError, match=message):
            packed_grams(layers, **options)
    swapped = x.astype(x.dtype.newbyteorder())
    with pytest.raises(TypeError, match=r"or float32, got [<>]f4: convert it"):
        packed_grams([swapped])


def test_bad_tensors_are_refused():
    torch = need("torch")
    with pytest.raises(ValueError, match=r"layers\[0\] must not record gradients: detach it"):
        packed_grams([torch.ones(8, 2, requires_grad=True)])
    with pytest.raises(ValueError, match=r"layers\[0\] must have contiguous rows, got columns 8 "):
        packed_grams([torch.ones(4, 8).T])


def test_a_strange_tensor_on_a_gpu_is_refused():
    class GpuTensor:
        shape, dtype = (8, 2), "torch.float32"

        def __dlpack__(self, **_):
            raise AssertionError("must not be read")

        def __dlpack_device__(self):
            return 2, 0

    with pytest.raises(ValueError, match=r"layers\[0\] must lie in the memory of the CPU, or of a"):
        packed_grams([GpuTensor()])


def test_bad_packed_grams_are_refused(rng):
    packed, _ = packed_grams([rng.normal(size=(8, 6)).astype(np.float32)])
    with pytest.raises(TypeError, match=r"packed_b must be float32 or float64 of shape \(l, m\)"):
        gram_products(packed, packed.astype(int))
    with pytest.raises(ValueError, match=r"packed_a must be of shape \(l, m\), got \(28,\)"):
        gram_products(packed[0], packed)
    with pytest.raises(ValueError, match="rows of the same length, got 28 and 27"):
        gram_products(packed, packed[:, 1:])
    with pytest.raises(ValueError, match="triangle of a debiased Gram, got length 27"):
        unpack(packed[0, 1:])
    with pytest.raises(ValueError, match=r"packed must be of shape \(m,\), got \(1, 28\)"):
        unpack(packed)
    with pytest.raises(TypeError, match=r"packed must be float32 or float64 of shape \(m,\)"):
        unpack([1.0])
    with pytest.raises(ValueError, match="estimator must be 'debiased' or 'biased', got 'half'"):
        unpack(packed[0], estimator="half")


def test_the_kernel_checks_what_it_is_given(rng):
    x = rng.normal(size=(8, 6)).astype(np.float32)
    out, squares, problems = np.empty((1, 28)), np.empty(1), np.empty(1, np.uint8)
    rest = (squares, problems, False, 1.0, True, 1)
    with pytest.raises(ValueError, match=r"out of shape \(1, 27\) does not fit 1 layers of 8 rows"):
        _core.packed_grams([x], np.empty((1, 27)), *rest)
    with pytest.raises(ValueError, match="must have at least 4 rows, got 3"):
        _core.packed_grams([x[:3]], out, *rest)
    with pytest.raises(ValueError, match=r"layers\[0\] must have contiguous rows, got columns 2 "):
        _core.packed_grams([x[:, ::2]], out, *rest)
    with pytest.raises(TypeError, match=r"layers\[0\] must be float16, bfloat16 or float32"):
        _core.packed_grams([x.astype(float)], out, *rest)
    with pytest.raises(TypeError, match=r"layers\[0\] must be a matrix in the memory of the CPU"):
        _core.packed_grams(["x"], out, *rest)


# --- On a GPU ----------------------------------------------------------------------------------

TYPES = ["float32", "float16", "bfloat16"]


def gpu_tolerance(dtype, columns):
    """Centred features of 16 bits are rounded to 11 digits, and errors of many cancel."""
    return 1e-6 if dtype == "float32" else min(1e-3, 2e-3 / np.sqrt(columns))


def on_gpu(gpu, x, dtype):
    """Return the features on the GPU, and their exact values."""
    if dtype == "bfloat16":
        bits = bfloat16_bits(x)
        return gpu.put(bits, dtype), bfloat16_values(bits)
    x = x.astype(dtype)
    return gpu.put(x), x


# n and p around the sizes of tiles, steps and vectors; p of several blocks of columns and several
# runs of them.
@pytest.mark.gpu
@pytest.mark.parametrize("estimator", ["debiased", "biased"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("n", "p"),
    [(4, 1), (5, 33), (64, 64), (65, 8), (129, 20), pytest.param(7, 4500, marks=pytest.mark.slow)],
)
def test_gpu_matches_definition(gpu, rng, n, p, dtype, estimator):
    features, x = on_gpu(gpu, rng.normal(size=(n, p)) + 0.5, dtype)
    packed, squares = packed_grams([features], estimator=estimator)
    tolerance = gpu_tolerance(dtype, p)
    assert_matches(gpu.get(packed)[0], x, tolerance=tolerance, estimator=estimator)
    _, wanted = packed_grams([np.asarray(x, np.float32)], estimator=estimator)
    assert squares[0] == pytest.approx(wanted[0], rel=2 * tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("estimator", ["debiased", "biased"])
@pytest.mark.parametrize(("n", "p"), [(4, 3), (37, 50), (66, 5)])
def test_gpu_rbf_matches_definition(gpu, rng, n, p, estimator):
    features, x = on_gpu(gpu, rng.normal(size=(n, p)), "float32")
    options = {"kernel": "rbf", "rbf_scale": 0.7, "estimator": estimator}
    packed, squares = packed_grams([features], **options)
    wanted = reference.packed_gram(x.astype(np.float64), "rbf", 0.7, estimator)
    np.testing.assert_allclose(gpu.get(packed)[0], wanted, rtol=0, atol=2e-6)
    assert squares[0] == pytest.approx(packed_grams([x], **options)[1][0], rel=1e-5)


@pytest.mark.gpu
def test_gpu_median_of_equal_distances(gpu, rng):
    """Distances of few values: the two middle ones are equal, or neighbours in the order."""
    for n in (4, 5, 6, 12):
        for count in (2 + n % 2, 3, n):  # kinds of rows; of two kinds half of the pairs are equal
            corners = np.eye(count, dtype=np.float32) * rng.integers(1, 9, count)
            x = corners[np.arange(n) % count].astype(np.float32)
            wanted, _ = packed_grams([x], kernel="rbf")
            packed, _ = packed_grams([gpu.put(x)], kernel="rbf")
            np.testing.assert_allclose(gpu.get(packed), wanted, rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES)
def test_gpu_strided_and_unaligned_rows(gpu, rng, dtype):
    features, x = on_gpu(gpu, rng.normal(size=(18, 141)), dtype)
    for rows, columns in (
        (slice(None), slice(1, None)),
        (slice(None, None, 3), slice(3, 140)),
        (slice(1, None, 2), slice(5, 6)),
    ):
        packed, _ = packed_grams([features[rows, columns]])
        part = x[rows, columns]
        tolerance = gpu_tolerance(dtype, part.shape[1])
        assert_matches(gpu.get(packed)[0], part, tolerance=tolerance)
    whole, x = on_gpu(gpu, rng.normal(size=(18, 160)), dtype)  # aligned, but for the end
    packed, _ = packed_grams([whole[:, 16:151]])
    assert_matches(gpu.get(packed)[0], x[:, 16:151], tolerance=gpu_tolerance(dtype, 135))


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_gpu_layers_are_each_as_alone(gpu, rng, kernel):
    shapes = [(1, "float32"), (300, "float16"), (64, "float32"), (9, "float32"), (3, "bfloat16")]
    # Of a linear one more than are worked on at once.
    shapes += [(2 + i % 3, "float32") for i in range(17 if kernel == "linear" else 2)]
    layers = [on_gpu(gpu, rng.normal(size=(9, p)), dtype)[0] for p, dtype in shapes]
    packed, squares = packed_grams(layers, kernel=kernel)
    for i in (1, 2, 4, len(layers) - 1):
        alone, square = packed_grams([layers[i]], kernel=kernel)
        assert np.array_equal(gpu.get(packed)[i], gpu.get(alone)[0])
        assert squares[i] == square[0]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES)
def test_gpu_offset_costs_nothing(gpu, rng, dtype):
    features, x = on_gpu(gpu, 1000 + 8 * rng.integers(-9, 10, (33, 200)), dtype)
    packed, _ = packed_grams([features])
    assert_matches(gpu.get(packed)[0], x, tolerance=gpu_tolerance(dtype, 200))


@pytest.mark.gpu
def test_gpu_very_large_and_small_features(gpu, rng):
    x = rng.normal(size=(21, 70))
    for dtype, scale in [
        *[("float32", scale) for scale in (1e-35, 1e-20, 1e20, 1e37)],
        *[("bfloat16", scale) for scale in (1e-36, 1e-20, 1e20, 1e37)],
        *[("float16", scale) for scale in (2**-20, 2**-10, 10_000)],
    ]:
        features, values = on_gpu(gpu, x * scale, dtype)
        packed, _ = packed_grams([features])
        assert_matches(gpu.get(packed)[0], values, tolerance=gpu_tolerance(dtype, 70))
    with pytest.raises(ValueError, match=r"layers\[0\] must have a Gram of norm 1e-18 to 1e18 "):
        packed_grams([gpu.put((x * 1e20).astype(np.float32))], dtype=np.float32)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "kinds",
    [
        (-65504, 65504),  # differences from the mean, and of two values, are beyond float16
        (-65504, -65504, 65504, 65472),
        (60000, 60032, 0.1),
        (1024, 1025),  # neighbours: the mean is between them
        (2048, 2047, 2050),  # likewise, of two spacings
        (2**-24, 2**-23, 0),  # the smallest there are
        (300, 300 + 2**-2),
    ],
)
def test_gpu_all_of_float16_is_centred(gpu, rng, kinds):
    x = rng.choice(np.array(kinds, np.float16), (33, 140))
    x[:, 7:11] = kinds[0]  # of no weight, however large
    packed, squares = packed_grams([gpu.put(x)])
    assert_matches(gpu.get(packed)[0], x, tolerance=gpu_tolerance("float16", 140))
    wanted = packed_grams([x])[1][0]
    assert squares[0] == pytest.approx(wanted, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_gpu_constant_features_are_zero(gpu, dtype, kernel):
    features, _ = on_gpu(gpu, np.full((21, 100), 0.1), dtype)
    packed, squares = packed_grams([features], kernel=kernel)
    assert not gpu.get(packed).any()
    assert squares[0] == 0


@pytest.mark.gpu
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", TYPES)
def test_gpu_not_finite_is_refused(gpu, rng, bad, dtype):
    x = rng.normal(size=(30, 130))
    good, _ = on_gpu(gpu, x, dtype)
    x[[3, 29, 3], [129, 0, 0]] = bad
    spoilt, _ = on_gpu(gpu, x, dtype)
    message = r"layers\[1\] must be finite, got NaN or infinity in 2 of 30 rows"
    for kernel in ("linear", "rbf"):
        with pytest.raises(ValueError, match=message):
            packed_grams([good, spoilt], kernel=kernel)


@pytest.mark.gpu
def test_gpu_bad_values_are_refused(gpu, rng):
    x = rng.normal(size=(8, 6)).astype(np.float32)
    huge = np.full((8, 1), -3e38, np.float32)
    huge[0] = 3e38
    outlier = np.zeros((9, 3), np.float32)
    outlier[0] = 1
    cases = [
        ([huge], {}, r"layers\[0\] must differ by less than 3.4e38 in a column: scale it down"),
        (
            [outlier],
            {"kernel": "rbf"},
            r"rows in half of the pairs of layers\[0\]: take the linear",
        ),
        ([x[:3]], {}, r"layers\[0\] must have at least 4 rows, got 3"),
        ([x, x[:6]], {}, r"layers\[1\] must have the rows of layers\[0\], got 6 and 8"),
    ]
    for layers, options, message in cases:
        with pytest.raises(ValueError, match=message):
            packed_grams([gpu.put(layer) for layer in layers], **options)
    with pytest.raises(ValueError, match=r"layers\[0\] must have contiguous rows, got columns 2 "):
        packed_grams([gpu.put(x)[:, ::2]])
    with pytest.raises(ValueError, match=r"one place, got layers\[0\] on GPU 0 .*on the CPU"):
        packed_grams([gpu.put(x), x])
    with pytest.raises(TypeError, match="must be float16, bfloat16 or float32, got float64"):
        packed_grams([gpu.put(x.astype(float))])


@pytest.mark.gpu
def test_gpu_work_is_checked_later(gpu, rng):
    x = rng.normal(size=(10, 30)).astype(np.float32)
    spoilt = x.copy()
    spoilt[2, 3] = np.inf
    started = [start_grams([gpu.put(a)], dtype=np.float32) for a in (x, spoilt)]
    for packed, squares, problems in started:
        assert [a.__dlpack_device__()[0] for a in (packed, squares, problems)] == [2, 2, 2]
    packed, squares, problems = started[0]
    own = check_grams(squares, problems, n=10, dtype=np.float32, names=["conv"])
    wanted, square = packed_grams([x])
    np.testing.assert_allclose(gpu.get(packed), wanted, rtol=0, atol=1e-4)
    assert own == pytest.approx(square, rel=1e-5)
    with pytest.raises(ValueError, match="fc must be finite, got NaN or infinity in 1 of 10 rows"):
        check_grams(*started[1][1:], n=10, dtype=np.float32, names=["fc"])


@pytest.mark.gpu
@pytest.mark.parametrize("estimator", ["debiased", "biased"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gpu_products_and_grams(gpu, rng, estimator, dtype, monkeypatch):
    monkeypatch.setattr("histofast.similarity.grams._GPU_BLOCK", 100)
    layers = [rng.normal(size=(20, p)).astype(np.float32) for p in (3, 30)]
    options = {"estimator": estimator, "dtype": dtype}
    packed, _ = packed_grams([gpu.put(layer) for layer in layers], **options)
    here = gpu.get(packed)
    products = gpu.get(gram_products(packed, packed))
    assert products.dtype == np.float64
    np.testing.assert_allclose(products, gram_products(here, here), rtol=1e-12)
    gram = gpu.get(unpack(packed[1], estimator=estimator))
    assert gram.dtype == dtype
    np.testing.assert_allclose(gram, unpack(here[1], estimator=estimator), rtol=1e-6)
    with pytest.raises(ValueError, match=r"one place, got packed_a on GPU 0 .*packed_b on the CPU"):
        gram_products(packed, here)


@pytest.mark.gpu
def test_gpu_kernel_checks_what_it_is_given(gpu, rng):
    features = gpu.put(rng.normal(size=(8, 6)).astype(np.float32))
    squares, problems = gpu.empty((1,), "float64"), gpu.empty((1,), "uint8")
    size = _core.packed_grams_scratch_bytes([features], True)
    assert 0 < _core.packed_grams_scratch_bytes([features], False) < size
    assert _core.packed_grams_scratch_bytes([], False) == 0

    def compute(columns, bytes_, layers=(features,)):
        out, scratch = gpu.empty((1, columns), "float64"), gpu.empty((bytes_,), "uint8")
        _core.packed_grams(
            [*layers], out, squares, problems, True, 1.0, True, scratch=scratch, stream=0
        )

    with pytest.raises(ValueError, match=r"out of shape \(1, 27\) does not fit 1 layers of 8 rows"):
        compute(27, size)
    with pytest.raises(ValueError, match=rf"scratch must have {size} bytes, got {size - 1}"):
        compute(28, size - 1)
    with pytest.raises(TypeError, match=r"layers\[0\] must be a matrix in the memory of a GPU"):
        compute(28, size, [rng.normal(size=(8, 6)).astype(np.float32)])


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"kernel": "rbf"}, {"estimator": "biased"}])
def test_cka_of_all_pairs_on_a_gpu(gpu, rng, options):
    first = [rng.normal(size=(20, p)).astype(np.float32) for p in (3, 40)]
    second = [first[1] + 1, rng.normal(size=(20, 7)).astype(np.float32)]
    there = [gpu.put(x) for x in first], [gpu.put(x) for x in second]
    wanted = similarity.cka_pairs(first, second, **options)
    np.testing.assert_allclose(similarity.cka_pairs(*there, **options), wanted, atol=1e-5)
    alone = similarity.cka_pairs(there[0], **options)
    np.testing.assert_allclose(alone, similarity.cka_pairs(first, **options), atol=1e-5)


@pytest.mark.gpu
def test_cka_of_all_pairs_on_a_gpu_refuses_what_it_does_elsewhere(gpu, rng):
    x, constant = rng.normal(size=(20, 3)).astype(np.float32), np.ones((20, 2), np.float32)
    with pytest.raises(ValueError, match=r"features_a\[1\] must vary"):
        similarity.cka_pairs([gpu.put(x), gpu.put(constant)])
    found = similarity.cka_pairs([gpu.put(x), gpu.put(constant)], undefined="nan")
    np.testing.assert_array_equal(np.isnan(found), [[False, True], [True, True]])
    with pytest.raises(ValueError, match=r"arrays must be in one place, got features_a\[0\] on G"):
        similarity.cka_pairs([gpu.put(x), x])
