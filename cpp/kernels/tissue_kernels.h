// The parts of tissue.cpp that are compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace histofast::cpu {

constexpr std::size_t kWordBits = 64;
constexpr std::size_t kScoreBins = 64;  // of the histogram; scores of 63 and more count as one

static constexpr std::size_t score_bin(std::uint8_t score) {
    return score < kScoreBins ? score : kScoreBins - 1;
}

// A bit image has `words` 64-bit words a row; bits at and beyond `width` are zero.
struct BitShape {
    std::size_t height, width, words;
};

struct TissueKernels {
    // score (height, width) from rgb, its histogram (added to the bins), and the raw foreign bits
    // when `foreign` is not null. `scratch` has score_scratch_bytes(width) bytes, 64-byte aligned.
    void (*score)(const std::uint8_t* rgb, BitShape shape, std::uint8_t* scratch,
                  std::uint8_t* score, std::uint32_t* histogram, std::uint64_t* foreign);
    // bits = score > threshold
    void (*threshold)(const std::uint8_t* score, BitShape shape, int threshold,
                      std::uint64_t* bits);
    // Dilation (or erosion) by the square of side 2 radius + 1, in place. `scratch` has
    // (height + 2 radius + 2) rows of words.
    void (*dilate)(std::uint64_t* bits, BitShape shape, std::size_t radius, std::uint64_t* scratch);
    void (*erode)(std::uint64_t* bits, BitShape shape, std::size_t radius, std::uint64_t* scratch);
    // mask (height, width) = 0 or 1 per bit
    void (*expand)(const std::uint64_t* bits, BitShape shape, std::uint8_t* mask);
};

constexpr std::size_t kTables = 8;

// One padded row of chroma, five rows of 16-bit sums, and the tables that count scores.
static constexpr std::size_t score_scratch_bytes(std::size_t width) {
    return (width / 64 + 3) * 64 * 11 + 4 * kTables * 256;
}

namespace baseline {
extern const TissueKernels tissue_kernels;
}
namespace avx2 {
extern const TissueKernels tissue_kernels;
}
namespace avx512 {
extern const TissueKernels tissue_kernels;
}

}  // namespace histofast::cpu
