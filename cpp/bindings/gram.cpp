#include "histofast/gram.h"

#include <vector>

#include "bindings.h"

namespace histofast::bindings {
namespace {

using Layer = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;
template <class T>
using Row = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Rows = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

FeatureType feature_type(const Layer& layer, const std::string& name) {
    const nb::dlpack::dtype bfloat16{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bfloat), 16,
                                     1};
    const nb::dlpack::dtype float16{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 16,
                                    1};
    if (layer.dtype() == nb::dtype<float>()) return FeatureType::float32;
    if (layer.dtype() == float16) return FeatureType::float16;
    // NumPy has no bfloat16: its bits come as uint16.
    if (layer.dtype() == bfloat16 || layer.dtype() == nb::dtype<std::uint16_t>())
        return FeatureType::bfloat16;
    throw nb::type_error(
        (name + " must be float16, bfloat16 or float32, got another type").c_str());
}

FeatureMatrix feature_matrix(const Layer& layer, const std::string& name, std::size_t n) {
    const FeatureType type = feature_type(layer, name);
    require(layer.shape(0) == n && layer.shape(1) > 0,
            name + " must be of shape (" + std::to_string(n) + ", p), got " + shape_of(layer));
    require(layer.shape(1) == 1 || layer.stride(1) == 1,
            name + " must have contiguous rows, got columns " + std::to_string(layer.stride(1)) +
                " elements apart: copy it");
    return {layer.data(), type, layer.shape(1), layer.stride(0)};
}

// The list holds arrays of several types, which a typed sequence could not name in the stub.
template <class Out>
void packed_grams(const nb::typed<nb::list, nb::object>& layers, const Rows<Out>& out,
                  const Row<double>& squares, const Row<std::uint8_t>& problems, bool rbf,
                  double rbf_scale, bool debiased, std::size_t threads) {
    std::vector<Layer> arrays;  // keeps what the kernel reads
    std::vector<FeatureMatrix> matrices;
    for (const nb::handle object : layers) {
        const std::string name = "layers[" + std::to_string(arrays.size()) + "]";
        Layer layer;
        if (!nb::try_cast(object, layer, false))
            throw nb::type_error((name + " must be a matrix in the memory of the CPU").c_str());
        arrays.push_back(layer);
        matrices.push_back(feature_matrix(layer, name, arrays[0].shape(0)));
    }
    const std::size_t count = arrays.size(), n = count > 0 ? arrays[0].shape(0) : 4;
    require(n >= 4, "layers must have at least 4 rows, got " + std::to_string(n));
    require(out.shape(0) == count && out.shape(1) == packed_size(n, debiased) &&
                squares.shape(0) == count && problems.shape(0) == count,
            "packed_grams: out of shape " + shape_of(out) + " does not fit " +
                std::to_string(count) + " layers of " + std::to_string(n) + " rows");
    const nb::gil_scoped_release nogil;
    cpu::packed_grams(matrices.data(), count, n, {rbf, rbf_scale, debiased}, threads, out.data(),
                      squares.data(), reinterpret_cast<GramProblem*>(problems.data()));
}

}  // namespace

void bind_gram(nb::module_& m) {
    constexpr const char* doc = "Write the packed centred Gram of every layer into out.";
    m.def("packed_grams", &packed_grams<float>, "layers"_a, "out"_a.noconvert(),
          "squares"_a.noconvert(), "problems"_a.noconvert(), "rbf"_a, "rbf_scale"_a, "debiased"_a,
          "threads"_a, doc);
    m.def("packed_grams", &packed_grams<double>, "layers"_a, "out"_a.noconvert(),
          "squares"_a.noconvert(), "problems"_a.noconvert(), "rbf"_a, "rbf_scale"_a, "debiased"_a,
          "threads"_a, doc);
}

}  // namespace histofast::bindings
