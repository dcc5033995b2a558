// Helpers for .cu files only.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <utility>

#include "histofast/cuda.h"

#define HISTOFAST_CUDA_CHECK(call)                                           \
    do {                                                                     \
        const cudaError_t status_ = (call);                                  \
        if (status_ != cudaSuccess)                                          \
            throw ::histofast::cuda::CudaError(std::string(#call) + ": " +   \
                                               cudaGetErrorString(status_)); \
    } while (0)

namespace histofast::cuda {

// Makes a device current for as long as it lives.
class DeviceGuard {
public:
    explicit DeviceGuard(int device) {
        HISTOFAST_CUDA_CHECK(cudaGetDevice(&before_));
        if (before_ != device) HISTOFAST_CUDA_CHECK(cudaSetDevice(device));
        changed_ = before_ != device;
    }
    ~DeviceGuard() {
        if (changed_) (void)cudaSetDevice(before_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

private:
    int before_ = 0;
    bool changed_ = false;
};

// Enqueues a kernel; the device of `place` must be current. Grids: x < 2^31, y and z < 2^16.
// A function and not <<<>>>, which only nvcc can read.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, Place place,
            Arguments&&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.stream = place.stream;
    HISTOFAST_CUDA_CHECK(
        cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

template <class T>
__host__ __device__ constexpr T ceil_div(T value, T by) {
    return (value + by - 1) / by;
}

// Cuts one piece of scratch memory after the other, each aligned for any type and for vectors. With
// no memory it only counts, so that one function says what is needed and where it is.
class Scratch {
public:
    explicit Scratch(void* memory) : memory_(static_cast<char*>(memory)) {}

    template <class T>
    T* take(std::size_t count) {
        T* piece = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + bytes_);
        bytes_ += (count * sizeof(T) + 255) / 256 * 256;
        return piece;
    }
    std::size_t bytes() const { return bytes_; }

private:
    char* memory_;
    std::size_t bytes_ = 0;
};

}  // namespace histofast::cuda
