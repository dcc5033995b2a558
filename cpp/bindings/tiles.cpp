#include "histofast/tiles.h"

#include "bindings.h"

namespace histofast::bindings {
namespace {

template <class Device>
using Pool = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, -1, 3>, nb::c_contig, Device>;
template <class Device>
using Slots = nb::ndarray<const std::int32_t, nb::shape<-1, -1>, nb::c_contig, Device>;
template <class Device>
using Boxes = nb::ndarray<const double, nb::shape<-1, 4>, nb::c_contig, Device>;
template <class Out, class Device>
using Patches = nb::ndarray<Out, nb::shape<-1, -1, -1, 3>, nb::c_contig, Device>;
using Rgb = std::array<std::uint8_t, 3>;

// What a type cannot state: that the arrays agree.
template <class Out, class Device>
TileLevel checked_level(const Pool<Device>& pool, const Slots<Device>& slot_of,
                        const Boxes<Device>& boxes, std::size_t width, std::size_t height, Rgb fill,
                        const Patches<Out, Device>& out) {
    require(out.shape(0) == boxes.shape(0) && out.shape(1) == out.shape(2),
            "cut_patches: out of shape " + shape_of(out) + " does not fit boxes of shape " +
                shape_of(boxes));
    require(width > 0 && height > 0 && width <= slot_of.shape(1) * pool.shape(2) &&
                height <= slot_of.shape(0) * pool.shape(1),
            "cut_patches: a level of " + std::to_string(width) + " x " + std::to_string(height) +
                " px does not fit slot_of of shape " + shape_of(slot_of) + " and tiles of shape " +
                shape_of(pool));
    return {pool.data(),      slot_of.data(), pool.shape(1), pool.shape(2), slot_of.shape(0),
            slot_of.shape(1), height,         width,         fill};
}

template <class Device>
const Box* data_of(const Boxes<Device>& boxes) {
    static_assert(sizeof(Box) == 4 * sizeof(double));
    return reinterpret_cast<const Box*>(boxes.data());
}

template <class Out>
void cut_cpu(const Pool<Cpu>& pool, const Slots<Cpu>& slot_of, const Boxes<Cpu>& boxes,
             std::size_t width, std::size_t height, Rgb fill, const Patches<Out, Cpu>& out) {
    const TileLevel level = checked_level(pool, slot_of, boxes, width, height, fill, out);
    nb::gil_scoped_release nogil;
    cpu::cut_patches(level, data_of(boxes), boxes.shape(0), out.shape(1), out.data());
}

template <class Out>
void cut_cuda(const Pool<Cuda>& pool, const Slots<Cuda>& slot_of, const Boxes<Cuda>& boxes,
              std::size_t width, std::size_t height, Rgb fill, const Patches<Out, Cuda>& out,
              std::uintptr_t stream) {
    const TileLevel level = checked_level(pool, slot_of, boxes, width, height, fill, out);
    const int device = out.device_id();
    require(
        pool.device_id() == device && slot_of.device_id() == device && boxes.device_id() == device,
        "cut_patches: the arrays are on different GPUs");
    const cuda::Place place = place_of(device, stream);
    nb::gil_scoped_release nogil;
    cuda::cut_patches(level, data_of(boxes), boxes.shape(0), out.shape(1), out.data(), place);
}

template <class Out>
void bind_cut_patches(nb::module_& m) {
    m.def("cut_patches", &cut_cpu<Out>, "pool"_a.noconvert(), "slot_of"_a.noconvert(),
          "boxes"_a.noconvert(), "width"_a, "height"_a, "fill"_a, "out"_a.noconvert(),
          "Write the resampled boxes of a tiled level into out.");
    m.def("cut_patches", &cut_cuda<Out>, "pool"_a.noconvert(), "slot_of"_a.noconvert(),
          "boxes"_a.noconvert(), "width"_a, "height"_a, "fill"_a, "out"_a.noconvert(),
          nb::kw_only(), "stream"_a,
          "As above, for arrays on one GPU; enqueued on the given CUDA stream.");
}

}  // namespace

void bind_tiles(nb::module_& m) {
    bind_cut_patches<std::uint8_t>(m);
    bind_cut_patches<float>(m);
}

}  // namespace histofast::bindings
