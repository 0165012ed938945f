// Windows of a series, moved bit by bit. See window.md.
#include "common.cuh"
#include "window/parameters.cuh"
#include "window/copy.cuh"

extern "C" __global__ void __launch_bounds__(256, 3) window_copy(const Window p) {
    const int block = blockIdx.x;
    if (block >= p.moved.blocks) return copy(p.labels, p.rows, nullptr, p.batch, block - p.moved.blocks);
    if (p.moved.load == p.moved.store) return copy(p.moved, p.rows, p.start, p.batch, block);
    switch (p.moved.load) {
        case 1: return move<u8, Sixteen>(p.moved, p.rows, p.start, p.batch, block);
        case 2: return move<u16, Sixteen>(p.moved, p.rows, p.start, p.batch, block);
        case 4: return move<u32, Sixteen>(p.moved, p.rows, p.start, p.batch, block);
        default: return move<u64, Sixteen>(p.moved, p.rows, p.start, p.batch, block);
    }
}
