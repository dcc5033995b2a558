#include "histofast/tiles.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "histofast/cpu_features.h"
#include "tiles_isa.h"

namespace histofast::cpu {
namespace {

// Up to here 14-bit weights are within 1 of the true mean, whatever the picture.
constexpr double kFarthest = 32;

// Wide weights sum to 1 << 30; after the vertical pass 16 fractional bits are left.
constexpr int kWideBits = 30, kWideRowShift = kWideBits - 16, kWideShift = kWideBits + 16;
constexpr std::int64_t kWideOne = std::int64_t{1} << kWideBits;

// A number with `bits` fractional bits, none negative: rounded to an integer, or as a float.
template <class Out>
Out without_fraction(std::int64_t fixed, int bits) {
    if constexpr (std::is_floating_point_v<Out>)
        return static_cast<Out>(fixed) / static_cast<Out>(std::int64_t{1} << bits);
    else
        return static_cast<Out>((fixed + (std::int64_t{1} << (bits - 1))) >> bits);
}

const TileLoops& loops() {
#ifdef HISTOFAST_X86_DISPATCH
    switch (current_isa()) {
        case Isa::avx512:
            return avx512::tile_loops;
        case Isa::avx2:
            return avx2::tile_loops;
        default:
            break;
    }
#endif
    return baseline::tile_loops;
}

// Which source pixels are in which output pixels along one axis, and how much of each.
class Shares {
public:
    Shares(double start, double length, std::size_t count, std::size_t size)
        : start_(start), scale_(length / static_cast<double>(count)), size_(size) {
        std::size_t reach = 2;
        for (std::size_t i = 0; i < count && scale_ >= 1; ++i)
            reach = std::max(
                reach, static_cast<std::size_t>(std::ceil(edge(i + 1)) - std::floor(edge(i))));
        taps_.resize(std::min(reach, size));
    }

    std::size_t taps() const { return taps_.size(); }
    double operator[](std::size_t tap) const { return taps_[tap]; }

    // Look at output pixel i; returns the source pixel of its first tap.
    std::int32_t look(std::size_t i) {
        std::fill(taps_.begin(), taps_.end(), 0.0);
        const double low = edge(i), high = edge(i + 1), centre = low + 0.5 * scale_ - 0.5;
        const bool averages = scale_ >= 1;
        const auto begin = static_cast<std::int64_t>(std::floor(averages ? low : centre));
        const auto end = averages ? static_cast<std::int64_t>(std::ceil(high)) : begin + 2;
        const auto last = static_cast<std::int64_t>(size_) - 1;
        const std::int64_t base =
            std::clamp<std::int64_t>(begin, 0, static_cast<std::int64_t>(size_ - taps()));
        for (std::int64_t pixel = begin; pixel < end; ++pixel) {
            const auto at = static_cast<double>(pixel);
            const double share = averages ? (std::min(high, at + 1) - std::max(low, at)) / scale_
                                          : 1 - std::abs(centre - at);
            const std::int64_t tap = std::clamp<std::int64_t>(pixel, 0, last) - base;
            if (share > 0) taps_[static_cast<std::size_t>(tap)] += share;
        }
        return static_cast<std::int32_t>(base);
    }

private:
    double edge(std::size_t i) const { return start_ + static_cast<double>(i) * scale_; }

    double start_, scale_;
    std::size_t size_;
    std::vector<double> taps_;
};

// The shares as 14-bit weights, for the inner loops.
struct Axis {
    std::size_t taps = 0;               // even; unused ones have weight 0
    std::vector<std::int32_t> first;    // (count)
    std::vector<std::int16_t> weights;  // (count, taps)
    bool is_copy = false;               // one source pixel per output pixel, in order

    void set(double start, double length, std::size_t count, std::size_t size);
};

void Axis::set(double start, double length, std::size_t count, std::size_t size) {
    is_copy = length == static_cast<double>(count) && start == std::floor(start) && start >= 0 &&
              start + length <= static_cast<double>(size);
    if (is_copy) {
        taps = 0;
        first.assign(1, static_cast<std::int32_t>(start));
        return;
    }
    Shares shares(start, length, count, size);
    const std::size_t used = shares.taps();
    taps = used + used % 2;
    first.resize(count);
    weights.assign(count * taps, 0);
    for (std::size_t i = 0; i < count; ++i) {
        first[i] = shares.look(i);
        // Rounded weights must still sum to one, or white would not stay white.
        std::int16_t* weight = &weights[i * taps];
        std::int32_t rest = 1 << kWeightBits;
        for (std::size_t t = 0; t < used; ++t) {
            weight[t] = static_cast<std::int16_t>(std::lround(shares[t] * (1 << kWeightBits)));
            rest -= weight[t];
        }
        const auto largest = std::max_element(weight, weight + used);
        *largest = static_cast<std::int16_t>(*largest + rest);
    }
}

// The same with 30-bit weights, for cells of so many pixels that 14 bits are too coarse.
struct WideAxis {
    std::size_t taps = 0;
    std::vector<std::int32_t> first;    // (count)
    std::vector<std::int32_t> weights;  // (count, taps), none negative

    WideAxis(double start, double length, std::size_t count, std::size_t size) {
        Shares shares(start, length, count, size);
        taps = shares.taps();
        first.resize(count);
        weights.resize(count * taps);
        for (std::size_t i = 0; i < count; ++i) {
            first[i] = shares.look(i);
            // Rounding the sums instead of the shares leaves no rest.
            double sum = 0;
            std::int64_t before = 0;
            for (std::size_t t = 0; t < taps; ++t) {
                sum += shares[t];
                const std::int64_t now =
                    t + 1 == taps ? kWideOne : std::llround(std::min(sum, 1.0) * kWideOne);
                weights[i * taps + t] = static_cast<std::int32_t>(now - before);
                before = now;
            }
        }
    }
};

// Rows of the level as runs of contiguous pixels, one run per tile.
class RowReader {
public:
    explicit RowReader(const TileLevel& level) : level_(level), blank_(3 * level.tile_width) {
        for (std::size_t i = 0; i < blank_.size(); ++i) blank_[i] = level.fill[i % 3];
    }

    // First byte of pixel (x, y); the run continues to the end of the tile.
    const std::uint8_t* at(std::size_t x, std::size_t y) const {
        const std::size_t column = x / level_.tile_width, row = y / level_.tile_height;
        const std::int32_t slot = level_.slot_of[row * level_.columns + column];
        const std::size_t x_in = x - column * level_.tile_width;
        if (slot < 0) return blank_.data() + 3 * x_in;
        const std::size_t y_in = y - row * level_.tile_height;
        return level_.pool + 3 * ((static_cast<std::size_t>(slot) * level_.tile_height + y_in) *
                                      level_.tile_width +
                                  x_in);
    }

    std::size_t run(std::size_t x, std::size_t x_end) const {
        return std::min(x_end, (x / level_.tile_width + 1) * level_.tile_width) - x;
    }

private:
    const TileLevel& level_;
    std::vector<std::uint8_t> blank_;
};

template <class Out>
void copy_patch(const RowReader& reader, std::size_t x0, std::size_t y0, std::size_t patch_px,
                Out* out) {
    for (std::size_t x = x0; x < x0 + patch_px;) {
        const std::size_t run = reader.run(x, x0 + patch_px);
        for (std::size_t i = 0; i < patch_px; ++i)
            std::copy_n(reader.at(x, y0 + i), 3 * run, out + 3 * (i * patch_px + (x - x0)));
        x += run;
    }
}

// Two pixels to one along both axes, on whole pixels and inside the level.
bool is_halving(const Box& box, std::size_t patch_px, const TileLevel& level) {
    const double side = 2.0 * static_cast<double>(patch_px);
    return box.width == side && box.height == side && box.x == std::floor(box.x) &&
           box.y == std::floor(box.y) && box.x >= 0 && box.y >= 0 &&
           box.x + side <= static_cast<double>(level.width) &&
           box.y + side <= static_cast<double>(level.height);
}

// The commonest scale (0.25 to 0.5 um/px). Same result as the general way, which is exact here.
void halve_patch(const RowReader& reader, const TileLoops& inner, std::size_t x0, std::size_t y0,
                 std::size_t patch_px, std::uint8_t* out) {
    const std::size_t x_end = x0 + 2 * patch_px;
    for (std::size_t x = x0; x < x_end;) {
        const std::size_t run = reader.run(x, x_end), pairs = run / 2;
        const bool straddles = run % 2 == 1;  // the pair after these lies in two tiles
        for (std::size_t i = 0; i < patch_px; ++i) {
            const std::size_t y = y0 + 2 * i;
            std::uint8_t* to = out + 3 * (i * patch_px + (x - x0) / 2);
            const std::uint8_t *row0 = reader.at(x, y), *row1 = reader.at(x, y + 1);
            inner.halve(row0, row1, to, pairs);
            if (!straddles) continue;
            const std::uint8_t *next0 = reader.at(x + run, y), *next1 = reader.at(x + run, y + 1);
            for (std::size_t c = 0; c < 3; ++c) {
                const std::size_t last = 6 * pairs + c;
                to[3 * pairs + c] = static_cast<std::uint8_t>(
                    (row0[last] + next0[c] + row1[last] + next1[c] + 2) >> 2);
            }
        }
        x += run + (straddles ? 1 : 0);
    }
}

// Reductions beyond kFarthest: plain integer arithmetic, the same on every instruction set.
template <class Out>
void reduce_patch(const RowReader& reader, const Box& box, const TileLevel& level,
                  std::size_t patch_px, Out* out) {
    const WideAxis horizontal(box.x, box.width, patch_px, level.width);
    const WideAxis vertical(box.y, box.height, patch_px, level.height);
    const auto x_begin = static_cast<std::size_t>(horizontal.first.front());
    const std::size_t x_end = static_cast<std::size_t>(horizontal.first.back()) + horizontal.taps;
    std::vector<std::int64_t> sums(3 * (x_end - x_begin));
    for (std::size_t i = 0; i < patch_px; ++i) {
        std::fill(sums.begin(), sums.end(), 0);
        for (std::size_t t = 0; t < vertical.taps; ++t) {
            const std::int64_t weight = vertical.weights[i * vertical.taps + t];
            if (weight == 0) continue;
            const std::size_t y = static_cast<std::size_t>(vertical.first[i]) + t;
            for (std::size_t x = x_begin; x < x_end;) {
                const std::size_t run = reader.run(x, x_end);
                const std::uint8_t* row = reader.at(x, y);
                std::int64_t* sum = &sums[3 * (x - x_begin)];
                for (std::size_t j = 0; j < 3 * run; ++j) sum[j] += weight * row[j];
                x += run;
            }
        }
        for (std::int64_t& sum : sums) sum = without_fraction<std::int64_t>(sum, kWideRowShift);
        for (std::size_t j = 0; j < patch_px; ++j) {
            const std::int64_t* pixel =
                &sums[3 * (static_cast<std::size_t>(horizontal.first[j]) - x_begin)];
            std::int64_t sum[3] = {};
            for (std::size_t t = 0; t < horizontal.taps; ++t)
                for (std::size_t c = 0; c < 3; ++c)
                    sum[c] += std::int64_t{horizontal.weights[j * horizontal.taps + t]} *
                              pixel[3 * t + c];
            for (std::size_t c = 0; c < 3; ++c)
                out[3 * (i * patch_px + j) + c] = without_fraction<Out>(sum[c], kWideShift);
        }
    }
}

void blend_columns(const TileLoops& inner, const std::vector<std::int16_t>& acc,
                   const Axis& horizontal, std::uint8_t* out, std::size_t count) {
    inner.blend_columns(acc.data(), horizontal.first.data(), horizontal.weights.data(),
                        horizontal.taps, out, count);
}

// Floats, which no slide becomes on a CPU: plain.
void blend_columns(const TileLoops&, const std::vector<std::int16_t>& acc, const Axis& horizontal,
                   float* out, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
        for (std::size_t c = 0; c < 3; ++c) {
            const std::int16_t* from = &acc[3 * static_cast<std::size_t>(horizontal.first[i]) + c];
            std::int32_t sum = 0;
            for (std::size_t t = 0; t < horizontal.taps; ++t)
                sum += horizontal.weights[i * horizontal.taps + t] * from[3 * t];
            out[3 * i + c] = without_fraction<float>(sum, kWeightBits + kRowBits);
        }
}

// A copied axis as a blended one, for patches where only the other axis needs blending.
void make_explicit(Axis& axis, std::size_t count) {
    if (!axis.is_copy) return;
    const std::int32_t start = axis.first[0];
    axis.taps = 2;
    axis.first.resize(count);
    axis.weights.assign(count * axis.taps, 0);
    for (std::size_t i = 0; i < count; ++i) {
        axis.first[i] = start + static_cast<std::int32_t>(i);
        axis.weights[2 * i] = 1 << kWeightBits;
    }
}

}  // namespace

template <class Out>
void cut_patches(const TileLevel& level, const Box* boxes, std::size_t count, std::size_t patch_px,
                 Out* out) {
    if (count == 0 || patch_px == 0) return;
    const TileLoops& inner = loops();
    const RowReader reader(level);
    Axis horizontal, vertical;
    std::vector<std::int16_t> acc;
    std::vector<const std::uint8_t*> rows;
    for (std::size_t n = 0; n < count; ++n, out += 3 * patch_px * patch_px) {
        const Box& box = boxes[n];
        if constexpr (std::is_same_v<Out, std::uint8_t>) {
            if (is_halving(box, patch_px, level)) {
                halve_patch(reader, inner, static_cast<std::size_t>(box.x),
                            static_cast<std::size_t>(box.y), patch_px, out);
                continue;
            }
        }
        if (std::max(box.width, box.height) > kFarthest * static_cast<double>(patch_px)) {
            reduce_patch(reader, box, level, patch_px, out);
            continue;
        }
        horizontal.set(box.x, box.width, patch_px, level.width);
        vertical.set(box.y, box.height, patch_px, level.height);
        if (horizontal.is_copy && vertical.is_copy) {
            copy_patch(reader, static_cast<std::size_t>(horizontal.first[0]),
                       static_cast<std::size_t>(vertical.first[0]), patch_px, out);
            continue;
        }
        make_explicit(horizontal, patch_px);
        make_explicit(vertical, patch_px);

        const auto x_begin = static_cast<std::size_t>(horizontal.first.front());
        const std::size_t x_end = std::min(
            level.width, static_cast<std::size_t>(horizontal.first.back()) + horizontal.taps);
        for (std::int32_t& first : horizontal.first) first -= static_cast<std::int32_t>(x_begin);
        // Slack: a tap of weight 0 and the last vector load may lie past the end.
        acc.resize(3 * (x_end - x_begin + horizontal.taps) + 16);
        rows.resize(vertical.taps);

        for (std::size_t i = 0; i < patch_px; ++i) {
            for (std::size_t x = x_begin; x < x_end;) {
                const std::size_t run = reader.run(x, x_end);
                for (std::size_t t = 0; t < vertical.taps; ++t)
                    rows[t] = reader.at(x, std::min(static_cast<std::size_t>(vertical.first[i]) + t,
                                                    level.height - 1));
                inner.blend_rows(rows.data(), &vertical.weights[i * vertical.taps], vertical.taps,
                                 acc.data() + 3 * (x - x_begin), 3 * run);
                x += run;
            }
            blend_columns(inner, acc, horizontal, out + 3 * i * patch_px, patch_px);
        }
    }
}

template void cut_patches(const TileLevel&, const Box*, std::size_t, std::size_t, std::uint8_t*);
template void cut_patches(const TileLevel&, const Box*, std::size_t, std::size_t, float*);

}  // namespace histofast::cpu
