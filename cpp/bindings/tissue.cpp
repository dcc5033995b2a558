#include "histofast/tissue.h"

#include "bindings.h"

namespace histofast::bindings {
namespace {

using Image = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using Mask = nb::ndarray<std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

int tissue_mask(const Image& image, const Mask& out, int threshold, bool exclude_foreign,
                std::size_t close_px, std::size_t max_hole_px, std::size_t min_area_px) {
    const std::size_t height = image.shape(0), width = image.shape(1);
    require(out.shape(0) == height && out.shape(1) == width,
            "out must have the height and width of image " + shape_of(image) + ", got " +
                shape_of(out));
    require(width == 0 || height < (std::size_t{1} << 31) / width,
            "image must have fewer than 2^31 pixels, got " + shape_of(image));
    require(close_px <= kMaxClosePx, "close_px must be at most " + std::to_string(kMaxClosePx) +
                                         ", got " + std::to_string(close_px));
    const nb::gil_scoped_release release;
    return cpu::tissue_mask(image.data(), height, width,
                            {threshold, exclude_foreign, close_px, max_hole_px, min_area_px},
                            out.data());
}

}  // namespace

void bind_tissue(nb::module_& m) {
    m.def("tissue_mask", &tissue_mask, "image"_a.noconvert(), "out"_a.noconvert(), "threshold"_a,
          "exclude_foreign"_a, "close_px"_a, "max_hole_px"_a, "min_area_px"_a,
          "Write the tissue mask of an overview into out; return the threshold used.");
}

}  // namespace histofast::bindings
