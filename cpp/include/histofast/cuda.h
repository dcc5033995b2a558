// What the native library knows of GPUs without including a CUDA header.
#pragma once

#include <stdexcept>
#include <string>

struct CUstream_st;  // cudaStream_t points to this; named here so that no CUDA header is needed

namespace histofast::cuda {

struct CudaError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Place {
    int device;
    CUstream_st* stream;
};

// True when this build has CUDA kernels (nvcc was found), whether or not a GPU is here.
bool is_compiled();

// Number of usable GPUs; 0 without a driver. Throws CudaError when not compiled in.
int device_count();

// "NVIDIA H200, compute 9.0, 139 GiB". Throws CudaError for a device that is not there.
std::string device_name(int device);

}  // namespace histofast::cuda
