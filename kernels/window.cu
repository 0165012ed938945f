// Windows of a series: read where they lie, computed with and written in one launch.
//
// Three entry points. `window_copy` moves windows bit by bit; `window_map` makes each number of a window from one
// number of the series, in the series' order; `window_cut` does all the rest: statistics of a window, steps read from
// other places, missing values carried forward, and time as the last axis. A launch is one of them, and it writes every
// byte of every array of a step exactly once.
//
// Elements are -DIN (of the series), -DOUT (delivered) and -DCOMPUTE (in between; with -DPLAIN all three are the same,
// and nothing is computed): u8, i8, u16, i16, u32, i32, u64, i64, f16, bf16, f32 or f64. Without them the file holds
// `window_copy` alone. To be compiled with --fmad=false, so that sums and products round as they do one by one.
// Everything else is an option at run time, the same for a whole launch; see window.md for the shapes of blocks.
//
// Philox 4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11.

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef long long i64;
typedef float f32;
typedef double f64;

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

// Parameters ----------------------------------------------------------------------------------------------------------

// A window as pieces of bytes: whole windows, or rows. Threads are laid out in powers of two, given as logarithms: x
// along a piece, y over pieces, z over windows. A block's share of a window is `span` stores of `piece_span` pieces.
struct Copy {
    const u8 *source;  // Row 0.
    u8 *out;
    i64 pitch;       // Bytes from one row to the next.
    i64 first;       // Rows from a window's first to the first of its pieces.
    i64 staged;      // Rows from window to window, where windows lie one after another; 0: `rows` says where they are.
    i64 piece_in;    // Bytes from piece to piece.
    i64 window_out;  // Bytes from window to window, from piece to piece and from store to store in the output.
    i64 piece_out;
    i64 store_out;
    u32 stores;  // In a piece.
    u32 span;
    i32 pieces;
    i32 piece_span;
    i32 span_count;  // Shares that a piece, and that the pieces of a window are cut into.
    i32 piece_span_count;
    i32 blocks;  // 0: nothing is copied.
    i32 load;    // Bytes read, and written, at once: 1, 2, 4, 8, 16. They differ only in `moved`, where `store` is 16.
    i32 store;
    i32 x;
    i32 y;
    i32 z;
};

struct Window {
    // Of the step, [batch]; null: there is none.
    const i64 *rows;
    const f32 *pace;
    const f32 *factors;
    const i64 *positions;
    // Of the job, [channels] of COMPUTE; null: there is none.
    const void *mean;
    const void *inverse;
    // Channels that are targets: target_tiles[t] to target_tiles[t + 1] are the entries of tile t; entry j is channel
    // target_channels[j], and lies at place target_places[j] of a target's row.
    const i32 *target_channels;
    const i32 *target_places;
    const i32 *target_tiles;
    // The series, and what is written; null: not asked for.
    const u8 *values;
    u8 *inputs;
    u8 *targets;
    u8 *mask;
    f32 *means;
    f32 *scales;
    i64 *start;

    i64 pitch;          // Of values: bytes from one row to the next.
    i64 staged;         // As in Copy.
    const u8 *futures;  // Row 0 of the values that targets are taken from, and its `first` and `staged`.
    i64 futures_first;
    i64 futures_staged;
    i64 window_out;     // Elements from window to window, from step to step and from channel to channel, in inputs
    i64 step_out;       // and mask,
    i64 channel_out;
    i64 target_window_out;  // and in targets.
    i64 target_step_out;
    i64 target_place_out;
    f64 jitter;
    u64 seed;
    u32 epoch;

    i32 batch;
    i32 length;
    i32 dilation;
    i32 futures_dilation;
    i32 channels;
    i32 target_steps;
    i32 per_sample;  // 0: no, 1: center, 2: standardize.
    i32 missing;     // 0: keep, 1: zero, 2: forward.
    i32 running;     // Whether a window is one run of elements in the series (1; 2: aligned for four at once).
    i32 wide;        // Whether four elements of inputs and of mask may be written at once.

    // window_map: threads x along a window, each four elements; z over windows. A block's share is `span` times four.
    // window_cut: x over channels, y over steps, z over windows. A block's share is a tile of channels and steps.
    i32 blocks;
    i32 x;
    i32 y;
    i32 z;
    u32 span;
    i32 span_count;
    i32 jump_steps;  // window_map: what four elements for each thread x are in whole steps, and channels beyond them;
    i32 jump_channels;  // window_cut: the same, where all threads of a window share in it.

    i32 tile_channels;
    i32 tile_steps;
    i32 tile_pitch;  // Elements of shared memory from step to step; 0: the tile is read from global memory.
    i32 tiles;
    i32 time_last;  // Whether neighbouring threads write neighbouring steps.
    i32 whole;      // Whether a tile is a window and is written as one run.
    i32 segment;    // Logarithm of the steps that share an entry of the table of last present values.
    i32 segments;
    i32 sums_at;  // Where in a window's shared memory, in bytes, its parts begin.
    i32 counts_at;
    i32 moments_at;
    i32 table_at;
    i32 shared;  // Bytes a window.

    // Targets in window_map, in blocks of their own: 2 ** target_z windows of 2 ** target_r threads each.
    i32 target_blocks;
    i32 target_r;
    i32 target_z;
    i32 target_x;  // Logarithm of the threads along the axis of targets that is written in one run. For window_cut too.
    i32 target_time_last;

    Copy moved;   // window_copy: the inputs.
    Copy labels;  // Targets that are copied.
};

#ifdef __CUDACC__
extern __shared__ u64 pool[];
#define INLINE __device__ __forceinline__
#endif

template <class T>
INLINE T smaller(T a, T b) {
    return a < b ? a : b;
}

INLINE i64 first_row(const i64 *rows, i64 staged, i64 first, int b) { return staged ? staged * b : rows[b] + first; }

// Copies --------------------------------------------------------------------------------------------------------------

struct alignas(16) Sixteen {
    u32 word[4];
};

template <class Load, class Store>
struct Move {
    static INLINE Store read(const u8 *from) { return *reinterpret_cast<const Load *>(from); }
};

template <class Load>
struct Move<Load, Sixteen> {
    static INLINE Sixteen read(const u8 *from) {
        const Load *parts = reinterpret_cast<const Load *>(from);
        Sixteen all;
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            if constexpr (sizeof(Load) == 8) {
                all.word[n] = u32(parts[n / 2] >> 32 * (n % 2));
            } else {
                constexpr int each = 4 / sizeof(Load);
                u32 word = 0;
#pragma unroll
                for (int k = 0; k < each; ++k) word |= u32(parts[n * each + k]) << 8 * sizeof(Load) * k;
                all.word[n] = word;
            }
        }
        return all;
    }
};

template <>
struct Move<Sixteen, Sixteen> {
    static INLINE Sixteen read(const u8 *from) { return *reinterpret_cast<const Sixteen *>(from); }
};

template <class Load, class Store>
INLINE void move(const Copy &m, const i64 *rows, i64 *start, int batch, int block) {
    constexpr int AT_ONCE = 4;  // Loads that wait for memory together.
    const int tid = threadIdx.x;
    const u32 x = tid & ((1 << m.x) - 1);
    const int y = tid >> m.x & ((1 << m.y) - 1), z = tid >> (m.x + m.y);
    const u32 share = block % m.span_count;
    block /= m.span_count;
    const int pieces = block % m.piece_span_count;
    const int b = (block / m.piece_span_count << m.z) + z;
    if (b >= batch || z >> m.z) return;
    if (start && !x && !y && !share && !pieces) start[b] = rows[b];
    const u8 *from = m.source + first_row(rows, m.staged, m.first, b) * m.pitch;
    u8 *to = m.out + b * m.window_out;
    const u32 stop = smaller(m.stores, (share + 1) * m.span);
    const int last = smaller(m.pieces, (pieces + 1) * m.piece_span);
    for (int piece = pieces * m.piece_span + y; piece < last; piece += 1 << m.y) {
        const u8 *source = from + piece * m.piece_in;
        u8 *out = to + piece * m.piece_out;
        for (u32 n = share * m.span + x; n < stop; n += AT_ONCE << m.x) {
            Store held[AT_ONCE];
#pragma unroll
            for (int k = 0; k < AT_ONCE; ++k) {
                const u32 at = n + (k << m.x);
                if (at < stop) held[k] = Move<Load, Store>::read(source + u64(at) * sizeof(Store));
            }
#pragma unroll
            for (int k = 0; k < AT_ONCE; ++k) {
                const u32 at = n + (k << m.x);
                if (at < stop) *reinterpret_cast<Store *>(out + at * m.store_out) = held[k];
            }
        }
    }
}

INLINE void copy(const Copy &m, const i64 *rows, i64 *start, int batch, int block) {
    switch (m.store) {
        case 1: return move<u8, u8>(m, rows, start, batch, block);
        case 2: return move<u16, u16>(m, rows, start, batch, block);
        case 4: return move<u32, u32>(m, rows, start, batch, block);
        case 8: return move<u64, u64>(m, rows, start, batch, block);
        default: return move<Sixteen, Sixteen>(m, rows, start, batch, block);
    }
}

#ifndef IN
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
#else

// Numbers -------------------------------------------------------------------------------------------------------------

template <class To, class From>
INLINE To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "of one size");
    union {
        From from;
        To to;
    } both;
    both.from = from;
    return both.to;
}

#ifdef __CUDACC__
INLINE f32 f32_of_half(u16 bits) {
    f32 value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
INLINE u16 half_of_f32(f32 value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
INLINE u16 half_of_f64(f64 value) {
    u16 bits;
    asm("cvt.rn.f16.f64 %0, %1;" : "=h"(bits) : "d"(value));
    return bits;
}
#endif

INLINE u16 brain_of_f32(f32 value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#else
    const u32 bits = same_bits<u32>(value);
    if (value != value) return u16(bits >> 16 | 0x40);
    return u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // To the nearest, ties to even.
#endif
}

template <class To>
struct Cast {
    template <class From>
    static INLINE To of(From value) {
        return To(value);
    }
    static INLINE To of(f16 value) { return To(f32_of_half(value.bits)); }
    static INLINE To of(bf16 value) { return To(same_bits<f32>(u32(value.bits) << 16)); }
};

template <>
struct Cast<f16> {
    static INLINE f16 of(f16 value) { return value; }
    static INLINE f16 of(f32 value) { return {half_of_f32(value)}; }
    static INLINE f16 of(f64 value) { return {half_of_f64(value)}; }
};

template <>
struct Cast<bf16> {
    static INLINE bf16 of(bf16 value) { return value; }
    static INLINE bf16 of(f32 value) { return {brain_of_f32(value)}; }
    static INLINE bf16 of(f64 value) { return {brain_of_f32(f32(value))}; }  // As NumPy's float64, float32, bfloat16.
};

template <class T>
INLINE bool is_nan(T value) {
    return value != value;
}
INLINE bool is_nan(f16 value) { return (value.bits & 0x7fff) > 0x7c00; }
INLINE bool is_nan(bf16 value) { return (value.bits & 0x7fff) > 0x7f80; }

INLINE f32 root(f32 value) { return sqrtf(value); }
INLINE f64 root(f64 value) { return sqrt(value); }

template <class T>
struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) Four {
    T at[4];
};

// Noise ---------------------------------------------------------------------------------------------------------------

// Standard normal numbers 4n to 4n + 3 of a window.
INLINE void normal(u64 seed, u32 epoch, i64 position, u32 n, f32 (&out)[4]) {
    u32 a = n, b = epoch, c = u32(u64(position)), d = u32(u64(position) >> 32);
    u32 left = u32(seed), right = u32(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u64 one = u64(a) * 0xD2511F53u, two = u64(c) * 0xCD9E8D57u;
        a = u32(two >> 32) ^ b ^ left;
        b = u32(two);
        c = u32(one >> 32) ^ d ^ right;
        d = u32(one);
        left += 0x9E3779B9u;
        right += 0xBB67AE85u;
    }
    const u32 words[4] = {a, b, c, d};
#pragma unroll
    for (int pair = 0; pair < 4; pair += 2) {
        const f32 radius = sqrtf(-2.0f * logf(f32((words[pair] >> 8) + 1) * 5.9604644775390625e-8f));
        f32 sine, cosine;  // Of half turns: the angle needs no rounding, and no reduction by a number like pi.
        sincospif(f32(words[pair + 1] >> 8) * 1.1920928955078125e-7f, &sine, &cosine);
        out[pair] = radius * cosine;
        out[pair + 1] = radius * sine;
    }
}

// One element ---------------------------------------------------------------------------------------------------------

// What a window's channel is normalized by within the window.
struct Moments {
    COMPUTE about, mean, inverse;
};

INLINE COMPUTE normalized(const Window &p, COMPUTE value, int channel, const Moments *moments, int place) {
#ifndef PLAIN
    if (p.per_sample) {
        const Moments own = moments[place];
        value = value - own.about - own.mean;
        if (p.per_sample == 2) value *= own.inverse;
    }
    if (p.mean) value -= static_cast<const COMPUTE *>(p.mean)[channel];
    if (p.inverse) value *= static_cast<const COMPUTE *>(p.inverse)[channel];
#endif
    return value;
}

INLINE COMPUTE factor_of(const Window &p, int b) {
#ifdef PLAIN
    return COMPUTE();
#else
    return p.factors ? COMPUTE(p.factors[b]) : COMPUTE(1);
#endif
}

// The last two changes of an input, and the cast. The noise of a window's first number is number 0.
INLINE OUT finished(const Window &p, COMPUTE value, COMPUTE factor, f32 noise) {
#ifndef PLAIN
    if (p.factors) value *= factor;
    if (p.positions) value += COMPUTE(p.jitter) * COMPUTE(noise);
#endif
    return Cast<OUT>::of(value);
}

// Four numbers of a window that follow each other, from number e on, which is (step, channel); `stop` numbers in all.
INLINE void write_four(const Window &p, int b, u32 e, u32 stop, int step, int channel, const COMPUTE (&values)[4],
                       const bool (&present)[4], COMPUTE factor) {
    f32 noise[4] = {0, 0, 0, 0};
#ifndef PLAIN
    if (p.positions) normal(p.seed, p.epoch, p.positions[b], e / 4, noise);
#endif
    if (p.wide) {
        const i64 at = b * p.window_out + e;
        Four<OUT> out;
        u32 flags = 0;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            out.at[k] = finished(p, values[k], factor, noise[k]);
            flags |= u32(present[k]) << 8 * k;
        }
        *reinterpret_cast<Four<OUT> *>(p.inputs + at * sizeof(OUT)) = out;
        if (p.mask) *reinterpret_cast<u32 *>(p.mask + at) = flags;
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        if (e + k < stop) {
            const i64 at = b * p.window_out + step * p.step_out + channel * p.channel_out;
            reinterpret_cast<OUT *>(p.inputs)[at] = finished(p, values[k], factor, noise[k]);
            if (p.mask) p.mask[at] = present[k];
        }
        if (++channel == p.channels) {
            channel = 0;
            ++step;
        }
    }
}

// Entries `from` to `to` of the channels that are targets, by 2 ** threads threads, of which this is number r.
INLINE void write_targets(const Window &p, int b, int r, int threads, int from, int to, int channel0,
                          const Moments *moments) {
    const int wide = 1 << p.target_x, high = 1 << threads >> p.target_x;
    const int x = r & (wide - 1), y = r >> p.target_x;
    const u8 *base = p.futures + first_row(p.rows, p.futures_staged, p.futures_first, b) * p.pitch;
    [[maybe_unused]] const COMPUTE factor = factor_of(p, b);
    OUT *out = reinterpret_cast<OUT *>(p.targets) + b * p.target_window_out;
    for (int j = from + (p.target_time_last ? y : x); j < to; j += p.target_time_last ? high : wide) {
        const int channel = p.target_channels[j];
        const i64 place = p.target_places[j] * p.target_place_out;
        for (int h = p.target_time_last ? x : y; h < p.target_steps; h += p.target_time_last ? wide : high) {
            const IN raw = reinterpret_cast<const IN *>(base + i64(h) * p.futures_dilation * p.pitch)[channel];
            COMPUTE value = normalized(p, Cast<COMPUTE>::of(raw), channel, moments, channel - channel0);
#ifndef PLAIN
            if (p.factors) value *= factor;
#endif
            out[place + h * p.target_step_out] = Cast<OUT>::of(value);
        }
    }
}

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

// A tile of one window: channels channel0 to channel0 + channels - 1, steps step0 to step0 + steps - 1.
struct Tile {
    const u8 *base;  // The window's first row.
    i64 down;        // Bytes from step to step.
    COMPUTE *held;   // In shared memory, or null.
    int pitch;
    const i32 *last;  // For each segment and channel, the last step up to its end whose value is present, or -1.
    Moments *moments;
    int channel0, channels, step0, steps;

    INLINE COMPUTE read(int step, int channel) const {
        return Cast<COMPUTE>::of(reinterpret_cast<const IN *>(base + step * down)[channel]);
    }
    INLINE COMPUTE raw(int step, int channel) const {
        return held ? held[(step - step0) * pitch + (channel - channel0)] : read(step, channel);
    }
};

// Sum, or least, over the threads y that share x and z; every thread of the block has to come along.
template <class T, class Join>
INLINE T reduced(T mine, T *slots, int x, int y, int log_x, int log_y, Join join) {
    T *slot = slots + (y << log_x | x);
    *slot = mine;
    __syncthreads();
    for (int half = log_y ? 1 << (log_y - 1) : 0; half; half >>= 1) {
        if (y < half) *slot = join(*slot, slot[half << log_x]);
        __syncthreads();
    }
    const T all = slots[x];
    __syncthreads();  // The slots will be used again.
    return all;
}

struct Add {
    template <class T>
    INLINE T operator()(T a, T b) const {
        return a + b;
    }
};
struct Least {
    INLINE i32 operator()(i32 a, i32 b) const { return a < b ? a : b; }
};

#ifndef PLAIN
// As NumPy does it in two passes, shifted by the first value that is there.
INLINE void find_moments(const Window &p, const Tile &tile, bool alive, int b, int x, int y, COMPUTE *sums,
                         i32 *counts) {
    const bool mine = alive && x < tile.channels;
    const int channel = tile.channel0 + x, stride = 1 << p.y;
    i32 first = p.length;
    if (mine) {
        for (int s = y; s < p.length; s += stride) {
            if (!is_nan(tile.raw(s, channel))) {
                first = s;
                break;
            }
        }
    }
    first = reduced(first, counts, x, y, p.x, p.y, Least());
    const COMPUTE about = mine && first < p.length ? tile.raw(first, channel) : COMPUTE(0);
    COMPUTE sum = 0;
    i32 count = 0;
    if (mine) {
        for (int s = y; s < p.length; s += stride) {
            const COMPUTE value = tile.raw(s, channel);
            if (!is_nan(value)) {
                sum += value - about;
                ++count;
            }
        }
    }
    count = reduced(count, counts, x, y, p.x, p.y, Add());
    const COMPUTE present = COMPUTE(count > 1 ? count : 1);
    const COMPUTE mean = reduced(sum, sums, x, y, p.x, p.y, Add()) / present;
    COMPUTE scale = 1;
    if (p.per_sample == 2) {
        sum = 0;
        if (mine) {
            for (int s = y; s < p.length; s += stride) {
                const COMPUTE value = tile.raw(s, channel);
                if (!is_nan(value)) {
                    const COMPUTE apart = value - about - mean;
                    sum += apart * apart;
                }
            }
        }
        scale = root(reduced(sum, sums, x, y, p.x, p.y, Add()) / present) + COMPUTE(1e-6);
    }
    if (mine && !y) {
        tile.moments[x] = {about, mean, COMPUTE(1) / scale};
        const i64 at = i64(b) * p.channels + channel;
        if (p.means) p.means[at] = f32(about + mean);
        if (p.scales) p.scales[at] = f32(p.factors ? scale / factor_of(p, b) : scale);
    }
}

INLINE void find_last(const Window &p, const Tile &tile, bool alive, int x, int y, i32 *table) {
    const bool mine = alive && x < tile.channels;
    const int channel = tile.channel0 + x;
    if (mine) {
        for (int n = y; n < p.segments; n += 1 << p.y) {
            const int begin = n << p.segment;
            int s = smaller(p.length - begin, 1 << p.segment) + begin - 1;
            while (s >= begin && is_nan(tile.raw(s, channel))) --s;
            table[n * p.tile_channels + x] = s >= begin ? s : -1;
        }
    }
    __syncthreads();
    if (mine && !y) {
        i32 last = -1;
        for (int n = 0; n < p.segments; ++n) {
            const i32 found = table[n * p.tile_channels + x];
            last = found < 0 ? last : found;
            table[n * p.tile_channels + x] = last;
        }
    }
    __syncthreads();
}
#endif

// The value at a step, with what is missing filled; `present` tells whether it was there.
INLINE COMPUTE value_at(const Window &p, const Tile &tile, int step, int channel, bool &present) {
    COMPUTE raw = tile.raw(step, channel);
    present = !is_nan(raw);
#ifndef PLAIN
    if (!present && p.missing) {
        if (p.missing == 1) return COMPUTE(0);
        const int segment = step >> p.segment, begin = segment << p.segment;
        do {
            --step;
        } while (step >= begin && is_nan(tile.raw(step, channel)));
        if (step < begin) step = segment ? tile.last[(segment - 1) * p.tile_channels + channel - tile.channel0] : -1;
        if (step < 0) return COMPUTE(0);
        raw = tile.raw(step, channel);
    }
#endif
    return normalized(p, raw, channel, tile.moments, channel - tile.channel0);
}

// The value that belongs at a step of the output: the one there, or between two of them. As loops that are not
// unrolled, here and where this is called, since the compiler would take long over many copies of it.
INLINE COMPUTE timed(const Window &p, const Tile &tile, int b, int step, int channel, bool &present) {
#ifndef PLAIN
    f32 part = 0;
    if (p.pace) {
        const f32 middle = f32(f64(p.length - 1) / 2), end = f32(p.length - 1);
        f32 place = middle + (f32(step) - middle) * p.pace[b];
        place = place < 0 ? 0 : place > end ? end : place;
        step = smaller(int(floorf(place)), p.length - 1);
        part = place - f32(step);
    }
    COMPUTE value = 0;
    present = true;
#pragma unroll 1
    for (int side = 0; side <= (part > 0); ++side) {
        bool there;
        const COMPUTE found = value_at(p, tile, smaller(step + side, p.length - 1), channel, there);
        value = side ? value + (found - value) * COMPUTE(part) : found;
        present = present && there;
    }
    return value;
#else
    return value_at(p, tile, step, channel, present);
#endif
}

INLINE void write_one(const Window &p, const Tile &tile, int b, int step, int channel, COMPUTE factor) {
    bool present;
    const COMPUTE value = timed(p, tile, b, step, channel, present);
    f32 noise = 0;
#ifndef PLAIN
    if (p.positions) {
        const u32 e = u32(step) * u32(p.channels) + channel;
        f32 four[4];
        normal(p.seed, p.epoch, p.positions[b], e / 4, four);
        noise = e & 2 ? (e & 1 ? four[3] : four[2]) : (e & 1 ? four[1] : four[0]);
    }
#endif
    const i64 at = b * p.window_out + step * p.step_out + channel * p.channel_out;
    reinterpret_cast<OUT *>(p.inputs)[at] = finished(p, value, factor, noise);
    if (p.mask) p.mask[at] = present;
}

INLINE void write_tile(const Window &p, const Tile &tile, int b, int x, int y) {
    const COMPUTE factor = factor_of(p, b);
    const int r = y << p.x | x, threads = p.x + p.y;
    if (p.whole) {
        const u32 count = u32(p.length) * u32(p.channels);
        u32 e = 4u * r;
        if (e >= count) return;
        int step = e / u32(p.channels), channel = e % u32(p.channels);
        for (; e < count; e += 4u << threads) {
            COMPUTE values[4] = {};
            bool present[4] = {};
            int s = step, c = channel;
#pragma unroll 1
            for (int k = 0; k < 4 && e + k < count; ++k) {
                bool there;
                const COMPUTE value = timed(p, tile, b, s, c, there);
#pragma unroll
                for (int n = 0; n < 4; ++n) {  // An index that varies would put the arrays into memory.
                    if (n == k) {
                        values[n] = value;
                        present[n] = there;
                    }
                }
                if (++c == p.channels) {
                    c = 0;
                    ++s;
                }
            }
            write_four(p, b, e, count, step, channel, values, present, factor);
            step += p.jump_steps;
            channel += p.jump_channels;
            if (channel >= p.channels) {
                channel -= p.channels;
                ++step;
            }
        }
        return;
    }
    // Neighbouring threads write neighbours: along channels, or along steps.
    const int wide = p.time_last ? smaller(threads, 5) : p.x, high = threads - wide;
    const int inner = p.time_last ? tile.steps : tile.channels, outer = p.time_last ? tile.channels : tile.steps;
    for (int o = r >> wide; o < outer; o += 1 << high) {
        for (int i = r & ((1 << wide) - 1); i < inner; i += 1 << wide) {
            write_one(p, tile, b, tile.step0 + (p.time_last ? i : o), tile.channel0 + (p.time_last ? o : i), factor);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 3) window_cut(const Window p) {
    int block = blockIdx.x;
    if (block >= p.blocks) return copy(p.labels, p.rows, nullptr, p.batch, block - p.blocks);
    const int x = threadIdx.x & ((1 << p.x) - 1), y = threadIdx.x >> p.x & ((1 << p.y) - 1);
    const int z = threadIdx.x >> (p.x + p.y);
    const int number = block % p.tiles;
    block /= p.tiles;
    const int share = block % p.span_count;
    const int b = (block / p.span_count << p.z) + z;
    const bool alive = b < p.batch;  // The others have to come to every barrier too.
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
    if (p.missing == 2) find_last(p, tile, alive, x, y, table);
#endif
    if (!alive) return;
    write_tile(p, tile, b, x, y);
    if (p.targets && !share && !p.labels.blocks) {
        write_targets(p, b, y << p.x | x, p.x + p.y, p.target_tiles[number], p.target_tiles[number + 1], tile.channel0,
                      tile.moments);
    }
}
#endif
