// Plain loops without branches, for the compiler to make vectors of. Only operations that IEEE 754
// rounds in one way, none fused or reordered: every instruction set gives the same bits. No inline
// function of the standard library: compiled for AVX-512, it might be the copy of everybody.
#include "augment_isa.h"

namespace histofast::cpu::HISTOFAST_ISA {
namespace {

using i32 = std::int32_t;
using u32 = std::uint32_t;
using std::size_t;

inline float least(float a, float b) { return a < b ? a : b; }
inline float most(float a, float b) { return a > b ? a : b; }
inline float within(float v, float high) { return least(most(v, 0.0f), high); }

inline i32 bits_of(float v) {
    i32 bits;
    __builtin_memcpy(&bits, &v, sizeof bits);
    return bits;
}

inline float float_of(i32 bits) {
    float v;
    __builtin_memcpy(&v, &bits, sizeof v);
    return v;
}

// --- Geometry -------------------------------------------------------------------------------

// Places of one axis, mirrored at its first and last pixel.
struct Mirror {
    float last, period, inverse;

    explicit Mirror(i32 size)
        : last(static_cast<float>(size - 1)),
          period(size > 1 ? 2 * last : 2.0f),
          inverse(1.0f / period) {}

    float operator()(float place) const {
        const float turns = place * inverse;
        float whole = static_cast<float>(static_cast<i32>(turns));
        whole -= whole > turns ? 1.0f : 0.0f;
        const float away = place - period * whole - last;
        return most(last - (away < 0 ? -away : away), 0.0f);
    }
};

inline float channel(u32 pixel, int shift) {
    return static_cast<float>(static_cast<i32>(pixel >> shift & 255u));
}

inline float between(float a, float b, float share) { return a + share * (b - a); }

inline float bilinear(u32 a, u32 b, u32 c, u32 d, float fx, float fy, int shift) {
    return between(between(channel(a, shift), channel(b, shift), fx),
                   between(channel(c, shift), channel(d, shift), fx), fy);
}

void sample(const PackedImage& image, float x, float dx, float y, float dy, const FloatRow& row) {
    const u32* const pixels = image.pixels;
    const Mirror across(image.width), down(image.height);
    const i32 stride = image.width + 1, count = static_cast<i32>(row.count);
    float* __restrict red = row.red;
    float* __restrict green = row.green;
    float* __restrict blue = row.blue;
    for (i32 j = 0; j < count; ++j) {
        const float at = static_cast<float>(j);
        const float px = across(x + dx * at), py = down(y + dy * at);
        const i32 x0 = static_cast<i32>(px), y0 = static_cast<i32>(py);
        const float fx = px - static_cast<float>(x0), fy = py - static_cast<float>(y0);
        const i32 first = y0 * stride + x0;
        const u32 a = pixels[first], b = pixels[first + 1];
        const u32 c = pixels[first + stride], d = pixels[first + stride + 1];
        red[j] = bilinear(a, b, c, d, fx, fy, 0);
        green[j] = bilinear(a, b, c, d, fx, fy, 8);
        blue[j] = bilinear(a, b, c, d, fx, fy, 16);
    }
}

void unpack(const u32* __restrict pixels, const FloatRow& row) {
    float* __restrict red = row.red;
    float* __restrict green = row.green;
    float* __restrict blue = row.blue;
    for (size_t j = 0; j < row.count; ++j) {
        red[j] = channel(pixels[j], 0);
        green[j] = channel(pixels[j], 8);
        blue[j] = channel(pixels[j], 16);
    }
}

// --- Colour ---------------------------------------------------------------------------------

// Chebyshev fits, within 1e-7: log2(1 + f) / f for f in -0.25..0.5, 2^f for f in -0.5..0.5.
inline float log2_of(float v) {
    const i32 bits = bits_of(v), exponent = (bits - 0x3f400000) >> 23;
    const float f = float_of(bits - exponent * (1 << 23)) - 1.0f;
    float p = 0.07827980816364288f;
    p = p * f - 0.174443781375885f;
    p = p * f + 0.21635855734348297f;
    p = p * f - 0.24270190298557281f;
    p = p * f + 0.28818631172180176f;
    p = p * f - 0.3605765700340271f;
    p = p * f + 0.48090222477912903f;
    p = p * f - 0.7213484644889832f;
    p = p * f + 1.4426950216293335f;
    return p * f + static_cast<float>(exponent);
}

inline float exp2_of(float v) {  // of 0..8
    const i32 whole = static_cast<i32>(v + 0.5f);
    const float f = v - static_cast<float>(whole);
    float p = 0.00015469732170458883f;
    p = p * f + 0.0013400432653725147f;
    p = p * f + 0.00961802527308464f;
    p = p * f + 0.05550327152013779f;
    p = p * f + 0.24022650718688965f;
    p = p * f + 0.6931471824645996f;
    p = p * f + 1.0f;
    return p * float_of((whole + 127) * (1 << 23));
}

void stain(const FloatRow& row, const float* m) {
    float* __restrict red = row.red;
    float* __restrict green = row.green;
    float* __restrict blue = row.blue;
    const float m0 = m[0], m1 = m[1], m2 = m[2], m3 = m[3], m4 = m[4], m5 = m[5];
    const float m6 = m[6], m7 = m[7], m8 = m[8], o0 = m[9], o1 = m[10], o2 = m[11];
    for (size_t j = 0; j < row.count; ++j) {
        const float r = 8.0f - log2_of(red[j] + 1.0f);
        const float g = 8.0f - log2_of(green[j] + 1.0f);
        const float b = 8.0f - log2_of(blue[j] + 1.0f);
        red[j] = exp2_of(within(8.0f - (r * m0 + g * m3 + b * m6 + o0), 8.0f)) - 1.0f;
        green[j] = exp2_of(within(8.0f - (r * m1 + g * m4 + b * m7 + o1), 8.0f)) - 1.0f;
        blue[j] = exp2_of(within(8.0f - (r * m2 + g * m5 + b * m8 + o2), 8.0f)) - 1.0f;
    }
}

struct Three {
    float a, b, c;
};

// A row of three times a matrix.
inline Three times(float a, float b, float c, const float* m) {
    return {a * m[0] + b * m[3] + c * m[6], a * m[1] + b * m[4] + c * m[7],
            a * m[2] + b * m[5] + c * m[8]};
}

inline float power_of(float v) { return exp2_of(within(v, 8.0f)); }

void cones(const FloatRow& row, const float* numbers) {
    float* __restrict red = row.red;
    float* __restrict green = row.green;
    float* __restrict blue = row.blue;
    float n[30];  // no store below can change them
    for (int i = 0; i < 30; ++i) n[i] = numbers[i];
    for (size_t j = 0; j < row.count; ++j) {
        const Three seen = times(red[j] + 1.0f, green[j] + 1.0f, blue[j] + 1.0f, n);
        const Three d = times(log2_of(seen.a), log2_of(seen.b), log2_of(seen.c), n + 9);
        const Three light =
            times(power_of(d.a + n[18]), power_of(d.b + n[19]), power_of(d.c + n[20]), n + 21);
        red[j] = light.a - 1.0f;
        green[j] = light.b - 1.0f;
        blue[j] = light.c - 1.0f;
    }
}

// One colour of a hue (of 6): 1 where its share of the chroma is taken off.
inline float taken_off(float hue) {
    const float k = hue - 6.0f * static_cast<float>(static_cast<i32>(hue * (1.0f / 6.0f)));
    return within(least(k, 4.0f - k), 1.0f);
}

void tint(const FloatRow& row, const float* drawn) {
    float* __restrict red = row.red;
    float* __restrict green = row.green;
    float* __restrict blue = row.blue;
    const float turn = 12.0f + 6.0f * drawn[0];  // 12: never below 0
    const float times_s = 1.0f + drawn[1], times_v = 1.0f + drawn[2];
    for (size_t j = 0; j < row.count; ++j) {
        const float r = red[j], g = green[j], b = blue[j];
        const float high = most(r, most(g, b)), low = least(r, least(g, b));
        const float chroma = high - low;
        const float safe = chroma > 0.0f ? chroma : 1.0f, safe_high = high > 0.0f ? high : 1.0f;
        const float top = high == r ? g - b : (high == g ? b - r : r - g);
        const float base = high == r ? 0.0f : (high == g ? 2.0f : 4.0f);
        const float hue = top / safe + base + turn;
        const float s = within(chroma / safe_high * times_s, 1.0f);
        const float v = within(high * times_v, 255.0f);
        red[j] = v - v * s * taken_off(hue + 5.0f);
        green[j] = v - v * s * taken_off(hue + 3.0f);
        blue[j] = v - v * s * taken_off(hue + 1.0f);
    }
}

void shift(const FloatRow& row, const float* rgb) {
    float* const planes[3] = {row.red, row.green, row.blue};
    for (int c = 0; c < 3; ++c) {
        float* __restrict plane = planes[c];
        for (size_t j = 0; j < row.count; ++j) plane[j] = within(plane[j] + rgb[c], 255.0f);
    }
}

// --- Blur and bytes -------------------------------------------------------------------------

// Apart from the loop over lines: GCC would take two of them at a time, one number after the other.
[[gnu::noinline]] void add_line(const float* __restrict line, float weight, float* __restrict out,
                                size_t count) {
    for (size_t j = 0; j < count; ++j) out[j] += weight * line[j];
}

void blend(const float* const* lines, const float* weights, size_t taps, float* out, size_t count) {
    for (size_t j = 0; j < count; ++j) out[j] = 0.0f;
    for (size_t t = 0; t < taps; ++t) add_line(lines[t], weights[t], out, count);
}

inline std::uint8_t byte_of(float v) {
    return static_cast<std::uint8_t>(static_cast<i32>(within(v, 255.0f) + 0.5f));
}

void pack(const FloatRow& row, std::uint8_t* __restrict out) {
    const float* __restrict red = row.red;
    const float* __restrict green = row.green;
    const float* __restrict blue = row.blue;
    for (size_t j = 0; j < row.count; ++j) {
        out[3 * j] = byte_of(red[j]);
        out[3 * j + 1] = byte_of(green[j]);
        out[3 * j + 2] = byte_of(blue[j]);
    }
}

}  // namespace

extern const AugmentLoops augment_loops;
const AugmentLoops augment_loops{sample, unpack, stain, cones, tint, shift, blend, pack};

}  // namespace histofast::cpu::HISTOFAST_ISA
