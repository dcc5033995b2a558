// Threads for the length of one call of a kernel.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace histofast::cpu {

// Threads that share the tasks of one loop after the other.
class ThreadPool {
public:
    using Task = std::function<void(std::size_t)>;

    explicit ThreadPool(std::size_t threads) {
        threads_.reserve(threads);
        for (std::size_t i = 1; i < threads; ++i) {
            try {
                threads_.emplace_back([this] { serve(); });
            } catch (const std::system_error&) {
                break;  // the machine has no more: slower, not wrong
            }
        }
    }

    ~ThreadPool() {
        {
            const std::lock_guard lock(mutex_);
            stop_ = true;
        }
        begin_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }

    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    // task(i) for all i < count, in any order; returns when all are done. Tasks must not throw.
    // A pool of one thread may be run from several threads at once.
    void run(std::size_t count, const Task& task) {
        if (threads_.empty() || count < 2) {
            for (std::size_t i = 0; i < count; ++i) task(i);
            return;
        }
        {
            const std::lock_guard lock(mutex_);
            task_ = &task;
            count_ = count;
            next_.store(0, std::memory_order_relaxed);
            ++round_;
        }
        begin_.notify_all();
        take();
        std::unique_lock lock(mutex_);
        end_.wait(lock, [this] { return busy_ == 0; });
        task_ = nullptr;
    }

private:
    void take() {
        for (std::size_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;)
            (*task_)(i);
    }

    void serve() {
        std::size_t seen = 0;
        std::unique_lock lock(mutex_);
        for (;;) {
            begin_.wait(lock, [&] { return stop_ || (task_ != nullptr && round_ != seen); });
            if (stop_) return;
            seen = round_;
            ++busy_;
            lock.unlock();
            take();
            lock.lock();
            if (--busy_ == 0) end_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable begin_, end_;
    const Task* task_ = nullptr;
    std::size_t count_ = 0, round_ = 0, busy_ = 0;
    std::atomic<std::size_t> next_{0};
    bool stop_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace histofast::cpu
