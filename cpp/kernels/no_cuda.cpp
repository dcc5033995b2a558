// The same symbols as the .cu files, for a build without nvcc.
#include "histofast/cuda.h"

namespace histofast::cuda {
namespace {

[[noreturn]] void not_compiled() {
    throw CudaError("this build of histofast has no CUDA kernels: reinstall with nvcc on the path");
}

}  // namespace

bool is_compiled() { return false; }
int device_count() { not_compiled(); }
std::string device_name(int) { not_compiled(); }

}  // namespace histofast::cuda
