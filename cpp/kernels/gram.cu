#include <cuda_fp16.h>
#include <mma.h>

#include <algorithm>
#include <limits>
#include <type_traits>

#include "cuda_utils.cuh"
#include "histofast/gram.h"

namespace histofast::cuda {
namespace {

using std::size_t;
namespace wmma = nvcuda::wmma;

// Columns that one block sums in float32; those of 16 bits err by more than that anyway.
constexpr size_t kLongestRun = 2048, kLongestHalfRun = 4096;

// Large tiles that an H200 works on at once, two on each multiprocessor; of small ones twice as
// many. Not asked of the card: how columns are divided decides on the last bits.
constexpr size_t kResident = 2 * 132;

// What starting a block and writing, reading its sums costs, in columns; only chooses the division.
constexpr size_t kOverhead = 48, kHalfOverhead = 512;

constexpr size_t kColumnsMultiple = 32;             // of a run: a step of either product
constexpr size_t kMeansMultiple = 128;              // columns of a block of column_means
constexpr size_t kMostPartials = size_t{64} << 20;  // floats: 256 MB
constexpr unsigned kMostLayers = 16;                // at once; their pieces go by value, under 4 kB

constexpr unsigned kThreads = 256;  // of a block that walks along a row of a Gram
constexpr unsigned kMeanRows =
    16;  // rows read at once: few columns need many threads to hide waits
constexpr unsigned kSplitThreads = 8;  // threads that share the partial sums of one element

// Selection by digits: 63 bits of a distance, which is not negative, are 7 digits of 9.
constexpr unsigned kDigitBits = 9, kDigits = 7, kBins = 1u << kDigitBits;
constexpr size_t kSelectPerThread = 16, kMostSelectBlocks = 512;

constexpr int kLargestExponent = 40;   // as on the CPU: no product of 512 overflows or vanishes
constexpr int kHalfExponent = 13;      // the largest float16 value gets it, or the next one
constexpr int kLargestHalfScale = 15;  // its exponent: the largest power of two of float16

using Bits = unsigned long long;

// Of two columns, as Centring takes them: negative, the low part scaled.
struct HalfMeans {
    unsigned high, low;  // two of 16 bits
};

struct State {      // of one layer; begins as zeros
    unsigned peak;  // bits of the largest magnitude of a centred value
    Bits farthest;  // of the largest distance
    Bits key;       // leading digits of the lower median
    Bits rank;      // its place among the keys that share them
    Bits equal;     // how many of those there are
    Bits beyond;    // complement of the next larger key
};

// What is known of a layer, and its pieces of the scratch memory.
struct Layer {
    const void* values;
    std::ptrdiff_t row_stride;
    size_t columns, vector_columns;  // before the latter, 16 bytes can be read at once
    size_t first, run, runs;         // columns of this round, divided among blocks
    float2* means;                   // (columns, padded with zeros), high and low part
    HalfMeans* half_means;           // the same of pairs of columns, for float16
    float* partials;                 // (runs, tiles, tile, tile)
    double *gram, *norms, *row_sums, *row_squares;
    State* state;
    Bits* histograms;  // (kDigits, kBins)
    std::uint8_t* bad_rows;
};

struct Group {
    Layer layers[kMostLayers];
    size_t n, count;
    unsigned tile, tiles;  // rows of a tile; tiles of the lower triangle
    double rbf_scale;
    bool rbf, debiased;
};
static_assert(sizeof(Group) < 4000);

__host__ __device__ constexpr size_t round_up(size_t value, size_t multiple) {
    return ceil_div(value, multiple) * multiple;
}

// Columns for which there are means.
__host__ __device__ constexpr size_t padded(size_t columns) {
    return round_up(columns, kMeansMultiple);
}

__device__ Bits bits_of(double value) { return static_cast<Bits>(__double_as_longlong(value)); }
__device__ double from_bits(Bits bits) {
    return __longlong_as_double(static_cast<long long>(bits));
}

template <FeatureType kType>
using Stored = std::conditional_t<kType == FeatureType::float32, float, std::uint16_t>;

template <FeatureType kType>
__device__ float to_float(Stored<kType> value) {
    if constexpr (kType == FeatureType::float32)
        return value;
    else if constexpr (kType == FeatureType::float16)
        return __half2float(__ushort_as_half(value));
    else
        return __uint_as_float(static_cast<unsigned>(value) << 16);
}

template <class T>
__device__ const T* row_of(const Layer& layer, size_t row) {
    return static_cast<const T*>(layer.values) +
           static_cast<std::ptrdiff_t>(row) * layer.row_stride;
}

// Adjacent values, read and written at once.
template <class T, unsigned kCount>
struct alignas(sizeof(T) * kCount) Vector {
    T at[kCount];
};

// Zeros beyond the last column.
__device__ Vector<float, 4> load_floats(const Layer& layer, const float* row, size_t column) {
    if (column + 4 <= layer.vector_columns)
        return *reinterpret_cast<const Vector<float, 4>*>(row + column);
    Vector<float, 4> values;
    for (unsigned i = 0; i < 4; ++i)
        values.at[i] = column + i < layer.columns ? row[column + i] : 0;
    return values;
}

// Eight values of 16 bits in the words they come in: apart they would take twice the registers.
struct ReadPairs {
    __device__ Vector<unsigned, 4> operator()(const std::uint16_t* from, size_t) const {
        return *reinterpret_cast<const Vector<unsigned, 4>*>(from);
    }
};

// The same from any address, of `count` columns.
struct GatherPairs {
    __device__ Vector<unsigned, 4> operator()(const std::uint16_t* from, size_t count) const {
        Vector<unsigned, 4> pairs{};
        for (unsigned i = 0; i < 8; ++i)
            if (i < count) pairs.at[i / 2] |= unsigned{from[i]} << 16 * (i % 2);
        return pairs;
    }
};

// Power of two by which centred values are multiplied: their squares must fit into float32, or they
// themselves into float16.
template <FeatureType kType>
__device__ int scale_exponent(unsigned peak) {
    const int exponent = static_cast<int>(peak >> 23) - 127;
    int scale = kHalfExponent - exponent;
    // Differences of float16 that might be beyond it are made a quarter of.
    if (kType == FeatureType::float16)
        scale = scale < 0 ? -2 : scale > kLargestHalfScale ? kLargestHalfScale : scale;
    if (kType == FeatureType::float32)
        scale = exponent >= -kLargestExponent && exponent <= kLargestExponent ? 0 : -exponent;
    return scale < -126 ? -126 : scale > 126 ? 126 : scale;
}

__device__ float power_of_two(int exponent) {
    return __uint_as_float(static_cast<unsigned>(exponent + 127) << 23);
}

// --- Means: bound by reading the features once --------------------------------------------------

// x - high is exact where x is near the mean, so two steps lose nothing of a large offset.
template <FeatureType kType>
__global__ void __launch_bounds__(32 * kMeanRows)
    column_means(const __grid_constant__ Group group) {
    constexpr unsigned kEach = 4;  // columns of a thread
    __shared__ double sums[kMeanRows][kMeansMultiple];
    __shared__ float lows[kMeanRows][kMeansMultiple], highs[kMeanRows][kMeansMultiple];
    const Layer& layer = group.layers[blockIdx.y];
    const size_t first = blockIdx.x * kMeansMultiple;
    if (first >= layer.columns) return;
    const bool vectors = first + kMeansMultiple <= layer.vector_columns;
    const unsigned lane = threadIdx.x;
    double sum[kEach] = {};
    float low[kEach], high[kEach];
    for (unsigned i = 0; i < kEach; ++i) {
        low[i] = __uint_as_float(0x7f800000u);  // infinity
        high[i] = -low[i];
    }
    using Value = Stored<kType>;
    const auto take = [&](const Vector<Value, kEach>& values) {
        for (unsigned i = 0; i < kEach; ++i) {
            const float value = to_float<kType>(values.at[i]);
            sum[i] += static_cast<double>(value);
            low[i] = fminf(low[i], value);
            high[i] = fmaxf(high[i], value);
        }
    };
    if (vectors) {
        constexpr unsigned kAhead = 4;  // loads in flight
        for (size_t row = threadIdx.y; row < group.n; row += kAhead * kMeanRows) {
            Vector<Value, kEach> ahead[kAhead];
            for (unsigned k = 0; k < kAhead; ++k)
                if (row + k * kMeanRows < group.n)
                    ahead[k] = *reinterpret_cast<const Vector<Value, kEach>*>(
                        row_of<Value>(layer, row + k * kMeanRows) + first + kEach * lane);
            for (unsigned k = 0; k < kAhead; ++k)
                if (row + k * kMeanRows < group.n) take(ahead[k]);
        }
    } else {
        for (size_t row = threadIdx.y; row < group.n; row += kMeanRows) {
            const Value* values = row_of<Value>(layer, row) + first + lane;
            Vector<Value, kEach> gathered;
            for (unsigned i = 0; i < kEach; ++i)
                gathered.at[i] = first + lane + 32 * i < layer.columns ? values[32 * i] : Value{0};
            take(gathered);
        }
    }
    for (unsigned i = 0; i < kEach; ++i) {
        const unsigned column = vectors ? kEach * lane + i : lane + 32 * i;
        sums[threadIdx.y][column] = sum[i];
        lows[threadIdx.y][column] = low[i];
        highs[threadIdx.y][column] = high[i];
    }
    __syncthreads();
    const unsigned at = threadIdx.y * 32 + lane;
    if (at >= kMeansMultiple) return;
    double total = 0;
    for (unsigned i = 0; i < kMeanRows; ++i) {
        total += sums[i][at];
        lows[0][at] = fminf(lows[0][at], lows[i][at]);
        highs[0][at] = fmaxf(highs[0][at], highs[i][at]);
    }
    const size_t column = first + at;
    float2 mean = make_float2(0, 0);
    float peak = 0;
    if (column < layer.columns) {
        total /= static_cast<double>(group.n);
        mean.x = static_cast<float>(total);
        mean.y = static_cast<float>(total - static_cast<double>(mean.x));
        // A sum in float64 of finite numbers of float32 is finite.
        if (total - total == 0)
            peak =
                fmaxf(fabsf(lows[0][at] - mean.x - mean.y), fabsf(highs[0][at] - mean.x - mean.y));
        else
            for (size_t row = 0; row < group.n; ++row) {
                const float value = to_float<kType>(row_of<Value>(layer, row)[column]);
                if (!(value - value == 0)) layer.bad_rows[row] = 1;
            }
    }
    layer.means[column] = mean;
    for (int i = 16; i > 0; i /= 2) peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, i));
    if (lane == 0) atomicMax(&layer.state->peak, __float_as_uint(peak));
}

// --- Products: bound by arithmetic ---------------------------------------------------------------

// A block makes one tile on or below the diagonal, over one run of columns. Tiles of a run are
// neighbours in the grid, so that all but the first find its columns in the L2 cache.
struct Task {
    unsigned tile_row, tile_column;
    size_t begin, end;  // columns
    float* sums;        // (tile, tile)
};

// Of tile i of the lower triangle, counted row by row.
__device__ uint2 tile_at(unsigned i) {
    auto row = static_cast<unsigned>((sqrtf(8.0f * static_cast<float>(i) + 1) - 1) / 2);
    while (size_t{row} * (row + 1) / 2 > i) --row;  // what the root was off by
    while (size_t{row + 1} * (row + 2) / 2 <= i) ++row;
    return make_uint2(static_cast<unsigned>(i - size_t{row} * (row + 1) / 2), row);
}

__device__ Task task_of(const Group& group, const Layer& layer) {
    const uint2 tile = tile_at(blockIdx.x % group.tiles);
    const size_t begin = layer.first + blockIdx.x / group.tiles * layer.run;
    const size_t end = begin + layer.run;
    return {tile.y, tile.x, begin, end < layer.columns ? end : layer.columns,
            layer.partials + size_t{blockIdx.x} * group.tile * group.tile};
}

// Rows beyond the last are that one again: nobody reads what comes of them.
__device__ unsigned clamped(unsigned row, size_t n) {
    return min(row, static_cast<unsigned>(n - 1));
}

// Goes through the columns of a task: while one buffer in shared memory is multiplied, the columns
// for the other are on their way into registers.
template <unsigned kStep, class Load, class Store, class Multiply>
__device__ __forceinline__ void in_turns(const Task& task, bool idle, const Load& load,
                                         const Store& store, const Multiply& multiply) {
    load(task.begin);
    store(0);
    __syncthreads();
    unsigned buffer = 0;
    for (size_t column = task.begin; column < task.end; column += kStep, buffer ^= 1) {
        const bool more = column + kStep < task.end;
        if (more) load(column + kStep);
        if (!idle) multiply(buffer);
        if (more) store(buffer ^ 1);
        __syncthreads();
    }
}

// Float32, without tensor cores, whose TF32 would cost 13 bits. Of a tile of 128 x 128 each thread
// sums 8 x 8 in registers, so that 4 reads of shared memory feed 64 multiplications.
template <unsigned kTile>
__global__ void __launch_bounds__(2 * kTile, kTile == 128 ? 2 : 4)
    multiply_floats(const __grid_constant__ Group group) {
    constexpr unsigned kStep = 8, kPitch = kTile + 4;  // transposed stores meet no bank twice
    constexpr unsigned kRowParts = kTile / 64, kRows = 4 * kRowParts, kColumns = 8;
    alignas(16) __shared__ float shared[2][2][kStep][kPitch];
    const Layer& layer = group.layers[blockIdx.y];
    if (blockIdx.x >= layer.runs * group.tiles) return;
    const Task task = task_of(group, layer);
    const bool diagonal = task.tile_row == task.tile_column;

    const unsigned row = threadIdx.x / 2, part = threadIdx.x % 2 * 4;
    const float* row_a = row_of<float>(layer, clamped(task.tile_row * kTile + row, group.n));
    const float* row_b = row_of<float>(layer, clamped(task.tile_column * kTile + row, group.n));
    const float scale = power_of_two(scale_exponent<FeatureType::float32>(layer.state->peak));
    Vector<float, 4> next_a, next_b;
    Vector<float2, 2> means[2];
    const auto load = [&](size_t column) {
        next_a = load_floats(layer, row_a, column + part);
        if (!diagonal) next_b = load_floats(layer, row_b, column + part);
        const auto* from = reinterpret_cast<const Vector<float2, 2>*>(layer.means + column + part);
        means[0] = from[0];
        means[1] = from[1];
    };
    const auto store = [&](unsigned buffer) {
        for (unsigned i = 0; i < 4; ++i) {
            const float2 mean = means[i / 2].at[i % 2];
            const float low = mean.y * scale;
            shared[buffer][0][part + i][row] = (next_a.at[i] - mean.x) * scale - low;
            if (!diagonal) shared[buffer][1][part + i][row] = (next_b.at[i] - mean.x) * scale - low;
        }
    };

    // A warp makes (kTile / 2) x 32 of the tile, its lanes are 8 x 4.
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const unsigned at_row = warp / (kTile / 32) * (kTile / 2) + lane / 4 * 4;
    const unsigned at_column = warp % (kTile / 32) * 32 + lane % 4 * 4;
    const bool idle = diagonal && warp % (kTile / 32) * 32 >= (warp / (kTile / 32) + 1) * kTile / 2;
    float sums[kRows][kColumns] = {};
    const auto multiply = [&](unsigned buffer) {
        const auto& a = shared[buffer][0];
        const auto& b = shared[buffer][diagonal ? 0 : 1];
#pragma unroll
        for (unsigned k = 0; k < kStep; ++k) {
            Vector<float, 4> left[kRowParts], right[2];
            for (unsigned i = 0; i < kRowParts; ++i)
                left[i] = *reinterpret_cast<const Vector<float, 4>*>(&a[k][at_row + 32 * i]);
            for (unsigned j = 0; j < 2; ++j)
                right[j] = *reinterpret_cast<const Vector<float, 4>*>(&b[k][at_column + 16 * j]);
            for (unsigned i = 0; i < kRows; ++i)
                for (unsigned j = 0; j < kColumns; ++j)
                    sums[i][j] += left[i / 4].at[i % 4] * right[j / 4].at[j % 4];
        }
    };

    in_turns<kStep>(task, idle, load, store, multiply);
    for (unsigned i = 0; i < kRows; ++i) {
        float* to = task.sums + (at_row + i / 4 * 32 + i % 4) * kTile + at_column;
        for (unsigned j = 0; j < kColumns; j += 4) {
            Vector<float, 4> some;
            for (unsigned k = 0; k < 4; ++k) some.at[k] = sums[i][j + k];
            *reinterpret_cast<Vector<float, 4>*>(to + 4 * j) = some;
        }
    }
}

// Centres adjacent values of 16 bits and makes float16 of them, times a power of two. bfloat16 too:
// the centred values need more than its 8 bits, and of float16's range the power of two leaves 28
// binary digits below the largest value.
template <FeatureType>
class Centring {
public:
    using Means = Vector<float2, 2>;  // of two columns

    __device__ explicit Centring(int exponent) : scale_(power_of_two(exponent)) {}

    __device__ static const Means* means(const Layer& layer) {
        return reinterpret_cast<const Means*>(layer.means);
    }
    __device__ __half2 operator()(unsigned pair, const Means& means) const {
        const float2 even = means.at[0], odd = means.at[1];
        return __floats2half2_rn(
            (__uint_as_float(pair << 16) - even.x) * scale_ - even.y * scale_,
            (__uint_as_float(pair & 0xffff0000u) - odd.x) * scale_ - odd.y * scale_);
    }

private:
    float scale_;
};

// float16 stays what it is, two values at a time: each tile that a value is in centres it again,
// and by way of float32 that would take more instructions than the tensor cores leave time for. The
// first step is exact where a value is near its mean, so two lose nothing of a large offset.
template <>
class Centring<FeatureType::float16> {
public:
    using Means = HalfMeans;

    __device__ explicit Centring(int exponent)
        : first_(power_of_two(exponent < 0 ? exponent : 0)),
          second_(power_of_two(exponent < 0 ? 0 : exponent)),
          first_pair_(__floats2half2_rn(first_, first_)),
          second_pair_(__floats2half2_rn(second_, second_)) {}

    __device__ static const Means* means(const Layer& layer) { return layer.half_means; }
    __device__ Means split(const Vector<float2, 2>& means) const {
        const float even = -first_ * means.at[0].x, odd = -first_ * means.at[1].x;
        const __half2 high = __floats2half2_rn(even, odd);
        return {bits(high), bits(__floats2half2_rn((even - __low2float(high)) * second_,
                                                   (odd - __high2float(high)) * second_))};
    }
    __device__ __half2 operator()(unsigned pair, const Means& means) const {
        return __hfma2(__hfma2(halves(pair), first_pair_, halves(means.high)), second_pair_,
                       halves(means.low));
    }

private:
    __device__ static __half2 halves(unsigned bits) {
        __half2 pair;
        memcpy(&pair, &bits, sizeof pair);
        return pair;
    }
    __device__ static unsigned bits(__half2 pair) {
        unsigned bits;
        memcpy(&bits, &pair, sizeof bits);
        return bits;
    }

    float first_, second_;
    __half2 first_pair_, second_pair_;
};

// A thread per pair of columns.
__global__ void __launch_bounds__(kThreads) split_means(const __grid_constant__ Group group) {
    const Layer& layer = group.layers[blockIdx.y];
    const size_t pair = size_t{blockIdx.x} * kThreads + threadIdx.x;
    if (2 * pair >= padded(layer.columns)) return;
    const Centring<FeatureType::float16> centring(
        scale_exponent<FeatureType::float16>(layer.state->peak));
    layer.half_means[pair] =
        centring.split(reinterpret_cast<const Vector<float2, 2>*>(layer.means)[pair]);
}

// Of each 32nd row from `first` on.
template <unsigned kLoads, class Read>
__device__ void load_rows(Vector<unsigned, 4> (&pairs)[kLoads], const Layer& layer, size_t n,
                          unsigned first, size_t column, Read read) {
    const size_t count = column < layer.columns ? layer.columns - column : 0;
    for (unsigned i = 0; i < kLoads; ++i)
        pairs[i] = read(row_of<std::uint16_t>(layer, clamped(first + 32 * i, n)) + column, count);
}

// 16 bits, on tensor cores.
template <FeatureType kType, unsigned kTile>
__global__ void __launch_bounds__(128, kTile == 128 ? 2 : 4)
    multiply_halves(const __grid_constant__ Group group) {
    constexpr unsigned kStep = 32, kPitch = kStep + 8;  // 8 rows of a fragment: all 32 banks
    constexpr unsigned kLoads = kTile / 32, kParts = kTile / 32;
    alignas(32) __shared__ __half shared[2][2][kTile * kPitch];
    const Layer& layer = group.layers[blockIdx.y];
    if (blockIdx.x >= layer.runs * group.tiles) return;
    const Task task = task_of(group, layer);
    const bool diagonal = task.tile_row == task.tile_column;

    const unsigned row = threadIdx.x / 4, part = threadIdx.x % 4 * 8;
    const unsigned first_a = task.tile_row * kTile + row;
    const unsigned first_b = task.tile_column * kTile + row;
    const Centring<kType> centring(scale_exponent<kType>(layer.state->peak));
    using Pairs = Vector<unsigned, 4>;
    Pairs next_a[kLoads], next_b[kLoads];
    Vector<typename Centring<kType>::Means, 4> means;
    const auto load = [&](size_t column) {
        // Asked once for all, or each load would have its own branch.
        if (column + part + 8 <= layer.vector_columns) {
            load_rows(next_a, layer, group.n, first_a, column + part, ReadPairs{});
            if (!diagonal) load_rows(next_b, layer, group.n, first_b, column + part, ReadPairs{});
        } else {
            load_rows(next_a, layer, group.n, first_a, column + part, GatherPairs{});
            if (!diagonal) load_rows(next_b, layer, group.n, first_b, column + part, GatherPairs{});
        }
        means = *reinterpret_cast<const decltype(means)*>(Centring<kType>::means(layer) +
                                                          (column + part) / 2);
    };
    const auto store = [&](unsigned buffer) {
        const auto centre = [&](const Pairs& pairs, __half* to) {
            Vector<__half2, 4> centred;
            for (unsigned i = 0; i < 4; ++i) centred.at[i] = centring(pairs.at[i], means.at[i]);
            *reinterpret_cast<Vector<__half2, 4>*>(to + part) = centred;
        };
        for (unsigned i = 0; i < kLoads; ++i)
            centre(next_a[i], shared[buffer][0] + (row + 32 * i) * kPitch);
        if (!diagonal)
            for (unsigned i = 0; i < kLoads; ++i)
                centre(next_b[i], shared[buffer][1] + (row + 32 * i) * kPitch);
    };

    // Each of 4 warps makes a quarter of the tile.
    const unsigned warp = threadIdx.x / 32;
    const unsigned at_row = warp / 2 * (kTile / 2), at_column = warp % 2 * (kTile / 2);
    const bool idle = diagonal && at_column > at_row;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums[kParts][kParts];
    for (unsigned i = 0; i < kParts; ++i)
        for (unsigned j = 0; j < kParts; ++j) wmma::fill_fragment(sums[i][j], 0.0f);
    const auto multiply = [&](unsigned buffer) {
        const __half* a = shared[buffer][0] + at_row * kPitch;
        const __half* b = shared[buffer][diagonal ? 0 : 1] + at_column * kPitch;
        for (unsigned k = 0; k < kStep; k += 16) {
            wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::col_major> right[kParts];
            for (unsigned j = 0; j < kParts; ++j)
                wmma::load_matrix_sync(right[j], b + 16 * j * kPitch + k, kPitch);
            for (unsigned i = 0; i < kParts; ++i) {
                wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> left;
                wmma::load_matrix_sync(left, a + 16 * i * kPitch + k, kPitch);
                for (unsigned j = 0; j < kParts; ++j)
                    wmma::mma_sync(sums[i][j], left, right[j], sums[i][j]);
            }
        }
    };

    in_turns<kStep>(task, idle, load, store, multiply);
    for (unsigned i = 0; i < kParts; ++i)
        for (unsigned j = 0; j < kParts; ++j)
            wmma::store_matrix_sync(task.sums + (at_row + 16 * i) * kTile + at_column + 16 * j,
                                    sums[i][j], kTile, wmma::mem_row_major);
}

// gram = the partial sums of all runs in float64, always in the same order; added to those of the
// rounds before. Both triangles are written, so that rows can be read.
template <FeatureType kType>
__global__ void __launch_bounds__(32 * kSplitThreads)
    add_partials(const __grid_constant__ Group group) {
    __shared__ double sums[kSplitThreads][32];
    const Layer& layer = group.layers[blockIdx.y];
    const unsigned rows = group.tile, pieces = rows * rows / 32;
    const unsigned tile = blockIdx.x / pieces, piece = blockIdx.x % pieces;
    const uint2 at = tile_at(tile);
    const size_t row = size_t{at.y} * rows + piece / (rows / 32);
    const size_t first = size_t{at.x} * rows + piece % (rows / 32) * 32;
    if (row >= group.n || first > row) return;
    const size_t size = size_t{rows} * rows;
    const float* partial = layer.partials + tile * size + piece * 32 + threadIdx.x;
    double sum = 0;
    for (size_t run = threadIdx.y; run < layer.runs; run += kSplitThreads)
        sum += static_cast<double>(partial[run * group.tiles * size]);
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    const size_t column = first + threadIdx.x;
    if (threadIdx.y > 0 || column > row) return;
    sum = 0;
    for (const auto& of_thread : sums) sum += of_thread[threadIdx.x];
    const int exponent = -2 * scale_exponent<kType>(layer.state->peak);
    sum *= from_bits(static_cast<Bits>(exponent + 1023) << 52);
    if (layer.first > 0) sum += layer.gram[row * group.n + column];
    layer.gram[row * group.n + column] = layer.gram[column * group.n + row] = sum;
    if (row == column) layer.norms[row] = sum;
}

// --- From a linear Gram to a packed triangle: bound by the latency of small kernels --------------

// The sum over a block, the same in all threads and always in the same order.
__device__ double block_sum(double value) {
    __shared__ double sums[kThreads];
    sums[threadIdx.x] = value;
    for (unsigned half = kThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    __syncthreads();
    const double sum = sums[0];
    __syncthreads();
    return sum;
}

__global__ void __launch_bounds__(kThreads) make_distances(const __grid_constant__ Group group) {
    const Layer& layer = group.layers[blockIdx.y];
    const size_t row = blockIdx.x;
    Bits farthest = 0;
    for (size_t j = threadIdx.x; j < group.n; j += kThreads) {
        double& element = layer.gram[row * group.n + j];
        const double distance = fmax(layer.norms[row] + layer.norms[j] - 2 * element, 0.0);
        element = j == row ? 0.0 : distance;
        farthest = max(farthest, bits_of(element));
    }
    for (int i = 16; i > 0; i /= 2)
        farthest = max(farthest, __shfl_xor_sync(0xffffffffu, farthest, i));
    if (threadIdx.x % 32 == 0) atomicMax(&layer.state->farthest, farthest);
}

// Counts the next digit of all distances that begin with the digits already known.
__global__ void __launch_bounds__(kThreads)
    count_digits(const __grid_constant__ Group group, unsigned digit) {
    __shared__ unsigned counts[kBins];
    const Layer& layer = group.layers[blockIdx.y];
    for (unsigned i = threadIdx.x; i < kBins; i += kThreads) counts[i] = 0;
    __syncthreads();
    const Bits known = layer.state->key;
    const unsigned shift = kDigitBits * (kDigits - 1 - digit);
    // Most leading digits are equal: those in a row are counted before the counter is touched.
    unsigned bin = 0, same = 0;
    const size_t stride = size_t{gridDim.x} * kThreads;
    for (size_t i = size_t{blockIdx.x} * kThreads + threadIdx.x; i < group.n * group.n;
         i += stride) {
        const Bits key = bits_of(layer.gram[i]) >> shift;
        if (key >> kDigitBits != known) continue;
        const unsigned its = static_cast<unsigned>(key) % kBins;
        if (its != bin && same > 0) {
            atomicAdd(&counts[bin], same);
            same = 0;
        }
        bin = its;
        ++same;
    }
    if (same > 0) atomicAdd(&counts[bin], same);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < kBins; i += kThreads)
        if (counts[i] > 0) atomicAdd(&layer.histograms[digit * kBins + i], Bits{counts[i]});
}

// A thread per bin: the one that holds the wanted place appends its digit.
__global__ void __launch_bounds__(kBins)
    choose_digit(const __grid_constant__ Group group, unsigned digit) {
    __shared__ Bits sums[kBins];
    const Layer& layer = group.layers[blockIdx.y];
    const Bits count = layer.histograms[digit * kBins + threadIdx.x];
    const Bits rank = digit == 0 ? (group.n * group.n - 1) / 2 : layer.state->rank;
    sums[threadIdx.x] = count;
    for (unsigned reach = 1; reach < kBins; reach *= 2) {
        __syncthreads();
        const Bits before = threadIdx.x >= reach ? sums[threadIdx.x - reach] : 0;
        __syncthreads();
        sums[threadIdx.x] += before;
    }
    const Bits end = sums[threadIdx.x], begin = end - count;
    if (rank < begin || rank >= end) return;
    layer.state->key = layer.state->key << kDigitBits | threadIdx.x;
    layer.state->rank = rank - begin;
    layer.state->equal = count;
}

__device__ bool has_equal_medians(const State& state, size_t n) {
    return state.rank + (n * n / 2 - (n * n - 1) / 2) < state.equal;
}

__global__ void __launch_bounds__(kThreads) find_beyond(const __grid_constant__ Group group) {
    const Layer& layer = group.layers[blockIdx.y];
    if (has_equal_medians(*layer.state, group.n)) return;
    const Bits key = layer.state->key;
    Bits beyond = 0;
    const size_t stride = size_t{gridDim.x} * kThreads;
    for (size_t i = size_t{blockIdx.x} * kThreads + threadIdx.x; i < group.n * group.n;
         i += stride) {
        const Bits other = bits_of(layer.gram[i]);
        if (other > key) beyond = max(beyond, ~other);
    }
    for (int i = 16; i > 0; i /= 2) beyond = max(beyond, __shfl_xor_sync(0xffffffffu, beyond, i));
    if (threadIdx.x % 32 == 0) atomicMax(&layer.state->beyond, beyond);
}

struct Median {
    double value;
    bool vanishes;
};

__device__ Median median_of(const State& state, size_t n) {
    const double low = from_bits(state.key);
    const double high = has_equal_medians(state, n) ? low : from_bits(~state.beyond);
    const double median = (low + high) / 2;
    return {median, median <= 1e-24 * from_bits(state.farthest)};
}

// A block per row of the Gram; of an rbf one, distances become its elements here.
__global__ void __launch_bounds__(kThreads) sum_rows(const __grid_constant__ Group group) {
    const Layer& layer = group.layers[blockIdx.y];
    const size_t row = blockIdx.x;
    double factor = 0;
    if (group.rbf) {
        const Median median = median_of(*layer.state, group.n);
        // Where all rows are equal all elements are 0, as distances are.
        if (!median.vanishes) factor = -1 / (2 * group.rbf_scale * group.rbf_scale * median.value);
    }
    double sum = 0, squares = 0;
    for (size_t j = threadIdx.x; j < group.n; j += kThreads) {
        double& element = layer.gram[row * group.n + j];
        const double value = group.rbf ? expm1(factor * element) : element;
        if (group.rbf) element = value;
        if (!group.debiased || j != row) sum += value;
        squares += value * value;
    }
    sum = block_sum(sum);
    squares = block_sum(squares);
    if (threadIdx.x > 0) return;
    layer.row_sums[row] = sum;
    layer.row_squares[row] = squares;
}

// A block per layer: what is taken from each row and column, the norm, and what went wrong.
__global__ void __launch_bounds__(kThreads)
    finish_sums(const __grid_constant__ Group group, double* norms, GramProblem* problems) {
    const Layer& layer = group.layers[blockIdx.y];
    const double size = static_cast<double>(group.n);
    const double others = group.debiased ? size - 2 : size;
    double total = 0, squares = 0, bad = 0;
    for (size_t i = threadIdx.x; i < group.n; i += kThreads) {
        total += layer.row_sums[i] /= others;
        squares += layer.row_squares[i];
        bad += layer.bad_rows[i];
    }
    total = block_sum(total);
    squares = block_sum(squares);
    bad = block_sum(bad);
    const double half = total / (2 * (group.debiased ? size - 1 : size));
    for (size_t i = threadIdx.x; i < group.n; i += kThreads) layer.row_sums[i] -= half;
    if (threadIdx.x > 0) return;
    const State& state = *layer.state;
    const float peak = __uint_as_float(state.peak);
    const bool finite = bad == 0 && peak - peak == 0;
    GramProblem problem = finite ? GramProblem::none : GramProblem::not_finite;
    if (finite && group.rbf && state.farthest > 0 && median_of(state, group.n).vanishes)
        problem = GramProblem::zero_median;
    norms[blockIdx.y] = finite ? squares : bad;
    problems[blockIdx.y] = problem;
}

// A block per row.
template <class Out>
__global__ void __launch_bounds__(kThreads)
    pack(const __grid_constant__ Group group, size_t size, Out* out) {
    const Layer& layer = group.layers[blockIdx.y];
    const size_t row = blockIdx.x, columns = group.debiased ? row : row + 1;
    const double* means = layer.row_sums;
    const double* elements = layer.gram + row * group.n;
    out += blockIdx.y * size + row * (group.debiased ? row - 1 : row + 1) / 2;
    const double mean = means[row];
    for (size_t j = threadIdx.x; j < columns; j += kThreads) {
        const double value = elements[j] - mean - means[j];
        out[j] = static_cast<Out>(j == row ? value * sqrt(0.5) : value);
    }
}

// --- Host ----------------------------------------------------------------------------------------

bool is_half(FeatureType type) { return type != FeatureType::float32; }

// Columns of one block: the number of runs that the card is done with first.
size_t choose_run(size_t columns, size_t tiles, size_t resident, FeatureType type) {
    const size_t least = ceil_div(columns, is_half(type) ? kLongestHalfRun : kLongestRun);
    const size_t overhead = is_half(type) ? kHalfOverhead : kOverhead;
    size_t best = 0, best_cost = std::numeric_limits<size_t>::max();
    for (size_t runs = least; runs <= least + resident / tiles; ++runs) {
        const size_t run = round_up(ceil_div(columns, runs), kColumnsMultiple);
        const size_t blocks = ceil_div(columns, run) * tiles;
        const size_t cost = ceil_div(blocks, resident) * (run + overhead);
        if (cost < best_cost) best = run, best_cost = cost;
    }
    return best;
}

// Layers that are worked on at once, and the scratch memory of all of them.
struct Plan {
    Group group{};
    FeatureType type{};
    size_t first = 0;       // layer
    size_t round = 0;       // columns whose partial sums fit into the scratch memory; all, mostly
    void* zeros = nullptr;  // what must be 0 before
    size_t zero_bytes = 0, bytes = 0;
};

Plan plan_group(const FeatureMatrix* layers, size_t first, size_t count, size_t n,
                const GramOptions& options, void* memory) {
    Plan plan;
    plan.type = layers[first].type;
    plan.first = first;
    Group& group = plan.group;
    group.n = n;
    group.tile = n <= 64 ? 64 : 128;
    const size_t tile_rows = ceil_div(n, size_t{group.tile});
    const size_t tiles = tile_rows * (tile_rows + 1) / 2;
    group.tiles = static_cast<unsigned>(tiles);
    group.rbf = options.rbf;
    group.rbf_scale = options.rbf_scale;
    group.debiased = options.debiased;

    // Layers are added while the card is not full with those before.
    const size_t tile_size = size_t{group.tile} * group.tile;
    const size_t most = std::max(kMostPartials / tile_size, tiles);
    const size_t resident = group.tile == 64 ? 2 * kResident : kResident;
    size_t blocks = 0;
    for (size_t l = first; l < count && group.count < kMostLayers; ++l) {
        if (layers[l].type != plan.type || blocks >= 4 * resident) break;
        Layer layer{};
        layer.values = layers[l].values;
        layer.row_stride = layers[l].row_stride;
        layer.columns = layers[l].columns;
        layer.run = choose_run(layer.columns, tiles, resident, plan.type);
        const size_t runs = ceil_div(layer.columns, layer.run);
        if (group.count > 0 && blocks + runs * tiles > most) break;
        const size_t rounds = ceil_div(runs, most / tiles);
        layer.runs = ceil_div(runs, rounds);
        plan.round = std::max(plan.round, layer.runs * layer.run);
        blocks += layer.runs * tiles;
        const size_t size = is_half(plan.type) ? 2 : 4;
        const auto address = reinterpret_cast<std::uintptr_t>(layer.values) |
                             static_cast<std::uintptr_t>(layer.row_stride) * size;
        layer.vector_columns = address % 16 == 0 ? layer.columns : 0;
        group.layers[group.count++] = layer;
    }

    Scratch scratch(memory);
    for (size_t l = 0; l < group.count; ++l) {
        Layer& layer = group.layers[l];
        layer.means = scratch.take<float2>(padded(layer.columns));
        const bool splits = plan.type == FeatureType::float16;
        layer.half_means = scratch.take<HalfMeans>(splits ? padded(layer.columns) / 2 : 0);
        layer.partials = scratch.take<float>(layer.runs * tiles * tile_size);
        layer.gram = scratch.take<double>(n * n);
        layer.norms = scratch.take<double>(n);
        layer.row_sums = scratch.take<double>(n);
        layer.row_squares = scratch.take<double>(n);
    }
    const size_t before = scratch.bytes();
    auto* states = scratch.take<State>(group.count);
    auto* histograms = scratch.take<Bits>(options.rbf ? group.count * kDigits * kBins : 0);
    auto* bad_rows = scratch.take<std::uint8_t>(group.count * n);
    plan.bytes = scratch.bytes();
    plan.zeros = states;
    plan.zero_bytes = plan.bytes - before;
    for (size_t l = 0; memory != nullptr && l < group.count; ++l) {
        group.layers[l].state = states + l;
        group.layers[l].histograms = histograms + l * kDigits * kBins;
        group.layers[l].bad_rows = bad_rows + l * n;
    }
    return plan;
}

template <FeatureType kType>
void enqueue_linear(Plan& plan, Place place) {
    Group& group = plan.group;
    size_t columns = 0, blocks = 0;
    for (size_t l = 0; l < group.count; ++l) {
        columns = std::max(columns, group.layers[l].columns);
        blocks = std::max(blocks, group.layers[l].runs * group.tiles);
    }
    const auto count = static_cast<unsigned>(group.count);
    launch(column_means<kType>,
           dim3(static_cast<unsigned>(ceil_div(columns, kMeansMultiple)), count),
           dim3(32, kMeanRows), place, group);
    if constexpr (kType == FeatureType::float16)
        launch(split_means,
               dim3(static_cast<unsigned>(ceil_div(padded(columns), size_t{2 * kThreads})), count),
               kThreads, place, group);
    const bool small = group.tile == 64;
    for (size_t first = 0; first < columns; first += plan.round) {
        // Only a layer that is alone takes more than one round.
        for (size_t l = 0; l < group.count; ++l) {
            Layer& layer = group.layers[l];
            const size_t round =
                std::min(layer.columns - std::min(first, layer.columns), plan.round);
            layer.first = first;
            layer.runs = ceil_div(round, layer.run);
        }
        const dim3 grid(static_cast<unsigned>(blocks), count);
        if constexpr (kType == FeatureType::float32)
            launch(small ? multiply_floats<64> : multiply_floats<128>, grid, 2 * group.tile, place,
                   group);
        else
            launch(small ? multiply_halves<kType, 64> : multiply_halves<kType, 128>, grid, 128,
                   place, group);
        launch(add_partials<kType>, dim3(group.tiles * (group.tile * group.tile / 32), count),
               dim3(32, kSplitThreads), place, group);
    }
}

template <class Out>
void enqueue(Plan& plan, Out* out, double* squares, GramProblem* problems, Place place) {
    Group& group = plan.group;
    HISTOFAST_CUDA_CHECK(cudaMemsetAsync(plan.zeros, 0, plan.zero_bytes, place.stream));
    switch (plan.type) {
        case FeatureType::float16:
            enqueue_linear<FeatureType::float16>(plan, place);
            break;
        case FeatureType::bfloat16:
            enqueue_linear<FeatureType::bfloat16>(plan, place);
            break;
        case FeatureType::float32:
            enqueue_linear<FeatureType::float32>(plan, place);
            break;
    }
    const auto count = static_cast<unsigned>(group.count);
    const dim3 rows(static_cast<unsigned>(group.n), count);
    if (group.rbf) {
        launch(make_distances, rows, kThreads, place, group);
        const size_t blocks =
            std::min(ceil_div(group.n * group.n, kThreads * kSelectPerThread), kMostSelectBlocks);
        const dim3 walk(static_cast<unsigned>(blocks), count);
        for (unsigned digit = 0; digit < kDigits; ++digit) {
            launch(count_digits, walk, kThreads, place, group, digit);
            launch(choose_digit, dim3(1, count), kBins, place, group, digit);
        }
        launch(find_beyond, walk, kThreads, place, group);
    }
    launch(sum_rows, rows, kThreads, place, group);
    launch(finish_sums, dim3(1, count), kThreads, place, group, squares, problems);
    launch(pack<Out>, rows, kThreads, place, group, packed_size(group.n, group.debiased), out);
}

}  // namespace

std::size_t packed_grams_scratch_bytes(const FeatureMatrix* layers, std::size_t count,
                                       std::size_t n, const GramOptions& options) {
    size_t most = 0;
    for (size_t first = 0; first < count;) {
        const Plan plan = plan_group(layers, first, count, n, options, nullptr);
        most = std::max(most, plan.bytes);
        first += plan.group.count;
    }
    return most;
}

template <class Out>
void packed_grams(const FeatureMatrix* layers, std::size_t count, std::size_t n,
                  const GramOptions& options, Out* out, double* squares, GramProblem* problems,
                  void* scratch, Place place) {
    if (count == 0) return;
    const DeviceGuard guard(place.device);
    for (size_t first = 0; first < count;) {
        Plan plan = plan_group(layers, first, count, n, options, scratch);
        enqueue(plan, out + first * packed_size(n, options.debiased), squares + first,
                problems + first, place);
        first += plan.group.count;
    }
}

template void packed_grams(const FeatureMatrix*, std::size_t, std::size_t, const GramOptions&,
                           float*, double*, GramProblem*, void*, Place);
template void packed_grams(const FeatureMatrix*, std::size_t, std::size_t, const GramOptions&,
                           double*, double*, GramProblem*, void*, Place);

}  // namespace histofast::cuda
