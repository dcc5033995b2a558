// A kernel with and without the barrier that it needs: what tests/races.sh must tell apart.
#include <cstring>

#include "cuda_runtime.h"

namespace {

__device__ uint4 four_of(unsigned value) { return make_uint4(value, value, value, value); }

__global__ void reverse(unsigned* out, bool waits) {
    __shared__ uint4 values[64];
    values[threadIdx.x] = four_of(threadIdx.x);
    if (waits) __syncthreads();
    out[threadIdx.x] = values[63 - threadIdx.x].x;
    if (waits) __syncthreads();
    atomicAdd(out + 64, out[63 - threadIdx.x]);
}

}  // namespace

int main(int count, char** arguments) {
    unsigned out[65] = {};
    cudaLaunchConfig_t config;
    config.gridDim = dim3(2);
    config.blockDim = dim3(64);
    const bool waits = count > 1 && std::strcmp(arguments[1], "waits") == 0;
    cudaLaunchKernelEx(&config, reverse, out, waits);
    return waits && out[64] != 2 * 63 * 64 / 2 ? 1 : 0;
}
