#include "histofast/gram.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "gram_isa.h"
#include "histofast/cpu_features.h"
#include "thread_pool.h"

namespace histofast::cpu {
namespace {

constexpr std::size_t kPanelFloats = std::size_t{1} << 19;  // 2 MB, and two of them: caches hold it
constexpr std::size_t kBlockRows = 48;                      // of the Gram, one thread's task

// Multiplications from which a second thread is worth waking: about a quarter of a millisecond.
constexpr std::size_t kShared = std::size_t{1} << 24;

// Up to here each thread may have a Gram of its own: 4 MB, 8 MB for rbf.
constexpr std::size_t kApartRows = 1024;

// Products of magnitudes up to here, 512 of them, neither overflow nor vanish in float32.
constexpr int kLargestExponent = 40;

const GramLoops& loops() {
#ifdef HISTOFAST_X86_DISPATCH
    switch (current_isa()) {
        case Isa::avx512:
            return avx512::gram_loops;
        case Isa::avx2:
            return avx2::gram_loops;
        default:
            break;
    }
#endif
    return baseline::gram_loops;
}

std::size_t row_start(std::size_t i) { return i * (i + 1) / 2; }

struct Sums {
    double values = 0, squares = 0;
};

// In four chains: one would wait for itself.
Sums sums_of(const double* row, std::size_t count) {
    double values[4] = {}, squares[4] = {};
    std::size_t j = 0;
    for (; j + 4 <= count; j += 4) {
        for (std::size_t k = 0; k < 4; ++k) {
            values[k] += row[j + k];
            squares[k] += row[j + k] * row[j + k];
        }
    }
    for (; j < count; ++j) {
        values[0] += row[j];
        squares[0] += row[j] * row[j];
    }
    return {(values[0] + values[1]) + (values[2] + values[3]),
            (squares[0] + squares[1]) + (squares[2] + squares[3])};
}

std::size_t rows_not_finite(const FeatureMatrix& features, std::size_t n) {
    std::size_t bad = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(i) * features.row_stride;
        bool finite = true;
        if (features.type == FeatureType::float32) {
            const float* row = static_cast<const float*>(features.values) + first;
            for (std::size_t c = 0; c < features.columns; ++c) finite &= std::isfinite(row[c]);
        } else {
            const std::uint16_t exponent = features.type == FeatureType::float16 ? 0x7c00 : 0x7f80;
            const std::uint16_t* row = static_cast<const std::uint16_t*>(features.values) + first;
            for (std::size_t c = 0; c < features.columns; ++c)
                finite &= (row[c] & exponent) != exponent;
        }
        bad += finite ? 0 : 1;
    }
    return bad;
}

// All the memory that the Gram of one layer takes, used for one layer after the other.
class GramWorkspace {
public:
    GramWorkspace(std::size_t n, std::size_t most_columns, const GramOptions& options)
        : n_(n),
          options_(options),
          loops_(loops()),
          strips_((n + loops_.lanes - 1) / loops_.lanes),
          depth_(std::max(kPanelFloats / (strips_ * loops_.lanes) / kDepth * kDepth, kDepth)),
          gram_(row_start(n)),
          means_(n),
          distances_(options.rbf ? n * (n - 1) / 2 : 0) {
        const std::size_t depth = std::min(depth_, most_columns);
        for (auto& panel : panels_) panel.resize(strips_ * loops_.lanes * depth);
        peaks_.resize(pack_tasks(depth));
        const std::size_t step = kBlockRows / loops_.lanes;
        for (std::size_t i = 0; i < strips_; i += step)
            for (std::size_t j = 0; j <= i; j += step)
                blocks_.push_back({i, std::min(i + step, strips_), j, std::min(j + step, strips_)});
    }

    // Allocates nothing, so that it can be a task.
    template <class Out>
    GramProblem compute(const FeatureMatrix& features, ThreadPool& pool, Out* out,
                        double& squares) {
        if (!make_linear(features, pool)) {
            squares = static_cast<double>(rows_not_finite(features, n_));
            return GramProblem::not_finite;
        }
        if (options_.rbf && !make_rbf(pool)) return GramProblem::zero_median;
        squares = pack_centred(out);
        return GramProblem::none;
    }

private:
    static std::size_t pack_tasks(std::size_t depth) {
        return (depth + kPackColumns - 1) / kPackColumns;
    }

    // False where a feature is not finite. One panel is multiplied while the next is packed.
    bool make_linear(const FeatureMatrix& features, ThreadPool& pool) {
        std::fill(gram_.begin(), gram_.end(), 0.0);
        Panel next{panels_[0].data(), n_, std::min(depth_, features.columns)};
        pool.run(pack_tasks(next.depth), [&](std::size_t i) { pack(features, 0, next, i); });
        for (std::size_t at = 0, turn = 1; at < features.columns; at += depth_, turn ^= 1) {
            const Panel panel = next;
            const float peak = largest_peak(pack_tasks(panel.depth));
            if (!std::isfinite(peak)) return false;
            const double scale = scaled(panel, peak);
            const std::size_t rest = features.columns - std::min(features.columns, at + depth_);
            next = {panels_[turn].data(), n_, std::min(depth_, rest)};
            const std::size_t packs = pack_tasks(next.depth);
            const std::size_t tasks = packs + (peak == 0 ? 0 : blocks_.size());
            // In between each other: packing waits for memory, multiplying does not.
            pool.run(tasks, [&](std::size_t i) {
                const std::size_t packed = i * packs / tasks;
                if ((i + 1) * packs / tasks > packed)
                    pack(features, at + depth_, next, packed);
                else
                    loops_.multiply(panel, blocks_[i - packed], scale, gram_.data());
            });
        }
        return true;
    }

    void pack(const FeatureMatrix& features, std::size_t at, const Panel& panel, std::size_t task) {
        const std::size_t size = features.type == FeatureType::float32 ? 4 : 2;
        const std::size_t column = task * kPackColumns;
        const auto* values = static_cast<const std::uint8_t*>(features.values);
        peaks_[task] =
            loops_.pack(values + (at + column) * size, features.type, features.row_stride,
                        std::min(kPackColumns, panel.depth - column), panel, column);
    }

    // Largest magnitude of a centred panel; NaN or infinity where something is not finite.
    float largest_peak(std::size_t tasks) const {
        float largest = 0;
        for (std::size_t i = 0; i < tasks; ++i) {
            if (!std::isfinite(peaks_[i])) return peaks_[i];
            largest = std::max(largest, peaks_[i]);
        }
        return largest;
    }

    // Brings a panel of very large or small numbers into reach; returns what undoes it in products.
    double scaled(const Panel& panel, float peak) const {
        const int exponent = peak == 0 ? 0 : std::ilogb(peak);
        if (std::abs(exponent) <= kLargestExponent) return 1;
        const std::size_t count = strips_ * loops_.lanes * panel.depth;
        for (std::size_t i = 0; i < count; ++i)
            panel.values[i] = std::scalbn(panel.values[i], -exponent);
        return std::scalbn(1.0, 2 * exponent);
    }

    // False where the median distance is 0 although not all rows are equal.
    bool make_rbf(ThreadPool& pool) {
        for (std::size_t i = 0; i < n_; ++i) means_[i] = gram_[row_start(i) + i];  // squared norms
        double* distance = distances_.data();
        for (std::size_t i = 0; i < n_; ++i) {
            double* row = &gram_[row_start(i)];
            for (std::size_t j = 0; j < i; ++j)
                *distance++ = row[j] = std::max(means_[i] + means_[j] - 2 * row[j], 0.0);
            row[i] = 0;
        }
        const double farthest = *std::max_element(distances_.begin(), distances_.end());
        if (farthest == 0) return true;
        const double median =
            (ordered_distance((n_ * n_ - 1) / 2) + ordered_distance(n_ * n_ / 2)) / 2;
        if (median <= 1e-24 * farthest) return false;
        const double factor = -1 / (2 * options_.rbf_scale * options_.rbf_scale * median);
        pool.run(n_, [&](std::size_t i) {
            double* row = &gram_[row_start(i)];
            for (std::size_t j = 0; j < i; ++j) row[j] = std::expm1(factor * row[j]);
        });
        return true;
    }

    // Of all n^2 in order: the first n are the diagonal's zeros, then each distance comes twice.
    double ordered_distance(std::size_t at) {
        const auto nth = distances_.begin() + static_cast<std::ptrdiff_t>((at - n_) / 2);
        std::nth_element(distances_.begin(), nth, distances_.end());
        return *nth;
    }

    template <class Out>
    double pack_centred(Out* out) {
        const bool debiased = options_.debiased;
        const double size = static_cast<double>(n_), sqrt_half = std::sqrt(0.5);
        double below = 0, diagonal = 0, total = 0;
        for (std::size_t i = 0; i < n_; ++i) {
            const double* row = &gram_[row_start(i)];
            const Sums sums = sums_of(row, i);
            for (std::size_t j = 0; j < i; ++j) means_[j] += row[j];
            means_[i] = sums.values + (debiased ? 0 : row[i]);
            below += sums.squares;
            diagonal += row[i] * row[i];
        }
        for (double& mean : means_) total += mean /= debiased ? size - 2 : size;
        for (double& mean : means_) mean -= total / (2 * (debiased ? size - 1 : size));
        for (std::size_t i = 0; i < n_; ++i) {
            const double* row = &gram_[row_start(i)];
            const double mean = means_[i];
            for (std::size_t j = 0; j < i; ++j)
                out[j] = static_cast<Out>(row[j] - mean - means_[j]);
            out += i;
            if (!debiased) *out++ = static_cast<Out>((row[i] - 2 * mean) * sqrt_half);
        }
        return 2 * below + diagonal;
    }

    std::size_t n_;
    GramOptions options_;
    const GramLoops& loops_;
    std::size_t strips_, depth_;  // columns of a panel: depends on n only, as the bits must
    std::vector<double> gram_;    // with its diagonal, row by row
    std::vector<double> means_, distances_;
    std::vector<float> panels_[2], peaks_;
    std::vector<GramBlock> blocks_;
};

}  // namespace

template <class Out>
void packed_grams(const FeatureMatrix* layers, std::size_t count, std::size_t n,
                  const GramOptions& options, std::size_t threads, Out* out, double* squares,
                  GramProblem* problems) {
    const std::size_t size = packed_size(n, options.debiased);
    const auto compute = [&](std::size_t l, GramWorkspace& workspace, ThreadPool& pool) {
        problems[l] = workspace.compute(layers[l], pool, out + l * size, squares[l]);
    };
    ThreadPool pool(threads), alone(1);

    // Threads that each have layers of their own need not wait for each other; where one layer is
    // much of the whole, all share it. Both ways give the same bits.
    std::size_t total = 0, most_columns = 0;
    for (std::size_t l = 0; l < count; ++l) {
        total += layers[l].columns;
        most_columns = std::max(most_columns, layers[l].columns);
    }
    std::vector<std::size_t> apart, together;
    for (std::size_t l = 0; l < count; ++l) {
        const bool is_small = layers[l].columns <= total / (2 * threads);
        (n <= kApartRows && is_small ? apart : together).push_back(l);
    }
    if (!together.empty()) {
        GramWorkspace workspace(n, most_columns, options);
        for (const std::size_t l : together) {
            const bool is_tiny = n * n * layers[l].columns < kShared;
            compute(l, workspace, is_tiny ? alone : pool);
        }
    }
    std::stable_sort(apart.begin(), apart.end(), [&](std::size_t a, std::size_t b) {
        return layers[a].columns > layers[b].columns;
    });
    std::vector<GramWorkspace> workspaces;
    for (std::size_t i = 0; i < std::min(threads, apart.size()); ++i)
        workspaces.emplace_back(n, layers[apart[0]].columns, options);
    std::atomic<std::size_t> next{0};
    pool.run(workspaces.size(), [&](std::size_t worker) {
        for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < apart.size();)
            compute(apart[i], workspaces[worker], alone);
    });
}

template void packed_grams(const FeatureMatrix*, std::size_t, std::size_t, const GramOptions&,
                           std::size_t, float*, double*, GramProblem*);
template void packed_grams(const FeatureMatrix*, std::size_t, std::size_t, const GramOptions&,
                           std::size_t, double*, double*, GramProblem*);

}  // namespace histofast::cpu
