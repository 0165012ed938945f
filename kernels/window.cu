// Windows of a series: read where they lie, computed with and written in one launch.
//
// `window_map` makes each number of a window from one number of the series, in the series' order. `window_cut` does the
// rest: statistics of a window, steps from other places, missing values carried forward, and time as the last axis.
// (`window_copy` in window_copy.cu moves windows bit by bit.) A step is one launch of one of them, which writes every
// byte of all arrays of the step once.
//
// Compiled with -DIN (type of the series), -DOUT (type of the batch), -DCOMPUTE (type of the arithmetic) and
// --fmad=false, so that each sum and each product is rounded by itself. With -DPLAIN the three types are the same, and
// nothing is computed. Everything else is a parameter of the launch. See window.md for the shapes of blocks.
#include "common.cuh"
#include "codes.h"
#include "window/parameters.cuh"
#include "window/copy.cuh"
#include "window/element.cuh"
#include "window/tile.cuh"

// Number by number ----------------------------------------------------------------------------------------------------

INLINE void map_inputs(const Window &p, int block) {
    const u32 x = threadIdx.x & ((1 << p.x) - 1);
    const int z = threadIdx.x >> p.x;
    const u32 share = block % p.span_count;
    const int b = (block / p.span_count << p.z) + z;
    if (b >= p.batch || z >> p.z) return;
    if (p.start && !x && !share) p.start[b] = p.rows[b];
    const u32 count = u32(p.length) * u32(p.channels), stop = smaller(count, (share + 1) * p.span * 4);
    const u8 *base = p.values + first_row(p.rows, p.staged, 0, b) * p.pitch;
    const i64 down = p.dilation * p.pitch;
    const COMPUTE factor = factor_of(p, b);
    u32 e = (share * p.span + x) * 4;
    if (e >= stop) return;
    int step = e / u32(p.channels), channel = e % u32(p.channels);
    for (; e < stop; e += 4u << p.x) {
        IN raw[4] = {};
        if (p.running == 2 && e + 4 <= count) {
            const Four<IN> four = *reinterpret_cast<const Four<IN> *>(base + u64(e) * sizeof(IN));
#pragma unroll
            for (int k = 0; k < 4; ++k) raw[k] = four.at[k];
        } else if (p.running) {
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                if (e + k < stop) raw[k] = reinterpret_cast<const IN *>(base)[e + k];
            }
        } else {
            int s = step, c = channel;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                if (e + k < stop) raw[k] = reinterpret_cast<const IN *>(base + s * down)[c];
                if (++c == p.channels) {
                    c = 0;
                    ++s;
                }
            }
        }
        COMPUTE values[4];
        bool present[4];
        int c = channel;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            present[k] = !is_nan(raw[k]);
            values[k] = normalized(p, Cast<COMPUTE>::of(raw[k]), c, nullptr, 0);
            if (p.missing && !present[k]) values[k] = COMPUTE();
            if (++c == p.channels) c = 0;
        }
        write_four(p, b, e, stop, step, channel, values, present, factor);
        step += p.jump_steps;
        channel += p.jump_channels;
        if (channel >= p.channels) {
            channel -= p.channels;
            ++step;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 3) window_map(const Window p) {
    int block = blockIdx.x;
    if (block < p.blocks) return map_inputs(p, block);
    block -= p.blocks;
    if (block < p.target_blocks) {
        const int z = threadIdx.x >> p.target_r, b = (block << p.target_z) + z;
        if (b >= p.batch || z >> p.target_z) return;
        const int r = threadIdx.x & ((1 << p.target_r) - 1);
        return write_targets(p, b, r, p.target_r, p.target_tiles[0], p.target_tiles[1], 0, nullptr);
    }
    copy(p.labels, p.rows, nullptr, p.batch, block - p.target_blocks);
}

// Window by window ----------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(256, 3) window_cut(const Window p) {
    int block = blockIdx.x;
    if (block >= p.blocks) return copy(p.labels, p.rows, nullptr, p.batch, block - p.blocks);
    const int x = threadIdx.x & ((1 << p.x) - 1), y = threadIdx.x >> p.x & ((1 << p.y) - 1);
    const int z = threadIdx.x >> (p.x + p.y);
    const int number = block % p.tiles;
    block /= p.tiles;
    const int share = block % p.span_count;
    const int b = (block / p.span_count << p.z) + z;
    const bool alive = b < p.batch;  // The other threads still come to every barrier.
    u8 *shared = reinterpret_cast<u8 *>(pool) + z * p.shared;
    Tile tile;
    tile.base = alive ? p.values + first_row(p.rows, p.staged, 0, b) * p.pitch : nullptr;
    tile.down = p.dilation * p.pitch;
    tile.held = p.tile_pitch ? reinterpret_cast<COMPUTE *>(shared) : nullptr;
    tile.pitch = p.tile_pitch;
    tile.moments = reinterpret_cast<Moments *>(shared + p.moments_at);
    tile.channel0 = number * p.tile_channels;
    tile.channels = smaller(p.tile_channels, p.channels - tile.channel0);
    tile.step0 = share * p.tile_steps;
    tile.steps = smaller(p.tile_steps, p.length - tile.step0);
    i32 *table = reinterpret_cast<i32 *>(shared + p.table_at);
    tile.last = table;
    if (p.start && alive && !x && !y && !number && !share) p.start[b] = p.rows[b];
    if (tile.held) {
        if (alive && x < tile.channels) {
#pragma unroll 4
            for (int s = y; s < tile.steps; s += 1 << p.y) {
                tile.held[s * p.tile_pitch + x] = tile.read(tile.step0 + s, tile.channel0 + x);
            }
        }
        __syncthreads();
    }
#ifndef PLAIN
    if (p.per_sample) {
        COMPUTE *sums = reinterpret_cast<COMPUTE *>(shared + p.sums_at);
        i32 *counts = reinterpret_cast<i32 *>(shared + p.counts_at);
        find_moments(p, tile, alive, b, x, y, sums, counts);
        __syncthreads();
    }
    if (p.missing == MISSING_FORWARD) find_last(p, tile, alive, x, y, table);
#endif
    if (!alive) return;
    write_tile(p, tile, b, x, y);
    if (p.targets && !share && !p.labels.blocks) {
        write_targets(p, b, y << p.x | x, p.x + p.y, p.target_tiles[number], p.target_tiles[number + 1], tile.channel0,
                      tile.moments);
    }
}
