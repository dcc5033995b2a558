#include "histofast/tiles.h"

#include "bindings.h"

namespace histofast::bindings {
namespace {

using Pool =
    nb::ndarray<const std::uint8_t, nb::shape<-1, -1, -1, 3>, nb::c_contig, nb::device::cpu>;
using Slots = nb::ndarray<const std::int32_t, nb::shape<-1, -1>, nb::c_contig, nb::device::cpu>;
using Boxes = nb::ndarray<const double, nb::shape<-1, 4>, nb::c_contig, nb::device::cpu>;
using Patches = nb::ndarray<std::uint8_t, nb::shape<-1, -1, -1, 3>, nb::c_contig, nb::device::cpu>;

void cut_patches(const Pool& pool, const Slots& slot_of, const Boxes& boxes, std::size_t width,
                 std::size_t height, std::array<std::uint8_t, 3> fill, const Patches& out) {
    require(out.shape(0) == boxes.shape(0) && out.shape(1) == out.shape(2),
            "cut_patches: out of shape " + shape_of(out) + " does not fit boxes of shape " +
                shape_of(boxes));
    require(width > 0 && height > 0 && width <= slot_of.shape(1) * pool.shape(2) &&
                height <= slot_of.shape(0) * pool.shape(1),
            "cut_patches: a level of " + std::to_string(width) + " x " + std::to_string(height) +
                " px does not fit slot_of of shape " + shape_of(slot_of) + " and tiles of shape " +
                shape_of(pool));
    const TileLevel level{
        pool.data(),      slot_of.data(), pool.shape(1), pool.shape(2), slot_of.shape(0),
        slot_of.shape(1), height,         width,         fill};
    static_assert(sizeof(Box) == 4 * sizeof(double));
    const auto* box = reinterpret_cast<const Box*>(boxes.data());
    nb::gil_scoped_release nogil;
    cpu::cut_patches(level, box, boxes.shape(0), out.shape(1), out.data());
}

}  // namespace

void bind_tiles(nb::module_& m) {
    m.def("cut_patches", &cut_patches, "pool"_a.noconvert(), "slot_of"_a.noconvert(),
          "boxes"_a.noconvert(), "width"_a, "height"_a, "fill"_a, "out"_a.noconvert(),
          "Write the resampled boxes of a tiled level into out.");
}

}  // namespace histofast::bindings
