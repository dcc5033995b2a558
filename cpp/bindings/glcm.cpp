#include "histofast/glcm.h"

#include "bindings.h"

namespace histofast::bindings {
namespace {

template <class Device>
using Images = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, -1, 3>, nb::c_contig, Device>;
using Offsets = nb::ndarray<const std::int32_t, nb::shape<-1, 2>, nb::c_contig, Cpu>;
template <class Device>
using Differences = nb::ndarray<std::int32_t, nb::ndim<3>, nb::c_contig, Device>;
template <class Device>
using Sums = nb::ndarray<std::int64_t, nb::shape<-1, -1, int{kGlcmSums}>, nb::c_contig, Device>;

template <class Device>
GlcmOptions checked_options(const Images<Device>& images, const Offsets& offsets,
                            const Differences<Device>& differences, const Sums<Device>& sums) {
    const std::size_t height = images.shape(1), width = images.shape(2);
    const std::size_t levels = differences.shape(2);
    require(levels >= 2 && levels <= 256,
            "glcm_sums: levels must be 2..256, got " + std::to_string(levels));
    require(height <= kMaxGlcmSide && width <= kMaxGlcmSide,
            "glcm_sums: images must be at most " + std::to_string(kMaxGlcmSide) +
                " px, got shape " + shape_of(images));
    require(differences.shape(0) == images.shape(0) && differences.shape(1) == offsets.shape(0) &&
                sums.shape(0) == images.shape(0) && sums.shape(1) == offsets.shape(0),
            "glcm_sums: differences of shape " + shape_of(differences) + " and sums of shape " +
                shape_of(sums) + " do not fit images of shape " + shape_of(images) +
                " and offsets of shape " + shape_of(offsets));
    static_assert(sizeof(GlcmOffset) == 2 * sizeof(std::int32_t));
    const auto* each = reinterpret_cast<const GlcmOffset*>(offsets.data());
    for (std::size_t k = 0; k < offsets.shape(0); ++k) {
        const std::int64_t down = each[k].down, right = each[k].right;
        const auto inside = [](std::int64_t by, std::size_t size) {
            const auto pixels = static_cast<std::int64_t>(size);
            return -pixels < by && by < pixels;
        };
        require(inside(down, height) && inside(right, width),
                "glcm_sums: offset (" + std::to_string(down) + ", " + std::to_string(right) +
                    ") leaves images of shape " + shape_of(images));
    }
    return {each, offsets.shape(0), static_cast<std::uint32_t>(levels)};
}

void glcm_cpu(const Images<Cpu>& images, const Offsets& offsets, std::size_t threads,
              const Differences<Cpu>& differences, const Sums<Cpu>& sums) {
    const GlcmOptions options = checked_options(images, offsets, differences, sums);
    const ImageShape shape{images.shape(0), images.shape(1), images.shape(2)};
    const nb::gil_scoped_release nogil;
    cpu::glcm_sums(images.data(), shape, options, threads, {differences.data(), sums.data()});
}

void glcm_cuda(const Images<Cuda>& images, const Offsets& offsets,
               const Differences<Cuda>& differences, const Sums<Cuda>& sums,
               std::uintptr_t stream) {
    const GlcmOptions options = checked_options(images, offsets, differences, sums);
    const ImageShape shape{images.shape(0), images.shape(1), images.shape(2)};
    const int device = images.device_id();
    require(differences.device_id() == device && sums.device_id() == device,
            "glcm_sums: images, differences and sums must be on one GPU");
    const cuda::Place place = place_of(device, stream);
    const nb::gil_scoped_release nogil;
    cuda::glcm_sums(images.data(), shape, options, {differences.data(), sums.data()}, place);
}

}  // namespace

void bind_glcm(nb::module_& m) {
    m.def("glcm_sums", &glcm_cpu, "images"_a.noconvert(), "offsets"_a.noconvert(), "threads"_a,
          "differences"_a.noconvert(), "sums"_a.noconvert(),
          "Write sums of the grey level co-occurrence matrices of images.");
    m.def("glcm_sums", &glcm_cuda, "images"_a.noconvert(), "offsets"_a.noconvert(),
          "differences"_a.noconvert(), "sums"_a.noconvert(), nb::kw_only(), "stream"_a,
          "As above, for arrays on one GPU; enqueued on the given CUDA stream.");
}

}  // namespace histofast::bindings
