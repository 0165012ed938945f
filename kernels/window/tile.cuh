// A tile of a window: statistics, steps from other places, missing values carried forward.


// Channels channel0 to channel0 + channels - 1 and steps step0 to step0 + steps - 1 of one window.
struct Tile {
    const u8 *base;  // The first row of the window.
    i64 down;        // Bytes from step to step.
    COMPUTE *held;   // The tile in shared memory, or null.
    int pitch;
    const i32 *last;  // [segments, channels] the last step up to the end of a segment whose value is present, or -1.
    Moments *moments;
    int channel0, channels, step0, steps;

    INLINE COMPUTE read(int step, int channel) const {
        return Cast<COMPUTE>::of(reinterpret_cast<const IN *>(base + step * down)[channel]);
    }
    INLINE COMPUTE raw(int step, int channel) const {
        return held ? held[(step - step0) * pitch + (channel - channel0)] : read(step, channel);
    }
};

// The sum, or the least, over the threads y that share x and z. All threads of the block must call it.
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
    __syncthreads();  // The caller uses the slots again.
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
// Mean and scale of each channel in two passes, as NumPy finds them, shifted by the first value that is present.
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
    if (p.per_sample == PER_SAMPLE_STANDARDIZE) {
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
        scale = root(reduced(sum, sums, x, y, p.x, p.y, Add()) / present) + COMPUTE(EPSILON);
    }
    if (mine && !y) {
        tile.moments[x] = {about, mean, COMPUTE(1) / scale};
        const i64 at = i64(b) * p.channels + channel;
        if (p.means) p.means[at] = f32(about + mean);
        if (p.scales) p.scales[at] = f32(p.factors ? scale / factor_of(p, b) : scale);
    }
}

// Fills the table of last present steps.
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

// The value at a step, with missing values filled; `present` tells whether the value was there.
INLINE COMPUTE value_at(const Window &p, const Tile &tile, int step, int channel, bool &present) {
    COMPUTE raw = tile.raw(step, channel);
    present = !is_nan(raw);
#ifndef PLAIN
    if (!present && p.missing) {
        if (p.missing == MISSING_ZERO) return COMPUTE(0);
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

// The value of a step of the output: that of one step of the window, or interpolated between two. The loop here and
// those around its calls are not unrolled, because the compiler takes long over many copies of this.
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
                for (int n = 0; n < 4; ++n) {  // A variable index would put the arrays into memory.
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
