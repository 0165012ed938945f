// Images copied on the device as they are: fresh pixels into a store. The tables of addresses let images of one launch
// come from anywhere. See warp.md.
#include "common.cuh"

struct Transfer {
    const u64 *from;  // [count] addresses of images.
    const u64 *to;    // [count] addresses of their copies.
    u64 size;         // Bytes of an image.
    u64 share;        // Bytes that one block copies.
    i32 shares;       // Blocks of an image.
    i32 threads;      // Threads of a block.
};

template <class Unit>
INLINE void move(const u8 *from, u8 *to, u64 size, int threads) {
    constexpr int AT_ONCE = 4;  // Loads that wait for memory together.
    const Unit *source = reinterpret_cast<const Unit *>(from);
    Unit *out = reinterpret_cast<Unit *>(to);
    const u64 count = size / sizeof(Unit);
    for (u64 n = threadIdx.x; n < count; n += AT_ONCE * threads) {
        Unit held[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) {
            if (n + k * threads < count) held[k] = source[n + k * threads];
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) {
            if (n + k * threads < count) out[n + k * threads] = held[k];
        }
    }
    for (u64 n = count * sizeof(Unit) + threadIdx.x; n < size; n += threads) to[n] = from[n];
}

extern "C" __global__ void __launch_bounds__(256, 4) copy_images(const Transfer p) {
    const int image = blockIdx.x / p.shares;
    const u64 begin = u64(blockIdx.x % p.shares) * p.share;
    const u8 *from = reinterpret_cast<const u8 *>(p.from[image]) + begin;
    u8 *to = reinterpret_cast<u8 *>(p.to[image]) + begin;
    const u64 size = smaller(p.share, p.size - begin);
    const u64 both = reinterpret_cast<u64>(from) | reinterpret_cast<u64>(to);
    if (both % 16 == 0) return move<Sixteen>(from, to, size, p.threads);
    if (both % 4 == 0) return move<u32>(from, to, size, p.threads);
    move<u8>(from, to, size, p.threads);
}
