// Pictures of one size, one after the other.
#pragma once

#include <cstddef>

namespace histofast {

struct ImageShape {
    std::size_t count, height, width;  // images, pixels, pixels; 3 bytes a pixel
};

}  // namespace histofast
