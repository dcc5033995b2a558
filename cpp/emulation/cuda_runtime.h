// CUDA C++ as far as the kernels here use it, for a plain C++ compiler: every thread of a block is
// a fiber of the calling thread. For tests of kernels on machines without a GPU; slow, and found by
// the include path only in a build with HISTOFAST_CUDA=EMULATE.
//
// What it finds beyond wrong results: barriers that not all threads reach (deadlock, said and
// aborted), and missing barriers, by luck because blocks run their threads in alternating orders,
// and surely where ThreadSanitizer looks on (tests/races.sh). What it cannot find: races between
// blocks, wrong alignment, anything about speed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>

struct CUstream_st;
struct CUevent_st;
using cudaStream_t = CUstream_st*;
using cudaEvent_t = CUevent_st*;

#define __global__
#ifdef HISTOFAST_RACES  // GCC does not show ThreadSanitizer the stores of what a call returns
#define __device__ __attribute__((always_inline))
#else
#define __device__
#endif
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
// Blocks run one after the other, so one copy serves all. Dynamic shared memory is not emulated.
#define __shared__ static

// --- Vector types -------------------------------------------------------------------------------

#define HISTOFAST_VECTORS(T, name, align1, align2, align4)             \
    struct alignas(align2) name##2 { T x, y; };                        \
    struct name##3 { T x, y, z; };                                     \
    struct alignas(align4) name##4 { T x, y, z, w; };                  \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }         \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
HISTOFAST_VECTORS(std::uint8_t, uchar, 1, 2, 4)
HISTOFAST_VECTORS(std::int16_t, short, 2, 4, 8)
HISTOFAST_VECTORS(std::uint16_t, ushort, 2, 4, 8)
HISTOFAST_VECTORS(std::int32_t, int, 4, 8, 16)
HISTOFAST_VECTORS(std::uint32_t, uint, 4, 8, 16)
HISTOFAST_VECTORS(float, float, 4, 8, 16)
HISTOFAST_VECTORS(double, double, 8, 16, 16)
#undef HISTOFAST_VECTORS

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// --- Threads ------------------------------------------------------------------------------------

namespace histofast::emulation {

void run_grid(dim3 grid, dim3 block, const std::function<void()>& kernel);
void block_barrier();
int block_reduce(int value, int kind);  // barrier that gives all threads the 0 sum, 1 and, 2 or
// All lanes of `mask` hand in 8 bytes; `all` gets those of the whole warp.
void warp_exchange(unsigned mask, std::uint64_t mine, std::uint64_t (&all)[32]);
unsigned lane();

template <class T>
std::uint64_t to_bits(T value) {
    static_assert(sizeof(T) <= 8);
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
}

template <class T>
T from_bits(std::uint64_t bits) {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace histofast::emulation

extern thread_local uint3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

inline void __syncthreads() { ::histofast::emulation::block_barrier(); }
inline int __syncthreads_count(int p) { return ::histofast::emulation::block_reduce(p != 0, 0); }
inline int __syncthreads_and(int p) { return ::histofast::emulation::block_reduce(p != 0, 1); }
inline int __syncthreads_or(int p) { return ::histofast::emulation::block_reduce(p != 0, 2); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    std::uint64_t all[32];
    ::histofast::emulation::warp_exchange(mask, 0, all);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    namespace e = ::histofast::emulation;
    std::uint64_t all[32];
    e::warp_exchange(mask, e::to_bits(value), all);
    const int first = static_cast<int>(e::lane()) / width * width;
    return e::from_bits<T>(all[first + source % width]);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int other, int = 32) {
    namespace e = ::histofast::emulation;
    std::uint64_t all[32];
    e::warp_exchange(mask, e::to_bits(value), all);
    return e::from_bits<T>(all[e::lane() ^ static_cast<unsigned>(other)]);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    namespace e = ::histofast::emulation;
    std::uint64_t all[32];
    e::warp_exchange(mask, e::to_bits(value), all);
    const unsigned at = e::lane(), last = at / width * width + width - 1;
    return e::from_bits<T>(all[at + delta > last ? at : at + delta]);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    namespace e = ::histofast::emulation;
    std::uint64_t all[32];
    e::warp_exchange(mask, e::to_bits(value), all);
    const unsigned at = e::lane(), first = at / width * width;
    return e::from_bits<T>(all[at < first + delta ? at : at - delta]);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    std::uint64_t all[32];
    ::histofast::emulation::warp_exchange(mask, predicate != 0, all);
    unsigned bits = 0;
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1u) bits |= static_cast<unsigned>(all[i] != 0) << i;
    return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) == mask;
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
    std::uint64_t all[32];
    ::histofast::emulation::warp_exchange(mask, value, all);
    unsigned sum = 0;
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1u) sum += static_cast<unsigned>(all[i]);
    return sum;
}

// --- Arithmetic ---------------------------------------------------------------------------------

using std::max;
using std::min;
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (unsigned i = 0; i < 32; i += 8) c += (a >> i & 255u) * (b >> i & 255u);
    return c;
}
inline unsigned __vmaxu2(unsigned a, unsigned b) {
    return std::max(a >> 16, b >> 16) << 16 | std::max(a & 0xffffu, b & 0xffffu);
}
inline unsigned __vminu2(unsigned a, unsigned b) {
    return std::min(a >> 16, b >> 16) << 16 | std::min(a & 0xffffu, b & 0xffffu);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) {
    return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline unsigned __float_as_uint(float x) {
    return static_cast<unsigned>(::histofast::emulation::to_bits(x));
}
inline float __uint_as_float(unsigned x) { return ::histofast::emulation::from_bits<float>(x); }
inline long long __double_as_longlong(double x) {
    return ::histofast::emulation::from_bits<long long>(::histofast::emulation::to_bits(x));
}
inline double __longlong_as_double(long long x) {
    return ::histofast::emulation::from_bits<double>(::histofast::emulation::to_bits(x));
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const std::uint64_t bytes = std::uint64_t{high} << 32 | low;
    unsigned result = 0;
    for (unsigned i = 0; i < 4; ++i)
        result |= static_cast<unsigned>(bytes >> (selector >> (4 * i) & 7) * 8 & 0xff) << (8 * i);
    return result;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((std::uint64_t{high} << 32 | low) >> (shift & 31));
}
inline unsigned __dp2a_lo(unsigned pair, unsigned bytes, unsigned sum) {
    return sum + (pair & 0xffff) * (bytes & 0xff) + (pair >> 16) * (bytes >> 8 & 0xff);
}
inline unsigned __dp2a_hi(unsigned pair, unsigned bytes, unsigned sum) {
    return __dp2a_lo(pair, bytes >> 16, sum);
}
template <class T>
T __ldg(const T* address) {
    return *address;
}
template <class T>
T __ldcs(const T* address) {
    return *address;
}

// Fibers change only at barriers, so nothing comes between; ThreadSanitizer is told that these are
// atomic.
namespace histofast::emulation {
template <class T>
T load(const T* address) {
    T value;
    __atomic_load(address, &value, __ATOMIC_RELAXED);
    return value;
}
template <class T>
void store(T* address, T value) {
    __atomic_store(address, &value, __ATOMIC_RELAXED);
}
}  // namespace histofast::emulation

#define HISTOFAST_ATOMIC(name, updated)                                  \
    template <class T, class U>                                          \
    T name(T* address, U given) {                                        \
        const T old = ::histofast::emulation::load(address);             \
        const T value = static_cast<T>(given);                           \
        ::histofast::emulation::store(address, static_cast<T>(updated)); \
        return old;                                                      \
    }
HISTOFAST_ATOMIC(atomicAdd, old + value)
HISTOFAST_ATOMIC(atomicSub, old - value)
HISTOFAST_ATOMIC(atomicMin, std::min(old, value))
HISTOFAST_ATOMIC(atomicMax, std::max(old, value))
HISTOFAST_ATOMIC(atomicOr, old | value)
HISTOFAST_ATOMIC(atomicAnd, old& value)
HISTOFAST_ATOMIC(atomicExch, value)
#undef HISTOFAST_ATOMIC
template <class T, class U, class V>
T atomicCAS(T* address, U compare, V value) {
    const T old = ::histofast::emulation::load(address);
    if (old == static_cast<T>(compare))
        ::histofast::emulation::store(address, static_cast<T>(value));
    return old;
}

#define __NV_ATOMIC_RELAXED __ATOMIC_RELAXED
#define __NV_THREAD_SCOPE_DEVICE 0
template <class T>
T __nv_atomic_load_n(const T* address, int, int) {
    return ::histofast::emulation::load(address);
}

// --- Host ---------------------------------------------------------------------------------------

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNotReady = 600
};
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4
};
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
inline constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDefault = 0,
                          cudaHostAllocPortable = 1;

struct cudaDeviceProp {
    char name[256];
    int major, minor;
    std::size_t totalGlobalMem;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    std::size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
    void* attrs = nullptr;
    unsigned numAttrs = 0;
};

inline const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorInvalidDevice ? "invalid device ordinal" : "emulated error";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
    return *value = 4, cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    if (device != 0) return cudaErrorInvalidDevice;
    *properties = {"emulated", 9, 0, std::size_t{1} << 30};
    return cudaSuccess;
}
inline cudaError_t cudaMalloc(void** address, std::size_t bytes) {
    *address = std::malloc(bytes > 0 ? bytes : 1);
    if (*address != nullptr) std::memset(*address, 0xa5, bytes);  // as little zero as a GPU's
    return *address == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void* address) { return std::free(address), cudaSuccess; }
inline cudaError_t cudaHostAlloc(void** address, std::size_t bytes, unsigned) {
    return cudaMalloc(address, bytes);
}
inline cudaError_t cudaFreeHost(void* address) { return cudaFree(address); }
inline cudaError_t cudaMemsetAsync(void* address, int value, std::size_t bytes, cudaStream_t) {
    return std::memset(address, value, bytes), cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
    return std::memmove(to, from, bytes), cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
    if (config->gridDim.x == 0 || config->gridDim.y == 0 || config->gridDim.z == 0 ||
        config->gridDim.y > 65535 || config->gridDim.z > 65535 || config->blockDim.x == 0 ||
        config->blockDim.x * config->blockDim.y * config->blockDim.z > 1024)
        return cudaErrorInvalidValue;
    ::histofast::emulation::run_grid(config->gridDim, config->blockDim,
                                     [&] { kernel(static_cast<Parameters>(arguments)...); });
    return cudaSuccess;
}
