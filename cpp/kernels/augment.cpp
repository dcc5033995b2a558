#include "histofast/augment.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "augment_isa.h"
#include "histofast/cpu_features.h"
#include "thread_pool.h"

namespace histofast::cpu {
namespace {

constexpr double kReach = 4;  // of a Gaussian, sigmas

const AugmentLoops& loops() {
#ifdef HISTOFAST_X86_DISPATCH
    switch (current_isa()) {
        case Isa::avx512:
            return avx512::augment_loops;
        case Isa::avx2:
            return avx2::augment_loops;
        default:
            break;
    }
#endif
    return baseline::augment_loops;
}

// Where the pixels of a turned image lie in the one it was: at start + i down + j across.
struct Turn {
    std::ptrdiff_t start = 0, down = 0, across = 0;

    Turn(unsigned code, std::size_t height, std::size_t width) {
        const auto h = static_cast<std::ptrdiff_t>(height), w = static_cast<std::ptrdiff_t>(width);
        start = 0, down = w, across = 1;
        if (code & 1) start += across * (w - 1), across = -across;
        if (code & 2) start += down * (h - 1), down = -down;
        unsigned quarters = code >> 2 & 3;
        if (height != width) quarters &= 2;
        for (; quarters > 0; quarters -= height == width ? 1 : 2) {
            if (height == width) {
                start += across * (w - 1);
                const std::ptrdiff_t before = down;
                down = -across;
                across = before;
            } else {
                start += down * (h - 1) + across * (w - 1);
                down = -down, across = -across;
            }
        }
    }

    bool is_none() const { return start == 0 && across == 1; }
};

std::size_t mirrored(std::ptrdiff_t place, std::size_t size) {
    if (size == 1) return 0;
    const auto period = static_cast<std::ptrdiff_t>(2 * (size - 1));
    const std::ptrdiff_t rest = (place % period + period) % period;
    return static_cast<std::size_t>(std::min(rest, period - rest));
}

// What one thread works with.
class Worker {
public:
    Worker(const AugmentLoops& inner, const AugmentDraws& draws, std::size_t height,
           std::size_t width)
        : inner_(inner), draws_(draws), height_(height), width_(width) {
        is_bytes_ = !draws.maps && !draws.stains && !draws.tints && !draws.shifts && !draws.sigmas;
        if (is_bytes_) return;
        packed_.assign((height + 1) * (width + 1), 0);
        row_.resize(3 * width);
        if (draws.sigmas) planes_.resize(3 * height * width);
    }

    void reserve_blur(float sigma) {
        const std::size_t taps = 2 * radius_of(sigma) + 1;
        if (taps <= weights_.size()) return;
        weights_.resize(taps);
        lines_.resize(taps);
        padded_.resize(width_ + taps);
    }

    void work(const std::uint8_t* image, std::size_t n, std::uint8_t* out) {
        const Turn turn(draws_.turns ? draws_.turns[n] : 0, height_, width_);
        if (is_bytes_) {
            copy(image, turn, out);
        } else {
            pack(image, turn);
            change(n, out);
        }
        if (draws_.holes) cut(draws_.holes + 3 * n, out);
    }

private:
    static std::size_t radius_of(float sigma) {
        return static_cast<std::size_t>(kReach * static_cast<double>(sigma) + 0.5);
    }

    void copy(const std::uint8_t* image, const Turn& turn, std::uint8_t* out) const {
        if (turn.is_none()) {
            std::copy_n(image, 3 * height_ * width_, out);
            return;
        }
        for (std::size_t i = 0; i < height_; ++i) {
            const std::uint8_t* from =
                image + 3 * (turn.start + static_cast<std::ptrdiff_t>(i) * turn.down);
            if (turn.across == 1) {
                out = std::copy_n(from, 3 * width_, out);
                continue;
            }
            for (std::size_t j = 0; j < width_; ++j, from += 3 * turn.across, out += 3) {
                out[0] = from[0];
                out[1] = from[1];
                out[2] = from[2];
            }
        }
    }

    void pack(const std::uint8_t* image, const Turn& turn) {
        for (std::size_t i = 0; i < height_; ++i) {
            const std::uint8_t* from =
                image + 3 * (turn.start + static_cast<std::ptrdiff_t>(i) * turn.down);
            std::uint32_t* to = packed_.data() + i * (width_ + 1);
            for (std::size_t j = 0; j < width_; ++j, from += 3 * turn.across)
                to[j] = from[0] | std::uint32_t{from[1]} << 8 | std::uint32_t{from[2]} << 16;
        }
    }

    // Geometry and colour row by row, then what a blur wants of whole planes.
    void change(std::size_t n, std::uint8_t* out) {
        const float sigma = draws_.sigmas ? draws_.sigmas[n] : 0.0f;
        const bool blurs = radius_of(sigma) > 0;
        if (blurs) weigh(sigma);
        const FloatRow row{row_.data(), row_.data() + width_, row_.data() + 2 * width_, width_};
        for (std::size_t i = 0; i < height_; ++i) {
            read(n, i, row);
            if (draws_.stains) inner_.stain(row, draws_.stains + 12 * n);
            if (draws_.tints) inner_.tint(row, draws_.tints + 3 * n);
            if (draws_.shifts) inner_.shift(row, draws_.shifts + 3 * n);
            if (blurs)
                for (std::size_t c = 0; c < 3; ++c)
                    blur_along(row_.data() + c * width_, plane_row(c, i));
            else
                inner_.pack(row, out + 3 * width_ * i);
        }
        if (!blurs) return;
        for (std::size_t i = 0; i < height_; ++i) {
            for (std::size_t c = 0; c < 3; ++c) blur_down(c, i, row_.data() + c * width_);
            inner_.pack(row, out + 3 * width_ * i);
        }
    }

    void read(std::size_t n, std::size_t i, const FloatRow& row) const {
        if (!draws_.maps) {
            inner_.unpack(packed_.data() + i * (width_ + 1), row);
            return;
        }
        const double* m = draws_.maps + 6 * n;
        const auto y = static_cast<double>(i);
        const PackedImage image{packed_.data(), static_cast<std::int32_t>(height_),
                                static_cast<std::int32_t>(width_)};
        inner_.sample(image, static_cast<float>(m[1] * y + m[2]), static_cast<float>(m[0]),
                      static_cast<float>(m[4] * y + m[5]), static_cast<float>(m[3]), row);
    }

    float* plane_row(std::size_t c, std::size_t i) {
        return planes_.data() + (c * height_ + i) * width_;
    }

    void weigh(float sigma) {
        radius_ = radius_of(sigma);
        const double scale = -0.5 / (static_cast<double>(sigma) * static_cast<double>(sigma));
        double sum = 0;
        for (int pass = 0; pass < 2; ++pass)
            for (std::size_t t = 0; t <= 2 * radius_; ++t) {
                const double from = static_cast<double>(t) - static_cast<double>(radius_);
                const double weight = std::exp(scale * from * from);
                if (pass == 0)
                    sum += weight;
                else
                    weights_[t] = static_cast<float>(weight / sum);
            }
    }

    void blur_along(const float* line, float* out) {
        const auto radius = static_cast<std::ptrdiff_t>(radius_);
        for (std::ptrdiff_t j = -radius; j < 0; ++j)
            padded_[static_cast<std::size_t>(j + radius)] = line[mirrored(j, width_)];
        std::copy_n(line, width_, padded_.begin() + radius);
        for (std::size_t j = width_; j < width_ + radius_; ++j)
            padded_[j + radius_] = line[mirrored(static_cast<std::ptrdiff_t>(j), width_)];
        for (std::size_t t = 0; t <= 2 * radius_; ++t) lines_[t] = padded_.data() + t;
        inner_.blend(lines_.data(), weights_.data(), 2 * radius_ + 1, out, width_);
    }

    void blur_down(std::size_t c, std::size_t i, float* out) {
        for (std::size_t t = 0; t <= 2 * radius_; ++t)
            lines_[t] = plane_row(c, mirrored(static_cast<std::ptrdiff_t>(i + t) -
                                                  static_cast<std::ptrdiff_t>(radius_),
                                              height_));
        inner_.blend(lines_.data(), weights_.data(), 2 * radius_ + 1, out, width_);
    }

    void cut(const std::int32_t* hole, std::uint8_t* out) const {
        const std::size_t pixels = height_ * width_;
        std::uint64_t sums[3] = {0, 0, 0};
        for (std::size_t i = 0; i < pixels; ++i)
            for (std::size_t c = 0; c < 3; ++c) sums[c] += out[3 * i + c];
        std::uint8_t mean[3];
        for (std::size_t c = 0; c < 3; ++c)
            mean[c] = static_cast<std::uint8_t>((2 * sums[c] + pixels) / (2 * pixels));
        const auto x = std::min(static_cast<std::size_t>(std::max(hole[0], 0)), width_);
        const auto y = std::min(static_cast<std::size_t>(std::max(hole[1], 0)), height_);
        const auto side = static_cast<std::size_t>(std::max(hole[2], 0));
        for (std::size_t i = y; i < std::min(y + side, height_); ++i)
            for (std::size_t j = x; j < std::min(x + side, width_); ++j)
                std::copy_n(mean, 3, out + 3 * (i * width_ + j));
    }

    const AugmentLoops& inner_;
    const AugmentDraws& draws_;
    const std::size_t height_, width_;
    bool is_bytes_ = false;
    std::vector<std::uint32_t> packed_;
    std::vector<float> row_, planes_, padded_, weights_;
    std::vector<const float*> lines_;
    std::size_t radius_ = 0;
};

}  // namespace

void augment_images(const std::uint8_t* images, ImageShape shape, const AugmentDraws& draws,
                    std::size_t threads, std::uint8_t* out) {
    const std::size_t bytes = 3 * shape.height * shape.width;
    if (shape.count == 0 || bytes == 0) return;
    threads = std::clamp<std::size_t>(threads, 1, shape.count);
    std::vector<Worker> workers;  // made here: tasks must not throw, and memory may be short
    workers.reserve(threads);
    for (std::size_t t = 0; t < threads; ++t) {
        workers.emplace_back(loops(), draws, shape.height, shape.width);
        if (draws.sigmas)
            workers.back().reserve_blur(
                *std::max_element(draws.sigmas, draws.sigmas + shape.count));
    }
    ThreadPool pool(threads);
    pool.run(threads, [&](std::size_t t) {
        for (std::size_t n = t; n < shape.count; n += threads)
            workers[t].work(images + n * bytes, n, out + n * bytes);
    });
}

void map_cones(const std::uint8_t* images, ImageShape shape, const float* thirty,
               std::size_t threads, std::uint8_t* out) {
    const std::size_t bytes = 3 * shape.height * shape.width;
    if (shape.count == 0 || bytes == 0) return;
    threads = std::clamp<std::size_t>(threads, 1, shape.count);
    const std::size_t width = shape.width;
    std::vector<float> floats(3 * width * threads);
    std::vector<std::uint32_t> packed(width * threads);
    ThreadPool pool(threads);
    pool.run(threads, [&](std::size_t t) {
        float* const values = floats.data() + 3 * width * t;
        std::uint32_t* const pixels = packed.data() + width * t;
        const FloatRow row{values, values + width, values + 2 * width, width};
        for (std::size_t n = t; n < shape.count; n += threads)
            for (std::size_t i = 0; i < shape.height; ++i) {
                const std::size_t start = n * bytes + 3 * width * i;
                const std::uint8_t* from = images + start;
                for (std::size_t j = 0; j < width; ++j, from += 3)
                    pixels[j] =
                        from[0] | std::uint32_t{from[1]} << 8 | std::uint32_t{from[2]} << 16;
                loops().unpack(pixels, row);
                loops().cones(row, thirty);
                loops().pack(row, out + start);
            }
    });
}

void map_colours(const std::uint8_t* images, ImageShape shape, const std::uint8_t* table,
                 std::size_t threads, std::uint8_t* out) {
    const std::size_t pixels = shape.height * shape.width;
    if (shape.count == 0 || pixels == 0) return;
    threads = std::clamp<std::size_t>(threads, 1, shape.count);
    ThreadPool pool(threads);
    pool.run(threads, [&](std::size_t t) {
        for (std::size_t n = t; n < shape.count; n += threads) {
            const std::uint8_t* from = images + 3 * pixels * n;
            std::uint8_t* to = out + 3 * pixels * n;
            for (std::size_t j = 0; j < pixels; ++j, from += 3, to += 3) {
                const std::size_t colour =
                    std::size_t{from[0]} << 16 | std::size_t{from[1]} << 8 | from[2];
                const std::uint8_t* const found = table + 3 * colour;
                to[0] = found[0];
                to[1] = found[1];
                to[2] = found[2];
            }
        }
    });
}

}  // namespace histofast::cpu
