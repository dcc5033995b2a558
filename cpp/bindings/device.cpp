#include "bindings.h"
#include "histofast/cpu_features.h"
#include "histofast/cuda.h"

namespace histofast::bindings {

void bind_device(nb::module_& m) {
    nb::exception<cuda::CudaError>(m, "CudaError", PyExc_RuntimeError);
    m.def("cuda_is_compiled", &cuda::is_compiled, "True when this build has CUDA kernels.");
    m.def("cuda_device_count", &cuda::device_count, "Number of usable GPUs.");
    m.def("cuda_device_name", &cuda::device_name, "device"_a,
          "Name, compute capability and memory.");

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
