// Decoded tiles of one pyramid level -> patches at an exact scale, by area averaging.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "histofast/cuda.h"

namespace histofast {

// A level whose tiles lie, decoded, in slots of a pool; slot_of says which tile is where.
struct TileLevel {
    const std::uint8_t* pool;     // (slots, tile_height, tile_width, 3)
    const std::int32_t* slot_of;  // (rows, columns): slot of each tile, -1: none, shown as `fill`
    std::size_t tile_height, tile_width;
    std::size_t rows, columns;  // tiles
    std::size_t height, width;  // pixels; beyond them the edge pixel continues
    std::array<std::uint8_t, 3> fill;
};

// Source square of a patch in pixels of the level; fractions are honoured.
struct Box {
    double x, y, width, height;
};

namespace cpu {

// out[n, i, j] = mean of the level over cell (i, j) of box n divided into p x p cells; linear
// interpolation where a cell is smaller than a pixel. Weights are fixed point (14 bits), sums exact
// integers: same bits on every instruction set, within 1 of the real-valued mean rounded. Floats
// are the same sums, from 0 to 255, which bytes round: within 0.5 of the mean, below scale 5 within
// 0.05. Reads only tiles under the boxes; their slots must not change meanwhile.
template <class Out>  // std::uint8_t or float
void cut_patches(const TileLevel& level, const Box* boxes, std::size_t count, std::size_t patch_px,
                 Out* out);

}  // namespace cpu

namespace cuda {

// The same bits. All that is pointed to is memory of the device of `place`, the boxes too: nobody
// looks at them before, and one without an area, not finite or beyond 2^31 gives a patch of `fill`.
template <class Out>  // std::uint8_t or float
void cut_patches(const TileLevel& level, const Box* boxes, std::size_t count, std::size_t patch_px,
                 Out* out, Place place);

}  // namespace cuda
}  // namespace histofast
