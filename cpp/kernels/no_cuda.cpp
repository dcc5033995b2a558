// The same symbols as the .cu files, for a build without nvcc.
#include "histofast/cuda.h"
#include "histofast/glcm.h"
#include "histofast/gram.h"
#include "histofast/tiles.h"
#include "histofast/tissue.h"

namespace histofast::cuda {
namespace {

[[noreturn]] void not_compiled() {
    throw CudaError("this build of histofast has no CUDA kernels: reinstall with nvcc on the path");
}

}  // namespace

bool is_compiled() { return false; }
int device_count() { not_compiled(); }
std::string device_name(int) { not_compiled(); }

Stream::Stream(int device) : device_(device) { not_compiled(); }
Stream::~Stream() = default;
void Stream::synchronize() const { not_compiled(); }

Event::Event(int device) : device_(device) { not_compiled(); }
Event::~Event() = default;
void Event::record(const Stream&) { not_compiled(); }
void Event::hold(const Stream&) const { not_compiled(); }
void Event::synchronize() const { not_compiled(); }
double Event::seconds_since(const Event&) const { not_compiled(); }

Buffer::Buffer(std::size_t bytes, int device) : bytes_(bytes), device_(device) { not_compiled(); }
Buffer::~Buffer() = default;

void copy(void*, const void*, std::size_t, Place) { not_compiled(); }

template <class Out>
void cut_patches(const TileLevel&, const Box*, std::size_t, std::size_t, Out*, Place) {
    not_compiled();
}
template void cut_patches(const TileLevel&, const Box*, std::size_t, std::size_t, std::uint8_t*,
                          Place);
template void cut_patches(const TileLevel&, const Box*, std::size_t, std::size_t, float*, Place);

void glcm_sums(const std::uint8_t*, ImageShape, const GlcmOptions&, const GlcmSums&, Place) {
    not_compiled();
}

std::size_t packed_grams_scratch_bytes(const FeatureMatrix*, std::size_t, std::size_t,
                                       const GramOptions&) {
    not_compiled();
}
template <class Out>
void packed_grams(const FeatureMatrix*, std::size_t, std::size_t, const GramOptions&, Out*, double*,
                  GramProblem*, void*, Place) {
    not_compiled();
}
template void packed_grams(const FeatureMatrix*, std::size_t, std::size_t, const GramOptions&,
                           float*, double*, GramProblem*, void*, Place);
template void packed_grams(const FeatureMatrix*, std::size_t, std::size_t, const GramOptions&,
                           double*, double*, GramProblem*, void*, Place);

std::size_t tissue_mask_scratch_bytes(std::size_t, std::size_t, const TissueOptions&) {
    not_compiled();
}
void tissue_mask(const std::uint8_t*, std::size_t, std::size_t, const TissueOptions&, std::uint8_t*,
                 TissueFound*, void*, Place) {
    not_compiled();
}

}  // namespace histofast::cuda
