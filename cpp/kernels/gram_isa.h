// The inner loops of packed_grams, compiled once per instruction set.
#pragma once

#include <cstddef>

#include "histofast/gram.h"

namespace histofast::cpu {

constexpr std::size_t kPackColumns = 64;  // packed at once
constexpr std::size_t kDepth = 512;       // columns whose products are summed in float32

// A panel of columns, centred: strips of `lanes` rows, each (depth, lanes); rows beyond n are 0.
struct Panel {
    float* values;
    std::size_t n, depth;
};

// Strips of rows, and of columns, of a Gram.
struct GramBlock {
    std::size_t row_begin, row_end, column_begin, column_end;
};

struct GramLoops {
    std::size_t lanes;  // rows per strip
    // Centres `count` <= kPackColumns columns that begin at `values` and puts them into the panel
    // from column `at` on. Returns the largest magnitude, NaN where a value is not finite.
    float (*pack)(const void* values, FeatureType type, std::ptrdiff_t row_stride,
                  std::size_t count, const Panel& panel, std::size_t at);
    // gram[i (i + 1) / 2 + j] += scale * <row i, row j> of the panel, for i >= j of the block.
    void (*multiply)(const Panel& panel, const GramBlock& block, double scale, double* gram);
};

namespace baseline {
extern const GramLoops gram_loops;
}
namespace avx2 {
extern const GramLoops gram_loops;
}
namespace avx512 {
extern const GramLoops gram_loops;
}

}  // namespace histofast::cpu
