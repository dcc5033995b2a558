// No inline function of the standard library is called here: compiled for AVX-512, it might be the
// copy that the linker keeps for everybody.
#include "gram_isa.h"

#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace histofast::cpu::HISTOFAST_ISA {
namespace {

using std::size_t;

// --- Vectors: a product of kRows rows with kVectors strips stays in registers
// ---------------------

#if defined(__AVX512F__)
using Vector = __m512;
constexpr size_t kLanes = 16, kRows = 8, kVectors = 3;
inline Vector zero() { return _mm512_setzero_ps(); }
inline Vector load(const float* from) { return _mm512_loadu_ps(from); }
inline Vector spread(float value) { return _mm512_set1_ps(value); }
inline Vector add_product(Vector sum, Vector a, Vector b) { return _mm512_fmadd_ps(a, b, sum); }
inline Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
// The mask selects all: GCC 12 warns of an undefined operand of the form without one.
inline Vector larger(Vector a, Vector b) {
    const __m512i magnitude =
        _mm512_and_epi32(_mm512_castps_si512(b), _mm512_set1_epi32(0x7fffffff));
    return _mm512_mask_max_ps(a, 0xffff, a, _mm512_castsi512_ps(magnitude));
}
inline void store(float* to, Vector v) { _mm512_storeu_ps(to, v); }
#elif defined(__AVX2__)
using Vector = __m256;
constexpr size_t kLanes = 8, kRows = 4, kVectors = 3;
inline Vector zero() { return _mm256_setzero_ps(); }
inline Vector load(const float* from) { return _mm256_loadu_ps(from); }
inline Vector spread(float value) { return _mm256_set1_ps(value); }
inline Vector add_product(Vector sum, Vector a, Vector b) { return _mm256_fmadd_ps(a, b, sum); }
inline Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
inline Vector larger(Vector a, Vector b) {
    return _mm256_max_ps(a, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), b));
}
inline void store(float* to, Vector v) { _mm256_storeu_ps(to, v); }
#else
struct Vector {
    float lane[4];
};
constexpr size_t kLanes = 4, kRows = 4, kVectors = 2;
inline Vector zero() { return {{0, 0, 0, 0}}; }
inline Vector load(const float* from) { return {{from[0], from[1], from[2], from[3]}}; }
inline Vector spread(float value) { return {{value, value, value, value}}; }
inline Vector add_product(Vector sum, Vector a, Vector b) {
    for (size_t i = 0; i < 4; ++i) sum.lane[i] += a.lane[i] * b.lane[i];
    return sum;
}
inline Vector subtract(Vector a, Vector b) {
    for (size_t i = 0; i < 4; ++i) a.lane[i] -= b.lane[i];
    return a;
}
inline Vector larger(Vector a, Vector b) {
    for (size_t i = 0; i < 4; ++i) {
        const float magnitude = b.lane[i] < 0 ? -b.lane[i] : b.lane[i];
        a.lane[i] = magnitude > a.lane[i] ? magnitude : a.lane[i];
    }
    return a;
}
inline void store(float* to, Vector v) {
    for (size_t i = 0; i < 4; ++i) to[i] = v.lane[i];
}
#endif

// --- Packing

constexpr size_t kPrefetchRows = 8;
// --------------------------------------------------------------------------------------

inline float as_float(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// Exponents of 5 bits become ones of 8 by a product, which also makes subnormal numbers normal.
inline float half_to_float(std::uint16_t half) {
    const std::uint32_t magnitude = half & 0x7fffu, sign = (half & 0x8000u) << 16;
    const float scaled = as_float(magnitude << 13) * as_float(0x77800000u);  // 2^112
    const std::uint32_t special = magnitude >= 0x7c00u ? 0x7f800000u : 0u;   // infinity or NaN
    return as_float(bits_of(scaled) | special | sign);
}

void widen(const void* from, FeatureType type, size_t count, float* to) {
    if (type == FeatureType::float32) {
        std::memcpy(to, from, count * sizeof(float));
        return;
    }
    const auto* row = static_cast<const std::uint16_t*>(from);
    if (type == FeatureType::bfloat16) {
        for (size_t i = 0; i < count; ++i) to[i] = as_float(std::uint32_t{row[i]} << 16);
        return;
    }
    size_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(
            to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + i))));
#endif
    for (; i < count; ++i) to[i] = half_to_float(row[i]);
}

// Rows lie far apart: the processor does not see by itself which lines come next.
inline void prefetch(const std::uint8_t* from, size_t bytes) {
#if defined(__SSE2__) || defined(_M_X64)
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch(reinterpret_cast<const char*>(from + i), _MM_HINT_T0);
#else
    (void)from, (void)bytes;
#endif
}

// (kLanes, kPackColumns) -> (count, kLanes)
void transpose(const float* rows, size_t count, float* to) {
    size_t c = 0;
#if defined(__SSE2__) || defined(_M_X64)
    for (; c + 4 <= count; c += 4) {
        for (size_t r = 0; r < kLanes; r += 4) {
            const float* from = rows + r * kPackColumns + c;
            __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + kPackColumns),
                   d = _mm_loadu_ps(from + 2 * kPackColumns),
                   e = _mm_loadu_ps(from + 3 * kPackColumns);
            _MM_TRANSPOSE4_PS(a, b, d, e);
            _mm_storeu_ps(to + c * kLanes + r, a);
            _mm_storeu_ps(to + (c + 1) * kLanes + r, b);
            _mm_storeu_ps(to + (c + 2) * kLanes + r, d);
            _mm_storeu_ps(to + (c + 3) * kLanes + r, e);
        }
    }
#endif
    for (; c < count; ++c)
        for (size_t r = 0; r < kLanes; ++r) to[c * kLanes + r] = rows[r * kPackColumns + c];
}

float pack(const void* values, FeatureType type, std::ptrdiff_t row_stride, size_t count,
           const Panel& panel, size_t at) {
    const size_t n = panel.n, strips = (n + kLanes - 1) / kLanes;
    float rows[kLanes * kPackColumns];
    double sums[kPackColumns] = {};
    const size_t size = type == FeatureType::float32 ? 4 : 2;
    const auto* first = static_cast<const std::uint8_t*>(values);
    const std::ptrdiff_t stride = row_stride * static_cast<std::ptrdiff_t>(size);
    for (size_t s = 0; s < strips; ++s) {
        for (size_t r = 0; r < kLanes; ++r) {
            float* row = rows + r * kPackColumns;
            const size_t i = s * kLanes + r;
            if (i >= n) {
                std::memset(row, 0, kPackColumns * sizeof(float));
                continue;
            }
            if (i + kPrefetchRows < n)
                prefetch(first + static_cast<std::ptrdiff_t>(i + kPrefetchRows) * stride,
                         count * size);
            widen(first + static_cast<std::ptrdiff_t>(i) * stride, type, count, row);
            for (size_t c = 0; c < count; ++c) sums[c] += static_cast<double>(row[c]);
        }
        transpose(rows, count, panel.values + (s * panel.depth + at) * kLanes);
    }
    // x - high is exact where x is near the mean, so two steps lose nothing of a large offset.
    float high[kPackColumns], low[kPackColumns];
    for (size_t c = 0; c < count; ++c) {
        const double mean = sums[c] / static_cast<double>(n);
        if (!(mean - mean == 0)) return as_float(0x7fc00000u);
        high[c] = static_cast<float>(mean);
        low[c] = static_cast<float>(mean - static_cast<double>(high[c]));
    }
    Vector peaks = zero();
    for (size_t s = 0; s < strips; ++s) {
        float* strip = panel.values + (s * panel.depth + at) * kLanes;
        const size_t filled = n - s * kLanes;
        for (size_t c = 0; c < count; ++c) {
            float* column = strip + c * kLanes;
            const Vector v = subtract(subtract(load(column), spread(high[c])), spread(low[c]));
            store(column, v);
            if (filled >= kLanes) {
                peaks = larger(peaks, v);
                continue;
            }
            for (size_t r = filled; r < kLanes; ++r) column[r] = 0;
            peaks = larger(peaks, load(column));
        }
    }
    float lanes[kLanes], peak = 0;
    store(lanes, peaks);
    for (size_t r = 0; r < kLanes; ++r) peak = lanes[r] > peak ? lanes[r] : peak;
    return peak;
}

// --- Products
// -------------------------------------------------------------------------------------

// tile (kRows, V * kLanes) = products of kRows rows, at a, and V strips, at b, over `depth`
// columns.
template <size_t V>
void multiply_tile(const float* a, const float* b, size_t strip_size, size_t depth, float* tile) {
    Vector sums[kRows][V];
    for (size_t r = 0; r < kRows; ++r)
        for (size_t v = 0; v < V; ++v) sums[r][v] = zero();
    for (size_t k = 0; k < depth; ++k) {
        Vector columns[V];
        for (size_t v = 0; v < V; ++v) columns[v] = load(b + v * strip_size + k * kLanes);
        for (size_t r = 0; r < kRows; ++r) {
            const Vector row = spread(a[k * kLanes + r]);
            for (size_t v = 0; v < V; ++v) sums[r][v] = add_product(sums[r][v], row, columns[v]);
        }
    }
    for (size_t r = 0; r < kRows; ++r)
        for (size_t v = 0; v < V; ++v) store(tile + (r * V + v) * kLanes, sums[r][v]);
}

using MultiplyTile = void (*)(const float*, const float*, size_t, size_t, float*);
constexpr MultiplyTile kMultiplyTile[] = {multiply_tile<1>, multiply_tile<2>, multiply_tile<3>};

void multiply(const Panel& panel, const GramBlock& block, double scale, double* gram) {
    const size_t strip_size = panel.depth * kLanes;
    float tile[kRows * kVectors * kLanes];
    for (size_t k = 0; k < panel.depth; k += kDepth) {
        const size_t depth = panel.depth - k < kDepth ? panel.depth - k : kDepth;
        const float* chunk = panel.values + k * kLanes;
        for (size_t j = block.column_begin; j < block.column_end; j += kVectors) {
            for (size_t s = j > block.row_begin ? j : block.row_begin; s < block.row_end; ++s) {
                size_t strips = kVectors;  // only those left of the diagonal and inside the block
                if (block.column_end - j < strips) strips = block.column_end - j;
                if (s + 1 - j < strips) strips = s + 1 - j;
                for (size_t at = 0; at < kLanes; at += kRows) {
                    kMultiplyTile[strips - 1](chunk + s * strip_size + at, chunk + j * strip_size,
                                              strip_size, depth, tile);
                    for (size_t r = 0; r < kRows; ++r) {
                        const size_t i = s * kLanes + at + r, first = j * kLanes;
                        if (i >= panel.n) break;
                        const size_t width = strips * kLanes;
                        const size_t count = i + 1 - first < width ? i + 1 - first : width;
                        double* row = gram + i * (i + 1) / 2 + first;
                        for (size_t c = 0; c < count; ++c)
                            row[c] += scale * static_cast<double>(tile[r * width + c]);
                    }
                }
            }
        }
    }
}

}  // namespace

const GramLoops gram_loops{kLanes, pack, multiply};

}  // namespace histofast::cpu::HISTOFAST_ISA
