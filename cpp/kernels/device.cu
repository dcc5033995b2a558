#include <cstdio>

#include "cuda_utils.cuh"

namespace histofast::cuda {

bool is_compiled() { return true; }

int device_count() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    // A machine without a driver or a GPU has zero devices; that is an answer, not a failure.
    if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver) {
        (void)cudaGetLastError();
        return 0;
    }
    HISTOFAST_CUDA_CHECK(status);
    return count;
}

std::string device_name(int device) {
    cudaDeviceProp properties{};
    HISTOFAST_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    char text[320];
    std::snprintf(text, sizeof text, "%s, compute %d.%d, %.0f GiB", properties.name,
                  properties.major, properties.minor,
                  static_cast<double>(properties.totalGlobalMem) / (1u << 30));
    return text;
}

Stream::Stream(int device) : device_(device) {
    const DeviceGuard guard(device);
    HISTOFAST_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

// Destructors do not throw: what they could report was reported by the last wait.
Stream::~Stream() { (void)cudaStreamDestroy(stream_); }

void Stream::synchronize() const { HISTOFAST_CUDA_CHECK(cudaStreamSynchronize(stream_)); }

Event::Event(int device) : device_(device) {
    const DeviceGuard guard(device);
    HISTOFAST_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDefault));
}

Event::~Event() { (void)cudaEventDestroy(event_); }

void Event::record(const Stream& stream) {
    const DeviceGuard guard(device_);
    HISTOFAST_CUDA_CHECK(cudaEventRecord(event_, stream.place().stream));
}

void Event::hold(const Stream& stream) const {
    const DeviceGuard guard(device_);
    HISTOFAST_CUDA_CHECK(cudaStreamWaitEvent(stream.place().stream, event_, 0));
}

void Event::synchronize() const { HISTOFAST_CUDA_CHECK(cudaEventSynchronize(event_)); }

double Event::seconds_since(const Event& begin) const {
    float milliseconds = 0;
    HISTOFAST_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin.event_, event_));
    return 1e-3 * static_cast<double>(milliseconds);
}

Buffer::Buffer(std::size_t bytes, int device) : bytes_(bytes), device_(device) {
    if (device == kPinned) {
        HISTOFAST_CUDA_CHECK(cudaHostAlloc(&data_, bytes, cudaHostAllocPortable));
        return;
    }
    const DeviceGuard guard(device);
    HISTOFAST_CUDA_CHECK(cudaMalloc(&data_, bytes));
}

Buffer::~Buffer() {
    if (device_ == kPinned)
        (void)cudaFreeHost(data_);
    else
        (void)cudaFree(data_);
}

void copy(void* to, const void* from, std::size_t bytes, Place place) {
    if (bytes == 0) return;
    const DeviceGuard guard(place.device);
    HISTOFAST_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, place.stream));
}

}  // namespace histofast::cuda
