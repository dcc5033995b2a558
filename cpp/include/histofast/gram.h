// Features of the same n samples at several layers -> the centred Gram of each, as a triangle.
//
//   x    = features - their column means
//   gram = x x'                                                    linear
//        = exp(-d^2 / (2 rbf_scale^2 median)) - 1                  rbf, d^2 from the linear Gram;
//          the median is that of all n^2 squared distances, zeros of the diagonal included
//   U    = gram without its diagonal, U-centred (Szekely and Rizzo)     debiased
//        = gram with rows and columns centred                           biased
//   out  = U below the diagonal, row by row; biased: each row ends in U_ii sqrt(1/2)
//
// so that 2 <out_a, out_b> is the sum of U_a U_b over all n^2 elements. tests/reference.py is the
// definition. Means and all sums over samples are float64; products of features are float32, summed
// in float32 over 512 columns and in float64 beyond: an element of the Gram errs by about 1e-7,
// at most 1e-6, of the root of its two diagonal elements' product, whatever the features' offset.
#pragma once

#include <cstddef>
#include <cstdint>

#include "histofast/cuda.h"

namespace histofast {

enum class FeatureType { float16, bfloat16, float32 };

struct FeatureMatrix {
    const void* values;  // (n, columns), elements of a row adjacent
    FeatureType type;
    std::size_t columns;
    std::ptrdiff_t row_stride;  // elements
};

struct GramOptions {
    bool rbf;
    double rbf_scale;
    bool debiased;
};

enum class GramProblem : std::uint8_t {
    none = 0,
    not_finite = 1,   // in squares[l] rows; in 0: a centred value is beyond float32
    zero_median = 2,  // rbf of rows that are equal in half of the pairs
};

// Elements of a packed triangle.
constexpr std::size_t packed_size(std::size_t n, bool debiased) {
    return debiased ? n * (n - 1) / 2 : n * (n + 1) / 2;
}

namespace cpu {

// layers: (count); n >= 4. Written: out (count, packed_size), squares (count) = sum of the squared
// elements of the Gram before its rows are centred, 0 where no feature varies, and problems
// (count); out and squares mean nothing where there is a problem. The same bits whatever the
// threads >= 1; instruction sets may differ in the last bits. Takes 4 n^2 bytes (rbf: 8 n^2) and
// panels of columns of 4 MB, or 2 kB per sample; for each thread where n is 1024 or less.
template <class Out>  // float or double
void packed_grams(const FeatureMatrix* layers, std::size_t count, std::size_t n,
                  const GramOptions& options, std::size_t threads, Out* out, double* squares,
                  GramProblem* problems);

}  // namespace cpu

namespace cuda {

std::size_t packed_grams_scratch_bytes(const FeatureMatrix* layers, std::size_t count,
                                       std::size_t n, const GramOptions& options);

// The same for features of one GPU: `layers` is memory of the host, all it points to is the
// device's, as are out, squares, problems and scratch (of packed_grams_scratch_bytes, aligned to
// 256). Products of float32 features are summed in float32 over up to 2048 columns. Centred
// features of 16 bits are rounded to float16, scaled by a power of two, before they are multiplied:
// an element of the Gram errs by up to 2^-9 (bfloat16: 2^-10) of the root of its two diagonal
// elements' product, in the mean by about 2^-12 over the root of the columns. The same bits
// whatever the other layers.
template <class Out>  // float or double
void packed_grams(const FeatureMatrix* layers, std::size_t count, std::size_t n,
                  const GramOptions& options, Out* out, double* squares, GramProblem* problems,
                  void* scratch, Place place);

}  // namespace cuda
}  // namespace histofast
