// The inner loops of cut_patches, compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace histofast::cpu {

// Weights are 14-bit fixed point and sum to 1 << 14; after the vertical pass values have 7
// fractional bits, so that they and a weight each fit an int16 (one multiply-add instruction).
inline constexpr int kWeightBits = 14;
inline constexpr int kRowBits = 7;

struct TileLoops {
    // acc[j] = round(sum_t weights[t] * rows[t][j]) with kRowBits fractional bits; taps is even.
    void (*blend_rows)(const std::uint8_t* const* rows, const std::int16_t* weights,
                       std::size_t taps, std::int16_t* acc, std::size_t count);
    // out[3 i + c] = round(sum_t weights[i taps + t] * acc[3 (first[i] + t) + c]); taps is even.
    // May read up to 16 values past the last one it uses.
    void (*blend_columns)(const std::int16_t* acc, const std::int32_t* first,
                          const std::int16_t* weights, std::size_t taps, std::uint8_t* out,
                          std::size_t count);
    // out[3 i + c] = (sum of the four pixels 2 i, 2 i + 1 of both rows + 2) >> 2.
    void (*halve)(const std::uint8_t* row0, const std::uint8_t* row1, std::uint8_t* out,
                  std::size_t count);
};

namespace baseline {
extern const TileLoops tile_loops;
}
namespace avx2 {
extern const TileLoops tile_loops;
}
namespace avx512 {
extern const TileLoops tile_loops;
}

}  // namespace histofast::cpu
