// Training images -> the same turned, mapped, stained, tinted, blurred and cut, as it was drawn.
//
// On the CPU alone: it runs beside the training, whose GPU has enough to do.
#pragma once

#include <cstddef>
#include <cstdint>

#include "histofast/images.h"

namespace histofast {

// What was drawn for each image; a null pointer leaves a transform out.
struct AugmentDraws {
    const std::uint8_t*
        turns;            // (n) 1: left and right, 2: up and down; 4 q: q quarters to the left
    const double* maps;   // (n, 6) a b c d e f: row i, column j shows x = a j + b i + c,
                          // y = d j + e i + f, by linear interpolation, mirrored at the edge
    const float* stains;  // (n, 12) m, o: densities D = -log2((v + 1) / 256) become D m + o
    const float* tints;   // (n, 3) hue + 6 t (of 6), saturation and value times 1 + t
    const float* shifts;  // (n, 3) added to red, green, blue
    const float* sigmas;  // (n) of a Gaussian to 4 sigma, mirrored at the edge, px
    const std::int32_t* holes;  // (n, 3) x, y, side of a square of the image's mean colour
};

namespace cpu {

// In this order. Values are real between the transforms and within 0..255, rounded once (halves
// up); float32 here, each operation the same on every instruction set, so the same bits. Turns
// alone are exact. `out` does not overlap `images`; quarters need square images.
void augment_images(const std::uint8_t* images, ImageShape shape, const AugmentDraws& draws,
                    std::size_t threads, std::uint8_t* out);

// All images by one map of the logarithms of cones, a stain normalisation: of 30 numbers to_cones
// (9), m (9) and o (3), to_light (9), matrices row by row that rows are multiplied with,
//     v -> 2^(log2((v + 1) to_cones) m + o) to_light - 1,
// the power at most 256, rounded once (halves up); to_cones gives what is above 0. The same bits on
// every instruction set. `out` does not overlap `images`.
void map_cones(const std::uint8_t* images, ImageShape shape, const float* thirty,
               std::size_t threads, std::uint8_t* out);

// All images by a table of all colours: out = table[red, green, blue], (256, 256, 256, 3). `out`
// does not overlap `images`.
void map_colours(const std::uint8_t* images, ImageShape shape, const std::uint8_t* table,
                 std::size_t threads, std::uint8_t* out);

}  // namespace cpu
}  // namespace histofast
