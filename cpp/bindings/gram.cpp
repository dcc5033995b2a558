#include "histofast/gram.h"

#include <vector>

#include "bindings.h"

namespace histofast::bindings {
namespace {

using LayerList = nb::typed<nb::list, nb::object>;  // of several types, which no stub could name
template <class T, class Device>
using Row = nb::ndarray<T, nb::ndim<1>, nb::c_contig, Device>;
template <class T, class Device>
using Rows = nb::ndarray<T, nb::ndim<2>, nb::c_contig, Device>;

template <class Layer>
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

// The matrices of a list, and what keeps them.
template <class Device>
struct Layers {
    using Layer = nb::ndarray<nb::ro, nb::ndim<2>, Device>;

    explicit Layers(const LayerList& list) {
        for (const nb::handle object : list) {
            const std::string name = "layers[" + std::to_string(arrays.size()) + "]";
            const std::string place = Device::value == Cpu::value ? "the CPU" : "a GPU";
            Layer layer;
            if (!nb::try_cast(object, layer, false))
                throw nb::type_error(
                    (name + " must be a matrix in the memory of " + place).c_str());
            arrays.push_back(layer);
            n = arrays[0].shape(0);
            const FeatureType type = feature_type(layer, name);
            require(
                layer.shape(0) == n && layer.shape(1) > 0,
                name + " must be of shape (" + std::to_string(n) + ", p), got " + shape_of(layer));
            require(layer.shape(1) == 1 || layer.stride(1) == 1,
                    name + " must have contiguous rows, got columns " +
                        std::to_string(layer.stride(1)) + " elements apart: copy it");
            matrices.push_back({layer.data(), type, layer.shape(1), layer.stride(0)});
        }
        require(n >= 4, "layers must have at least 4 rows, got " + std::to_string(n));
    }

    std::vector<Layer> arrays;
    std::vector<FeatureMatrix> matrices;
    std::size_t n = 4;
};

template <class Device, class Out>
void check_results(const Layers<Device>& layers, const Rows<Out, Device>& out,
                   const Row<double, Device>& squares, const Row<std::uint8_t, Device>& problems,
                   bool debiased) {
    const std::size_t count = layers.arrays.size();
    require(out.shape(0) == count && out.shape(1) == packed_size(layers.n, debiased) &&
                squares.shape(0) == count && problems.shape(0) == count,
            "packed_grams: out of shape " + shape_of(out) + " does not fit " +
                std::to_string(count) + " layers of " + std::to_string(layers.n) + " rows");
}

template <class Out>
void packed_grams_cpu(const LayerList& list, const Rows<Out, Cpu>& out,
                      const Row<double, Cpu>& squares, const Row<std::uint8_t, Cpu>& problems,
                      bool rbf, double rbf_scale, bool debiased, std::size_t threads) {
    const Layers<Cpu> layers(list);
    check_results(layers, out, squares, problems, debiased);
    const nb::gil_scoped_release nogil;
    cpu::packed_grams(layers.matrices.data(), layers.matrices.size(), layers.n,
                      {rbf, rbf_scale, debiased}, threads, out.data(), squares.data(),
                      reinterpret_cast<GramProblem*>(problems.data()));
}

std::size_t scratch_bytes(const LayerList& list, bool rbf) {
    const Layers<Cuda> layers(list);
    return cuda::packed_grams_scratch_bytes(layers.matrices.data(), layers.matrices.size(),
                                            layers.n, {rbf, 1, true});
}

template <class Out>
void packed_grams_cuda(const LayerList& list, const Rows<Out, Cuda>& out,
                       const Row<double, Cuda>& squares, const Row<std::uint8_t, Cuda>& problems,
                       bool rbf, double rbf_scale, bool debiased, const Scratch& scratch,
                       std::uintptr_t stream) {
    const Layers<Cuda> layers(list);
    check_results(layers, out, squares, problems, debiased);
    bool one_gpu = squares.device_id() == out.device_id() &&
                   problems.device_id() == out.device_id() &&
                   scratch.device_id() == out.device_id();
    for (const auto& layer : layers.arrays) one_gpu &= layer.device_id() == out.device_id();
    require(one_gpu, "packed_grams: all arrays must be on one GPU");
    const GramOptions options{rbf, rbf_scale, debiased};
    const std::size_t count = layers.matrices.size();
    check_scratch(scratch, cuda::packed_grams_scratch_bytes(layers.matrices.data(), count, layers.n,
                                                            options));
    const cuda::Place place = place_of(out.device_id(), stream);
    const nb::gil_scoped_release nogil;
    cuda::packed_grams(layers.matrices.data(), count, layers.n, options, out.data(), squares.data(),
                       reinterpret_cast<GramProblem*>(problems.data()), scratch.data(), place);
}

template <class Out>
void bind_packed_grams(nb::module_& m) {
    m.def("packed_grams", &packed_grams_cpu<Out>, "layers"_a, "out"_a.noconvert(),
          "squares"_a.noconvert(), "problems"_a.noconvert(), "rbf"_a, "rbf_scale"_a, "debiased"_a,
          "threads"_a, "Write the packed centred Gram of every layer into out.");
    m.def("packed_grams", &packed_grams_cuda<Out>, "layers"_a, "out"_a.noconvert(),
          "squares"_a.noconvert(), "problems"_a.noconvert(), "rbf"_a, "rbf_scale"_a, "debiased"_a,
          nb::kw_only(), "scratch"_a.noconvert(), "stream"_a,
          "As above, for arrays on one GPU; enqueued on the given CUDA stream.");
}

}  // namespace

void bind_gram(nb::module_& m) {
    bind_packed_grams<float>(m);
    bind_packed_grams<double>(m);
    m.def("packed_grams_scratch_bytes", &scratch_bytes, "layers"_a, "rbf"_a,
          "Bytes of scratch that packed_grams needs on a GPU.");
}

}  // namespace histofast::bindings
