// One launch serves boxes of all kinds, which the host need not know. Bound by bytes: tiles are
// read 16 bytes at a thread and blended vertically as they come, once, into what the columns share.
#include <algorithm>
#include <type_traits>

#include "cuda_utils.cuh"
#include "histofast/tiles.h"

namespace histofast::cuda {
namespace {

using std::int64_t;
using std::uint16_t;
using std::uint32_t;
using std::uint64_t;
using std::uint8_t;

// A piece: enough rows that working out the weights of its columns does not show.
constexpr unsigned kThreads = 256, kRows = 32, kColumns = 256;

// Reductions up to kFarthest: 14-bit weights, 7 fractional bits between the passes, as on the CPU.
constexpr double kFarthest = 32;
constexpr int kWeightBits = 14;
// Weights are scaled so that whole bytes of sums are kept: 1 and 2 between the passes, then 3.
constexpr unsigned kRowScale = 2, kRowRound = 1u << 7;
constexpr unsigned kColumnScale = 8, kColumnShift = 24;
static_assert(kRowScale << kWeightBits == 1u << (8 + 7));
static_assert(uint64_t{kColumnScale} << (kWeightBits + 7) == 1u << kColumnShift);
constexpr unsigned kRowsAtOnce = 4;     // of a thread
constexpr unsigned kTaps = 34;          // a cell of 32 pixels touches up to 33, or 34 by rounding
constexpr unsigned kChunks = 800;       // 16 bytes each, of one or several rows: 25 KB once blended
constexpr double kColumnPixels = 4200;  // what fits in one row of them, with a margin
constexpr unsigned kWeights = 5120;     // above kColumnPixels / s * (s + 3) and kColumns * (s + 3)

// Beyond: 30-bit weights, 16 fractional bits between the passes.
constexpr int kWideBits = 30, kWideRowShift = kWideBits - 16, kWideShift = kWideBits + 16;
constexpr int64_t kWideOne = int64_t{1} << kWideBits;
constexpr uint64_t kWideRowRound = uint64_t{1} << (kWideRowShift - 1);
constexpr unsigned kWideChunks = 63;  // a word at a thread, and whole pixels
constexpr unsigned kWidePixels = kWideChunks * 16 / 3;
static_assert(4 * kWideChunks <= kThreads && kWideChunks % 3 == 0);

// Bytes are rounded by what their sums begin with, floats keep the `bits` of the fraction.
template <class Out, class Sum, unsigned bits>
constexpr Sum kRound = std::is_floating_point_v<Out> ? 0 : Sum{1} << (bits - 1);

template <class Out, unsigned bits, class Sum>
__device__ Out without_fraction(Sum sum) {
    if constexpr (std::is_floating_point_v<Out>)
        return static_cast<Out>(sum) * (Out{1} / static_cast<Out>(Sum{1} << bits));
    else
        return static_cast<Out>(sum >> bits);
}

// Quotients below 2^31 by a number that the host knows, without a division.
struct Divisor {
    uint32_t factor;
    unsigned shift;

    explicit Divisor(uint32_t by) : shift(31) {
        while ((uint64_t{1} << (shift - 31)) < by) ++shift;
        factor = static_cast<uint32_t>(ceil_div(uint64_t{1} << shift, uint64_t{by}));
    }
    __device__ uint32_t operator()(uint32_t value) const {
        return static_cast<uint32_t>((uint64_t{value} * factor) >> shift);
    }
};

// The level in *chunks* of 16 bytes: chunk k of a row starts at its byte 16 k.
struct Source {
    const uint8_t* pool;
    const std::int32_t* slot_of;
    uint32_t tile_height, pitch;  // of a row of a tile in bytes
    uint32_t columns, height, width;
    Divisor rows_by, columns_by;  // rows of a tile; its chunks if they are whole, else its pixels
    uint32_t fill[3];             // words that start with red, green, blue

    __device__ uint64_t tile_bytes() const { return uint64_t{tile_height} * pitch; }
    __device__ std::int32_t slot(uint32_t row, uint32_t column) const {
        return __ldg(slot_of + uint64_t{row} * columns + column);
    }
    __device__ uint4 blank(uint32_t k) const {
        const uint32_t phase = k % 3;
        const uint32_t a = phase == 0 ? fill[0] : phase == 1 ? fill[1] : fill[2];
        const uint32_t b = phase == 0 ? fill[1] : phase == 1 ? fill[2] : fill[0];
        const uint32_t c = phase == 0 ? fill[2] : phase == 1 ? fill[0] : fill[1];
        return make_uint4(a, b, c, a);
    }
};

// One chunk of row after row, where tiles are a multiple of 16 pixels wide (TIFF asks for it): no
// chunk is in two tiles, and all are aligned.
class AlignedReader {
public:
    static constexpr unsigned kPairs = 2;  // of rows that are loaded before the first one is used

    __device__ AlignedReader(const Source& source, uint32_t k) : source_(source) { seek(k); }

    __device__ uint32_t k() const { return k_; }
    __device__ void seek(uint32_t k) {
        k_ = k;
        column_ = source_.columns_by(k);
        y_begin_ = 1u << 31;
    }

    __device__ uint4 at(uint32_t y) {
        const uint4* chunk = rows(y, 1);
        return chunk == nullptr ? source_.blank(k_) : __ldg(chunk);
    }

    // The chunk of row y, if that of `count` rows from there on is a `pitch` apart in one tile.
    __device__ const uint4* rows(uint32_t y, uint32_t count) {
        if (y - y_begin_ >= source_.tile_height) find(y);
        const bool is_one = slot_ >= 0 && y - y_begin_ + count <= source_.tile_height;
        return is_one ? reinterpret_cast<const uint4*>(row_0_ + uint64_t{y} * source_.pitch)
                      : nullptr;
    }

private:
    __device__ void find(uint32_t y) {
        const uint32_t row = source_.rows_by(y), inside = k_ - column_ * (source_.pitch / 16);
        slot_ = source_.slot(row, column_);
        y_begin_ = row * source_.tile_height;
        row_0_ = reinterpret_cast<std::uintptr_t>(source_.pool) +
                 (static_cast<uint64_t>(slot_) - row) * source_.tile_bytes() + 16 * inside;
    }

    const Source& source_;
    uint32_t k_, column_;
    uint32_t y_begin_;  // of the tile's rows; beyond all at first
    std::int32_t slot_ = -1;
    std::uintptr_t row_0_ = 0;  // where row 0 would be, were all rows in this tile
};

// The same for tiles of any width.
class AnyReader {
public:
    static constexpr unsigned kPairs = 1;

    __device__ AnyReader(const Source& source, uint32_t k) : source_(source) { seek(k); }

    __device__ void seek(uint32_t k) {
        k_ = k;
        column_ = source_.columns_by(static_cast<uint32_t>(uint64_t{k} * 16 / 3));
        inside_ = uint64_t{k} * 16 - uint64_t{column_} * source_.pitch;
    }
    __device__ uint32_t k() const { return k_; }

    __device__ uint4 at(uint32_t y) const {
        const uint32_t row = source_.rows_by(y), y_in = y - row * source_.tile_height;
        const uint8_t* tile = start(row, column_);
        const uint64_t first = uint64_t{y_in} * source_.pitch + inside_;
        if (inside_ + 16 <= source_.pitch) {
            if (tile == nullptr) return source_.blank(k_);
            // Five aligned words around the chunk, where they are in the tile's memory as well.
            const unsigned shift = static_cast<unsigned>(
                (reinterpret_cast<std::uintptr_t>(tile) + first) % sizeof(uint32_t));
            if (first >= shift && first - shift + 20 <= source_.tile_bytes()) {
                const auto* word = reinterpret_cast<const uint32_t*>(tile + first - shift);
                const uint32_t a = __ldg(word), b = __ldg(word + 1), c = __ldg(word + 2);
                const uint32_t d = __ldg(word + 3), e = __ldg(word + 4);
                return make_uint4(
                    __funnelshift_r(a, b, 8 * shift), __funnelshift_r(b, c, 8 * shift),
                    __funnelshift_r(c, d, 8 * shift), __funnelshift_r(d, e, 8 * shift));
            }
        }
        return by_bytes(row, y_in, tile);
    }

    // Never: at() finds each.
    __device__ const uint4* rows(uint32_t, uint32_t) const { return nullptr; }

private:
    __device__ const uint8_t* start(uint32_t row, uint32_t column) const {
        const std::int32_t slot = source_.slot(row, column);
        return slot < 0 ? nullptr : source_.pool + uint64_t(slot) * source_.tile_bytes();
    }

    __device__ uint4 by_bytes(uint32_t row, uint32_t y_in, const uint8_t* tile) const {
        uint4 word = make_uint4(0, 0, 0, 0);
        uint32_t column = column_;
        uint64_t inside = inside_;
#pragma unroll 1
        for (unsigned i = 0; i < 16; ++i, ++inside) {
            if (inside == source_.pitch) {
                inside = 0;
                // Beyond the last tile is no pixel of the level.
                tile = ++column < source_.columns ? start(row, column) : nullptr;
            }
            const uint32_t byte = tile == nullptr
                                      ? source_.blank(k_ + i).x
                                      : __ldg(tile + uint64_t{y_in} * source_.pitch + inside);
            word.x = __funnelshift_r(word.x, word.y, 8);
            word.y = __funnelshift_r(word.y, word.z, 8);
            word.z = __funnelshift_r(word.z, word.w, 8);
            word.w = __funnelshift_r(word.w, byte, 8);
        }
        return word;
    }

    const Source& source_;
    uint32_t k_, column_;
    uint64_t inside_;  // byte of the tile's row
};

// Which source pixels are in which output pixels along one axis, by the CPU's formulas to the bit.
class Axis {
public:
    struct Cell {
        double low, high, centre;
        int64_t begin, end;  // source pixels, some of them perhaps outside the level
    };

    Axis() = default;  // in shared memory
    __device__ Axis(double start, double length, unsigned count, uint32_t size)
        : start_(start),
          scale_(length / static_cast<double>(count)),
          whole_(1 / scale_),
          last_(size - 1) {}

    __device__ bool averages() const { return scale_ >= 1; }

    __device__ Cell cell(unsigned i) const {
        Cell cell{};
        cell.low = edge(i);
        cell.high = edge(i + 1);
        cell.centre = cell.low + 0.5 * scale_ - 0.5;
        cell.begin = static_cast<int64_t>(floor(averages() ? cell.low : cell.centre));
        cell.end = averages() ? static_cast<int64_t>(ceil(cell.high)) : cell.begin + 2;
        return cell;
    }

    __device__ uint32_t first(const Cell& cell) const { return inside(cell.begin); }
    __device__ uint32_t last(const Cell& cell) const { return inside(cell.end - 1); }

    // Share of a pixel of the level; the outermost ones stand for all beyond them.
    __device__ double share(const Cell& cell, int64_t pixel) const {
        const int64_t begin = pixel == 0 ? cell.begin : max(cell.begin, pixel);
        const int64_t end = pixel == last_ ? cell.end : min(cell.end, pixel + 1);
        double sum = 0;
#pragma unroll 1
        for (int64_t i = begin; i < end; ++i) {
            const auto at = static_cast<double>(i);
            double share = 1 - fabs(cell.centre - at);
            if (averages()) {
                const double length = fmin(cell.high, at + 1) - fmax(cell.low, at);
                share = length == 1 ? whole_ : length / scale_;
            }
            if (share > 0) sum += share;
        }
        return sum;
    }

private:
    __device__ double edge(unsigned i) const { return start_ + static_cast<double>(i) * scale_; }
    __device__ uint32_t inside(int64_t pixel) const {
        return static_cast<uint32_t>(min(max(pixel, int64_t{0}), int64_t{last_}));
    }

    double start_, scale_, whole_;
    uint32_t last_;
};

// Which part of which patch a block makes.
struct Piece {
    unsigned patch, row, rows, column, columns;
    unsigned patch_px;

    template <class Out>
    __device__ Out* in(Out* out, unsigned i, unsigned j) const {
        const uint64_t first = uint64_t{patch} * patch_px + row + i;
        return out + 3 * (first * patch_px + column + j);
    }
};

// Columns of a piece whose sums fit.
struct Band {
    Piece piece;
    unsigned lanes;  // threads in a row, a multiple of four
    uint32_t k;      // first chunk
    unsigned chunks, rows_at_once;

    __device__ unsigned rows(unsigned row) const { return min(rows_at_once, piece.rows - row); }
};

struct BlendSpace {
    Band band;                // here and not in registers, which are scarce
    uint4 sums[2 * kChunks];  // vertically blended: 16 bits for each byte
    uint16_t weights[kWeights];
    uint16_t first[kColumns];  // value of `sums` where a column begins
    uint8_t taps[kColumns];
    uint32_t row_weights[kRows][kTaps / 2];  // in pairs, doubled
    uint32_t row_first[kRows];
    uint32_t row_taps[kRows];
};

struct ReduceSpace {  // what all threads share is here to save registers
    Piece piece;
    uint32_t sums[16 * kWideChunks];
    double shares[kThreads + 1];  // summed up; the first one is what came before
    double total;
    uint32_t weights[kThreads];
    double column_shares[kThreads];
    uint64_t column_sums[3][kThreads];
    Axis horizontal, vertical;
    Axis::Cell row;
    int reach[2];
};

union Space {
    BlendSpace blend;
    ReduceSpace reduce;
};

// --- Copy ---------------------------------------------------------------------------------------

// Bytes [begin, end) of a chunk.
__device__ void store_some(uint8_t* out, const uint32_t (&word)[8], unsigned begin, unsigned end) {
#pragma unroll
    for (unsigned i = 0; i < 16; ++i)
        if (i >= begin && i < end) out[i] = static_cast<uint8_t>(word[i / 4] >> (i % 4 * 8));
}

// Aligned chunks of the output, each out of two of the source. A thread stays in its column.
template <class Reader>
__device__ void copy_piece(const Source& source, const Piece& piece, uint32_t x0, uint32_t y0,
                           uint8_t* patches) {
    const int64_t begin = int64_t{3} * (x0 + piece.column), end = begin + 3 * piece.columns;
    const unsigned bytes = 3 * piece.columns, chunks = (bytes + 15) / 16 + 1;
    const unsigned groups = kThreads / chunks, group = threadIdx.x / chunks;
    const unsigned at = 16 * (threadIdx.x - group * chunks);
    if (group >= groups) return;
    Reader left(source, 0), right(source, 0);
    for (unsigned row = group; row < piece.rows; row += groups) {
        uint8_t* out = piece.in(patches, row, 0);
        const auto head = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(out) % 16);
        if (at >= head + bytes) continue;
        const int64_t from = begin + at - head;  // may start before the level
        const int64_t k = from >> 4;
        const auto shift = static_cast<unsigned>(from & 15);
        const uint32_t y = y0 + piece.row + row;
        uint4 low = make_uint4(0, 0, 0, 0), high = low;
        if (16 * (k + 1) > begin) {
            if (left.k() != k) left.seek(static_cast<uint32_t>(k));
            low = left.at(y);
        }
        if (shift != 0 && 16 * (k + 1) < end) {
            if (right.k() != k + 1) right.seek(static_cast<uint32_t>(k + 1));
            high = right.at(y);
        }
        uint32_t word[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (unsigned i = 0; i < 6; ++i) word[i] = shift & 8 ? word[i + 2] : word[i];
#pragma unroll
        for (unsigned i = 0; i < 5; ++i) word[i] = shift & 4 ? word[i + 1] : word[i];
#pragma unroll
        for (unsigned i = 0; i < 4; ++i)
            word[i] = __funnelshift_r(word[i], word[i + 1], 8 * (shift & 3));
        const unsigned first = at < head ? head - at : 0, last = min(16u, head + bytes - at);
        uint8_t* chunk = out + at - head;
        if (first == 0 && last == 16)
            *reinterpret_cast<uint4*>(chunk) = make_uint4(word[0], word[1], word[2], word[3]);
        else
            store_some(chunk, word, first, last);
    }
}

// --- Blend --------------------------------------------------------------------------------------

// Calls put(tap, weight) for the pixels from first() to last(); returns their number.
template <class Put>
__device__ unsigned narrow_weights(const Axis& axis, const Axis::Cell& cell, const Put& put) {
    const uint32_t first = axis.first(cell);
    const unsigned taps = axis.last(cell) - first + 1;
    int rest = 1 << kWeightBits, most = -1;
    unsigned largest = 0;
    for (unsigned t = 0; t < taps; ++t) {
        const double share = axis.share(cell, int64_t{first} + t);
        const auto weight = static_cast<int>(llround(share * (1 << kWeightBits)));
        put(t, static_cast<unsigned>(weight));
        rest -= weight;
        if (weight > most) most = weight, largest = t;
    }
    // Rounded weights must still sum to one, or white would not stay white.
    if (rest != 0) put(largest, static_cast<unsigned>(most + rest));
    return taps;
}

// sum += weights of two rows * their bytes
__device__ void add_word(unsigned (&sum)[4], uint32_t a, uint32_t b, uint32_t weights) {
    const uint32_t low = __byte_perm(a, b, 0x5140), high = __byte_perm(a, b, 0x7362);
    sum[0] = __dp2a_lo(weights, low, sum[0]);
    sum[1] = __dp2a_hi(weights, low, sum[1]);
    sum[2] = __dp2a_lo(weights, high, sum[2]);
    sum[3] = __dp2a_hi(weights, high, sum[3]);
}

__device__ void add_rows(unsigned (&sum)[4][4], uint4 a, uint4 b, uint32_t weights) {
    add_word(sum[0], a.x, b.x, weights);
    add_word(sum[1], a.y, b.y, weights);
    add_word(sum[2], a.z, b.z, weights);
    add_word(sum[3], a.w, b.w, weights);
}

// Bytes 1 and 2 of each sum.
__device__ uint4 middle(const unsigned (&a)[4], const unsigned (&b)[4]) {
    return make_uint4(__byte_perm(a[0], a[1], 0x6521), __byte_perm(a[2], a[3], 0x6521),
                      __byte_perm(b[0], b[1], 0x6521), __byte_perm(b[2], b[3], 0x6521));
}

// sum += rows [y, y + taps) of a chunk, so many of them as are loaded before the first one is used.
// `in_one_tile` is where row y is if the others are a pitch apart.
template <class Reader>
__device__ void add_taps(const Source& source, Reader& reader, const uint8_t* in_one_tile,
                         uint32_t y, uint32_t taps, const uint32_t* weights,
                         unsigned (&sum)[4][4]) {
    constexpr unsigned kLoads = 2 * Reader::kPairs;
    uint4 row[kLoads];
#pragma unroll
    for (unsigned r = 0; r < kLoads; ++r) row[r] = make_uint4(0, 0, 0, 0);
    if (in_one_tile != nullptr) {
#pragma unroll
        for (unsigned r = 0; r < kLoads; ++r)
            if (r == 0 || r < taps)
                row[r] =
                    __ldg(reinterpret_cast<const uint4*>(in_one_tile + uint64_t{r} * source.pitch));
    } else {
#pragma unroll
        for (unsigned r = 0; r < kLoads; ++r)
            if (r == 0 || r < taps) row[r] = reader.at(y + r);
    }
#pragma unroll
    for (unsigned p = 0; p < Reader::kPairs; ++p)
        if (p == 0 || 2 * p < taps) add_rows(sum, row[2 * p], row[2 * p + 1], weights[p]);
}

// One chunk of row i of the piece.
template <class Reader>
__device__ void blend_chunk(const Source& source, Reader& reader, const BlendSpace& space,
                            unsigned i, uint4* out) {
    constexpr unsigned kLoads = 2 * Reader::kPairs;
    const uint32_t y = space.row_first[i], taps = space.row_taps[i];
    const auto* row = reinterpret_cast<const uint8_t*>(reader.rows(y, taps));
    const uint32_t* weights = space.row_weights[i];
    unsigned sum[4][4];
#pragma unroll
    for (unsigned w = 0; w < 16; ++w) sum[w / 4][w % 4] = kRowRound;
    add_taps(source, reader, row, y, taps, weights, sum);
#pragma unroll 1
    for (unsigned t = kLoads; t < taps; t += kLoads) {
        if (row != nullptr) row += uint64_t{kLoads} * source.pitch;
        add_taps(source, reader, row, y + t, taps - t, weights + t / 2, sum);
    }
    out[0] = middle(sum[0], sum[1]);
    out[1] = middle(sum[2], sum[3]);
}

// Rows of the band from `row` on. A thread stays in its column, where it knows the tile.
template <class Reader>
__device__ void blend_vertically(const Source& source, BlendSpace& space, unsigned row) {
    const unsigned rows = space.band.rows(row), chunks = space.band.chunks;
    const unsigned groups = max(1u, kThreads / chunks);
    const unsigned group = groups == 1 ? 0 : threadIdx.x / chunks;
    if (group >= groups) return;
    for (unsigned c = threadIdx.x - group * chunks; c < chunks; c += kThreads) {
        Reader reader(source, space.band.k + c);
        for (unsigned r = group; r < rows; r += groups)
            blend_chunk(source, reader, space, row + r, space.sums + 2 * (r * chunks + c));
    }
}

// One pixel in a register or three. Four pixels of neighbouring threads are three words: that of
// corner 0, 1 or 2 out of this pixel and the next.
template <class Out>
struct Pixel;

template <>
struct Pixel<uint8_t> {
    using Word = uint32_t;
    uint32_t rgb;

    __device__ static Pixel of(const unsigned (&sum)[3]) {
        static_assert(kColumnShift == 24);
        return {__byte_perm(__byte_perm(sum[0], sum[1], 0x0073), sum[2], 0x0710)};
    }
    __device__ uint8_t operator[](unsigned c) const { return static_cast<uint8_t>(rgb >> (8 * c)); }
    __device__ Pixel next() const { return {__shfl_down_sync(0xffffffffu, rgb, 1)}; }
    __device__ Word word(const Pixel& next, unsigned corner) const {
        const uint32_t selector = corner == 0 ? 0x4210 : corner == 1 ? 0x5421 : 0x6542;
        return __byte_perm(rgb, next.rgb, selector);
    }
};

template <>
struct Pixel<float> {
    using Word = float4;
    float r, g, b;

    __device__ static Pixel of(const unsigned (&sum)[3]) {
        return {without_fraction<float, kColumnShift>(sum[0]),
                without_fraction<float, kColumnShift>(sum[1]),
                without_fraction<float, kColumnShift>(sum[2])};
    }
    __device__ float operator[](unsigned c) const { return c == 0 ? r : c == 1 ? g : b; }
    __device__ Pixel next() const {
        return {__shfl_down_sync(0xffffffffu, r, 1), __shfl_down_sync(0xffffffffu, g, 1),
                __shfl_down_sync(0xffffffffu, b, 1)};
    }
    __device__ Word word(const Pixel& next, unsigned corner) const {
        return make_float4((*this)[corner],
                           corner == 0   ? g
                           : corner == 1 ? b
                                         : next.r,
                           corner == 0   ? b
                           : corner == 1 ? next.r
                                         : next.g,
                           next[corner]);
    }
};

// Column j of kAtOnce rows, which share the loading of weights. `sums` is where row 0 begins.
template <unsigned kAtOnce, class Out>
__device__ void blend_pixels(const BlendSpace& space, const uint16_t* sums, unsigned j,
                             Pixel<Out> (&pixels)[kAtOnce]) {
    const unsigned taps = space.taps[j], lanes = space.band.lanes, stride = 16 * space.band.chunks;
    const uint16_t* weights = space.weights + j;
    sums += space.first[j];
    unsigned sum[kAtOnce][3];
#pragma unroll
    for (unsigned n = 0; n < 3 * kAtOnce; ++n)
        sum[n / 3][n % 3] = kRound<Out, unsigned, kColumnShift>;
#pragma unroll 2
    for (unsigned t = 0; t < taps; ++t, weights += lanes, sums += 3) {
        const unsigned weight = *weights * kColumnScale;
#pragma unroll
        for (unsigned n = 0; n < kAtOnce; ++n)
#pragma unroll
            for (unsigned c = 0; c < 3; ++c) sum[n][c] += weight * sums[n * stride + c];
    }
#pragma unroll
    for (unsigned n = 0; n < kAtOnce; ++n) pixels[n] = Pixel<Out>::of(sum[n]);
}

// The same rows to the patch, kAtOnce at a time.
template <unsigned kAtOnce, class Out>
__device__ void blend_horizontally(const BlendSpace& space, unsigned row, Out* patches) {
    using Word = typename Pixel<Out>::Word;
    const Piece& piece = space.band.piece;
    const unsigned rows = space.band.rows(row), columns = piece.columns;
    const unsigned lanes = space.band.lanes, row_values = 3 * piece.patch_px;
    const unsigned groups = kThreads / lanes, group = threadIdx.x / lanes;
    const unsigned j = threadIdx.x - group * lanes, corner = j % 4;
    const bool is_mine = group < groups && j < columns;
    const bool in_words =
        row_values % 4 == 0 && reinterpret_cast<std::uintptr_t>(patches) % sizeof(Word) == 0;
    for (unsigned r = 0; r < rows; r += kAtOnce * groups) {
        const unsigned i = r + kAtOnce * group;
        const unsigned count = is_mine && i < rows ? min(kAtOnce, rows - i) : 0;
        Pixel<Out> pixels[kAtOnce] = {};
        // Rows beyond the last one are old sums; nobody stores what comes of them.
        if (count > 0)
            blend_pixels(space,
                         reinterpret_cast<const uint16_t*>(space.sums) + 16 * space.band.chunks * i,
                         j, pixels);
        Out* out = piece.in(patches, row + i, j);
#pragma unroll
        for (unsigned n = 0; n < kAtOnce; ++n, out += row_values) {
            const Pixel<Out> next = pixels[n].next();
            if (n >= count) continue;
            if (!in_words) {
#pragma unroll
                for (unsigned c = 0; c < 3; ++c) out[c] = pixels[n][c];
            } else if (corner < 3) {
                *reinterpret_cast<Word*>(out + corner) = pixels[n].word(next, corner);
            }
        }
    }
}

__device__ void set_row_weights(const Piece& piece, const Axis& vertical, BlendSpace& space) {
    for (unsigned i = threadIdx.x; i < piece.rows; i += kThreads) {
        const Axis::Cell cell = vertical.cell(piece.row + i);
        auto* weights = reinterpret_cast<uint16_t*>(space.row_weights[i]);
        const unsigned taps =
            narrow_weights(vertical, cell, [weights](unsigned t, unsigned weight) {
                weights[t] = static_cast<uint16_t>(kRowScale * weight);
            });
        if (taps % 2 == 1) weights[taps] = 0;
        space.row_first[i] = vertical.first(cell);
        space.row_taps[i] = taps;
    }
}

__device__ void set_band(const Piece& piece, const Axis& horizontal, BlendSpace& space) {
    const unsigned j = threadIdx.x, lanes = (piece.columns + 3) / 4 * 4;
    const uint32_t left = horizontal.first(horizontal.cell(piece.column));
    const auto k = static_cast<uint32_t>(uint64_t{3} * left / 16);
    if (j < piece.columns) {
        const Axis::Cell cell = horizontal.cell(piece.column + j);
        uint16_t* weights = space.weights + j;
        space.taps[j] = static_cast<uint8_t>(
            narrow_weights(horizontal, cell, [weights, lanes](unsigned t, unsigned weight) {
                weights[t * lanes] = static_cast<uint16_t>(weight);
            }));
        space.first[j] =
            static_cast<uint16_t>(uint64_t{3} * horizontal.first(cell) - uint64_t{16} * k);
    }
    if (j == 0) {
        const uint32_t right = horizontal.last(horizontal.cell(piece.column + piece.columns - 1));
        const unsigned chunks = static_cast<uint32_t>((uint64_t{3} * right + 2) / 16 + 1) - k;
        // Whole turns of all threads where they fit, at least of one.
        const unsigned fit = kChunks / chunks, turn = kRowsAtOnce * (kThreads / lanes);
        const unsigned unit = fit >= turn ? turn : fit >= kRowsAtOnce ? kRowsAtOnce : 1;
        space.band = {piece, lanes, k, chunks, fit / unit * unit};
    }
}

template <class Reader, class Out>
__device__ void blend_piece(const Source& source, const Piece& piece, const Box& box,
                            BlendSpace& space, Out* patches) {
    set_row_weights(piece, Axis(box.y, box.height, piece.patch_px, source.height), space);
    // One band; several only for reductions above 16.
    const double scale = max(box.width / piece.patch_px, 1.0);
    const unsigned most = min(kColumns, static_cast<unsigned>(kColumnPixels / scale) / 4 * 4);
    for (unsigned column = 0; column < piece.columns; column += most) {
        Piece part = piece;
        part.column += column;
        part.columns = min(most, piece.columns - column);
        set_band(part, Axis(box.x, box.width, piece.patch_px, source.width), space);
        __syncthreads();
        for (unsigned row = 0; row < piece.rows; row += space.band.rows_at_once) {
            blend_vertically<Reader>(source, space, row);
            __syncthreads();
            if (space.band.rows(row) < kRowsAtOnce)
                blend_horizontally<1>(space, row, patches);
            else
                blend_horizontally<kRowsAtOnce>(space, row, patches);
            __syncthreads();
        }
    }
}

// --- Reduce: rare, so plain ---------------------------------------------------------------------

// Weight of tap t of `taps` by the sums of shares up to it and before it. Rounding the sums instead
// of the shares leaves no rest.
__device__ int64_t wide_upto(double sum, unsigned t, unsigned taps) {
    return t + 1 == taps ? kWideOne : llround(fmin(sum, 1.0) * kWideOne);
}

// The CPU's number of taps along an axis: what the largest cell may touch.
__device__ unsigned wide_taps(const Axis& axis, unsigned count, uint32_t size, int& reach) {
    if (threadIdx.x == 0) reach = 2;
    __syncthreads();
    for (unsigned i = threadIdx.x; axis.averages() && i < count; i += kThreads) {
        const Axis::Cell cell = axis.cell(i);
        atomicMax(&reach, static_cast<int>(min(cell.end - cell.begin, int64_t{size})));
    }
    __syncthreads();
    return min(static_cast<uint32_t>(reach), size);
}

// space.sums = the bytes of chunks [k, k + chunks), averaged over the rows of space.row.
template <class Reader>
__device__ void reduce_vertically(const Source& source, ReduceSpace& space, unsigned taps,
                                  uint32_t k, unsigned chunks) {
    const unsigned thread = threadIdx.x, part = thread % 4;
    const uint32_t y = min(space.vertical.first(space.row), source.height - taps);
    const bool is_mine = thread < 4 * chunks;
    Reader reader(source, k + min(thread / 4, chunks - 1));
    uint64_t sum[4] = {kWideRowRound, kWideRowRound, kWideRowRound, kWideRowRound};
    for (unsigned begin = 0; begin < taps; begin += kThreads) {
        const unsigned count = min(kThreads, taps - begin);
        if (thread < count)
            space.shares[thread + 1] = space.vertical.share(space.row, int64_t{y} + begin + thread);
        __syncthreads();
        if (thread == 0) {  // in the order of the CPU
            double total = space.shares[0] = begin == 0 ? 0 : space.total;
            for (unsigned t = 1; t <= count; ++t) space.shares[t] = total += space.shares[t];
            space.total = total;
        }
        __syncthreads();
        if (thread < count) {
            const unsigned t = begin + thread;
            const int64_t before = t == 0 ? 0 : wide_upto(space.shares[thread], t - 1, taps);
            space.weights[thread] =
                static_cast<uint32_t>(wide_upto(space.shares[thread + 1], t, taps) - before);
        }
        __syncthreads();
#pragma unroll 1
        for (unsigned t = 0; is_mine && t < count; ++t) {
            const uint64_t weight = space.weights[t];
            if (weight == 0) continue;
            const uint4 chunk = reader.at(y + begin + t);
            const uint32_t low = part % 2 == 0 ? chunk.x : chunk.y;
            const uint32_t high = part % 2 == 0 ? chunk.z : chunk.w;
            const uint32_t word = part < 2 ? low : high;
#pragma unroll
            for (unsigned i = 0; i < 4; ++i) sum[i] += weight * (word >> (8 * i) & 0xff);
        }
    }
#pragma unroll
    for (unsigned i = 0; i < 4; ++i)
        if (is_mine) space.sums[4 * thread + i] = static_cast<uint32_t>(sum[i] >> kWideRowShift);
}

// What the pixels from x0 on, those in space.sums, add to column j of the piece. No column starts
// beyond x_most.
__device__ void reduce_horizontally(const Piece& piece, ReduceSpace& space, unsigned j,
                                    uint32_t x_most, unsigned taps, uint32_t x0) {
    const Axis::Cell cell = space.horizontal.cell(piece.column + j);
    const uint32_t x_first = min(space.horizontal.first(cell), x_most);
    const uint32_t x_end = min(x_first + taps, x0 + kWidePixels);
    uint64_t sum[3] = {};
    double share = space.column_shares[threadIdx.x];
#pragma unroll 1
    for (uint32_t x = max(x_first, x0); x < x_end; ++x) {
        const int64_t before = x == x_first ? 0 : wide_upto(share, x - x_first - 1, taps);
        share += space.horizontal.share(cell, x);
        const auto weight = static_cast<uint64_t>(wide_upto(share, x - x_first, taps) - before);
#pragma unroll
        for (unsigned c = 0; c < 3; ++c) sum[c] += weight * space.sums[3 * (x - x0) + c];
    }
    space.column_shares[threadIdx.x] = share;
#pragma unroll
    for (unsigned c = 0; c < 3; ++c) space.column_sums[c][threadIdx.x] += sum[c];
}

template <class Reader, class Out>
__device__ void reduce_piece(const Source& source, const Piece& whole, const Box& box,
                             ReduceSpace& space, Out* patches) {
    const Piece& piece = space.piece;
    if (threadIdx.x == 0) {
        space.piece = whole;
        space.horizontal = Axis(box.x, box.width, piece.patch_px, source.width);
        space.vertical = Axis(box.y, box.height, piece.patch_px, source.height);
    }
    __syncthreads();
    const unsigned taps = wide_taps(space.horizontal, piece.patch_px, source.width, space.reach[0]);
    const unsigned row_taps =
        wide_taps(space.vertical, piece.patch_px, source.height, space.reach[1]);
    const auto start = [&](unsigned j) {
        return min(space.horizontal.first(space.horizontal.cell(piece.column + j)),
                   source.width - taps);
    };
    const unsigned j = min(threadIdx.x, piece.columns - 1);
    const uint32_t x_begin = start(0) / 16 * 16, x_end = start(piece.columns - 1) + taps;
    const auto k_end = static_cast<uint32_t>((uint64_t{3} * x_end - 1) / 16 + 1);

    for (unsigned i = 0; i < piece.rows; ++i) {
        if (threadIdx.x == 0) space.row = space.vertical.cell(piece.row + i);
        __syncthreads();
        space.column_shares[threadIdx.x] = 0;
#pragma unroll
        for (auto& sums : space.column_sums) sums[threadIdx.x] = kRound<Out, uint64_t, kWideShift>;
        // Every thread goes along its own column, and the source comes by in spans.
        for (uint32_t x0 = x_begin; x0 < x_end; x0 += kWidePixels) {
            const uint32_t k = x0 / 16 * 3;
            reduce_vertically<Reader>(source, space, row_taps, k, min(kWideChunks, k_end - k));
            __syncthreads();
            // Who is done first waits within reduce_vertically before it overwrites anything.
            reduce_horizontally(piece, space, j, source.width - taps, taps, x0);
        }
        if (threadIdx.x < piece.columns)
#pragma unroll
            for (unsigned c = 0; c < 3; ++c)
                piece.in(patches, i, j)[c] =
                    without_fraction<Out, kWideShift>(space.column_sums[c][threadIdx.x]);
    }
}

// --- All together -------------------------------------------------------------------------------

__device__ bool is_sound(const Box& box) {
    constexpr double limit = 2147483648.0;
    return fabs(box.x) < limit && fabs(box.y) < limit && box.width > 0 && box.width < limit &&
           box.height > 0 && box.height < limit;
}

__device__ bool is_copy(double start, double length, unsigned count, uint32_t size) {
    return length == static_cast<double>(count) && start == floor(start) && start >= 0 &&
           start + length <= static_cast<double>(size);
}

struct Grid {
    unsigned patch_px, row_bands, column_bands, columns;
};

// At four blocks a multiprocessor, 64 registers a thread, enough loads are under way.
template <class Reader, class Out>
__global__ __launch_bounds__(kThreads, 4) void cut(Source source, Grid grid, const Box* boxes,
                                                   Out* out) {
    __shared__ Space space;
    const unsigned band = blockIdx.x / grid.column_bands, n = band / grid.row_bands;
    Piece piece{};
    piece.patch = n;
    piece.patch_px = grid.patch_px;
    piece.row = (band - n * grid.row_bands) * kRows;
    piece.rows = min(kRows, grid.patch_px - piece.row);
    piece.column = (blockIdx.x - band * grid.column_bands) * grid.columns;
    piece.columns = min(grid.columns, grid.patch_px - piece.column);
    const Box& box = boxes[n];

    if (!is_sound(box)) {
        for (unsigned i = threadIdx.x; i < 3 * piece.rows * piece.columns; i += kThreads)
            piece.in(out, i / (3 * piece.columns), 0)[i % (3 * piece.columns)] =
                static_cast<uint8_t>(source.blank(i).x);
    } else if (fmax(box.width, box.height) > kFarthest * piece.patch_px) {
        reduce_piece<Reader>(source, piece, box, space.reduce, out);
    } else {
        if constexpr (std::is_same_v<Out, uint8_t>) {  // blending gives the same numbers
            if (is_copy(box.x, box.width, piece.patch_px, source.width) &&
                is_copy(box.y, box.height, piece.patch_px, source.height)) {
                copy_piece<Reader>(source, piece, static_cast<uint32_t>(box.x),
                                   static_cast<uint32_t>(box.y), out);
                return;
            }
        }
        blend_piece<Reader>(source, piece, box, space.blend, out);
    }
}

}  // namespace

template <class Out>
void cut_patches(const TileLevel& level, const Box* boxes, std::size_t count, std::size_t patch_px,
                 Out* out, Place place) {
    if (count == 0 || patch_px == 0) return;
    const auto tile_height = static_cast<uint32_t>(level.tile_height);
    const auto tile_width = static_cast<uint32_t>(level.tile_width);
    const bool is_aligned =
        tile_width % 16 == 0 && reinterpret_cast<std::uintptr_t>(level.pool) % 16 == 0;
    Source source{level.pool,
                  level.slot_of,
                  tile_height,
                  3 * tile_width,
                  static_cast<uint32_t>(level.columns),
                  static_cast<uint32_t>(level.height),
                  static_cast<uint32_t>(level.width),
                  Divisor(tile_height),
                  Divisor(is_aligned ? tile_width / 16 * 3 : tile_width),
                  {}};
    for (std::size_t i = 0; i < 3; ++i)
        for (std::size_t byte = 0; byte < 4; ++byte)
            source.fill[i] |= uint32_t{level.fill[(i + byte) % 3]} << (8 * byte);

    Grid grid{};
    grid.patch_px = static_cast<unsigned>(patch_px);
    grid.row_bands = ceil_div(grid.patch_px, kRows);
    grid.columns = ceil_div(ceil_div(grid.patch_px, ceil_div(grid.patch_px, kColumns)), 4u) * 4;
    grid.column_bands = ceil_div(grid.patch_px, grid.columns);
    const std::size_t pieces = std::size_t{grid.row_bands} * grid.column_bands;
    const std::size_t at_once = std::max<std::size_t>(1, 0x7fffffff / pieces);
    const DeviceGuard guard(place.device);
    for (std::size_t n = 0; n < count; n += at_once) {
        const dim3 blocks(static_cast<unsigned>(std::min(at_once, count - n) * pieces));
        launch(is_aligned ? cut<AlignedReader, Out> : cut<AnyReader, Out>, blocks, dim3(kThreads),
               place, source, grid, boxes + n, out + 3 * n * patch_px * patch_px);
    }
}

template void cut_patches(const TileLevel&, const Box*, std::size_t, std::size_t, std::uint8_t*,
                          Place);
template void cut_patches(const TileLevel&, const Box*, std::size_t, std::size_t, float*, Place);

}  // namespace histofast::cuda
