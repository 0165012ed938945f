// Copies of bytes, for windows and for targets that do not change.

// Reads the bytes of one store, in one load or several.
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
