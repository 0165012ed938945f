// Images: warped, flipped, recoloured, normalized, cast and laid out, a batch in one launch.
//
// Three entry points. `warp_pixels` makes each pixel by itself; `warp_images` is for what looks at a whole image first,
// its least and greatest level, its mean and standard deviation: a block makes an image, and reads it again in place of
// keeping it. `copy_images` moves images as they are. Where an image lies is an address in a table, so that images of
// one batch may come from anywhere.
//
// Elements are -DIN (of the images, u8 or f32) and -DOUT (delivered: f32, f16, bf16 or u8), and -DCHANNELS is how many
// an image has, or 0: the launch says it. Without them the file holds `copy_images` alone. To be compiled with
// --fmad=false: a position is SciPy's bit by bit only where each product and sum is rounded by itself. See warp.md.
//
// Positions and borders are those of SciPy's `ndimage.affine_transform`.

typedef unsigned char u8;
typedef unsigned short u16;
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

struct Warp {
    // Of the step, [batch]; null: there is none.
    const u64 *images;      // Where the levels of an image begin, [height, width, channels] of IN.
    const f64 *placements;  // [6]: x and y of an output pixel (row, column) are, in turn, [1] row + [0] column + [2].
    const f32 *shifts;
    const f32 *factors;
    u8 *out;

    i32 batch;
    i32 height;
    i32 width;
    i32 channels;
    i32 order;   // 0: the nearest pixel, 1: between four.
    i32 border;  // 0: nearest, 1: constant, 2: reflect, 3: wrap.
    f32 fill;
    f32 rescale;     // 0: none.
    i32 per_sample;  // 0: no, 1: center, 2: standardize.
    f32 epsilon;
    i32 centers;  // Whether `mean` is subtracted, and whether `std` is divided by.
    i32 scales;
    f32 mean[4];  // Of channels; the last is that of all that follow.
    f32 std[4];
    i32 planar;  // Whether an output is [channels, height, width].
    i32 staged;  // Whether a tile is put together in shared memory, and written from there as one run.

    // A tile is `rows` whole rows of an image, or `columns` columns of one row: in any case one run of pixels. Threads
    // are laid out in powers of two, given as logarithms: x along columns, y over rows.
    i32 rows;
    i32 columns;
    i32 across;  // Tiles side by side,
    i32 tiles;   // and of an image.
    i32 x;
    i32 y;
};

struct Transfer {
    const u64 *from;  // [count]
    const u64 *to;
    u64 size;   // Bytes of an image, and of a block's share.
    u64 share;
    i32 shares;
    i32 threads;  // Of a block.
};

#ifdef __CUDACC__
extern __shared__ __align__(16) u64 pool[];
#define INLINE __device__ __forceinline__
#endif

template <class T>
INLINE T smaller(T a, T b) {
    return a < b ? a : b;
}
template <class T>
INLINE T larger(T a, T b) {
    return a > b ? a : b;
}

struct alignas(16) Sixteen {
    u32 word[4];
};

#ifndef IN

// Copies --------------------------------------------------------------------------------------------------------------

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

#else

// Numbers -------------------------------------------------------------------------------------------------------------

#ifdef __CUDACC__
INLINE i32 floor_of(f64 value) { return __double2int_rd(value); }  // The nearest there is, of what i32 does not hold.
INLINE u16 half_of_f32(f32 value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

INLINE u16 brain_of_f32(f32 value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#else
    union {
        f32 from;
        u32 to;
    } both;
    both.from = value;
    const u32 bits = both.to;
    if (value != value) return u16(bits >> 16 | 0x40);
    return u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // To the nearest, ties to even.
#endif
}

template <class To>
INLINE To cast(f32 value);
template <>
INLINE f32 cast<f32>(f32 value) {
    return value;
}
template <>
INLINE f16 cast<f16>(f32 value) {
    return {half_of_f32(value)};
}
template <>
INLINE bf16 cast<bf16>(f32 value) {
    return {brain_of_f32(value)};
}
template <>
INLINE u8 cast<u8>(f32 value) {
    return u8(smaller(larger(rintf(value), 0.0f), 255.0f));
}

// Positions -----------------------------------------------------------------------------------------------------------

enum { NEAREST, CONSTANT, REFLECT, WRAP };

// A position beyond the centres of the outermost of n pixels, brought back: SciPy's `map_coordinate`.
INLINE f64 brought_back(f64 at, i32 n, i32 border) {
    const bool before = at < 0;
    if (border == NEAREST) return before ? 0 : n - 1;
    if (n == 1) return 0;
    if (border == REFLECT) {
        const f64 period = 2.0 * n;
        if (before) {
            if (at < -period) at += period * f64(i64(-at / period));
            return at < -n ? at + period : -at - 1;
        }
        at -= period * f64(i64(at / period));
        return at >= n ? period - at - 1 : at;
    }
    const f64 period = n - 1;
    return before ? at + period * f64(i64(-at / period) + 1) : at - period * f64(i64(at / period));
}

// The pixels to both sides of a position on an axis, as offsets, and how far it is from the first to the second.
struct Between {
    i32 first, second;
    f32 part;
};

// Whether a position of an axis of n pixels, `pitch` elements apart, has a level: always, but for a constant border.
INLINE bool find(const Warp &p, f64 at, i32 n, i32 pitch, Between &found) {
    bool inside = true;
    if (at < 0 || at > n - 1) {
        inside = p.border != CONSTANT;
        at = inside ? brought_back(at, n, p.border) : 0;
    }
    const i32 whole = larger(-1, smaller(n, floor_of(p.order ? at : at + 0.5)));
    found.part = f32(at - whole);
    found.first = larger(0, smaller(n - 1, whole)) * pitch;
    found.second = smaller(n - 1, whole + 1) * pitch;
    return inside;
}

// Pixels --------------------------------------------------------------------------------------------------------------

#if CHANNELS
#define TOGETHER CHANNELS  // Channels that are read together.
#else
#define TOGETHER 1
#endif

INLINE int channels_of(const Warp &p) { return CHANNELS ? CHANNELS : p.channels; }

// A part of an image, for all threads of a block.
struct Tile {
    int row, row_stop, column, column_stop;

    INLINE Tile(const Warp &p, int number) {
        row = number / p.across * p.rows;
        row_stop = smaller(row + p.rows, p.height);
        column = number % p.across * p.columns;
        column_stop = smaller(column + p.columns, p.width);
    }
};

// Calls use(row, column, channel, level) for each number of a warped tile; this thread's share of them.
template <class Use>
INLINE void warp(const Warp &p, int b, const Tile &tile, Use use) {
    const int channels = channels_of(p), x = threadIdx.x & ((1 << p.x) - 1), y = threadIdx.x >> p.x;
    const int pitch = p.width * channels;
    const IN *levels = reinterpret_cast<const IN *>(p.images[b]);
    f64 place[6] = {1, 0, 0, 0, 1, 0};
    if (p.placements) {
#pragma unroll
        for (int k = 0; k < 6; ++k) place[k] = p.placements[6 * i64(b) + k];
    }
    const bool level = place[3] == 0;  // A row of the output is read along one line of the image.
    const bool linear = p.order && p.placements;
    for (int row = tile.row + y; row < tile.row_stop; row += 1 << p.y) {
        Between down = {row * pitch, 0, 0}, across;
        bool inside_down = true, fresh = p.placements != nullptr;
        for (int column = tile.column + x; column < tile.column_stop; column += 1 << p.x) {
            bool inside = true;
            if (p.placements) {
                if (fresh || !level) {
                    const f64 at = place[4] * row + place[3] * column + place[5];
                    inside_down = find(p, at, p.height, pitch, down);
                    fresh = false;
                }
                const f64 at = place[1] * row + place[0] * column + place[2];
                inside = find(p, at, p.width, channels, across) && inside_down;
            } else {
                across = {column * channels, 0, 0};
            }
            for (int c = 0; c < channels; c += TOGETHER) {
                f32 held[TOGETHER];  // All are read before any is used: a use writes, and no read moves past a write.
                const IN *from = levels + c;
                if (linear) {
#pragma unroll
                    for (int k = 0; k < TOGETHER; ++k) {
                        const f32 above_left = from[down.first + across.first + k];
                        const f32 below_left = from[down.second + across.first + k];
                        const f32 above_right = from[down.first + across.second + k];
                        const f32 below_right = from[down.second + across.second + k];
                        const f32 left = above_left + (below_left - above_left) * down.part;
                        const f32 right = above_right + (below_right - above_right) * down.part;
                        held[k] = left + (right - left) * across.part;
                    }
                } else {
#pragma unroll
                    for (int k = 0; k < TOGETHER; ++k) held[k] = from[down.first + across.first + k];
                }
#pragma unroll
                for (int k = 0; k < TOGETHER; ++k) use(row, column, c + k, inside ? held[k] : p.fill);
            }
        }
    }
}

// What an image is recoloured and normalized by.
struct Own {
    f32 shift = 0, low = 0, high = 0, factor = 0, center = 0, spread = 0;
};

INLINE f32 recoloured(const Warp &p, const Own &own, f32 value) {
    if (p.shifts) value = smaller(larger(value + own.shift, own.low), own.high);
    if (p.factors) value = floorf(smaller(larger(truncf(value) * own.factor, 0.0f), 255.0f));
    if (p.rescale) value *= p.rescale;
    return value;
}

INLINE OUT finished(const Warp &p, const Own &own, int channel, f32 value) {
    value = recoloured(p, own, value);
    if (p.per_sample) value -= own.center;
    if (p.per_sample == 2) value /= own.spread;
    const int which = CHANNELS ? channel : smaller(channel, 3);
    if (p.centers) value -= p.mean[which];
    if (p.scales) value /= p.std[which];
    return cast<OUT>(value);
}

// A tile of the output. Where it is staged, every thread of the block has to come along.
INLINE void write(const Warp &p, int b, const Tile &tile, const Own &own) {
    const int channels = channels_of(p), pixels = p.height * p.width, columns = tile.column_stop - tile.column;
    const int first = tile.row * p.width + tile.column;
    OUT *out = reinterpret_cast<OUT *>(p.out) + i64(b) * pixels * channels + first * (p.planar ? 1 : channels);
    // In shared memory the tile is as far from a multiple of 16 bytes as it is in the output.
    constexpr int WIDE = 16 / sizeof(OUT);
    const int beyond = int(reinterpret_cast<u64>(out) % 16 / sizeof(OUT));
    OUT *held = reinterpret_cast<OUT *>(pool) + beyond;
    OUT *to = p.staged ? held : out;
    const int column_out = p.planar ? 1 : channels, channel_out = p.planar ? pixels : 1;
    const int row_out = (p.staged ? columns : p.width) * column_out;
    warp(p, b, tile, [&](int row, int column, int channel, f32 value) {
        const int at = (row - tile.row) * row_out + (column - tile.column) * column_out + channel * channel_out;
        to[at] = finished(p, own, channel, value);
    });
    if (!p.staged) return;
    __syncthreads();
    const int threads = 1 << (p.x + p.y), count = (tile.row_stop - tile.row) * columns * channels;
    const int head = smaller(count, beyond ? WIDE - beyond : 0), tail = head + (count - head) / WIDE * WIDE;
    for (int n = threadIdx.x; n < head; n += threads) out[n] = held[n];
    for (int n = head + threadIdx.x * WIDE; n < tail; n += threads * WIDE) {
        *reinterpret_cast<Sixteen *>(out + n) = *reinterpret_cast<const Sixteen *>(held + n);
    }
    for (int n = tail + threadIdx.x; n < count; n += threads) out[n] = held[n];
}

INLINE Own own_of(const Warp &p, int b) {
    Own own;
    if (p.shifts) own.shift = p.shifts[b];
    if (p.factors) own.factor = p.factors[b];
    return own;
}

extern "C" __global__ void __launch_bounds__(256, CHANNELS ? 3 : 2) warp_pixels(const Warp p) {
    const int b = blockIdx.x / p.tiles;
    write(p, b, Tile(p, blockIdx.x % p.tiles), own_of(p, b));
}

// Image by image ------------------------------------------------------------------------------------------------------

// Sums, or the least, of two numbers over all threads of the block.
INLINE void join(f64 &one, f64 &two, bool least, int threads) {
    f64 *ones = reinterpret_cast<f64 *>(pool), *twos = ones + threads;
    const int thread = threadIdx.x;
    ones[thread] = one;
    twos[thread] = two;
    __syncthreads();
    for (int half = threads / 2; half; half /= 2) {
        if (thread < half) {
            const f64 a = ones[thread + half], b = twos[thread + half];
            ones[thread] = least ? smaller(ones[thread], a) : ones[thread] + a;
            twos[thread] = least ? smaller(twos[thread], b) : twos[thread] + b;
        }
        __syncthreads();
    }
    one = ones[0];
    two = twos[0];
    __syncthreads();  // The memory will be used again.
}

extern "C" __global__ void __launch_bounds__(512, 1) warp_images(const Warp p) {
    enum { EXTREMES, FIRST, SUMS, END };
    const int b = blockIdx.x;
    Own own = own_of(p, b);
    f64 about = 0;
    // A loop, so that there is one copy of the warp for all passes.
#pragma unroll 1
    for (int pass = p.shifts ? EXTREMES : FIRST; pass < (p.per_sample ? END : FIRST); ++pass) {
        f64 one = pass == EXTREMES ? 1e300 : 0, two = one;
        const int tiles = pass == FIRST ? 1 : p.tiles;
        for (int number = 0; number < tiles; ++number) {
            Tile tile(p, number);
            if (pass == FIRST) tile.row_stop = tile.column_stop = 1;
            warp(p, b, tile, [&](int, int, int channel, f32 value) {
                if (pass == EXTREMES) {
                    one = smaller(one, f64(value));
                    two = smaller(two, -f64(value));
                } else if (pass == FIRST) {
                    if (!channel) one = recoloured(p, own, value);
                } else {
                    const f64 away = recoloured(p, own, value) - about;
                    one += away;
                    two += away * away;
                }
            });
        }
        join(one, two, pass == EXTREMES, 1 << (p.x + p.y));
        if (pass == EXTREMES) {
            own.low = f32(one);
            own.high = f32(-two);
        } else if (pass == FIRST) {
            about = one;  // Sums are taken from the first number on: no more cancels in them than what they hold.
        } else {
            const f64 count = f64(p.height) * p.width * channels_of(p), away = one / count;
            own.center = f32(about + away);
            own.spread = f32(sqrt(larger(two / count - away * away, 0.0))) + p.epsilon;
        }
    }
    for (int number = 0; number < p.tiles; ++number) {
        write(p, b, Tile(p, number), own);
        if (p.staged) __syncthreads();
    }
}
#endif
