// The inner loops of glcm_sums, compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace histofast::cpu {

constexpr std::size_t kGreys = 256;
// Two tables of (difference, lower level): two pairs in a row that are equal need not wait for each
// other. A gap between them, so that equal places do not share the low bits of their addresses.
constexpr std::size_t kGlcmTable = kGreys * kGreys + 512;
constexpr std::size_t kGlcmTables = 2;

// How tables of one type of cell are filled and read.
template <class Cell>
struct GlcmCells {
    // One more at the keys' places of the tables, in turns.
    void (*count)(const std::uint16_t* keys, std::size_t count, Cell* tables);
    // Adds up `size` places of one row of both tables and clears them: returns the sum, adds that
    // of the squares.
    std::uint32_t (*gather)(Cell* row, std::size_t size, std::uint64_t* squares);
};

struct GlcmLoops {
    // out[k] = the level of pixel k.
    void (*level)(const std::uint8_t* rgb, std::size_t count, std::uint32_t levels,
                  std::uint8_t* out);
    // keys[k] = 256 |a - b| + min(a, b). Adds a + b and a^2 + b^2 to sums; returns the largest key,
    // or `largest`. count <= 30,000.
    std::uint32_t (*pair)(const std::uint8_t* a, const std::uint8_t* b, std::size_t count,
                          std::uint16_t* keys, std::uint64_t* sums, std::uint32_t largest);
    // Of images whose pairs 16 bits can count, the tables lie in a nearer cache.
    GlcmCells<std::uint16_t> narrow;
    GlcmCells<std::uint32_t> wide;
};

namespace baseline {
extern const GlcmLoops glcm_loops;
}
namespace avx2 {
extern const GlcmLoops glcm_loops;
}
namespace avx512 {
extern const GlcmLoops glcm_loops;
}

}  // namespace histofast::cpu
