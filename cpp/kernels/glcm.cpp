#include "histofast/glcm.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <vector>

#include "glcm_isa.h"
#include "histofast/cpu_features.h"
#include "thread_pool.h"

#if defined(__GNUC__)
#define HISTOFAST_PREFETCH(address) __builtin_prefetch(address)
#else
#define HISTOFAST_PREFETCH(address) ((void)(address))
#endif

namespace histofast::cpu {
namespace {

constexpr std::size_t kRowsAtOnce = 8;
constexpr std::size_t kLineBytes = 64;

const GlcmLoops& loops() {
#ifdef HISTOFAST_X86_DISPATCH
    switch (current_isa()) {
        case Isa::avx512:
            return avx512::glcm_loops;
        case Isa::avx2:
            return avx2::glcm_loops;
        default:
            break;
    }
#endif
    return baseline::glcm_loops;
}

const GlcmCells<std::uint16_t>& cells_of(const GlcmLoops& inner, std::uint16_t) {
    return inner.narrow;
}
const GlcmCells<std::uint32_t>& cells_of(const GlcmLoops& inner, std::uint32_t) {
    return inner.wide;
}

// What one thread works with. Only rows of the tables that were touched are read and cleared.
template <class Cell>
class Counter {
public:
    Counter(const GlcmLoops& inner, ImageShape shape, const GlcmOptions& options)
        : inner_(inner),
          cells_(cells_of(inner, Cell{})),
          shape_(shape),
          options_(options),
          levels_(shape.height * shape.width),
          keys_(shape.width),
          tables_(kGlcmTables * kGlcmTable) {}

    void work(const std::uint8_t* image, std::int32_t* differences, std::int64_t* sums) {
        image_ = image;
        ready_ = 0;
        for (std::size_t k = 0; k < options_.offset_count; ++k) {
            std::fill_n(differences, options_.levels, 0);
            std::uint64_t found[2] = {0, 0};
            const std::uint32_t largest = count(options_.offsets[k], found);
            sums[0] = static_cast<std::int64_t>(found[0]);
            sums[1] = static_cast<std::int64_t>(found[1]);
            sums[2] = static_cast<std::int64_t>(gather(largest, differences));
            differences += options_.levels;
            sums += kGlcmSums;
        }
    }

private:
    // Makes the levels of the first `rows` rows, some rows at a time: the next ones come from
    // memory while pairs of these are counted.
    void prepare(std::size_t rows) {
        const std::size_t width = shape_.width;
        while (ready_ < rows) {
            const std::size_t count = std::min(kRowsAtOnce, shape_.height - ready_);
            const std::uint8_t* const from = image_ + 3 * ready_ * width;
            inner_.level(from, count * width, options_.levels, levels_.data() + ready_ * width);
            ready_ += count;
            const std::size_t ahead = 3 * width * std::min(kRowsAtOnce, shape_.height - ready_);
            for (std::size_t k = 0; k < ahead; k += kLineBytes)
                HISTOFAST_PREFETCH(from + 3 * count * width + k);
        }
    }

    std::uint32_t count(GlcmOffset offset, std::uint64_t* sums) {
        if (offset.down < 0) offset = {-offset.down, -offset.right};  // the same pairs
        const std::size_t width = shape_.width;
        const auto down = static_cast<std::size_t>(offset.down);
        const std::size_t from = offset.right < 0 ? static_cast<std::size_t>(-offset.right) : 0;
        const std::size_t pairs = width - static_cast<std::size_t>(std::abs(offset.right));
        std::uint32_t largest = 0;
        for (std::size_t i = 0; i + down < shape_.height; ++i) {
            prepare(i + down + 1);
            const std::uint8_t* const a = levels_.data() + i * width + from;
            const std::uint8_t* const b =
                a + static_cast<std::ptrdiff_t>(down * width) + offset.right;
            largest = inner_.pair(a, b, pairs, keys_.data(), sums, largest);
            cells_.count(keys_.data(), pairs, tables_.data());
        }
        return largest;
    }

    // Each pair of unequal levels is two elements of the matrix, one of equal levels counts twice
    // in one.
    std::uint64_t gather(std::uint32_t largest, std::int32_t* differences) {
        std::uint64_t squares[2] = {0, 0};  // of equal levels, of all others
        const std::size_t rows = std::min<std::size_t>(largest / kGreys + 1, options_.levels);
        for (std::size_t d = 0; d < rows; ++d)
            differences[d] = static_cast<std::int32_t>(
                cells_.gather(tables_.data() + d * kGreys, options_.levels - d, squares + (d > 0)));
        return 4 * squares[0] + 2 * squares[1];
    }

    const GlcmLoops& inner_;
    const GlcmCells<Cell>& cells_;
    const ImageShape shape_;
    const GlcmOptions& options_;
    const std::uint8_t* image_ = nullptr;
    std::size_t ready_ = 0;  // rows of levels
    std::vector<std::uint8_t> levels_;
    std::vector<std::uint16_t> keys_;
    std::vector<Cell> tables_;
};

template <class Cell>
void count_all(const std::uint8_t* images, ImageShape shape, const GlcmOptions& options,
               std::size_t threads, const GlcmSums& out) {
    const std::size_t bytes = 3 * shape.height * shape.width;
    std::vector<Counter<Cell>>
        counters;  // made here: tasks must not throw, and memory may be short
    counters.reserve(threads);
    for (std::size_t t = 0; t < threads; ++t) counters.emplace_back(loops(), shape, options);
    ThreadPool pool(threads);
    std::atomic<std::size_t> next{0};
    pool.run(threads, [&](std::size_t t) {
        for (std::size_t n; (n = next.fetch_add(1, std::memory_order_relaxed)) < shape.count;)
            counters[t].work(images + n * bytes,
                             out.differences + n * options.offset_count * options.levels,
                             out.sums + n * options.offset_count * kGlcmSums);
    });
}

}  // namespace

void glcm_sums(const std::uint8_t* images, ImageShape shape, const GlcmOptions& options,
               std::size_t threads, const GlcmSums& out) {
    const std::size_t pixels = shape.height * shape.width;
    if (shape.count == 0 || pixels == 0 || options.offset_count == 0) return;
    threads = std::clamp<std::size_t>(threads, 1, shape.count);
    // No table has more than half of the pairs, and what is over from fours in each row.
    if (pixels / 2 + 3 * shape.height <= std::numeric_limits<std::uint16_t>::max())
        count_all<std::uint16_t>(images, shape, options, threads, out);
    else
        count_all<std::uint32_t>(images, shape, options, threads, out);
}

}  // namespace histofast::cpu
