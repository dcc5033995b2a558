// Warp matrix products (nvcuda::wmma) of 16 x 16 x 16 with float32 sums. Every lane holds the whole
// tile here, as float32; which elements a lane of a GPU holds is not defined there either.
#pragma once

#include "cuda_fp16.h"

namespace nvcuda::wmma {

struct row_major {};
struct col_major {};
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
    static_assert(M == 16 && N == 16 && K == 16);
    static constexpr int num_elements = 256;
    float x[256];  // row-major
};

inline float as_float(float value) { return value; }
inline float as_float(__half value) { return __half2float(value); }

template <class Use, class T, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& a, const T* from, unsigned stride) {
    constexpr bool rows = std::is_same_v<Layout, row_major>;
    for (unsigned i = 0; i < 16; ++i)
        for (unsigned j = 0; j < 16; ++j)
            a.x[16 * i + j] = as_float(rows ? from[i * stride + j] : from[j * stride + i]);
    __syncwarp();
}

template <class T>
void fill_fragment(fragment<accumulator, 16, 16, 16, T>& c, T value) {
    for (T& element : c.x) element = value;
}

template <class A, class LayoutA, class LayoutB>
void mma_sync(fragment<accumulator, 16, 16, 16, float>& d,
              const fragment<matrix_a, 16, 16, 16, A, LayoutA>& a,
              const fragment<matrix_b, 16, 16, 16, A, LayoutB>& b,
              const fragment<accumulator, 16, 16, 16, float>& c) {
    for (unsigned i = 0; i < 16; ++i) {
        float sums[16];
        for (unsigned j = 0; j < 16; ++j) sums[j] = c.x[16 * i + j];
        for (unsigned k = 0; k < 16; ++k)
            for (unsigned j = 0; j < 16; ++j) sums[j] += a.x[16 * i + k] * b.x[16 * k + j];
        for (unsigned j = 0; j < 16; ++j) d.x[16 * i + j] = sums[j];
    }
    __syncwarp();
}

template <class T>
void store_matrix_sync(T* to, const fragment<accumulator, 16, 16, 16, T>& c, unsigned stride,
                       layout_t layout) {
    for (unsigned i = 0; i < 16 && ::histofast::emulation::lane() == 0; ++i)
        for (unsigned j = 0; j < 16; ++j)
            to[layout == mem_row_major ? i * stride + j : j * stride + i] = c.x[16 * i + j];
    __syncwarp();
}

}  // namespace nvcuda::wmma
