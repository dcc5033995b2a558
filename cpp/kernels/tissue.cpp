#include "histofast/tissue.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <memory>
#include <utility>
#include <vector>

#include "histofast/cpu_features.h"
#include "tissue_kernels.h"

namespace histofast::cpu {
namespace {

const TissueKernels& kernels() {
    switch (current_isa()) {
#ifdef HISTOFAST_X86_DISPATCH
        case Isa::avx512:
            return avx512::tissue_kernels;
        case Isa::avx2:
            return avx2::tissue_kernels;
#endif
        default:
            return baseline::tissue_kernels;
    }
}

std::int32_t set_bits(const std::uint64_t* bits, std::size_t words) {
    std::size_t sum = 0;
    for (std::size_t i = 0; i < words; ++i) sum += std::bitset<kWordBits>(bits[i]).count();
    return static_cast<std::int32_t>(sum);
}

int lowest_bit(std::uint64_t word) {
#if defined(__GNUC__)
    return __builtin_ctzll(word);
#else
    int i = 0;
    for (; !(word & 1); word >>= 1) ++i;
    return i;
#endif
}

using Histogram = std::array<std::uint32_t, kScoreBins>;

struct Split {
    int threshold;
    double contrast;
};

// Sums and products of doubles never meet in one expression here: a fused multiply-add would round
// otherwise than the definition.
Split otsu_split(const Histogram& counts, std::size_t bins) {
    std::uint64_t total = 0, weighted = 0, n0 = 0, s0 = 0;
    for (std::size_t i = 0; i < bins; ++i) {
        total += counts[i];
        weighted += std::uint64_t{i} * counts[i];
    }
    Split best{0, 0.0};
    double best_between = 0.0;
    for (std::size_t t = 0; t < bins; ++t) {
        n0 += counts[t];
        s0 += std::uint64_t{t} * counts[t];
        if (n0 == 0 || n0 == total) continue;
        const double m1 = static_cast<double>(weighted - s0) / static_cast<double>(total - n0);
        const double m0 = static_cast<double>(s0) / static_cast<double>(n0);
        const double contrast = m1 - m0;
        const double weight = static_cast<double>(n0) * static_cast<double>(total - n0);
        const double between = contrast * contrast * weight;
        if (between > best_between) {
            best_between = between;
            best = {static_cast<int>(t), contrast};
        }
    }
    return best;
}

int tissue_threshold(const Histogram& counts) {
    const Split all = otsu_split(counts, kScoreBins);
    if (all.contrast < kLeastContrast) return kOneClassThreshold;
    const Split faint = otsu_split(counts, static_cast<std::size_t>(all.threshold) + 1);
    return std::max(faint.contrast >= kLeastContrast ? faint.threshold : all.threshold,
                    kLeastThreshold);
}

// --- Objects and holes ------------------------------------------------------------------------

// Sets or clears the bits [begin, end) of a row.
void write_range(std::uint64_t* row, std::size_t begin, std::size_t end, bool value) {
    while (begin < end) {
        const std::size_t word = begin / kWordBits, low = begin % kWordBits;
        const std::size_t count = std::min(end - begin, kWordBits - low);
        const std::uint64_t ones =
            count == kWordBits ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
        if (value)
            row[word] |= ones << low;
        else
            row[word] &= ~(ones << low);
        begin += count;
    }
}

// The runs of all rows as the nodes of one forest: background and foreground in turn, a row begins
// with a background run (empty when its first pixel is set) and ends with a sentinel at `width`.
// Foreground runs join by edges (4), background runs by edges and corners (8).
class Runs {
public:
    Runs(const std::uint64_t* bits, BitShape shape) : shape_(shape), first_(shape.height + 1) {
        extract(bits);
        for (std::size_t y = 1; y < shape_.height; ++y) join(first_[y - 1], first_[y]);
        measure();
    }

    // Fills holes of up to max_hole_px, then removes objects under min_area_px.
    void clean(std::uint64_t* bits, std::size_t max_hole_px, std::size_t min_area_px) {
        if (max_hole_px > 0) fill_holes(bits, max_hole_px);
        if (min_area_px <= 1) return;
        std::size_t next = 0;  // of the filled runs, which are in order
        each_run([&](std::size_t y, std::uint32_t run, bool set) {
            const bool filled = next < filled_.size() && filled_[next] == run;
            next += filled;
            if ((set || filled) && area_[find(run)] < min_area_px)
                write_range(bits + shape_.words * y, start_[run], start_[run + 1], false);
        });
    }

private:
    void extract(const std::uint64_t* bits) {
        const std::size_t height = shape_.height, width = shape_.width, words = shape_.words;
        std::size_t nodes = 2 * height;
        for (std::size_t y = 0; y < height; ++y)
            row_flips(bits + words * y, [&](std::uint32_t) { ++nodes; });
        start_.reset(new std::uint32_t[nodes]);
        parent_.reset(new std::uint32_t[nodes]);
        std::uint32_t node = 0;
        for (std::size_t y = 0; y < height; ++y) {
            first_[y] = node;
            start_[node++] = 0;
            row_flips(bits + words * y, [&](std::uint32_t x) { start_[node++] = x; });
            if (node - first_[y] > 1 && start_[node - 1] == width) --node;
            start_[node++] = static_cast<std::uint32_t>(width);
        }
        first_[height] = node;
        for (std::uint32_t i = 0; i < node; ++i) parent_[i] = i;
    }

    // Visits every x at which the row changes its value, the pixel left of it being clear.
    template <class Visit>
    void row_flips(const std::uint64_t* row, Visit visit) const {
        std::uint64_t carry = 0;
        for (std::size_t i = 0; i < shape_.words; ++i) {
            for (std::uint64_t flips = row[i] ^ (row[i] << 1 | carry); flips; flips &= flips - 1)
                visit(static_cast<std::uint32_t>(kWordBits * i) +
                      static_cast<std::uint32_t>(lowest_bit(flips)));
            carry = row[i] >> (kWordBits - 1);
        }
    }

    template <class Visit>
    void each_run(Visit visit) const {
        for (std::size_t y = 0; y < shape_.height; ++y) {
            bool set = false;
            for (std::uint32_t run = first_[y]; run + 1 < first_[y + 1]; ++run, set = !set)
                visit(y, run, set);
        }
    }

    std::uint32_t find(std::uint32_t node) {
        while (parent_[node] != node) node = parent_[node] = parent_[parent_[node]];
        return node;
    }

    std::uint32_t unite(std::uint32_t a, std::uint32_t b) {
        a = find(a);
        b = find(b);
        if (a > b) std::swap(a, b);
        return parent_[b] = a;
    }

    // Walks two rows from left to right, one run end at a time.
    void join(std::uint32_t above, std::uint32_t below) {
        const auto width = static_cast<std::uint32_t>(shape_.width);
        bool above_set = false, below_set = false;
        while (true) {
            const std::uint32_t above_end = start_[above + 1], below_end = start_[below + 1];
            if (above_set == below_set &&
                std::max(start_[above], start_[below]) < std::min(above_end, below_end))
                unite(above, below);
            if (above_end == below_end) {
                if (above_end == width) return;
                // Both rows flip here, in opposite senses: the two background runs touch corners.
                if (above_set != below_set)
                    above_set ? unite(above + 1, below) : unite(above, below + 1);
            }
            if (above_end <= below_end) ++above, above_set = !above_set;
            if (below_end <= above_end) ++below, below_set = !below_set;
        }
    }

    void measure() {
        const std::size_t nodes = first_[shape_.height];
        area_.assign(nodes, 0);
        each_run([&](std::size_t, std::uint32_t run, bool) {
            // Parents come first and are roots already.
            const std::uint32_t root = parent_[run] = parent_[parent_[run]];
            area_[root] += start_[run + 1] - start_[run];
        });
    }

    void fill_holes(std::uint64_t* bits, std::size_t max_hole_px) {
        std::vector<bool> open(area_.size(), false);
        each_run([&](std::size_t y, std::uint32_t run, bool set) {
            if (!set && (y == 0 || y + 1 == shape_.height || start_[run] == 0 ||
                         start_[run + 1] == shape_.width))
                open[parent_[run]] = true;
        });
        each_run([&](std::size_t y, std::uint32_t run, bool set) {
            const std::uint32_t root = parent_[run];
            if (set || open[root] || area_[root] > max_hole_px) return;
            write_range(bits + shape_.words * y, start_[run], start_[run + 1], true);
            filled_.push_back(run);
        });
        // The runs left and right of a filled one are set; with it they become one object.
        for (const std::uint32_t run : filled_) {
            absorb(run - 1, run);
            absorb(run, run + 1);
        }
    }

    void absorb(std::uint32_t a, std::uint32_t b) {
        a = find(a);
        b = find(b);
        if (a == b) return;
        const std::uint32_t sum = area_[a] + area_[b];
        area_[unite(a, b)] = sum;
    }

    BitShape shape_;
    std::vector<std::uint32_t> first_;  // node of the first run of each row, and the end
    std::unique_ptr<std::uint32_t[]> start_, parent_;
    std::vector<std::uint32_t> area_;    // valid at roots
    std::vector<std::uint32_t> filled_;  // background runs of holes that were filled
};

}  // namespace

TissueFound tissue_mask(const std::uint8_t* rgb, std::size_t height, std::size_t width,
                        const TissueOptions& options, std::uint8_t* mask) {
    Histogram histogram{};
    if (height == 0 || width == 0)
        return {options.threshold >= 0 ? options.threshold : tissue_threshold(histogram), 0, 0};

    const TissueKernels& run = kernels();
    const BitShape shape{height, width, (width + kWordBits - 1) / kWordBits};
    const std::size_t words = shape.words * height;
    const std::size_t reach = std::max<std::size_t>(options.close_px, 4);
    std::unique_ptr<std::uint64_t[]> bits(new std::uint64_t[words]), foreign;
    std::unique_ptr<std::uint64_t[]> scratch(
        new std::uint64_t[words + shape.words * (2 * reach + 2)]);
    if (options.exclude_foreign) foreign.reset(new std::uint64_t[words]);

    // The mask's own memory holds the score until the bits are made.
    {
        std::vector<std::uint8_t> rows(score_scratch_bytes(width) + 64);
        void* aligned = rows.data();
        std::size_t space = rows.size();
        std::align(64, score_scratch_bytes(width), aligned, space);
        run.score(rgb, shape, static_cast<std::uint8_t*>(aligned), mask, histogram.data(),
                  foreign.get());
    }
    if (foreign) {
        run.dilate(foreign.get(), shape, 1, scratch.get());
        run.erode(foreign.get(), shape, 1 + 2, scratch.get());
        run.dilate(foreign.get(), shape, 4, scratch.get());
        if (std::all_of(&foreign[0], &foreign[words], [](std::uint64_t word) { return word == 0; }))
            foreign.reset();
    }
    if (foreign) {
        for (std::size_t y = 0; y < height; ++y)
            for (std::size_t i = 0; i < shape.words; ++i)
                for (std::uint64_t set = foreign[shape.words * y + i]; set; set &= set - 1)
                    --histogram[score_bin(mask[width * y + kWordBits * i +
                                               static_cast<std::size_t>(lowest_bit(set))])];
    }
    const int threshold = options.threshold >= 0 ? options.threshold : tissue_threshold(histogram);

    const auto remove_foreign = [&] {
        for (std::size_t i = 0; i < words; ++i) bits[i] &= ~foreign[i];
    };
    run.threshold(mask, shape, threshold, bits.get());
    TissueFound found{threshold, set_bits(bits.get(), words), 0};
    if (foreign) remove_foreign();
    found.remaining_px = foreign ? set_bits(bits.get(), words) : found.above_px;
    if (options.close_px > 0) {
        run.dilate(bits.get(), shape, options.close_px, scratch.get());
        run.erode(bits.get(), shape, options.close_px, scratch.get());
    }
    scratch.reset();
    if (foreign) {  // objects are measured after the pen is cut out of them
        Runs(bits.get(), shape).clean(bits.get(), options.max_hole_px, 0);
        remove_foreign();
        Runs(bits.get(), shape).clean(bits.get(), 0, options.min_area_px);
    } else {
        Runs(bits.get(), shape).clean(bits.get(), options.max_hole_px, options.min_area_px);
    }
    run.expand(bits.get(), shape, mask);
    return found;
}

}  // namespace histofast::cpu
