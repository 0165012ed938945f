// Images: warped, flipped, recoloured, normalized, cast and laid out, a batch in one launch.
//
// `warp_pixels` makes each pixel by itself. `warp_images` first looks at the whole image, for its least and greatest
// level, its mean and its standard deviation: one block makes an image, and reads it again for each pass. An image is
// given by its address, so that images of one batch may come from anywhere.
//
// Compiled with -DIN (type of the images: u8 or f32), -DOUT (type of the batch: f32, f16, bf16 or u8), -DCHANNELS
// (channels of an image; 0: `channels` of the launch) and --fmad=false: a position equals SciPy's bit by bit only if
// each product and each sum is rounded by itself. See warp.md.
//
// Positions and borders are those of SciPy's `ndimage.affine_transform`.
#include "common.cuh"
#include "codes.h"

// Parameters ----------------------------------------------------------------------------------------------------------

struct Warp {
    // Numbers of the step, [batch] each; null: the step has none.
    const u64 *images;      // Address of each image, [height, width, channels] of IN.
    const f64 *placements;  // [6]: an output pixel (row, column) is read at x = [1] row + [0] column + [2],
                            // y = [4] row + [3] column + [5].
    const f32 *shifts;      // Levels added to all channels.
    const f32 *factors;     // Brightness.
    u8 *out;

    i32 batch;
    i32 height;
    i32 width;
    i32 channels;
    i32 order;       // 0: the nearest pixel; 1: linear between four pixels.
    i32 border;      // BORDER_...
    f32 fill;        // Level outside, for BORDER_CONSTANT.
    f32 rescale;     // 0: none.
    i32 per_sample;  // PER_SAMPLE_...
    i32 centers;     // Whether `mean` is subtracted.
    i32 scales;      // Whether `std` is divided by.
    f32 mean[4];     // One a channel; the last number holds for all channels that follow.
    f32 std[4];
    i32 planar;  // Whether the output is [channels, height, width].
    i32 staged;  // Whether a tile is put together in shared memory and written from there as one run.

    // A tile is `rows` whole rows of an image, or `columns` columns of one row: one run of pixels. A block has
    // 2 ** x threads along columns times 2 ** y threads over rows.
    i32 rows;
    i32 columns;
    i32 across;  // Tiles side by side.
    i32 tiles;   // Tiles of an image.
    i32 x;
    i32 y;
};

#ifdef __CUDACC__
// The nearest i32 where the number is beyond all of them.
INLINE i32 floor_of(f64 value) { return __double2int_rd(value); }
#endif

// A level of the output: of whole numbers the nearest one, within their range.
template <class To>
INLINE To rounded(f32 value) {
    return Cast<To>::of(value);
}
template <>
INLINE u8 rounded<u8>(f32 value) {
    return u8(smaller(larger(rintf(value), 0.0f), 255.0f));
}

// Positions -----------------------------------------------------------------------------------------------------------

// A position beyond the centres of the outermost of n pixels, brought back inside: SciPy's `map_coordinate`.
INLINE f64 brought_back(f64 at, i32 n, i32 border) {
    const bool before = at < 0;
    if (border == BORDER_NEAREST) return before ? 0 : n - 1;
    if (n == 1) return 0;
    if (border == BORDER_REFLECT) {
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

// The two pixels beside a position on an axis, as offsets, and the share of the second.
struct Between {
    i32 first, second;
    f32 part;
};

// Finds the two pixels beside a position on an axis of n pixels, `pitch` elements apart. Returns false if the level
// there is the fill.
INLINE bool find(const Warp &p, f64 at, i32 n, i32 pitch, Between &found) {
    bool inside = true;
    if (at < 0 || at > n - 1) {
        inside = p.border != BORDER_CONSTANT;
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
#define TOGETHER CHANNELS  // Channels read at once.
#else
#define TOGETHER 1
#endif

INLINE int channels_of(const Warp &p) { return CHANNELS ? CHANNELS : p.channels; }

// The part of an image that a block makes at once.
struct Tile {
    int row, row_stop, column, column_stop;

    INLINE Tile(const Warp &p, int number) {
        row = number / p.across * p.rows;
        row_stop = smaller(row + p.rows, p.height);
        column = number % p.across * p.columns;
        column_stop = smaller(column + p.columns, p.width);
    }
};

// Calls use(row, column, channel, level) for this thread's numbers of a warped tile.
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
    const bool level = place[3] == 0;  // y is the same for a whole row of the output.
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
                // All are read before any is used, because the compiler moves no read past the write of a use.
                f32 held[TOGETHER];
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

// The numbers that one image is recoloured and normalized by.
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
    if (p.per_sample == PER_SAMPLE_STANDARDIZE) value /= own.spread;
    const int which = CHANNELS ? channel : smaller(channel, 3);
    if (p.centers) value -= p.mean[which];
    if (p.scales) value /= p.std[which];
    return rounded<OUT>(value);
}

// Writes a tile of the output. All threads of the block must call it if the tile is staged.
INLINE void write(const Warp &p, int b, const Tile &tile, const Own &own) {
    const int channels = channels_of(p), pixels = p.height * p.width, columns = tile.column_stop - tile.column;
    const int first = tile.row * p.width + tile.column;
    OUT *out = reinterpret_cast<OUT *>(p.out) + i64(b) * pixels * channels + first * (p.planar ? 1 : channels);
    // In shared memory the tile is as far from a multiple of 16 bytes as in the output, so both take wide accesses.
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

// The sums, or the least, of two numbers over all threads of the block.
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
    __syncthreads();  // The caller uses the memory again.
}

extern "C" __global__ void __launch_bounds__(512, 1) warp_images(const Warp p) {
    enum { EXTREMES, FIRST, SUMS, END };
    const int b = blockIdx.x;
    Own own = own_of(p, b);
    f64 about = 0;
    // A loop that is not unrolled: one copy of the warp serves all passes.
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
            about = one;  // Sums of differences from the first number lose fewer digits than sums of the numbers.
        } else {
            const f64 count = f64(p.height) * p.width * channels_of(p), away = one / count;
            own.center = f32(about + away);
            own.spread = f32(sqrt(larger(two / count - away * away, 0.0))) + f32(EPSILON);
        }
    }
    for (int number = 0; number < p.tiles; ++number) {
        write(p, b, Tile(p, number), own);
        if (p.staged) __syncthreads();
    }
}
