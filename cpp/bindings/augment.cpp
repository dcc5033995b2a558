#include "histofast/augment.h"

#include "bindings.h"

namespace histofast::bindings {
namespace {

using Images = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, -1, 3>, nb::c_contig, Cpu>;
using Out = nb::ndarray<std::uint8_t, nb::shape<-1, -1, -1, 3>, nb::c_contig, Cpu>;
template <class Value>
using Each = nb::ndarray<const Value, nb::shape<-1>, nb::c_contig, Cpu>;
template <class Value, int columns>
using Rows = nb::ndarray<const Value, nb::shape<-1, columns>, nb::c_contig, Cpu>;

// Draws of one transform; none at all leave it out.
template <class Array>
auto of_each(const char* name, const Array& drawn, const Images& images) {
    const bool is_off = drawn.shape(0) == 0;
    require(is_off || drawn.shape(0) == images.shape(0),
            std::string("augment_images: ") + name + " of shape " + shape_of(drawn) +
                " do not fit images of shape " + shape_of(images));
    return is_off ? nullptr : drawn.data();
}

void augment_cpu(const Images& images, const Each<std::uint8_t>& turns, const Rows<double, 6>& maps,
                 const Rows<float, 12>& stains, const Rows<float, 3>& tints,
                 const Rows<float, 3>& shifts, const Each<float>& sigmas,
                 const Rows<std::int32_t, 3>& holes, std::size_t threads, const Out& out) {
    const ImageShape shape{images.shape(0), images.shape(1), images.shape(2)};
    require(
        out.shape(0) == shape.count && out.shape(1) == shape.height && out.shape(2) == shape.width,
        "augment_images: out of shape " + shape_of(out) + " does not fit images of shape " +
            shape_of(images));
    require(shape.height < 30000 && shape.width < 30000,
            "augment_images: images must be below 30000 px, got shape " + shape_of(images));
    const AugmentDraws draws{of_each("turns", turns, images),   of_each("maps", maps, images),
                             of_each("stains", stains, images), of_each("tints", tints, images),
                             of_each("shifts", shifts, images), of_each("sigmas", sigmas, images),
                             of_each("holes", holes, images)};
    nb::gil_scoped_release nogil;
    cpu::augment_images(images.data(), shape, draws, threads, out.data());
}

void map_cones_cpu(const Images& images, const Each<float>& thirty, std::size_t threads,
                   const Out& out) {
    const ImageShape shape{images.shape(0), images.shape(1), images.shape(2)};
    require(
        out.shape(0) == shape.count && out.shape(1) == shape.height && out.shape(2) == shape.width,
        "map_cones: out of shape " + shape_of(out) + " does not fit images of shape " +
            shape_of(images));
    require(thirty.shape(0) == 30,
            "map_cones: thirty must be 30 numbers, got shape " + shape_of(thirty));
    nb::gil_scoped_release nogil;
    cpu::map_cones(images.data(), shape, thirty.data(), threads, out.data());
}

using Table = nb::ndarray<const std::uint8_t, nb::shape<256, 256, 256, 3>, nb::c_contig, Cpu>;

void map_colours_cpu(const Images& images, const Table& table, std::size_t threads,
                     const Out& out) {
    const ImageShape shape{images.shape(0), images.shape(1), images.shape(2)};
    require(
        out.shape(0) == shape.count && out.shape(1) == shape.height && out.shape(2) == shape.width,
        "map_colours: out of shape " + shape_of(out) + " does not fit images of shape " +
            shape_of(images));
    nb::gil_scoped_release nogil;
    cpu::map_colours(images.data(), shape, table.data(), threads, out.data());
}

}  // namespace

void bind_augment(nb::module_& m) {
    m.def("augment_images", &augment_cpu, "images"_a.noconvert(), "turns"_a.noconvert(),
          "maps"_a.noconvert(), "stains"_a.noconvert(), "tints"_a.noconvert(),
          "shifts"_a.noconvert(), "sigmas"_a.noconvert(), "holes"_a.noconvert(), "threads"_a,
          "out"_a.noconvert(), "Write the images, changed as drawn, into out.");
    m.def("map_cones", &map_cones_cpu, "images"_a.noconvert(), "thirty"_a.noconvert(), "threads"_a,
          "out"_a.noconvert(),
          "Write the images, by one map of the logarithms of cones, into out.");
    m.def("map_colours", &map_colours_cpu, "images"_a.noconvert(), "table"_a.noconvert(),
          "threads"_a, "out"_a.noconvert(),
          "Write the images, by a table of all colours, into out.");
}

}  // namespace histofast::bindings
