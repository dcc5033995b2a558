// Integer instructions bound the scores, some 50 a pixel against 4 bytes; all else is bit images
// and sparse labels in the L2 cache, where launches and latency count: stages are fused in tiles.
#include <algorithm>

#include "cuda_utils.cuh"
#include "histofast/tissue.h"
#include "tissue_kernels.h"

namespace histofast::cuda {
namespace {

using u8 = std::uint8_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using cpu::kScoreBins;

constexpr u32 kFull = 0xffffffffu;
constexpr u32 kWordBits = 32;
constexpr u32 kWarp = 32;

// A bit image has `words` 32-bit words a row; bits at and beyond `width` are zero. Scores have rows
// of 32 * words bytes, so that each word's are two aligned vectors.
struct Shape {
    u32 height, width, words;
};

__device__ u32 inside(u32 word, Shape shape) {
    if (word >= shape.words) return 0;
    return word + 1 < shape.words ? kFull : kFull >> (kWordBits * shape.words - shape.width);
}

// --- Score, its histogram, raw foreign bits -----------------------------------------------------

// Four words of bits by 32 rows; the halo costs a fifth more pixels, from the L2 cache.
constexpr u32 kScoreWidth = 128, kScoreHeight = 32;
constexpr u32 kScoreThreads = 256;  // eight warps, of four rows each
constexpr u32 kGroups = kScoreWidth / 4 + 2;
// Several histograms, because thousands of blocks add to few bins.
constexpr u32 kTables = 32;

struct Group {   // four pixels
    u32 chroma;  // bytes
    u32 ink;     // bits of the lowest byte
};

// Two pixels a register, in halves of 16 bits: half the instructions. Bit 15 of each half becomes
// x - y >= k; nothing carries from one half to the other.
__device__ u32 differ(u32 x, u32 y, int k) {
    return x + static_cast<u32>(0x8000 - k) * 0x10001u - y;
}

__device__ u32 split(u32 r, u32 g, u32 b, u32& chroma) {
    const u32 green_blue = __vmaxu2(g, b), high = __vmaxu2(r, green_blue);
    chroma = high - __vminu2(r, __vminu2(g, b));
    return (differ(b, r, 72) & differ(g, r, -8)) | (differ(g, r, 24) & differ(g, b, 8)) |
           differ(r, green_blue, 144) | (differ(0, high, -79) & differ(0, chroma, -23));
}

__device__ Group split(u32 a, u32 b, u32 c) {  // r g b r  g b r g  b r g b
    constexpr u32 kHalves = 0x00ff00ffu;
    u32 low, high;
    const u32 ink_low = split(__byte_perm(a, 0, 0x4340), __byte_perm(a, b, 0x0401) & kHalves,
                              __byte_perm(a, b, 0x0502) & kHalves, low);
    const u32 ink_high =
        split(__byte_perm(b, c, 0x0502) & kHalves, __byte_perm(b, c, 0x0603) & kHalves,
              __byte_perm(c, 0, 0x4340), high);
    const u32 ink = (ink_low >> 15 & 0x00010001u) | (ink_high >> 13 & 0x00040004u);
    return {__byte_perm(low, high, 0x6420), ink | ink >> 15};
}

// The pixels x, x + 1, x + 2, x + 3 of a row, `right` being x + 4; beyond the edges they repeat.
__device__ Group load_group(const u8* __restrict__ rgb, Shape shape, u32 y, u32 right) {
    const u64 row = u64{y} * shape.width;
    // Aligned words and a shift: a third of the loads that bytes would take. They reach 4 bytes
    // further on either side, which is within the image while there are two pixels there.
    if (right >= 6 && right + 2 <= shape.width) {
        const u8* const at = rgb + 3 * (row + right - 4);
        const auto offset = static_cast<u32>(reinterpret_cast<std::uintptr_t>(at) & 3);
        const u32* const from = reinterpret_cast<const u32*>(at - offset);
        const u32 a = __ldg(from), b = __ldg(from + 1), c = __ldg(from + 2), d = __ldg(from + 3);
        return split(__funnelshift_r(a, b, 8 * offset), __funnelshift_r(b, c, 8 * offset),
                     __funnelshift_r(c, d, 8 * offset));
    }
    u32 bytes[3] = {0, 0, 0};
#pragma unroll
    for (u32 i = 0; i < 12; ++i) {
        const u32 x = min(max(right + i / 3, 4u) - 4, shape.width - 1);
        bytes[i / 4] |= u32{__ldg(rgb + 3 * (row + x) + i % 3)} << 8 * (i % 4);
    }
    return split(bytes[0], bytes[1], bytes[2]);
}

// 1 4 6 4 1 across four pixels; as pairs of 16 bits, which hold the vertical sum as well.
__device__ void smooth_across(u32 before, u32 here, u32 after, u32& low, u32& high) {
    low = __dp4a(before, 0x01000000u, __dp4a(here, 0x01040604u, 0u)) << 16;
    low = __dp4a(before, 0x04010000u, __dp4a(here, 0x00010406u, low));
    high = __dp4a(here, 0x06040100u, __dp4a(after, 0x00000104u, 0u)) << 16;
    high = __dp4a(here, 0x04060401u, __dp4a(after, 0x00000001u, high));
}

__device__ u32 smooth_down(const u32* pairs) {
    return pairs[0] + pairs[4] + 4 * (pairs[1] + pairs[3]) + 6 * pairs[2] + 0x00800080u;
}

__device__ u32 score_bin(u32 score) { return min(score, static_cast<u32>(kScoreBins - 1)); }

// `ink` may be null, and so may `tables`.
__global__ void __launch_bounds__(kScoreThreads)
    score_pixels(const u8* __restrict__ rgb, Shape shape, u8* __restrict__ scores,
                 u32* __restrict__ ink, u32* __restrict__ tables) {
    __shared__ u32 chroma[kScoreHeight + 4][kGroups];
    alignas(8) __shared__ u8 nibbles[kScoreHeight][kScoreWidth / 4];
    // A column for each lane: neighbours of one score meet neither in a bin nor in a bank.
    __shared__ u32 counts[kScoreBins + 1][kWarp];  // the last for what is beyond the edge
    const u32 across = ceil_div(shape.width, kScoreWidth);
    const u32 x0 = blockIdx.x % across * kScoreWidth, y0 = blockIdx.x / across * kScoreHeight;
    const u32 warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;

    for (u32 bin = warp; bin < kScoreBins; bin += kScoreThreads / kWarp) counts[bin][lane] = 0;
    const auto take = [&](u32 row, u32 group) {
        const u32 y = min(max(y0 + row, 2u) - 2, shape.height - 1);
        const Group pixels = load_group(rgb, shape, y, x0 + 4 * group);
        chroma[row][group] = pixels.chroma;
        return static_cast<u8>(pixels.ink);
    };
    for (u32 row = warp; row < kScoreHeight + 4; row += kScoreThreads / kWarp) {
        const u8 nibble = take(row, lane + 1);
        if (row - 2 < kScoreHeight) nibbles[row - 2][lane] = nibble;
    }
    if (threadIdx.x < 2 * (kScoreHeight + 4))
        (void)take(threadIdx.x / 2, threadIdx.x % 2 * (kGroups - 1));
    __syncthreads();

    constexpr u32 kTileWords = kScoreWidth / kWordBits;
    if (ink != nullptr && threadIdx.x < kTileWords * kScoreHeight) {
        const u32 row = threadIdx.x / kTileWords, column = threadIdx.x % kTileWords;
        const u32 y = y0 + row, word = x0 / kWordBits + column;
        u64 bits = *reinterpret_cast<const u64*>(&nibbles[row][8 * column]);
        bits = (bits | bits >> 4) & 0x00ff00ff00ff00ffu;
        bits = (bits | bits >> 8) & 0x0000ffff0000ffffu;
        bits |= bits >> 16;
        if (y < shape.height && word < shape.words)
            ink[u64{y} * shape.words + word] = static_cast<u32>(bits) & inside(word, shape);
    }

    constexpr u32 kRows = kScoreHeight * kWarp / kScoreThreads;  // of a warp
    u32 low[kRows + 4], high[kRows + 4];
#pragma unroll
    for (u32 k = 0; k < kRows + 4; ++k) {
        const u32* const row = chroma[kRows * warp + k];
        smooth_across(row[lane], row[lane + 1], row[lane + 2], low[k], high[k]);
    }
    const u32 x = x0 + 4 * lane, stride = kWordBits * shape.words;
#pragma unroll
    for (u32 k = 0; k < kRows; ++k) {
        const u32 y = y0 + kRows * warp + k;
        if (y >= shape.height || x >= stride) continue;
        const u32 four = __byte_perm(smooth_down(low + k), smooth_down(high + k), 0x7531);
        *reinterpret_cast<u32*>(scores + u64{y} * stride + x) = four;
        if (tables == nullptr) continue;
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const u32 bin = score_bin(four >> 8 * i & 255);
            atomicAdd(&counts[x + i < shape.width ? bin : kScoreBins][lane], 1u);
        }
    }
    if (tables == nullptr) return;
    __syncthreads();
    constexpr u32 kBins = kScoreBins * kWarp / kScoreThreads;  // of a warp
    u32 mine = 0;
    for (u32 k = 0; k < kBins; ++k) {
        const u32 sum = __reduce_add_sync(kFull, counts[kBins * warp + k][lane]);
        if (lane == k) mine = sum;
    }
    if (mine > 0)  // of the first lanes only
        atomicAdd(&tables[blockIdx.x % kTables * kScoreBins + kBins * warp + lane], mine);
}

// --- Threshold ----------------------------------------------------------------------------------

// Otsu's split of the first `bins` bins, one bin a thread: its doubles come from the CPU's
// expressions, and the first of the largest is the CPU's as well. Returns the threshold.
__device__ u32 otsu_split(const u64* counts, u32 bins, double* between, double* contrasts) {
    const u32 t = threadIdx.x;
    u64 total = 0, weighted = 0, n0 = 0, s0 = 0;
    for (u32 i = 0; i < bins; ++i) {
        total += counts[i];
        weighted += i * counts[i];
        if (i == t) n0 = total, s0 = weighted;
    }
    between[t] = contrasts[t] = 0.0;
    if (t < bins && n0 != 0 && n0 != total) {
        const double m1 = static_cast<double>(weighted - s0) / static_cast<double>(total - n0);
        const double m0 = static_cast<double>(s0) / static_cast<double>(n0);
        const double contrast = m1 - m0;
        const double weight = static_cast<double>(n0) * static_cast<double>(total - n0);
        between[t] = contrast * contrast * weight;
        contrasts[t] = contrast;
    }
    __syncthreads();
    u32 best = 0;
    double most = 0.0;
    for (u32 i = 0; i < bins; ++i)
        if (between[i] > most) most = between[i], best = i;
    return best;
}

// `given`: the threshold, or negative. One block of kScoreBins threads.
__global__ void choose_threshold(const u32* tables, int given, std::int32_t* threshold) {
    __shared__ u64 counts[kScoreBins];
    __shared__ double between[kScoreBins], contrasts[kScoreBins];
    if (given >= 0) {
        if (threadIdx.x == 0) *threshold = given;
        return;
    }
    u32 sum = 0;
    for (u32 k = 0; k < kTables; ++k) sum += tables[k * kScoreBins + threadIdx.x];
    counts[threadIdx.x] = sum;
    __syncthreads();
    const u32 all = otsu_split(counts, kScoreBins, between, contrasts);
    const bool is_one_class = contrasts[all] < kLeastContrast;
    __syncthreads();
    const u32 faint = otsu_split(counts, all + 1, between, contrasts);
    const u32 found = contrasts[faint] >= kLeastContrast ? faint : all;
    if (threadIdx.x == 0)
        *threshold =
            is_one_class ? kOneClassThreshold : max(static_cast<int>(found), kLeastThreshold);
}

// --- Dilation and erosion -----------------------------------------------------------------------

// Tiles of 32 words a row, a lane each, with the halo that all stages need together; 64 rows beside
// it, so that the small radii of every day compute a quarter more than they keep.
constexpr u32 kMorphRows = 64;
constexpr u32 kMorphWarps = 16;  // four blocks fill a multiprocessor

struct MorphTile {
    u32 first_row, first_word;  // of the tile; before the picture they wrap to huge numbers
    u32 rows, halo_rows, halo_words;
};

__host__ __device__ constexpr u32 halo_words_of(u32 halo_rows) {
    return ceil_div(halo_rows, kWordBits);
}

__device__ MorphTile morph_tile(Shape shape, u32 halo_rows) {
    const u32 halo_words = halo_words_of(halo_rows), kept = kWarp - 2 * halo_words;
    const u32 across = ceil_div(shape.words, kept);
    return {blockIdx.x / across * kMorphRows - halo_rows, blockIdx.x % across * kept - halo_words,
            kMorphRows + 2 * halo_rows, halo_rows, halo_words};
}

// Union of the bits up to `radius` away on either side, at most 32. Moves add up, so their number
// is the logarithm of the radius.
__device__ u32 spread(u32 left, u32 here, u32 right, u32 radius) {
    u64 up = u64{here} << 32 | left, down = u64{right} << 32 | here;
    for (u32 reach = 1; reach <= radius;) {
        const u32 by = min(reach, radius + 1 - reach);
        up |= up << by;
        down |= down >> by;
        reach += by;
    }
    return static_cast<u32>(up >> 32) | static_cast<u32>(down);
}

// Dilates `a` by a square, or gives the complement of that: an erosion is the dilation of the
// complement, and beyond the edges nothing is set for either. The tile's rim comes out wrong.
__device__ void dilate(u32 (*a)[kWarp], u32 (*b)[kWarp], const MorphTile& tile, Shape shape,
                       u32 radius, bool complement) {
    const u32 lane = threadIdx.x;
    for (u32 row = threadIdx.y; row < tile.rows; row += kMorphWarps)
        b[row][lane] = spread(lane > 0 ? a[row][lane - 1] : 0, a[row][lane],
                              lane + 1 < kWarp ? a[row][lane + 1] : 0, radius);
    __syncthreads();
    const u32 valid = inside(tile.first_word + lane, shape), flip = complement ? kFull : 0;
    for (u32 row = threadIdx.y; row < tile.rows; row += kMorphWarps) {
        const u32 first = row > radius ? row - radius : 0;
        const u32 last = min(row + radius, tile.rows - 1);
        u32 bits = 0;
        for (u32 k = first; k <= last; ++k) bits |= b[k][lane];
        a[row][lane] = tile.first_row + row < shape.height ? (bits ^ flip) & valid : 0;
    }
    __syncthreads();
}

__device__ u64 word_index(Shape shape, u32 y, u32 word) { return u64{y} * shape.words + word; }

// Calls visit(row of the tile, index of the word) for what the tile keeps of the picture.
template <class Visit>
__device__ void each_kept(const MorphTile& tile, Shape shape, Visit visit) {
    const u32 word = tile.first_word + threadIdx.x;
    if (threadIdx.x < tile.halo_words || threadIdx.x >= kWarp - tile.halo_words ||
        word >= shape.words)
        return;
    for (u32 row = tile.halo_rows + threadIdx.y; row < tile.rows - tile.halo_rows;
         row += kMorphWarps)
        if (tile.first_row + row < shape.height)
            visit(row, word_index(shape, tile.first_row + row, word));
}

// The 32 scores of a word.
struct Scores {
    u32 four[8];
};

__device__ Scores load_scores(const u8* scores, u64 word) {
    const uint4* const from = reinterpret_cast<const uint4*>(scores + kWordBits * word);
    const uint4 a = from[0], b = from[1];
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

// Joined over gaps of 1 px, specks thinner than 5 px dropped, grown by 2 px and by the 2 lost.
// What is found is taken out of the histogram, which saves a pass over all scores.
constexpr u32 kInkHalo = 1 + 3 + 4;

__global__ void __launch_bounds__(kWarp* kMorphWarps)
    find_foreign(const u32* __restrict__ ink, Shape shape, const u8* __restrict__ scores,
                 u32* __restrict__ foreign, u32* __restrict__ tables) {
    __shared__ u32 a[kMorphRows + 2 * kInkHalo][kWarp], b[kMorphRows + 2 * kInkHalo][kWarp];
    static_assert(kScoreBins <= kMorphRows);
    const MorphTile tile = morph_tile(shape, kInkHalo);
    const u32 lane = threadIdx.x, word = tile.first_word + lane;
    for (u32 row = threadIdx.y; row < tile.rows; row += kMorphWarps) {
        const u32 y = tile.first_row + row;
        a[row][lane] = y < shape.height && word < shape.words ? ink[word_index(shape, y, word)] : 0;
    }
    __syncthreads();
    dilate(a, b, tile, shape, 1, true);
    dilate(a, b, tile, shape, 1 + 2, true);
    dilate(a, b, tile, shape, 4, false);
    each_kept(tile, shape, [&](u32 row, u64 index) { foreign[index] = a[row][lane]; });
    if (tables == nullptr) return;

    for (u32 bin = threadIdx.y; bin < kScoreBins; bin += kMorphWarps) b[bin][lane] = 0;
    bool is_any = false;
    each_kept(tile, shape, [&](u32 row, u64) { is_any |= a[row][lane] != 0; });
    if (!__syncthreads_or(is_any)) return;
    each_kept(tile, shape, [&](u32 row, u64 index) {
        const u32 set = a[row][lane];
        if (set == 0) return;
        const Scores of = load_scores(scores, index);
#pragma unroll
        for (u32 i = 0; i < kWordBits; ++i)
            if (set >> i & 1u)
                atomicAdd(&b[score_bin(of.four[i / 4] >> 8 * (i % 4) & 255)][lane], 1u);
    });
    __syncthreads();
    for (u32 bin = threadIdx.y; bin < kScoreBins; bin += kMorphWarps) {
        const u32 sum = __reduce_add_sync(kFull, b[bin][lane]);
        if (lane == 0 && sum > 0) atomicSub(&tables[blockIdx.x % kTables * kScoreBins + bin], sum);
    }
}

// bits = score > threshold and not foreign, closed, without `after`; both masks may be null.
__global__ void __launch_bounds__(kWarp* kMorphWarps)
    close_tissue(const u8* __restrict__ scores, Shape shape, const std::int32_t* threshold,
                 const u32* foreign, const u32* after, u32 radius, u32* __restrict__ bits) {
    __shared__ u32 a[kMorphRows + 4 * kMaxClosePx][kWarp], b[kMorphRows + 4 * kMaxClosePx][kWarp];
    const MorphTile tile = morph_tile(shape, 2 * radius);
    const u32 lane = threadIdx.x, word = tile.first_word + lane;
    const int limit = *threshold;
    for (u32 row = threadIdx.y; row < tile.rows; row += kMorphWarps) {
        const u32 y = tile.first_row + row;
        u32 set = 0;
        if (y < shape.height && word < shape.words) {
            const u64 index = word_index(shape, y, word);
            const Scores of = load_scores(scores, index);
#pragma unroll
            for (u32 i = 0; i < kWordBits; ++i) {
                const u32 score = of.four[i / 4] >> 8 * (i % 4) & 255;
                set |= static_cast<u32>(static_cast<int>(score) > limit) << i;
            }
            set &= inside(word, shape);
            if (foreign != nullptr) set &= ~foreign[index];
        }
        a[row][lane] = set;
    }
    __syncthreads();
    if (radius > 0) {
        dilate(a, b, tile, shape, radius, true);
        dilate(a, b, tile, shape, radius, true);
    }
    each_kept(tile, shape, [&](u32 row, u64 index) {
        bits[index] = after == nullptr ? a[row][lane] : a[row][lane] & ~after[index];
    });
}

// How many scores are above the threshold, and how many of those pixels are not foreign.
constexpr u32 kCountThreads = 256;

__global__ void __launch_bounds__(kCountThreads)
    count_above(const u8* __restrict__ scores, Shape shape, const u32* __restrict__ foreign,
                TissueFound* found) {
    const u64 index = u64{blockIdx.x} * kCountThreads + threadIdx.x;
    const int limit = found->threshold;
    u32 above = 0, remaining = 0;
    if (index < u64{shape.words} * shape.height) {
        const Scores of = load_scores(scores, index);
        u32 set = 0;
#pragma unroll
        for (u32 i = 0; i < kWordBits; ++i) {
            const u32 score = of.four[i / 4] >> 8 * (i % 4) & 255;
            set |= static_cast<u32>(static_cast<int>(score) > limit) << i;
        }
        set &= inside(static_cast<u32>(index % shape.words), shape);
        above = static_cast<u32>(__popc(set));
        remaining = foreign == nullptr ? above : static_cast<u32>(__popc(set & ~foreign[index]));
    }
    above = __reduce_add_sync(kFull, above);
    remaining = __reduce_add_sync(kFull, remaining);
    if (threadIdx.x % kWarp == 0 && above > 0) {
        atomicAdd(&found->above_px, static_cast<int>(above));
        atomicAdd(&found->remaining_px, static_cast<int>(remaining));
    }
}

// --- Objects and holes --------------------------------------------------------------------------

// Runs within a word are the nodes of a forest whose links go to smaller nodes. Two runs begin at
// least two bits apart, so half as many labels as pixels do, and most words use one or none.
constexpr u32 kLabelsOfWord = kWordBits / 2;
constexpr u32 kOpen = 1u << 31;  // beside the area of a component that touches an edge
constexpr u32 kFlatThreads = 256;

struct Pass {
    bool holes;  // of the background, joined by edges and corners; else objects, by edges
};

// The bits whose runs are looked for.
__device__ u32 runs_of(const u32* bits, Shape shape, Pass pass, u32 y, u32 word) {
    const u32 set = bits[word_index(shape, y, word)];
    return pass.holes ? ~set & inside(word, shape) : set;
}

// Calls visit(first bit, bits) for the runs of a word.
template <class Visit>
__device__ void each_run(u32 word, Visit visit) {
    while (word != 0) {
        const u32 run = word & ~(word + (word & (0u - word)));
        word ^= run;
        visit(static_cast<u32>(__ffs(static_cast<int>(run)) - 1), run);
    }
}

// First bit of the run that holds a bit.
__device__ u32 run_start(u32 word, u32 bit) {
    return kWordBits - static_cast<u32>(__clz(static_cast<int>(~word & ((1u << bit) - 1))));
}

__device__ u32 node_of(Shape shape, u32 y, u32 word, u32 start) {
    return y * ceil_div(shape.width, 2u) + kLabelsOfWord * word + start / 2;
}

// The links of a forest, which all threads read and lower at the same time: by atomics alone. Any
// order is safe: a node that hangs below another never becomes a root again.
struct Links {
    u32* parent;

    __device__ u32 operator[](u32 node) const {
        return __nv_atomic_load_n(parent + node, __NV_ATOMIC_RELAXED, __NV_THREAD_SCOPE_DEVICE);
    }
    __device__ u32 lower(u32 node, u32 to) const { return atomicMin(parent + node, to); }
};

// In shared memory, where compute-sanitizer takes a load beside other threads' atomics for a race.
struct SharedLinks : Links {
    __device__ u32 operator[](u32 node) const { return atomicOr(parent + node, 0u); }
};

// Shortens the path that it walks.
template <class Forest>
__device__ u32 find(Forest links, u32 node) {
    u32 above = links[node];
    while (above != node) {
        const u32 next = links[above];
        if (next == above) break;
        links.lower(node, next);
        node = above;
        above = next;
    }
    return above;
}

template <class Forest>
__device__ void unite(Forest links, u32 a, u32 b) {
    while (true) {
        a = find(links, a);
        b = find(links, b);
        if (a == b) return;
        if (a < b) {
            const u32 swap = a;
            a = b;
            b = swap;
        }
        const u32 before = links.lower(a, b);
        if (before == a) return;
        a = before;  // no root any more: what it hung below still waits to be joined
    }
}

// Four words around a corner, and which of their contacts to join.
struct Contacts {
    u32 here, left, above, above_left;
    bool join_left;
    u32 join_above, join_corners;  // by bit of `here`
};

// Joins runs of `here` with those left of and above it. node(up, back, start) is the node of the
// run that starts at a bit of the word `up` rows above and `back` words to the left.
template <class Forest, class Node>
__device__ void join(const Contacts& c, Forest links, Node node) {
    if (c.join_left && (c.here & 1) && c.left >> 31)
        unite(links, node(0, 0, 0), node(0, 1, run_start(c.left, 31)));
    // Where both rows go on to the left, their runs are joined already.
    const u32 both = c.here & c.above;
    u32 begins = both & ~(both << 1 | (c.left & c.above_left) >> 31) & c.join_above;
    for (; begins != 0; begins &= begins - 1) {
        const auto bit = static_cast<u32>(__ffs(static_cast<int>(begins)) - 1);
        unite(links, node(0, 0, run_start(c.here, bit)), node(1, 0, run_start(c.above, bit)));
    }
    // Both rows flip at one place, in opposite senses.
    const u32 before = c.here << 1 | c.left >> 31, above_before = c.above << 1 | c.above_left >> 31;
    const u32 rising = before & c.above & ~c.here & ~above_before;
    const u32 falling = c.here & above_before & ~before & ~c.above;
    for (u32 corners = (rising | falling) & c.join_corners; corners != 0; corners &= corners - 1) {
        const auto bit = static_cast<u32>(__ffs(static_cast<int>(corners)) - 1);
        const bool rises = rising >> bit & 1;
        const u32 up = rises ? 1 : 0;  // row of the run right of the flip
        const u32 right = run_start(rises ? c.above : c.here, bit);
        const u32 back = bit == 0 ? 1 : 0;
        const u32 word = rises ? (bit == 0 ? c.left : c.here) : (bit == 0 ? c.above_left : c.above);
        const u32 left = run_start(word, bit == 0 ? 31 : bit - 1);
        unite(links, node(up, 0, right), node(1 - up, back, left));
    }
}

// Tiles whose labels fit shared memory: a find waits for each link in turn, there not for long.
constexpr u32 kTileWords = 8, kTileRows = 32;
constexpr u32 kTileThreads = kTileWords * kTileRows;  // a word each
constexpr u32 kTileLabels = kTileThreads * kLabelsOfWord;
constexpr u32 kAreaShift = 12;  // above the label of a root stands its area, of at most 2^13 px
constexpr u32 kLabelMask = (1u << kAreaShift) - 1;
static_assert(kTileLabels == 1u << kAreaShift);

// Makes the forest of each tile, flat, with the area at the roots and 0 elsewhere.
__global__ void __launch_bounds__(kTileThreads)
    label_tiles(const u32* __restrict__ bits, Shape shape, Pass pass, u32* __restrict__ parent,
                u32* __restrict__ area) {
    __shared__ u32 words[kTileRows][kTileWords];
    __shared__ u32 labels[kTileLabels];
    const u32 across = ceil_div(shape.words, kTileWords);
    const u32 thread = threadIdx.x, row = thread / kTileWords, column = thread % kTileWords;
    const u32 y0 = blockIdx.x / across * kTileRows, word0 = blockIdx.x % across * kTileWords;
    const u32 y = y0 + row, word = word0 + column;
    // Most runs start at bit 0: labels of one bit lie side by side, in different banks.
    const auto label_of = [](u32 owner, u32 start) { return start / 2 * kTileThreads + owner; };

    const u32 here =
        y < shape.height && word < shape.words ? runs_of(bits, shape, pass, y, word) : 0;
    words[row][column] = here;
    each_run(here,
             [&](u32 start, u32) { labels[label_of(thread, start)] = label_of(thread, start); });
    __syncthreads();
    const bool has_left = column > 0, has_above = row > 0;
    const Contacts contacts{here,
                            has_left ? words[row][column - 1] : 0,
                            has_above ? words[row - 1][column] : 0,
                            has_left && has_above ? words[row - 1][column - 1] : 0,
                            has_left,
                            kFull,
                            pass.holes && has_above ? kFull : 0};
    const SharedLinks links{{labels}};
    join(contacts, links, [&](u32 up, u32 back, u32 start) {
        return label_of(thread - up * kTileWords - back, start);
    });
    __syncthreads();
    each_run(here, [&](u32 start, u32) {
        const u32 label = label_of(thread, start);
        links.lower(label, find(links, label));
    });
    __syncthreads();
    const u32 last_bit = (shape.width - 1) % kWordBits;
    each_run(here, [&](u32 start, u32 run) {
        u32* const root = &labels[links[label_of(thread, start)] & kLabelMask];
        atomicAdd(root, static_cast<u32>(__popc(run)) << kAreaShift);
        const bool is_open = y == 0 || y + 1 == shape.height || (word == 0 && start == 0) ||
                             (word + 1 == shape.words && run >> last_bit);
        if (pass.holes && is_open) atomicOr(root, kOpen);
    });
    __syncthreads();
    each_run(here, [&](u32 start, u32) {
        const u32 label = label_of(thread, start), value = labels[label], root = value & kLabelMask;
        const u32 owner = root % kTileThreads;
        const u32 node = node_of(shape, y, word, start);
        parent[node] = node_of(shape, y0 + owner / kTileWords, word0 + owner % kTileWords,
                               2 * (root / kTileThreads));
        area[node] = root == label ? (value & ~kOpen) >> kAreaShift | (value & kOpen) : 0;
    });
}

// One thread a word; those along tiles join them.
__global__ void __launch_bounds__(kFlatThreads)
    join_tiles(const u32* __restrict__ bits, Shape shape, Pass pass, u32* parent) {
    const u64 index = u64{blockIdx.x} * kFlatThreads + threadIdx.x;
    if (index >= u64{shape.words} * shape.height) return;
    const u32 y = static_cast<u32>(index) / shape.words;
    const u32 word = static_cast<u32>(index) % shape.words;
    const bool has_left = word > 0, has_above = y > 0;
    const bool at_left = has_left && word % kTileWords == 0;
    const bool at_top = has_above && y % kTileRows == 0;
    if (!at_left && !at_top) return;
    const u32 here = runs_of(bits, shape, pass, y, word);
    const u32 left = has_left ? runs_of(bits, shape, pass, y, word - 1) : 0;
    const u32 above = has_above ? runs_of(bits, shape, pass, y - 1, word) : 0;
    const u32 above_left = has_left && has_above ? runs_of(bits, shape, pass, y - 1, word - 1) : 0;
    // Within tiles, the row above has joined what goes on upwards on both sides.
    const bool is_joined = y % kTileRows != 0 && (above & 1) && above_left >> 31;
    const u32 corners = at_top ? kFull : has_above ? 1 : 0;
    const Contacts contacts{here,
                            left,
                            above,
                            above_left,
                            at_left && !is_joined,
                            at_top ? kFull : 0,
                            pass.holes ? corners : 0};
    join(contacts, Links{parent},
         [&](u32 up, u32 back, u32 start) { return node_of(shape, y - up, word - back, start); });
}

// Links every run to its root, and adds the areas of the tiles' roots there.
__global__ void __launch_bounds__(kFlatThreads)
    add_areas(const u32* __restrict__ bits, Shape shape, Pass pass, u32* parent, u32* area) {
    const u64 index = u64{blockIdx.x} * kFlatThreads + threadIdx.x;
    if (index >= u64{shape.words} * shape.height) return;
    const u32 y = static_cast<u32>(index) / shape.words;
    const u32 word = static_cast<u32>(index) % shape.words;
    each_run(runs_of(bits, shape, pass, y, word), [&](u32 start, u32) {
        const Links links{parent};
        const u32 node = node_of(shape, y, word, start), root = find(links, node);
        if (root == node) return;
        links.lower(node, root);
        const u32 own = area[node];
        if (own == 0) return;
        atomicAdd(&area[root], own & ~kOpen);
        if (own & kOpen) atomicOr(&area[root], kOpen);
    });
}

// Open components have areas above any limit. `foreign` may be null.
__global__ void __launch_bounds__(kFlatThreads)
    fill_holes(u32* bits, Shape shape, const u32* __restrict__ parent, const u32* __restrict__ area,
               u32 max_hole_px, const u32* __restrict__ foreign) {
    const u64 index = u64{blockIdx.x} * kFlatThreads + threadIdx.x;
    if (index >= u64{shape.words} * shape.height) return;
    const u32 y = static_cast<u32>(index) / shape.words;
    const u32 word = static_cast<u32>(index) % shape.words;
    u32 set = bits[index];
    each_run(runs_of(bits, shape, Pass{true}, y, word), [&](u32 start, u32 run) {
        if (area[parent[node_of(shape, y, word, start)]] <= max_hole_px) set |= run;
    });
    if (foreign != nullptr) set &= ~foreign[index];
    bits[index] = set;
}

// Writes a byte per bit, without the objects of fewer than `min_area_px` pixels where `parent` is
// not null. A warp has a row of 32 words, so that it writes 32 bytes side by side.
constexpr u32 kWriteRows = 8;  // 256 threads

__global__ void __launch_bounds__(kWarp* kWriteRows)
    write_mask(const u32* __restrict__ bits, Shape shape, const u32* __restrict__ parent,
               const u32* __restrict__ area, u32 min_area_px, u8* __restrict__ mask) {
    __shared__ u32 words[kWriteRows][kWarp];
    const u32 across = ceil_div(shape.words, kWarp), lane = threadIdx.x;
    const u32 y = blockIdx.x / across * kWriteRows + threadIdx.y;
    const u32 word0 = blockIdx.x % across * kWarp;
    if (y >= shape.height) return;
    u32 set = 0;
    if (word0 + lane < shape.words) {
        set = bits[word_index(shape, y, word0 + lane)];
        u32 small = 0;
        if (parent != nullptr)
            each_run(set, [&](u32 start, u32 run) {
                const u32 root = parent[node_of(shape, y, word0 + lane, start)];
                if (area[root] < min_area_px) small |= run;
            });
        set &= ~small;
    }
    words[threadIdx.y][lane] = set;
    __syncwarp();
    u8* const line = mask + u64{y} * shape.width;
#pragma unroll 8
    for (u32 k = 0; k < kWarp; ++k) {
        const u64 x = u64{kWordBits} * (word0 + k) + lane;
        if (x < shape.width) line[x] = static_cast<u8>(words[threadIdx.y][k] >> lane & 1);
    }
}

// --- Launches -----------------------------------------------------------------------------------

struct Pieces {
    u32 *tables, *ink, *foreign, *bits, *parent, *area;
    u8* scores;
    std::size_t bytes;
};

Pieces cut(void* memory, std::size_t height, std::size_t width, const TissueOptions& options) {
    const std::size_t words = height * ceil_div(width, std::size_t{kWordBits});
    const std::size_t ink = options.exclude_foreign ? words : 0;
    const bool has_labels = options.max_hole_px > 0 || options.min_area_px > 1;
    const std::size_t labels = has_labels ? height * ceil_div(width, std::size_t{2}) : 0;
    Scratch scratch(memory);
    Pieces pieces{};
    pieces.tables = scratch.take<u32>(kTables * kScoreBins);
    pieces.scores = scratch.take<u8>(kWordBits * words);
    pieces.ink = scratch.take<u32>(ink);
    pieces.foreign = scratch.take<u32>(ink);
    pieces.bits = scratch.take<u32>(words);
    pieces.parent = scratch.take<u32>(labels);
    pieces.area = scratch.take<u32>(labels);
    pieces.bytes = scratch.bytes();
    return pieces;
}

}  // namespace

std::size_t tissue_mask_scratch_bytes(std::size_t height, std::size_t width,
                                      const TissueOptions& options) {
    return cut(nullptr, height, width, options).bytes;
}

void tissue_mask(const std::uint8_t* rgb, std::size_t height, std::size_t width,
                 const TissueOptions& options, std::uint8_t* mask, TissueFound* found,
                 void* scratch, Place place) {
    const DeviceGuard guard(place.device);
    HISTOFAST_CUDA_CHECK(cudaMemsetAsync(found, 0, sizeof(TissueFound), place.stream));
    const Pieces at = cut(scratch, height, width, options);
    u32* const tables = options.threshold < 0 ? at.tables : nullptr;
    if (tables != nullptr)
        HISTOFAST_CUDA_CHECK(
            cudaMemsetAsync(tables, 0, kTables * kScoreBins * sizeof(u32), place.stream));
    const bool is_empty = height == 0 || width == 0;
    const Shape shape{static_cast<u32>(height), static_cast<u32>(width),
                      ceil_div(static_cast<u32>(width), kWordBits)};
    const auto morph_blocks = [&](u32 halo_rows) {
        return ceil_div(shape.words, kWarp - 2 * halo_words_of(halo_rows)) *
               ceil_div(shape.height, kMorphRows);
    };
    const dim3 morph_threads(kWarp, kMorphWarps);
    u32* const foreign = options.exclude_foreign ? at.foreign : nullptr;

    if (!is_empty) {
        launch(score_pixels,
               ceil_div(shape.width, kScoreWidth) * ceil_div(shape.height, kScoreHeight),
               kScoreThreads, place, rgb, shape, at.scores, foreign ? at.ink : nullptr, tables);
        if (foreign)
            launch(find_foreign, morph_blocks(kInkHalo), morph_threads, place, at.ink, shape,
                   at.scores, foreign, tables);
    }
    std::int32_t* const threshold = &found->threshold;
    launch(choose_threshold, 1, kScoreBins, place, tables, options.threshold, threshold);
    if (is_empty) return;
    launch(count_above, ceil_div(shape.words * shape.height, kCountThreads), kCountThreads, place,
           at.scores, shape, foreign, found);

    // Objects are measured after the pen is cut out of them, holes before.
    const bool has_holes = options.max_hole_px > 0, has_objects = options.min_area_px > 1;
    const auto radius = static_cast<u32>(options.close_px);
    launch(close_tissue, morph_blocks(2 * radius), morph_threads, place, at.scores, shape,
           threshold, foreign, has_holes ? nullptr : foreign, radius, at.bits);
    const u32 flat = ceil_div(shape.words * shape.height, kFlatThreads);
    const auto label = [&](Pass pass) {
        launch(label_tiles, ceil_div(shape.words, kTileWords) * ceil_div(shape.height, kTileRows),
               kTileThreads, place, at.bits, shape, pass, at.parent, at.area);
        launch(join_tiles, flat, kFlatThreads, place, at.bits, shape, pass, at.parent);
        launch(add_areas, flat, kFlatThreads, place, at.bits, shape, pass, at.parent, at.area);
    };
    constexpr std::size_t kMost = kOpen - 1;  // no picture has more pixels
    if (has_holes) {
        label(Pass{true});
        launch(fill_holes, flat, kFlatThreads, place, at.bits, shape, at.parent, at.area,
               static_cast<u32>(std::min(options.max_hole_px, kMost)), foreign);
    }
    if (has_objects) label(Pass{false});
    launch(write_mask, ceil_div(shape.words, kWarp) * ceil_div(shape.height, kWriteRows),
           dim3(kWarp, kWriteRows), place, at.bits, shape, has_objects ? at.parent : nullptr,
           at.area, static_cast<u32>(std::min(options.min_area_px, kMost + 1)), mask);
}

}  // namespace histofast::cuda
