#include "tiles_isa.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace histofast::cpu::HISTOFAST_ISA {
namespace {

constexpr std::int32_t kRowRound = 1 << (kWeightBits - kRowBits - 1);
constexpr int kColumnShift = kWeightBits + kRowBits;
constexpr std::int32_t kColumnRound = 1 << (kColumnShift - 1);

#ifdef __AVX2__

// A pair of weights as one 32-bit value, what pmaddwd wants.
inline __m256i weight_pair(const std::int16_t* weights) {
    std::int32_t pair;
    __builtin_memcpy(&pair, weights, sizeof pair);
    return _mm256_set1_epi32(pair);
}

std::size_t blend_rows_simd(const std::uint8_t* const* rows, const std::int16_t* weights,
                            std::size_t taps, std::int16_t* acc, std::size_t count) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i round = _mm256_set1_epi32(kRowRound);
    std::size_t j = 0;
    for (; j + 32 <= count; j += 32) {
        __m256i sum0 = round, sum1 = round, sum2 = round, sum3 = round;
        for (std::size_t t = 0; t < taps; t += 2) {
            const __m256i w = weight_pair(weights + t);
            const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[t] + j));
            const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[t + 1] + j));
            const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
            sum0 = _mm256_add_epi32(sum0, _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), w));
            sum1 = _mm256_add_epi32(sum1, _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), w));
            sum2 = _mm256_add_epi32(sum2, _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), w));
            sum3 = _mm256_add_epi32(sum3, _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), w));
        }
        constexpr int shift = kWeightBits - kRowBits;
        // Unpack and pack work within 128-bit halves: the halves come back in order 0 2 1 3.
        const __m256i even =
            _mm256_packs_epi32(_mm256_srai_epi32(sum0, shift), _mm256_srai_epi32(sum1, shift));
        const __m256i odd =
            _mm256_packs_epi32(_mm256_srai_epi32(sum2, shift), _mm256_srai_epi32(sum3, shift));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc + j),
                            _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc + j + 16),
                            _mm256_permute2x128_si256(even, odd, 0x31));
    }
    return j;
}

inline __m256i two_pixels(const std::int16_t* a, const std::int16_t* b) {
    return _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a))),
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(b)), 1);
}

inline __m256i two_weights(const std::int16_t* a, const std::int16_t* b) {
    std::int32_t pair_a, pair_b;
    __builtin_memcpy(&pair_a, a, sizeof pair_a);
    __builtin_memcpy(&pair_b, b, sizeof pair_b);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_set1_epi32(pair_a)),
                                   _mm_set1_epi32(pair_b), 1);
}

// Four output pixels at a time, two per register: RGB of tap t beside RGB of tap t + 1 becomes
// (R R')(G G')(B B'), ready for a multiply-add.
std::size_t blend_columns_simd(const std::int16_t* acc, const std::int32_t* first,
                               const std::int16_t* weights, std::size_t taps, std::uint8_t* out,
                               std::size_t count) {
    const __m256i pairs = _mm256_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1, 0,
                                           1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1);
    const __m128i squeeze = _mm_setr_epi8(0, 1, 2, 8, 9, 10, 4, 5, 6, 12, 13, 14, -1, -1, -1, -1);
    const __m256i round = _mm256_set1_epi32(kColumnRound);
    std::size_t i = 0;
    // Each step stores 16 bytes of which 12 count: stop while the rest still fits.
    for (; i + 6 <= count; i += 4) {
        __m256i sum01 = round, sum23 = round;
        const std::int16_t* a = acc + 3 * static_cast<std::ptrdiff_t>(first[i]);
        const std::int16_t* b = acc + 3 * static_cast<std::ptrdiff_t>(first[i + 1]);
        const std::int16_t* c = acc + 3 * static_cast<std::ptrdiff_t>(first[i + 2]);
        const std::int16_t* d = acc + 3 * static_cast<std::ptrdiff_t>(first[i + 3]);
        const std::int16_t* w = weights + i * taps;
        for (std::size_t t = 0; t < taps; t += 2) {
            const __m256i ab = _mm256_shuffle_epi8(two_pixels(a + 3 * t, b + 3 * t), pairs);
            const __m256i cd = _mm256_shuffle_epi8(two_pixels(c + 3 * t, d + 3 * t), pairs);
            sum01 =
                _mm256_add_epi32(sum01, _mm256_madd_epi16(ab, two_weights(w + t, w + taps + t)));
            sum23 = _mm256_add_epi32(
                sum23, _mm256_madd_epi16(cd, two_weights(w + 2 * taps + t, w + 3 * taps + t)));
        }
        // int32 (0 | 1), (2 | 3) -> int16 (0 2 | 1 3) -> uint8 0 2 1 3 -> RGB RGB RGB RGB
        const __m256i words = _mm256_packs_epi32(_mm256_srai_epi32(sum01, kColumnShift),
                                                 _mm256_srai_epi32(sum23, kColumnShift));
        const __m128i bytes =
            _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * i), _mm_shuffle_epi8(bytes, squeeze));
    }
    return i;
}

// Four source pixels (12 bytes) in each half of a register -> two output pixels.
std::size_t halve_simd(const std::uint8_t* row0, const std::uint8_t* row1, std::uint8_t* out,
                       std::size_t count) {
    const __m256i pairs = _mm256_setr_epi8(0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11, -1, -1, -1, -1, 0,
                                           3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11, -1, -1, -1, -1);
    const __m256i ones = _mm256_set1_epi8(1);
    const __m256i two = _mm256_set1_epi16(2);
    const __m128i squeeze = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, -1, -1, -1, -1);
    // Bytes 0..15 to the lower half, 12..27 to the upper one.
    const __m256i halves = _mm256_setr_epi32(0, 1, 2, 3, 3, 4, 5, 6);
    const auto load = [halves](const std::uint8_t* p) {
        return _mm256_permutevar8x32_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
                                           halves);
    };
    std::size_t i = 0;
    // A step reads 32 bytes of which 24 count and stores 16 of which 12 do.
    for (; i + 6 <= count; i += 4) {
        const __m256i sum0 =
            _mm256_maddubs_epi16(_mm256_shuffle_epi8(load(row0 + 6 * i), pairs), ones);
        const __m256i sum1 =
            _mm256_maddubs_epi16(_mm256_shuffle_epi8(load(row1 + 6 * i), pairs), ones);
        const __m256i mean =
            _mm256_srli_epi16(_mm256_add_epi16(_mm256_add_epi16(sum0, sum1), two), 2);
        const __m128i bytes =
            _mm_packus_epi16(_mm256_castsi256_si128(mean), _mm256_extracti128_si256(mean, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * i), _mm_shuffle_epi8(bytes, squeeze));
    }
    return i;
}

#else

std::size_t halve_simd(const std::uint8_t*, const std::uint8_t*, std::uint8_t*, std::size_t) {
    return 0;
}

std::size_t blend_rows_simd(const std::uint8_t* const*, const std::int16_t*, std::size_t,
                            std::int16_t*, std::size_t) {
    return 0;
}
std::size_t blend_columns_simd(const std::int16_t*, const std::int32_t*, const std::int16_t*,
                               std::size_t, std::uint8_t*, std::size_t) {
    return 0;
}

#endif

void blend_rows(const std::uint8_t* const* rows, const std::int16_t* weights, std::size_t taps,
                std::int16_t* acc, std::size_t count) {
    for (std::size_t j = blend_rows_simd(rows, weights, taps, acc, count); j < count; ++j) {
        std::int32_t sum = kRowRound;
        for (std::size_t t = 0; t < taps; ++t) sum += std::int32_t{weights[t]} * rows[t][j];
        acc[j] = static_cast<std::int16_t>(sum >> (kWeightBits - kRowBits));
    }
}

void blend_columns(const std::int16_t* acc, const std::int32_t* first, const std::int16_t* weights,
                   std::size_t taps, std::uint8_t* out, std::size_t count) {
    for (std::size_t i = blend_columns_simd(acc, first, weights, taps, out, count); i < count;
         ++i) {
        const std::int16_t* pixel = acc + 3 * static_cast<std::ptrdiff_t>(first[i]);
        std::int32_t sum[3] = {kColumnRound, kColumnRound, kColumnRound};
        for (std::size_t t = 0; t < taps; ++t)
            for (std::size_t c = 0; c < 3; ++c)
                sum[c] += std::int32_t{weights[i * taps + t]} * pixel[3 * t + c];
        for (std::size_t c = 0; c < 3; ++c)
            out[3 * i + c] = static_cast<std::uint8_t>(sum[c] >> kColumnShift);
    }
}

void halve(const std::uint8_t* row0, const std::uint8_t* row1, std::uint8_t* out,
           std::size_t count) {
    for (std::size_t i = halve_simd(row0, row1, out, count); i < count; ++i)
        for (std::size_t c = 0; c < 3; ++c)
            out[3 * i + c] =
                static_cast<std::uint8_t>((row0[6 * i + c] + row0[6 * i + 3 + c] + row1[6 * i + c] +
                                           row1[6 * i + 3 + c] + 2) >>
                                          2);
}

}  // namespace

extern const TileLoops tile_loops;
const TileLoops tile_loops{blend_rows, blend_columns, halve};

}  // namespace histofast::cpu::HISTOFAST_ISA
