#include "histofast/cpu_features.h"

#ifdef HISTOFAST_X86_DISPATCH
#include <cpuid.h>
#endif

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace histofast::cpu {
namespace {

#ifdef HISTOFAST_X86_DISPATCH
// Asked of the processor itself: __builtin_cpu_supports answers no to everything where the
// compiler's run-time library does not fill its table (zig's).
struct Cpu {
    std::uint32_t leaf1_ecx = 0, leaf7_ebx = 0, leaf7_ecx = 0, leaf7_1_eax = 0, extended_ecx = 0;
    std::uint32_t saved = 0;  // XCR0: the registers that the system keeps for every thread

    Cpu() {
        std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
        if (__get_cpuid(1, &eax, &ebx, &ecx, &edx)) leaf1_ecx = ecx;
        if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx)) extended_ecx = ecx;
        if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
            leaf7_ebx = ebx;
            leaf7_ecx = ecx;
            const bool has_more = eax >= 1;
            if (has_more && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) leaf7_1_eax = eax;
        }
        if (has(leaf1_ecx, {27}))  // OSXSAVE: the question may be asked
            __asm__("xgetbv" : "=a"(saved), "=d"(edx) : "c"(0));
    }

    static bool has(std::uint32_t word, std::initializer_list<int> bits) {
        for (const int bit : bits)
            if (!(word >> bit & 1)) return false;
        return true;
    }
    bool keeps_ymm() const { return has(saved, {1, 2}); }
    bool keeps_zmm() const { return keeps_ymm() && has(saved, {5, 6, 7}); }
    // What CMakeLists.txt compiles for: FMA, POPCNT, AVX, F16C; LZCNT; BMI, AVX2, BMI2.
    bool has_avx2() const {
        return keeps_ymm() && has(leaf1_ecx, {12, 23, 28, 29}) && has(extended_ecx, {5}) &&
               has(leaf7_ebx, {3, 5, 8});
    }
    bool has_avx512() const {  // F, DQ, CD, BW, VL
        return has_avx2() && keeps_zmm() && has(leaf7_ebx, {16, 17, 28, 30, 31});
    }
    bool has_vnni() const {
        return (keeps_zmm() && has(leaf7_ecx, {11})) || (keeps_ymm() && has(leaf7_1_eax, {4}));
    }
};
#endif

Isa detect() {
#ifdef HISTOFAST_X86_DISPATCH
    const Cpu cpu;
    if (cpu.has_avx512()) return Isa::avx512;
    if (cpu.has_avx2()) return Isa::avx2;
#endif
    return Isa::baseline;
}

std::atomic<Isa>& current() {
    static std::atomic<Isa> isa{best_isa()};
    return isa;
}

}  // namespace

Isa best_isa() {
    static const Isa isa = detect();
    return isa;
}

Isa current_isa() { return current().load(std::memory_order_relaxed); }

void set_isa(Isa isa) {
    if (isa > best_isa())
        throw std::invalid_argument(std::string("isa must be at most ") + isa_name(best_isa()) +
                                    " on this machine, got " + isa_name(isa));
    current().store(isa, std::memory_order_relaxed);
}

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx512:
            return "avx512";
        case Isa::avx2:
            return "avx2";
        default:
            return "baseline";
    }
}

bool int8_is_exact() {
#if defined(HISTOFAST_X86_DISPATCH)
    return Cpu().has_vnni();
#elif defined(__x86_64__) || defined(_M_X64)
    return false;  // not known: this compiler cannot ask
#else
    return true;
#endif
}

}  // namespace histofast::cpu
