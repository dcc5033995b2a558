// Mostly plain loops for the compiler to make vectors of; integers, so the same bits whatever it
// makes. No inline function of the standard library: compiled for AVX-512, it might be the copy of
// everybody.
#include "glcm_isa.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace histofast::cpu::HISTOFAST_ISA {
namespace {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using std::size_t;

#if defined(__AVX2__)

// Levels of 8 pixels as 32-bit words. Reads 28 bytes. Products are of signed 16 bits, so that
// green's weight comes in two parts.
__m256i levels_of_8(const u8* rgb, __m256i levels) {
    const __m256i pixels = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rgb))),
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(rgb + 12)), 1);
    const __m256i red_green = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 1, -1, 3, -1, 4, -1, 6, -1, 7, -1, 9, -1, 10, -1));
    const __m256i green_blue = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(1, -1, 2, -1, 4, -1, 5, -1, 7, -1, 8, -1, 10, -1, 11, -1));
    const __m256i a = _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, red_green),
                                        _mm256_set1_epi32(23443 << 16 | 13926));
    const __m256i b = _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, green_blue),
                                        _mm256_set1_epi32(4725 << 16 | 23442));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_set1_epi32(32768));
    return _mm256_srli_epi32(_mm256_madd_epi16(_mm256_srli_epi32(sum, 16), levels), 8);
}

size_t level_vectors(const u8* rgb, size_t count, u32 levels, u8* out) {
    const __m256i times = _mm256_set1_epi32(static_cast<int>(levels));
    size_t k = 0;
    for (; k + 34 <= count; k += 32) {  // two pixels more, for what the loads read beyond
        const u8* const at = rgb + 3 * k;
        const __m256i low =
            _mm256_packus_epi32(levels_of_8(at, times), levels_of_8(at + 24, times));
        const __m256i high =
            _mm256_packus_epi32(levels_of_8(at + 48, times), levels_of_8(at + 72, times));
        const __m256i mixed = _mm256_packus_epi16(low, high);  // fours of pixels, lane by lane
        _mm256_storeu_si256(
            reinterpret_cast<__m256i*>(out + k),
            _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    }
    return k;
}

constexpr size_t kVector = 16;

__m256i words(const u8* from) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

// The same for pairs, 16 at a time. Wider vectors, as the compiler makes them, are slower.
size_t pair_vectors(const u8* a, const u8* b, size_t count, u16* keys, u64* sums, u32* largest) {
    if (count < kVector) return 0;
    // Of all lanes, and from the end: the last vector reaches back over pairs that are counted.
    static const u16 kLanes[2 * kVector] = {
        0,      0,      0,      0,      0,      0,      0,      0,      0,      0,      0,
        0,      0,      0,      0,      0,      0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff,
        0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff};
    __m256i sum = _mm256_setzero_si256(), squares = sum, top = sum;
    for (size_t k = 0; k < count; k += kVector) {
        const size_t fresh = count - k < kVector ? count - k : kVector;
        const size_t at = k + fresh - kVector;
        __m256i x = words(a + at), y = words(b + at);
        const __m256i low = _mm256_min_epu16(x, y), high = _mm256_max_epu16(x, y);
        const __m256i key = _mm256_or_si256(_mm256_slli_epi16(_mm256_sub_epi16(high, low), 8), low);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(keys + at), key);
        top = _mm256_max_epu16(top, key);
        const __m256i lanes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLanes + fresh));
        x = _mm256_and_si256(x, lanes);
        y = _mm256_and_si256(y, lanes);
        sum =
            _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(x, y), _mm256_set1_epi16(1)));
        squares = _mm256_add_epi32(
            squares, _mm256_add_epi32(_mm256_madd_epi16(x, x), _mm256_madd_epi16(y, y)));
    }
    u32 each[2][8];
    u16 tops[16];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(each[0]), sum);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(each[1]), squares);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(tops), top);
    for (int i = 0; i < 8; ++i) sums[0] += each[0][i], sums[1] += each[1][i];
    for (int i = 0; i < 16; ++i) *largest = tops[i] > *largest ? tops[i] : *largest;
    return count;
}

#else

size_t level_vectors(const u8*, size_t, u32, u8*) { return 0; }
size_t pair_vectors(const u8*, const u8*, size_t, u16*, u64*, u32*) { return 0; }

#endif

void level(const u8* __restrict rgb, size_t count, u32 levels, u8* __restrict out) {
    for (size_t k = level_vectors(rgb, count, levels, out); k < count; ++k) {
        const u32 grey =
            (13926u * rgb[3 * k] + 46885u * rgb[3 * k + 1] + 4725u * rgb[3 * k + 2] + 32768u) >> 16;
        out[k] = static_cast<u8>(grey * levels >> 8);
    }
}

u32 pair(const u8* __restrict a, const u8* __restrict b, size_t count, u16* __restrict keys,
         u64* __restrict sums, u32 largest) {
    u32 sum = 0, squares = 0;  // of at most 30,000 pixels
    u16 top = 0;
    for (size_t k = pair_vectors(a, b, count, keys, sums, &largest); k < count; ++k) {
        const u16 low = a[k] < b[k] ? a[k] : b[k], high = a[k] < b[k] ? b[k] : a[k];
        const u16 key = static_cast<u16>((high - low) << 8 | low);
        keys[k] = key;
        top = key > top ? key : top;
        sum += u32{low} + high;
        squares += u32{low} * low + u32{high} * high;
    }
    sums[0] += sum;
    sums[1] += squares;
    return top > largest ? top : largest;
}

template <class Cell>
void count(const u16* __restrict keys, size_t count, Cell* __restrict tables) {
    Cell* __restrict const odd = tables + kGlcmTable;
    size_t k = 0;
    for (; k + 4 <= count; k += 4) {
        const size_t k0 = keys[k], k1 = keys[k + 1], k2 = keys[k + 2], k3 = keys[k + 3];
        ++tables[k0];
        ++odd[k1];
        ++tables[k2];
        ++odd[k3];
    }
    for (; k < count; ++k) ++tables[keys[k]];
}

template <class Cell>
u32 gather(Cell* __restrict row, size_t size, u64* __restrict squares) {
    Cell* __restrict const odd = row + kGlcmTable;
    u32 sum = 0;
    u64 all = 0;
    for (size_t k = 0; k < size; ++k) {
        const u32 here = u32{row[k]} + odd[k];
        sum += here;
        all += u64{here} * here;
        row[k] = odd[k] = 0;
    }
    *squares += all;
    return sum;
}

}  // namespace

extern const GlcmLoops glcm_loops;
const GlcmLoops glcm_loops = {level, pair, {count<u16>, gather<u16>}, {count<u32>, gather<u32>}};

}  // namespace histofast::cpu::HISTOFAST_ISA
