// Runs launches of kernels on the host.
#include "cuda_host.h"

#include <barrier>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

thread_local Index threadIdx, blockIdx;
thread_local unsigned long long *pool;

static std::optional<std::barrier<>> together;

void __syncthreads() { together->arrive_and_wait(); }

// Runs one launch. Without `barriers`, the threads of a block run one after another, and the kernel must have none.
extern "C" void run(void (*kernel)(const void *), const void *parameters, unsigned grid, unsigned block, size_t shared,
                    int barriers) {
    if (!barriers) {
        for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) {
            for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x) kernel(parameters);
        }
        return;
    }
    together.emplace(block);
    std::unique_ptr<unsigned char[]> memory;
    auto work = [&](unsigned thread) {
        threadIdx.x = thread;
        for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) {
            if (!thread) {
                memory.reset(new unsigned char[shared]);
                std::memset(memory.get(), 0xA5, shared);
            }
            together->arrive_and_wait();
            pool = reinterpret_cast<unsigned long long *>(memory.get());
            kernel(parameters);
            together->arrive_and_wait();
        }
    };
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < block; ++thread) threads.emplace_back(work, thread);
    for (auto &thread : threads) thread.join();
}
