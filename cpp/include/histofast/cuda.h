// What the native library knows of GPUs without including a CUDA header.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

struct CUstream_st;  // cudaStream_t points to this; named here so that no CUDA header is needed
struct CUevent_st;

namespace histofast::cuda {

struct CudaError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Where work is enqueued. Functions that take one return before it is done, never wait and never
// allocate.
struct Place {
    int device;
    CUstream_st* stream;
};

// True when this build has CUDA kernels (nvcc was found), whether or not a GPU is here.
bool is_compiled();

// Number of usable GPUs; 0 without a driver. Throws CudaError when not compiled in.
int device_count();

// "NVIDIA H200, compute 9.0, 139 GiB". Throws CudaError for a device that is not there.
std::string device_name(int device);

// --- What a pipeline around the kernels needs; all throw CudaError ------------------------------

// A stream of its own, which waits for no other.
class Stream {
public:
    explicit Stream(int device);
    ~Stream();
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    Place place() const { return {device_, stream_}; }
    void synchronize() const;

private:
    int device_;
    CUstream_st* stream_ = nullptr;
};

// A point in the work of a stream, with its time.
class Event {
public:
    explicit Event(int device);
    ~Event();
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;

    void record(const Stream& stream);
    void hold(const Stream& stream) const;  // what is enqueued there from now on waits for it
    void synchronize() const;
    double seconds_since(const Event& begin) const;  // both must be over

private:
    [[maybe_unused]] int device_;  // by the stand-ins without CUDA
    [[maybe_unused]] CUevent_st* event_ = nullptr;
};

// Memory of the host that a GPU copies from and to without help of the CPU, or of a device.
class Buffer {
public:
    static constexpr int kPinned = -1;

    Buffer(std::size_t bytes, int device);  // device: kPinned for the host's
    ~Buffer();
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    void* data() const { return data_; }
    std::size_t bytes() const { return bytes_; }
    int device() const { return device_; }

private:
    std::size_t bytes_;
    int device_;
    void* data_ = nullptr;
};

// Enqueues to[0 .. bytes) = from[0 .. bytes); each may be pinned memory or the device's.
void copy(void* to, const void* from, std::size_t bytes, Place place);

}  // namespace histofast::cuda
