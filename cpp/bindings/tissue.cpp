#include "histofast/tissue.h"

#include "bindings.h"

namespace histofast::bindings {
namespace {

template <class Device>
using Image = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, Device>;
template <class Device>
using Mask = nb::ndarray<std::uint8_t, nb::ndim<2>, nb::c_contig, Device>;

void check_options(std::size_t height, std::size_t width, const TissueOptions& options) {
    require(width == 0 || height < (std::size_t{1} << 31) / width,
            "image must have fewer than 2^31 pixels, got (" + std::to_string(height) + ", " +
                std::to_string(width) + ", 3)");
    require(options.close_px <= kMaxClosePx, "close_px must be at most " +
                                                 std::to_string(kMaxClosePx) + ", got " +
                                                 std::to_string(options.close_px));
}

template <class Device>
void check(const Image<Device>& image, const Mask<Device>& out, const TissueOptions& options) {
    const std::size_t height = image.shape(0), width = image.shape(1);
    require(out.shape(0) == height && out.shape(1) == width,
            "out must have the height and width of image " + shape_of(image) + ", got " +
                shape_of(out));
    check_options(height, width, options);
}

using Found = std::array<std::int32_t, 3>;  // the members of TissueFound
static_assert(sizeof(Found) == sizeof(TissueFound));

Found tissue_mask_cpu(const Image<Cpu>& image, const Mask<Cpu>& out, int threshold,
                      bool exclude_foreign, std::size_t close_px, std::size_t max_hole_px,
                      std::size_t min_area_px) {
    const TissueOptions options{threshold, exclude_foreign, close_px, max_hole_px, min_area_px};
    check(image, out, options);
    const nb::gil_scoped_release nogil;
    const TissueFound found =
        cpu::tissue_mask(image.data(), image.shape(0), image.shape(1), options, out.data());
    return {found.threshold, found.above_px, found.remaining_px};
}

std::size_t scratch_bytes(std::size_t height, std::size_t width, int threshold,
                          bool exclude_foreign, std::size_t close_px, std::size_t max_hole_px,
                          std::size_t min_area_px) {
    const TissueOptions options{threshold, exclude_foreign, close_px, max_hole_px, min_area_px};
    check_options(height, width, options);
    return cuda::tissue_mask_scratch_bytes(height, width, options);
}

using FoundOnGpu = nb::ndarray<std::int32_t, nb::shape<3>, nb::c_contig, Cuda>;

void tissue_mask_cuda(const Image<Cuda>& image, const Mask<Cuda>& out, int threshold,
                      bool exclude_foreign, std::size_t close_px, std::size_t max_hole_px,
                      std::size_t min_area_px, const FoundOnGpu& found, const Scratch& scratch,
                      std::uintptr_t stream) {
    const TissueOptions options{threshold, exclude_foreign, close_px, max_hole_px, min_area_px};
    check(image, out, options);
    const std::size_t height = image.shape(0), width = image.shape(1);
    const int device = image.device_id();
    require(
        out.device_id() == device && found.device_id() == device && scratch.device_id() == device,
        "tissue_mask: image, out, found and scratch must be on one GPU");
    check_scratch(scratch, cuda::tissue_mask_scratch_bytes(height, width, options));
    const cuda::Place place = place_of(device, stream);
    const nb::gil_scoped_release nogil;
    cuda::tissue_mask(image.data(), height, width, options, out.data(),
                      reinterpret_cast<TissueFound*>(found.data()), scratch.data(), place);
}

}  // namespace

void bind_tissue(nb::module_& m) {
    m.def(
        "tissue_mask", &tissue_mask_cpu, "image"_a.noconvert(), "out"_a.noconvert(), "threshold"_a,
        "exclude_foreign"_a, "close_px"_a, "max_hole_px"_a, "min_area_px"_a,
        "Write the tissue mask of an overview into out; return the threshold used, how many pixels "
        "score above it, and how many of them remain without ink.");
    m.def("tissue_mask", &tissue_mask_cuda, "image"_a.noconvert(), "out"_a.noconvert(),
          "threshold"_a, "exclude_foreign"_a, "close_px"_a, "max_hole_px"_a, "min_area_px"_a,
          nb::kw_only(), "found"_a.noconvert(), "scratch"_a.noconvert(), "stream"_a,
          "Enqueue it on a GPU's stream; what the other returns goes to `found`.");
    m.def("tissue_mask_scratch_bytes", &scratch_bytes, "height"_a, "width"_a, "threshold"_a,
          "exclude_foreign"_a, "close_px"_a, "max_hole_px"_a, "min_area_px"_a,
          "Bytes of scratch that tissue_mask needs on a GPU.");
}

}  // namespace histofast::bindings
