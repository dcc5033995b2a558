#include "histofast/resize.h"

#include "bindings.h"

namespace histofast::bindings {
namespace {

using Image = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, Cpu>;
using Out = nb::ndarray<std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, Cpu>;

void resize_cpu(const Image& image, std::array<double, 4> box, bool bicubic, const Out& out) {
    const std::size_t height = image.shape(0), width = image.shape(1);
    const auto [left, top, right, bottom] = box;
    require(0 <= left && left < right && right <= static_cast<double>(width) && 0 <= top &&
                top < bottom && bottom <= static_cast<double>(height),
            "resize_image: box must lie in image of shape " + shape_of(image));
    const ResizeFilter filter = bicubic ? ResizeFilter::bicubic : ResizeFilter::bilinear;
    const nb::gil_scoped_release nogil;
    cpu::resize_image(image.data(), height, width, {left, top, right, bottom}, filter, out.shape(0),
                      out.shape(1), out.data());
}

}  // namespace

void bind_resize(nb::module_& m) {
    m.def("resize_image", &resize_cpu, "image"_a.noconvert(), "box"_a, "bicubic"_a,
          "out"_a.noconvert(), "Write a box of an image, resized as Pillow does, into out.");
}

}  // namespace histofast::bindings
