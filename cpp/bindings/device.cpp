#include "bindings.h"
#include "histofast/cpu_features.h"
#include "histofast/cuda.h"

namespace histofast::bindings {
namespace {

std::uintptr_t address(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

// The memory of a pinned buffer; the array keeps it.
using Bytes = nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>, nb::c_contig>;

Bytes host_bytes(nb::handle_t<cuda::Buffer> self) {
    const auto& buffer = nb::cast<const cuda::Buffer&>(self);
    require(buffer.device() == cuda::Buffer::kPinned,
            "buffer must be pinned memory of the host, got memory of GPU " +
                std::to_string(buffer.device()));
    return {buffer.data(), {buffer.bytes()}, self};
}

void copy(std::uintptr_t to, std::uintptr_t from, std::size_t bytes, const cuda::Stream& stream) {
    const nb::gil_scoped_release nogil;
    cuda::copy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes,
               stream.place());
}

void bind_pipeline(nb::module_& m) {
    using nogil = nb::call_guard<nb::gil_scoped_release>;
    nb::class_<cuda::Stream>(m, "CudaStream", "A stream of a GPU that waits for no other.")
        .def(nb::init<int>(), "device"_a)
        .def_prop_ro("address", [](const cuda::Stream& s) { return address(s.place().stream); })
        .def("synchronize", &cuda::Stream::synchronize, nogil());
    nb::class_<cuda::Event>(m, "CudaEvent", "A point in the work of a stream.")
        .def(nb::init<int>(), "device"_a)
        .def("record", &cuda::Event::record, "stream"_a)
        .def("hold", &cuda::Event::hold, "stream"_a, "Let the stream's further work wait for it.")
        .def("synchronize", &cuda::Event::synchronize, nogil())
        .def("seconds_since", &cuda::Event::seconds_since, "begin"_a);
    nb::class_<cuda::Buffer>(m, "CudaBuffer", "Memory of a GPU, or pinned memory of the host.")
        .def(nb::init<std::size_t, int>(), "nbytes"_a, "device"_a = cuda::Buffer::kPinned, nogil())
        .def_prop_ro("address", [](const cuda::Buffer& b) { return address(b.data()); })
        .def_prop_ro("nbytes", &cuda::Buffer::bytes)
        .def_prop_ro("array", &host_bytes, "The bytes of pinned memory.");
    m.def("cuda_copy", &copy, "to"_a, "source"_a, "nbytes"_a, "stream"_a,
          "Enqueue a copy between addresses of pinned memory and of the stream's GPU.");
}

}  // namespace

void bind_device(nb::module_& m) {
    nb::exception<cuda::CudaError>(m, "CudaError", PyExc_RuntimeError);
    m.def("cuda_is_compiled", &cuda::is_compiled, "True when this build has CUDA kernels.");
    m.def("cuda_device_count", &cuda::device_count, "Number of usable GPUs.");
    m.def("cuda_device_name", &cuda::device_name, "device"_a,
          "Name, compute capability and memory.");
    bind_pipeline(m);

    nb::enum_<cpu::Isa>(m, "Isa", "Instruction sets the CPU kernels are compiled for.")
        .value("baseline", cpu::Isa::baseline)
        .value("avx2", cpu::Isa::avx2)
        .value("avx512", cpu::Isa::avx512);
    m.def("best_isa", &cpu::best_isa, "Best instruction set of this processor and this build.");
    m.def("current_isa", &cpu::current_isa, "The instruction set the kernels use.");
    m.def("set_isa", &cpu::set_isa, "isa"_a,
          "Use this instruction set from now on, in all threads.");
    m.def("int8_is_exact", &cpu::int8_is_exact,
          "False on x86 processors without VNNI, where sums of 8-bit products saturate.");
}

}  // namespace histofast::bindings
