// A block counts one offset of one image. The matrix does not fit shared memory: its rows, one for
// each difference of levels, are counted some at a time, and most images end after a few rounds.
#include "cuda_utils.cuh"
#include "histofast/glcm.h"

namespace histofast::cuda {
namespace {

using u8 = std::uint8_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

constexpr u32 kGreys = 256;
constexpr u32 kThreads = 512;
constexpr u32 kRows = 40;  // of 1 kB each: two blocks and more share a multiprocessor

struct Pairs {
    u32 width, rows, columns;  // of the image; of the upper left pixels
    u32 start;                 // pixel: the first of them
    std::int32_t reach;        // pixels from there to its partner
};

__device__ u32 level_at(const u8* __restrict__ rgb, u64 pixel, u32 levels) {
    const u8* const at = rgb + 3 * pixel;
    const u32 grey =
        (13926u * __ldg(at) + 46885u * __ldg(at + 1) + 4725u * __ldg(at + 2) + 32768u) >> 16;
    return grey * levels >> 8;
}

__global__ void __launch_bounds__(kThreads)
    count_pairs(const u8* __restrict__ images, u64 image_bytes, Pairs pairs, u32 levels, u32 offset,
                u32 offset_count, std::int32_t* __restrict__ differences,
                std::int64_t* __restrict__ sums) {
    __shared__ u32 table[kRows][kGreys];
    __shared__ u32 totals[kGreys];  // pairs by difference
    __shared__ u64 found[kGlcmSums];
    __shared__ u32 most;  // the largest difference
    const u8* const rgb = images + blockIdx.x * image_bytes;
    const u64 place = u64{blockIdx.x} * offset_count + offset;

    for (u32 d = threadIdx.x; d < kGreys; d += kThreads) totals[d] = 0;
    if (threadIdx.x < kGlcmSums) found[threadIdx.x] = 0;
    if (threadIdx.x == 0) most = 0;
    __syncthreads();

    u32 end = 1;  // rows that are needed; known after the first round
    for (u32 first = 0; first < end; first += kRows) {
        for (u32 k = threadIdx.x; k < kRows * kGreys; k += kThreads)
            table[k / kGreys][k % kGreys] = 0;
        __syncthreads();
        u64 sum = 0, squares = 0;
        u32 top = 0;
        const u64 count = u64{pairs.rows} * pairs.columns;
        for (u64 k = threadIdx.x; k < count; k += kThreads) {
            const u64 at = pairs.start + k / pairs.columns * pairs.width + k % pairs.columns;
            const u32 a = level_at(rgb, at, levels), b = level_at(rgb, at + pairs.reach, levels);
            const u32 low = min(a, b), apart = max(a, b) - low;
            if (apart - first < kRows) atomicAdd(&table[apart - first][low], 1u);
            sum += a + b;
            squares += a * a + b * b;
            top = max(top, apart);
        }
        if (first == 0) {
            atomicAdd(reinterpret_cast<unsigned long long*>(&found[0]), sum);
            atomicAdd(reinterpret_cast<unsigned long long*>(&found[1]), squares);
            atomicMax(&most, top);
        }
        __syncthreads();
        if (first == 0) end = most + 1;
        u64 doubled = 0;
        for (u32 k = threadIdx.x; k < kRows * kGreys; k += kThreads) {
            const u32 here = table[k / kGreys][k % kGreys], apart = first + k / kGreys;
            if (here == 0) continue;
            atomicAdd(&totals[apart], here);
            doubled += u64{here} * here * (apart == 0 ? 4 : 2);
        }
        atomicAdd(reinterpret_cast<unsigned long long*>(&found[2]), doubled);
        __syncthreads();
    }
    for (u32 d = threadIdx.x; d < levels; d += kThreads)
        differences[place * levels + d] = static_cast<std::int32_t>(totals[d]);
    if (threadIdx.x < kGlcmSums)
        sums[place * kGlcmSums + threadIdx.x] = static_cast<std::int64_t>(found[threadIdx.x]);
}

}  // namespace

void glcm_sums(const u8* images, ImageShape shape, const GlcmOptions& options, const GlcmSums& out,
               Place place) {
    const u64 image_bytes = u64{3} * shape.height * shape.width;
    if (shape.count == 0 || image_bytes == 0) return;
    const DeviceGuard guard(place.device);
    for (std::size_t k = 0; k < options.offset_count; ++k) {
        GlcmOffset offset = options.offsets[k];
        if (offset.down < 0) offset = {-offset.down, -offset.right};  // the same pairs
        const auto width = static_cast<std::int32_t>(shape.width);
        const std::int32_t aside = offset.right < 0 ? -offset.right : offset.right;
        const Pairs pairs{static_cast<u32>(width),
                          static_cast<u32>(static_cast<std::int32_t>(shape.height) - offset.down),
                          static_cast<u32>(width - aside),
                          offset.right < 0 ? static_cast<u32>(aside) : 0u,
                          offset.down * width + offset.right};
        launch(count_pairs, dim3(static_cast<u32>(shape.count)), dim3(kThreads), place, images,
               image_bytes, pairs, options.levels, static_cast<u32>(k),
               static_cast<u32>(options.offset_count), out.differences, out.sums);
    }
}

}  // namespace histofast::cuda
