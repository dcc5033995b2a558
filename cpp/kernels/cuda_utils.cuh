// Helpers for .cu files only.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "histofast/cuda.h"

#define HISTOFAST_CUDA_CHECK(call)                                           \
    do {                                                                     \
        const cudaError_t status_ = (call);                                  \
        if (status_ != cudaSuccess)                                          \
            throw ::histofast::cuda::CudaError(std::string(#call) + ": " +   \
                                               cudaGetErrorString(status_)); \
    } while (0)
