// Shared by the binding files, the only ones that include nanobind.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "histofast/cuda.h"

namespace histofast::bindings {

namespace nb = nanobind;
using namespace nb::literals;

inline void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

// "(2, 256, 256, 3)"
template <class Array>
std::string shape_of(const Array& array) {
    std::string text = "(";
    for (std::size_t i = 0; i < array.ndim(); ++i)
        text += (i ? ", " : "") + std::to_string(array.shape(i));
    return text + (array.ndim() == 1 ? ",)" : ")");
}

using Cpu = nb::device::cpu;
using Cuda = nb::device::cuda;

inline cuda::Place place_of(int device, std::uintptr_t stream) {
    return {device, reinterpret_cast<CUstream_st*>(stream)};
}

using Scratch = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, Cuda>;

inline void check_scratch(const Scratch& scratch, std::size_t bytes) {
    require(scratch.shape(0) >= bytes, "scratch must have " + std::to_string(bytes) +
                                           " bytes, got " + std::to_string(scratch.shape(0)));
}

void bind_augment(nb::module_& m);
void bind_device(nb::module_& m);
void bind_glcm(nb::module_& m);
void bind_gram(nb::module_& m);
void bind_resize(nb::module_& m);
void bind_tiles(nb::module_& m);
void bind_tissue(nb::module_& m);

}  // namespace histofast::bindings
