// How often two grey levels lie side by side: interleaved uint8 RGB -> sums of the grey level
// co-occurrence matrix, from which its features follow (Haralick et al. 1973).
//
//   grey    = (13926 R + 46885 G + 4725 B + 2^15) / 2^16, rounded down
//   level   = grey levels / 256, rounded down
//   pairs   = (a, b): the levels at (i, j) and (i + down, j + right), both inside the image
//   c[a, b] = pairs (a, b) and pairs (b, a): symmetric, its elements add up to twice the pairs
//
// Integers throughout: the same bits on every machine. tests/reference_concepts.py is the
// definition.
#pragma once

#include <cstddef>
#include <cstdint>

#include "histofast/cuda.h"
#include "histofast/images.h"

namespace histofast {

struct GlcmOffset {
    std::int32_t down, right;  // pixels; |down| < height, |right| < width
};

struct GlcmOptions {
    const GlcmOffset* offsets;  // on the CPU, whoever counts
    std::size_t offset_count;
    std::uint32_t levels;  // 2..256
};

// Written, for every image and offset: `levels` counts of pairs whose levels differ by so much, and
// three sums: a + b over the pairs, a^2 + b^2 over the pairs, c^2 over the matrix.
struct GlcmSums {
    std::int32_t* differences;  // (count, offsets, levels)
    std::int64_t* sums;         // (count, offsets, kGlcmSums)
};

constexpr int kGlcmSums = 3;
constexpr std::size_t kMaxGlcmSide = 30000;  // so that squares of counts fit 63 bits

namespace cpu {

void glcm_sums(const std::uint8_t* images, ImageShape shape, const GlcmOptions& options,
               std::size_t threads, const GlcmSums& out);

}  // namespace cpu

namespace cuda {  // images and out on a device; enqueued at `place`, returns before completion

void glcm_sums(const std::uint8_t* images, ImageShape shape, const GlcmOptions& options,
               const GlcmSums& out, Place place);

}  // namespace cuda
}  // namespace histofast
