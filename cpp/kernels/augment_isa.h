// The inner loops of augment_images, compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace histofast::cpu {

// A row of pixels as floats within 0..255; the planes do not overlap.
struct FloatRow {
    float *red, *green, *blue;
    std::size_t count;
};

// Pixels of a turned image, red in the lowest byte; one column and one row more than it has.
struct PackedImage {
    const std::uint32_t* pixels;
    std::int32_t height, width;
};

struct AugmentLoops {
    // row[j] = the image at (x + dx j, y + dy j).
    void (*sample)(const PackedImage& image, float x, float dx, float y, float dy,
                   const FloatRow& row);
    void (*unpack)(const std::uint32_t* pixels, const FloatRow& row);
    void (*stain)(const FloatRow& row, const float* matrix_and_offset);
    // to_cones (9), m (9) and o (3), to_light (9): v = 2^(log2((v + 1) to_cones) m + o) to_light
    // - 1.
    void (*cones)(const FloatRow& row, const float* thirty);
    void (*tint)(const FloatRow& row, const float* hue_saturation_value);
    void (*shift)(const FloatRow& row, const float* rgb);
    // out[j] = sum_t weights[t] lines[t][j], in the order of t.
    void (*blend)(const float* const* lines, const float* weights, std::size_t taps, float* out,
                  std::size_t count);
    void (*pack)(const FloatRow& row, std::uint8_t* out);
};

namespace baseline {
extern const AugmentLoops augment_loops;
}
namespace avx2 {
extern const AugmentLoops augment_loops;
}
namespace avx512 {
extern const AugmentLoops augment_loops;
}

}  // namespace histofast::cpu
