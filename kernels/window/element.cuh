// One number of a window: noise, normalization, the cast, and where it is written.

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

// Standard normal numbers 4n to 4n + 3 of a window, by Philox 4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3", SC'11.
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
        // An angle in half turns is exact; in radians it would be rounded, and reduced by pi.
        f32 sine, cosine;
        sincospif(f32(words[pair + 1] >> 8) * 1.1920928955078125e-7f, &sine, &cosine);
        out[pair] = radius * cosine;
        out[pair + 1] = radius * sine;
    }
}

// One element ---------------------------------------------------------------------------------------------------------

// The numbers by which a channel is normalized within its window.
struct Moments {
    COMPUTE about, mean, inverse;
};

INLINE COMPUTE normalized(const Window &p, COMPUTE value, int channel, const Moments *moments, int place) {
#ifndef PLAIN
    if (p.per_sample) {
        const Moments own = moments[place];
        value = value - own.about - own.mean;
        if (p.per_sample == PER_SAMPLE_STANDARDIZE) value *= own.inverse;
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

// The last two changes of an input, factor and noise, and the cast.
INLINE OUT finished(const Window &p, COMPUTE value, COMPUTE factor, f32 noise) {
#ifndef PLAIN
    if (p.factors) value *= factor;
    if (p.positions) value += COMPUTE(p.jitter) * COMPUTE(noise);
#endif
    return Cast<OUT>::of(value);
}

// Writes up to four numbers of a window that follow each other. The first is number e, at (step, channel); the window
// ends before number `stop`.
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

// Writes entries `from` to `to` of the channels that are targets. This is thread r of 2 ** threads threads.
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
