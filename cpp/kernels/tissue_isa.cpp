// No inline function of the standard library is called here: compiled for AVX-512, it might be the
// copy that the linker keeps for everybody.
#include <cstring>

#include "tissue_kernels.h"

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

constexpr size_t kGroup = 32;  // pixels handled at once where colours are split

u64 valid_bits(size_t count) { return count >= kWordBits ? ~u64{0} : (u64{1} << count) - 1; }

// --- Chroma and raw foreign bits of 32 pixels -----------------------------------------------

#if defined(__AVX2__)

__m256i at_least(__m256i x, char k) {
    return _mm256_cmpeq_epi8(_mm256_max_epu8(x, _mm256_set1_epi8(k)), x);
}

__m256i at_most(__m256i x, char k) {
    return _mm256_cmpeq_epi8(_mm256_min_epu8(x, _mm256_set1_epi8(k)), x);
}

__m256i load_halves(const u8* low, const u8* high) {
    return _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(low))),
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(high)), 1);
}

__m256i gather(__m256i a, __m256i b, __m256i c, __m128i from_a, __m128i from_b, __m128i from_c) {
    return _mm256_or_si256(
        _mm256_or_si256(_mm256_shuffle_epi8(a, _mm256_broadcastsi128_si256(from_a)),
                        _mm256_shuffle_epi8(b, _mm256_broadcastsi128_si256(from_b))),
        _mm256_shuffle_epi8(c, _mm256_broadcastsi128_si256(from_c)));
}

u32 chroma_and_foreign(const u8* rgb, u8* chroma, bool want_foreign) {
    // Pixels 0..15 in the low lane and 16..31 in the high one, so that shuffles stay in lanes.
    const __m256i a = load_halves(rgb, rgb + 48);
    const __m256i b = load_halves(rgb + 16, rgb + 64);
    const __m256i c = load_halves(rgb + 32, rgb + 80);
    const __m256i red =
        gather(a, b, c, _mm_setr_epi8(0, 3, 6, 9, 12, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1),
               _mm_setr_epi8(-1, -1, -1, -1, -1, -1, 2, 5, 8, 11, 14, -1, -1, -1, -1, -1),
               _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 1, 4, 7, 10, 13));
    const __m256i green =
        gather(a, b, c, _mm_setr_epi8(1, 4, 7, 10, 13, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1),
               _mm_setr_epi8(-1, -1, -1, -1, -1, 0, 3, 6, 9, 12, 15, -1, -1, -1, -1, -1),
               _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 2, 5, 8, 11, 14));
    const __m256i blue =
        gather(a, b, c, _mm_setr_epi8(2, 5, 8, 11, 14, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1),
               _mm_setr_epi8(-1, -1, -1, -1, -1, 1, 4, 7, 10, 13, -1, -1, -1, -1, -1, -1),
               _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 3, 6, 9, 12, 15));
    const __m256i green_blue = _mm256_max_epu8(green, blue);
    const __m256i high = _mm256_max_epu8(red, green_blue);
    const __m256i low = _mm256_min_epu8(red, _mm256_min_epu8(green, blue));
    const __m256i value = _mm256_sub_epi8(high, low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(chroma), value);
    if (!want_foreign) return 0;
    const __m256i is_blue = _mm256_and_si256(at_least(_mm256_subs_epu8(blue, red), 72),
                                             at_most(_mm256_subs_epu8(red, green), 8));
    const __m256i is_green = _mm256_and_si256(at_least(_mm256_subs_epu8(green, red), 24),
                                              at_least(_mm256_subs_epu8(green, blue), 8));
    const __m256i is_red = at_least(_mm256_subs_epu8(red, green_blue), static_cast<char>(144));
    const __m256i is_black = _mm256_and_si256(at_most(high, 79), at_most(value, 23));
    return static_cast<u32>(_mm256_movemask_epi8(
        _mm256_or_si256(_mm256_or_si256(is_blue, is_green), _mm256_or_si256(is_red, is_black))));
}

#else

// Eight bytes of 0 or 1 become eight bits: the products land in the top byte without a carry.
u64 pack_bytes(const u8* flags) {
    u64 bits = 0;
    for (size_t i = 0; i < 8; ++i) bits |= static_cast<u64>(flags[i]) << (8 * i);
    return (bits * 0x0102040810204080u) >> 56;
}

u32 chroma_and_foreign(const u8* rgb, u8* chroma, bool want_foreign) {
    u8 red[kGroup], green[kGroup], blue[kGroup], flags[kGroup];
    for (size_t i = 0; i < kGroup; ++i) {
        red[i] = rgb[3 * i];
        green[i] = rgb[3 * i + 1];
        blue[i] = rgb[3 * i + 2];
    }
    for (size_t i = 0; i < kGroup; ++i) {
        const int r = red[i], g = green[i], b = blue[i];
        const int green_blue = g > b ? g : b, high = r > green_blue ? r : green_blue;
        const int less = g < b ? g : b, low = r < less ? r : less;
        chroma[i] = static_cast<u8>(high - low);
        flags[i] = ((b - r >= 72) & (r - g <= 8)) | ((g - r >= 24) & (g - b >= 8)) |
                   (r - green_blue >= 144) | ((high < 80) & (high - low < 24));
    }
    if (!want_foreign) return 0;
    u64 bits = 0;
    for (size_t i = 0; i < kGroup; i += 8) bits |= pack_bytes(flags + i) << i;
    return static_cast<u32>(bits);
}

#endif

void split_row(const u8* rgb, size_t width, u8* chroma, u64* foreign) {
    u32 bits = 0;
    for (size_t x = 0; x < width; x += kGroup) {
        const size_t count = width - x < kGroup ? width - x : kGroup;
        if (count == kGroup) {
            bits = chroma_and_foreign(rgb + 3 * x, chroma + x, foreign != nullptr);
        } else {
            u8 rest[3 * kGroup];
            for (size_t i = 0; i < 3 * kGroup; ++i) rest[i] = i < 3 * count ? rgb[3 * x + i] : 255;
            bits = chroma_and_foreign(rest, chroma + x, foreign != nullptr);
        }
        if (foreign == nullptr) continue;
        u64& word = foreign[x / kWordBits];
        word = x % kWordBits ? word | static_cast<u64>(bits) << 32 : bits;
    }
}

// --- Smoothing --------------------------------------------------------------------------------

// `chroma` starts 2 px before the row. 16 * 255 fits 16 bits, and so does its vertical sum.
void smooth_across(const u8* __restrict chroma, size_t width, u16* __restrict sums) {
    for (size_t x = 0; x < width; ++x) {
        const u16 far = static_cast<u16>(chroma[x] + chroma[x + 4]);
        const u16 near = static_cast<u16>(chroma[x + 1] + chroma[x + 3]);
        sums[x] = static_cast<u16>(far + 4 * near + 6 * chroma[x + 2]);
    }
}

void smooth_down(const u16* __restrict a, const u16* __restrict b, const u16* __restrict c,
                 const u16* __restrict d, const u16* __restrict e, size_t width,
                 u8* __restrict score) {
    for (size_t x = 0; x < width; ++x) {
        const u16 far = static_cast<u16>(a[x] + e[x]);
        const u16 near = static_cast<u16>(b[x] + d[x]);
        const u16 sum = static_cast<u16>(far + 4 * near + 6 * c[x] + 128);
        score[x] = static_cast<u8>(sum >> 8);
    }
}

// Glass repeats one score for thousands of pixels: eight tables keep the additions independent.
void count_row(const u8* score, size_t width, u32* tables) {
    size_t x = 0;
    for (; x + kTables <= width; x += kTables) {
        u64 eight;
        std::memcpy(&eight, score + x, kTables);
        for (size_t i = 0; i < kTables; ++i) ++tables[256 * i + ((eight >> (8 * i)) & 255)];
    }
    for (; x < width; ++x) ++tables[score[x]];
}

void score(const u8* rgb, BitShape shape, u8* scratch, u8* out, u32* histogram, u64* foreign) {
    const auto [height, width, words] = shape;
    const size_t stride = (width / 64 + 3) * 64;
    u8* const chroma = scratch + 64;
    u16* const rows = reinterpret_cast<u16*>(scratch + stride);
    u32* const tables = reinterpret_cast<u32*>(scratch + 11 * stride);
    for (size_t i = 0; i < kTables * 256; ++i) tables[i] = 0;

    for (size_t y = 0; y < height + 2; ++y) {
        if (y < height) {
            split_row(rgb + 3 * width * y, width, chroma, foreign ? foreign + words * y : nullptr);
            chroma[-2] = chroma[-1] = chroma[0];
            chroma[width] = chroma[width + 1] = chroma[width - 1];
            smooth_across(chroma - 2, width, rows + stride * (y % 5));
        }
        if (y < 2) continue;
        const size_t last = height - 1, at = y - 2;
        const auto row = [&](size_t i) { return rows + stride * ((i > last ? last : i) % 5); };
        u8* const line = out + width * at;
        smooth_down(row(at < 2 ? 0 : at - 2), row(at < 1 ? 0 : at - 1), row(at), row(at + 1),
                    row(at + 2), width, line);
        count_row(line, width, tables);
    }
    for (size_t i = 0; i < kTables; ++i)
        for (size_t value = 0; value < 256; ++value)
            histogram[score_bin(static_cast<u8>(value))] += tables[256 * i + value];
}

// --- Bits ------------------------------------------------------------------------------------

u64 above(const u8* values, size_t count, int threshold) {
    u64 bits = 0;
    for (size_t i = 0; i < count; ++i) bits |= static_cast<u64>(values[i] > threshold) << i;
    return bits;
}

#if defined(__AVX512BW__)

u64 above_64(const u8* values, int threshold) {
    return _mm512_cmpgt_epu8_mask(_mm512_loadu_si512(values),
                                  _mm512_set1_epi8(static_cast<char>(threshold)));
}

void expand_64(u64 bits, u8* mask) { _mm512_storeu_si512(mask, _mm512_maskz_set1_epi8(bits, 1)); }

#elif defined(__AVX2__)

u64 above_64(const u8* values, int threshold) {
    u64 bits = 0;
    for (size_t half = 0; half < 2; ++half) {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + 32 * half));
        const u32 below =
            static_cast<u32>(_mm256_movemask_epi8(at_most(x, static_cast<char>(threshold))));
        bits |= static_cast<u64>(~below) << (32 * half);
    }
    return bits;
}

void expand_64(u64 bits, u8* mask) {
    const __m256i which =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201u));
    for (size_t half = 0; half < 2; ++half) {
        const __m256i x = _mm256_set1_epi32(static_cast<int>(bits >> (32 * half)));
        const __m256i set = _mm256_and_si256(_mm256_shuffle_epi8(x, which), bit);
        const __m256i one = _mm256_min_epu8(set, _mm256_set1_epi8(1));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(mask + 32 * half), one);
    }
}

#else

u64 above_64(const u8* values, int threshold) {
    u8 flags[kWordBits];
    for (size_t i = 0; i < kWordBits; ++i) flags[i] = values[i] > threshold;
    u64 bits = 0;
    for (size_t i = 0; i < kWordBits; i += 8) bits |= pack_bytes(flags + i) << i;
    return bits;
}

void expand_64(u64 bits, u8* mask) {
    for (size_t i = 0; i < kWordBits; i += 8) {
        // One bit per byte, then any bit to bit 0 by carrying into bit 7.
        const u64 spread = (((bits >> i) & 255) * 0x0101010101010101u) & 0x8040201008040201u;
        const u64 ones = ((spread + 0x7f7f7f7f7f7f7f7fu) >> 7) & 0x0101010101010101u;
        for (size_t j = 0; j < 8; ++j) mask[i + j] = static_cast<u8>(ones >> (8 * j));
    }
}

#endif

void threshold(const u8* scores, BitShape shape, int limit, u64* bits) {
    const auto [height, width, words] = shape;
    for (size_t y = 0; y < height; ++y) {
        const u8* const line = scores + width * y;
        const size_t full = width / kWordBits;
        for (size_t i = 0; i < full; ++i)
            bits[words * y + i] = above_64(line + kWordBits * i, limit);
        if (full < words)
            bits[words * y + full] =
                above(line + kWordBits * full, width - kWordBits * full, limit);
    }
}

void expand(const u64* bits, BitShape shape, u8* mask) {
    const auto [height, width, words] = shape;
    for (size_t y = 0; y < height; ++y) {
        u8* const line = mask + width * y;
        const size_t full = width / kWordBits;
        for (size_t i = 0; i < full; ++i) expand_64(bits[words * y + i], line + kWordBits * i);
        for (size_t x = kWordBits * full; x < width; ++x)
            line[x] = (bits[words * y + full] >> (x % kWordBits)) & 1;
    }
}

// Union of `row` moved by 0..radius pixels to the right (towards higher bits) and to the left.
// Moves add up, so their number is the logarithm of the radius.
void dilate_row(const u64* row, size_t words, size_t radius, u64* __restrict right,
                u64* __restrict left) {
    for (size_t i = 0; i < words; ++i) right[i] = left[i] = row[i];
    for (size_t reach = 1; reach < radius + 1;) {
        const size_t by = reach < radius + 1 - reach ? reach : radius + 1 - reach;
        for (size_t i = words; i-- > 1;)
            right[i] |= right[i] << by | right[i - 1] >> (kWordBits - by);
        right[0] |= right[0] << by;
        for (size_t i = 0; i + 1 < words; ++i)
            left[i] |= left[i] >> by | left[i + 1] << (kWordBits - by);
        left[words - 1] |= left[words - 1] >> by;
        reach += by;
    }
}

// Erosion is the dilation of the complement: `flip` is all ones for it. Beyond the edges nothing
// is set for the dilation, so an edge neither grows nor erodes.
void morph(u64* bits, BitShape shape, size_t radius, u64* scratch, u64 flip) {
    const auto [height, width, words] = shape;
    const u64 last = valid_bits(width - kWordBits * (words - 1));
    const size_t rows = height + 2 * radius;
    u64* const right = scratch + words * rows;
    u64* const left = right + words;
    for (size_t i = 0; i < words * radius; ++i)
        scratch[i] = scratch[words * (height + radius) + i] = 0;
    for (size_t y = 0; y < height; ++y) {
        u64* const row = bits + words * y;
        for (size_t i = 0; i < words; ++i) row[i] ^= flip;
        row[words - 1] &= last;
        dilate_row(row, words, radius, right, left);
        u64* const to = scratch + words * (y + radius);
        for (size_t i = 0; i < words; ++i) to[i] = right[i] | left[i];
    }
    for (size_t reach = 1; reach < 2 * radius + 1;) {
        const size_t by = reach < 2 * radius + 1 - reach ? reach : 2 * radius + 1 - reach;
        const size_t ahead = words * by, count = words * (rows - by);
        for (size_t i = 0; i < count; ++i) scratch[i] |= scratch[i + ahead];
        reach += by;
    }
    for (size_t y = 0; y < height; ++y) {
        for (size_t i = 0; i < words; ++i) bits[words * y + i] = scratch[words * y + i] ^ flip;
        bits[words * y + words - 1] &= last;
    }
}

void dilate(u64* bits, BitShape shape, size_t radius, u64* scratch) {
    morph(bits, shape, radius, scratch, 0);
}

void erode(u64* bits, BitShape shape, size_t radius, u64* scratch) {
    morph(bits, shape, radius, scratch, ~u64{0});
}

}  // namespace

const TissueKernels tissue_kernels = {score, threshold, dilate, erode, expand};

}  // namespace histofast::cpu::HISTOFAST_ISA
