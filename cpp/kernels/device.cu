#include <cstdio>

#include "cuda_utils.cuh"

namespace histofast::cuda {

bool is_compiled() { return true; }

int device_count() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    // A machine without a driver or a GPU has zero devices; that is an answer, not a failure.
    if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver) {
        (void)cudaGetLastError();
        return 0;
    }
    HISTOFAST_CUDA_CHECK(status);
    return count;
}

std::string device_name(int device) {
    cudaDeviceProp properties{};
    HISTOFAST_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    char text[320];
    std::snprintf(text, sizeof text, "%s, compute %d.%d, %.0f GiB", properties.name,
                  properties.major, properties.minor,
                  static_cast<double>(properties.totalGlobalMem) / (1u << 30));
    return text;
}

}  // namespace histofast::cuda
