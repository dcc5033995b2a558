#include "histofast/resize.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace histofast::cpu {
namespace {

// Bytes times weights stay in 32 bits: a cubic's weights add up to less than 1.3 without their
// signs.
constexpr int kBits = 22;
constexpr std::int32_t kHalf = 1 << (kBits - 1);

double triangle(double x) { return std::max(0.0, 1.0 - std::abs(x)); }

double cubic(double x) {
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
    return 0.0;
}

// Which pixels make each new pixel along one axis, and how much of each.
struct Taps {
    std::size_t most;  // of one new pixel
    std::vector<std::size_t> first, count;
    std::vector<std::int32_t> weights;  // (new pixels, most)

    Taps(double start, double length, std::size_t out, std::size_t size, ResizeFilter filter) {
        const bool is_cubic = filter == ResizeFilter::bicubic;
        const double scale = length / static_cast<double>(out), wider = std::max(scale, 1.0);
        const double reach = (is_cubic ? 2.0 : 1.0) * wider;
        most = 2 * static_cast<std::size_t>(std::ceil(reach)) + 1;
        first.resize(out), count.resize(out), weights.assign(out * most, 0);
        std::vector<double> shares(most);
        for (std::size_t i = 0; i < out; ++i) {
            const double centre = start + (static_cast<double>(i) + 0.5) * scale;
            const auto low = static_cast<std::int64_t>(std::max(0.0, centre - reach + 0.5));
            const auto high = std::min(static_cast<std::int64_t>(centre + reach + 0.5),
                                       static_cast<std::int64_t>(size));
            first[i] = static_cast<std::size_t>(low);
            count[i] = static_cast<std::size_t>(high - low);
            double sum = 0;
            for (std::size_t t = 0; t < count[i]; ++t) {
                const double x = (static_cast<double>(first[i] + t) - centre + 0.5) / wider;
                sum += shares[t] = is_cubic ? cubic(x) : triangle(x);
            }
            for (std::size_t t = 0; t < count[i]; ++t)
                weights[i * most + t] =
                    static_cast<std::int32_t>(std::round(shares[t] / sum * (1 << kBits)));
        }
    }
};

std::uint8_t as_byte(std::int32_t sum) {
    return static_cast<std::uint8_t>(std::clamp(sum >> kBits, 0, 255));
}

void across(const std::uint8_t* row, const Taps& taps, std::uint8_t* out) {
    for (std::size_t i = 0; i < taps.first.size(); ++i, out += 3) {
        const std::uint8_t* from = row + 3 * taps.first[i];
        const std::int32_t* weights = &taps.weights[i * taps.most];
        std::int32_t red = kHalf, green = kHalf, blue = kHalf;
        for (std::size_t t = 0; t < taps.count[i]; ++t, from += 3) {
            red += weights[t] * from[0];
            green += weights[t] * from[1];
            blue += weights[t] * from[2];
        }
        out[0] = as_byte(red), out[1] = as_byte(green), out[2] = as_byte(blue);
    }
}

}  // namespace

void resize_image(const std::uint8_t* image, std::size_t height, std::size_t width, ResizeBox box,
                  ResizeFilter filter, std::size_t out_height, std::size_t out_width,
                  std::uint8_t* out) {
    if (out_height == 0 || out_width == 0) return;
    const Taps horizontal(box.left, box.right - box.left, out_width, width, filter);
    const Taps vertical(box.top, box.bottom - box.top, out_height, height, filter);
    const std::size_t bytes = 3 * out_width, top = vertical.first.front();
    const std::size_t bottom = vertical.first.back() + vertical.count.back();
    std::vector<std::uint8_t> rows(bytes * (bottom - top));
    for (std::size_t y = top; y < bottom; ++y)
        across(image + 3 * width * y, horizontal, &rows[bytes * (y - top)]);
    std::vector<std::int32_t> sums(bytes);
    for (std::size_t i = 0; i < out_height; ++i, out += bytes) {
        std::fill(sums.begin(), sums.end(), kHalf);
        for (std::size_t t = 0; t < vertical.count[i]; ++t) {
            const std::int32_t weight = vertical.weights[i * vertical.most + t];
            const std::uint8_t* from = &rows[bytes * (vertical.first[i] + t - top)];
            for (std::size_t j = 0; j < bytes; ++j) sums[j] += weight * from[j];
        }
        for (std::size_t j = 0; j < bytes; ++j) out[j] = as_byte(sums[j]);
    }
}

}  // namespace histofast::cpu
