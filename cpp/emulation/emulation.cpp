#include <ucontext.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <vector>

#ifdef HISTOFAST_RACES
#include <sanitizer/tsan_interface.h>
#endif

#include "cuda_runtime.h"

struct CUstream_st {
    int unused;
};
struct CUevent_st {
    std::chrono::steady_clock::time_point time;
};

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

namespace histofast::emulation {
namespace {

constexpr std::size_t kStackBytes = 128 << 10;
constexpr unsigned kWarp = 32;

// What ThreadSanitizer is told of order, in a build for it (HISTOFAST_RACES): switching fibers
// orders nothing; barriers do, and blocks and kernels come one after the other.
#ifdef HISTOFAST_RACES
void* this_context() { return __tsan_get_current_fiber(); }
void* new_context() { return __tsan_create_fiber(0); }
void switch_to(void* context) { __tsan_switch_to_fiber(context, __tsan_switch_to_fiber_no_sync); }
void all_before(void* place) { __tsan_release(place); }
void all_after(void* place) { __tsan_acquire(place); }
#else
void* this_context() { return nullptr; }
void* new_context() { return nullptr; }
void switch_to(void*) {}
void all_before(void*) {}
void all_after(void*) {}
#endif

struct Fiber {
    ucontext_t context;
    void* order = nullptr;
    std::unique_ptr<char[]> stack;
    uint3 index;
    bool is_done;
};

struct Warp {
    std::uint64_t values[kWarp];
    unsigned arrived = 0;
    std::size_t round = 0;
    char order[2];  // of even and odd rounds
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    ucontext_t scheduler;
    void* scheduler_order = nullptr;
    char order[2], order_of_blocks[2];
    unsigned number = 0;  // of the block
    std::size_t current = 0, alive = 0, arrived = 0, round = 0;
    std::size_t progress = 0;  // anything that another thread may wait for
    int sums[3], results[3];
    const std::function<void()>* kernel = nullptr;
};

thread_local Block block;

void yield() {
    switch_to(block.scheduler_order);
    swapcontext(&block.fibers[block.current].context, &block.scheduler);
}

void release_barrier() {
    std::copy(block.sums, block.sums + 3, block.results);
    block.sums[0] = 0, block.sums[1] = 1, block.sums[2] = 0;
    block.arrived = 0;
    ++block.round;
    ++block.progress;
}

void enter() {
    all_after(&block.order_of_blocks[block.number % 2]);
    (*block.kernel)();
    all_before(&block.order_of_blocks[(block.number + 1) % 2]);
    block.fibers[block.current].is_done = true;
    ++block.progress;
    // On the device, threads that have ended do not keep a barrier closed either.
    if (--block.alive > 0 && block.arrived == block.alive) release_barrier();
    yield();
}

void prepare(Fiber& fiber) {
    if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    fiber.is_done = false;
    if (fiber.order == nullptr) fiber.order = new_context();
    makecontext(&fiber.context, enter, 0);
}

void run_block(bool backwards) {
    const std::size_t count = std::size_t{blockDim.x} * blockDim.y * blockDim.z;
    if (block.fibers.size() < count) block.fibers.resize(count);
    block.warps.assign((count + kWarp - 1) / kWarp, Warp{});
    block.alive = count;
    block.arrived = 0;
    block.sums[0] = 0, block.sums[1] = 1, block.sums[2] = 0;
    for (std::size_t i = 0; i < count; ++i) {
        prepare(block.fibers[i]);
        const auto at = static_cast<unsigned>(i);
        block.fibers[i].index = {at % blockDim.x, at / blockDim.x % blockDim.y,
                                 at / blockDim.x / blockDim.y};
    }
    while (block.alive > 0) {
        const std::size_t before = block.progress;
        for (std::size_t k = 0; k < count; ++k) {
            block.current = backwards ? count - 1 - k : k;
            Fiber& fiber = block.fibers[block.current];
            if (fiber.is_done) continue;
            threadIdx = fiber.index;
            switch_to(fiber.order);
            swapcontext(&block.scheduler, &fiber.context);
        }
        if (block.progress == before) {
            std::fprintf(
                stderr,
                "emulated GPU: threads of block (%u, %u, %u) wait for each other for ever: "
                "a barrier that not all of them reach\n",
                blockIdx.x, blockIdx.y, blockIdx.z);
            std::abort();
        }
    }
}

}  // namespace

unsigned lane() { return static_cast<unsigned>(block.current) % kWarp; }

int block_reduce(int value, int kind) {
    block.sums[0] += value;
    block.sums[1] &= value;
    block.sums[2] |= value;
    const std::size_t round = block.round;
    all_before(&block.order[round % 2]);
    if (++block.arrived == block.alive)
        release_barrier();
    else
        while (block.round == round) yield();
    all_after(&block.order[round % 2]);
    threadIdx = block.fibers[block.current].index;
    return block.results[kind];
}

void block_barrier() { block_reduce(0, 0); }

void warp_exchange(unsigned mask, std::uint64_t mine, std::uint64_t (&all)[32]) {
    Warp& warp = block.warps[block.current / kWarp];
    const std::size_t first = block.current / kWarp * kWarp;
    unsigned present = 0;
    for (unsigned i = 0; i < kWarp; ++i) {
        const std::size_t at = first + i;
        const bool exists = at < std::size_t{blockDim.x} * blockDim.y * blockDim.z;
        if (exists && !block.fibers[at].is_done) present |= 1u << i;
    }
    const std::size_t round = warp.round;
    all_before(&warp.order[round / 2 % 2]);
    warp.values[lane()] = mine;
    warp.arrived |= 1u << lane();
    ++block.progress;
    while (warp.round == round && (warp.arrived & mask & present) != (mask & present)) yield();
    // Two steps: nobody may overwrite a value before all have read it.
    if (warp.round == round) {
        ++warp.round;
        warp.arrived = 0;
        ++block.progress;
    }
    all_after(&warp.order[round / 2 % 2]);
    std::memcpy(all, warp.values, sizeof warp.values);
    const std::size_t reading = warp.round;
    warp.arrived |= 1u << lane();
    while (warp.round == reading && (warp.arrived & mask & present) != (mask & present)) yield();
    if (warp.round == reading) {
        ++warp.round;
        warp.arrived = 0;
        ++block.progress;
    }
    threadIdx = block.fibers[block.current].index;
}

void run_grid(dim3 grid, dim3 threads, const std::function<void()>& kernel) {
    gridDim = grid;
    blockDim = threads;
    block.kernel = &kernel;
    block.scheduler_order = this_context();
    all_before(&block.order_of_blocks[block.number % 2]);
    bool backwards = false;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                run_block(backwards);
                backwards = !backwards;
                ++block.number;
            }
    all_after(&block.order_of_blocks[block.number % 2]);
}

}  // namespace histofast::emulation

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    return *stream = new CUstream_st{}, cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return delete stream, cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    return *event = new CUevent_st{}, cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    return event->time = std::chrono::steady_clock::now(), cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
    return cudaSuccess;
}
