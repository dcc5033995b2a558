// Which instruction sets the kernels may use here.
#pragma once

namespace histofast::cpu {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };

// Best instruction set that this processor and this build have.
Isa best_isa();

// The one the kernels use: best_isa(), unless set_isa() lowered it (tests and doctor do).
Isa current_isa();

// Use `isa` from now on, in all threads. Throws std::invalid_argument when it is not available.
void set_isa(Isa isa);

const char* isa_name(Isa isa);

// False on x86 processors without VNNI: ONNX Runtime adds products of bytes in 16 bits there, which
// saturate, so that an encoder of 8-bit integers computes something else than it should.
bool int8_is_exact();

}  // namespace histofast::cpu
