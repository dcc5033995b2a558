// Where there is tissue on an overview of a slide: interleaved uint8 RGB -> uint8 mask, 0 or 1.
//
//   chroma    = max(R, G, B) - min(R, G, B)
//   score     = 5 x 5 binomial of chroma, rounded, edges repeated
//   foreign   = pen and black by colour, joined, without specks, grown by 2 px
//   threshold = Otsu on min(score, 63) of what is not foreign, once more on what is below it
//   mask      = score > threshold and not foreign; closed; small holes filled; small objects gone
//
// Integers throughout (Otsu compares doubles, in a fixed order of operations): the same bits on
// every instruction set. tests/reference.py is the definition.
#pragma once

#include <cstddef>
#include <cstdint>

#include "histofast/cuda.h"

namespace histofast {

struct TissueOptions {
    int threshold;            // 0..255, or negative: from the histogram
    bool exclude_foreign;     // leave out pen marks and black
    std::size_t close_px;     // radius of the closing square, at most kMaxClosePx
    std::size_t max_hole_px;  // holes of up to so many pixels are filled; 8-connected
    std::size_t min_area_px;  // objects of fewer pixels are removed; 4-connected
};

struct TissueFound {
    std::int32_t threshold;     // the one used
    std::int32_t above_px;      // pixels whose score is above it
    std::int32_t remaining_px;  // those of them that are not foreign
};

constexpr std::size_t kMaxClosePx = 32;  // so that no shift of a bit row exceeds one word
constexpr double kLeastContrast = 6.0;   // class means closer than this are one class
constexpr int kOneClassThreshold = 24;
constexpr int kLeastThreshold = 8;

namespace cpu {

// rgb: (height, width, 3); mask: (height, width), fully written; no overlap.
// Works on fewer than 2^31 pixels.
TissueFound tissue_mask(const std::uint8_t* rgb, std::size_t height, std::size_t width,
                        const TissueOptions& options, std::uint8_t* mask);

}  // namespace cpu

namespace cuda {  // device pointers; enqueued at `place`, returns before completion

// As above, with the same bits. What was found is written to found[0]; nothing waits for it.
// scratch: aligned to 256 bytes; its contents matter neither before nor after.
std::size_t tissue_mask_scratch_bytes(std::size_t height, std::size_t width,
                                      const TissueOptions& options);
void tissue_mask(const std::uint8_t* rgb, std::size_t height, std::size_t width,
                 const TissueOptions& options, std::uint8_t* mask, TissueFound* found,
                 void* scratch, Place place);

}  // namespace cuda
}  // namespace histofast
