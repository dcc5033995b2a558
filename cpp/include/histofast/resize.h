// A picture, or a box of it, at another size as Pillow resizes it.
//
// Per axis: a filter about the centre of each new pixel, as much wider as the box is reduced and no
// narrower than it is, cut at the edge of the picture and made to sum to 1; across first, then
// down, rounded to bytes in between. Weights have 22 fractional bits: the same bits on every
// machine, and Pillow's. On the CPU alone, where slides are decoded.
#pragma once

#include <cstddef>
#include <cstdint>

namespace histofast {

enum class ResizeFilter { bilinear, bicubic };  // triangle; Keys' cubic with a = -1/2

struct ResizeBox {  // inside the picture, fractions are honoured
    double left, top, right, bottom;
};

namespace cpu {

// image: (height, width, 3); out: (out_height, out_width, 3), fully written; no overlap.
void resize_image(const std::uint8_t* image, std::size_t height, std::size_t width, ResizeBox box,
                  ResizeFilter filter, std::size_t out_height, std::size_t out_width,
                  std::uint8_t* out);

}  // namespace cpu
}  // namespace histofast
