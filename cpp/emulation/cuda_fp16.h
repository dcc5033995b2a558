#pragma once

#include "cuda_runtime.h"

struct __half {
    std::uint16_t bits;
};

inline float __half2float(__half value) {
    const unsigned exponent = value.bits >> 10 & 31u, fraction = value.bits & 1023u;
    float size;
    if (exponent == 31)
        size = fraction != 0 ? NAN : INFINITY;
    else if (exponent == 0)
        size = std::ldexp(static_cast<float>(fraction), -24);
    else
        size = std::ldexp(static_cast<float>(fraction | 1024u), static_cast<int>(exponent) - 25);
    return value.bits >> 15 ? -size : size;
}

inline __half __float2half_rn(float value) {
    const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const float size = std::fabs(value);
    if (std::isnan(value)) return {0x7fff};
    if (size >= 65520.0f) return {static_cast<std::uint16_t>(sign | 0x7c00)};
    if (size < std::ldexp(1.0f, -14))
        return {static_cast<std::uint16_t>(
            sign | static_cast<std::uint16_t>(std::nearbyint(std::ldexp(size, 24))))};
    int exponent = std::ilogb(size);
    auto fraction = static_cast<unsigned>(std::nearbyint(std::ldexp(size, 10 - exponent)));
    if (fraction == 2048) fraction = 1024, ++exponent;
    return {static_cast<std::uint16_t>(sign | static_cast<unsigned>(exponent + 15) << 10 |
                                       (fraction & 1023u))};
}
inline __half __float2half(float value) { return __float2half_rn(value); }
inline __half __ushort_as_half(std::uint16_t bits) { return {bits}; }
inline std::uint16_t __half_as_ushort(__half value) { return value.bits; }

struct alignas(4) __half2 {
    __half x, y;
};
inline __half2 __floats2half2_rn(float x, float y) {
    return {__float2half_rn(x), __float2half_rn(y)};
}
inline float __low2float(__half2 pair) { return __half2float(pair.x); }
inline float __high2float(__half2 pair) { return __half2float(pair.y); }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
    const auto fma = [](__half x, __half y, __half z) {
        return static_cast<float>(double{__half2float(x)} * __half2float(y) + __half2float(z));
    };
    return __floats2half2_rn(fma(a.x, b.x, c.x), fma(a.y, b.y, c.y));
}
