// Parameters of the kernels of windows.

// A copy of windows in pieces of bytes; a piece is a whole window or a row. A block has 2 ** x threads along a piece,
// times 2 ** y over pieces, times 2 ** z over windows. It copies `span` stores of `piece_span` pieces of each window.
struct Copy {
    const u8 *source;  // Address of row 0.
    u8 *out;
    i64 pitch;       // Bytes from one row to the next.
    i64 first;       // Rows from the first row of a window to its first piece.
    i64 staged;      // Rows from window to window if windows lie one after another; 0: `rows` tells the first rows.
    i64 piece_in;    // Bytes from piece to piece.
    i64 window_out;  // Bytes in the output from window to window,
    i64 piece_out;   // from piece to piece,
    i64 store_out;   // and from store to store.
    u32 stores;      // Stores of a piece.
    u32 span;
    i32 pieces;
    i32 piece_span;
    i32 span_count;        // Blocks that share a piece.
    i32 piece_span_count;  // Blocks that share the pieces of a window.
    i32 blocks;            // 0: nothing is copied.
    i32 load;              // Bytes read at once: 1, 2, 4, 8 or 16.
    i32 store;             // Bytes written at once; the same as `load`, or 16 in `moved`.
    i32 x;
    i32 y;
    i32 z;
};

struct Window {
    // Numbers of the step, [batch] each; null: the step has none.
    const i64 *rows;
    const f32 *pace;
    const f32 *factors;
    const i64 *positions;
    // Numbers of the job, [channels] of COMPUTE; null: the job has none.
    const void *mean;
    const void *inverse;
    // Channels that are targets. Entry j is channel target_channels[j], at place target_places[j] of a row of targets.
    // Tile t has the entries from target_tiles[t] to target_tiles[t + 1].
    const i32 *target_channels;
    const i32 *target_places;
    const i32 *target_tiles;
    // The series, and the arrays that are written; null: not asked for.
    const u8 *values;
    u8 *inputs;
    u8 *targets;
    u8 *mask;
    f32 *means;
    f32 *scales;
    i64 *start;

    i64 pitch;              // Bytes from one row of values to the next.
    i64 staged;             // As in Copy.
    const u8 *futures;      // Row 0 of the values that targets are taken from.
    i64 futures_first;      // As `first` in Copy.
    i64 futures_staged;     // As `staged` in Copy.
    i64 window_out;         // Elements of inputs and mask from window to window,
    i64 step_out;           // from step to step,
    i64 channel_out;        // and from channel to channel.
    i64 target_window_out;  // The same for targets.
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
    i32 per_sample;  // PER_SAMPLE_...
    i32 missing;     // MISSING_...
    i32 running;     // 1: a window is one run of elements in the series; 2: and four may be read at once; 0: neither.
    i32 wide;        // Whether four elements of inputs and of mask may be written at once.

    // window_map: 2 ** x threads along a window, times 2 ** z over windows. A thread makes four elements at once, a
    // block 4 * span elements of each window.
    // window_cut: 2 ** x threads over channels, times 2 ** y over steps, times 2 ** z over windows. A block makes a
    // tile of channels and steps.
    i32 blocks;
    i32 x;
    i32 y;
    i32 z;
    u32 span;
    i32 span_count;
    i32 jump_steps;     // The threads of a window go on by four elements each: by so many whole steps
    i32 jump_channels;  // and channels.

    i32 tile_channels;
    i32 tile_steps;
    i32 tile_pitch;  // Elements of shared memory from step to step; 0: the tile is not held in shared memory.
    i32 tiles;
    i32 time_last;  // Whether neighbouring threads write neighbouring steps.
    i32 whole;      // Whether a tile is a whole window, written as one run.
    i32 segment;    // 2 ** segment steps share an entry of the table of last present values.
    i32 segments;
    i32 sums_at;  // Bytes from the start of a window's shared memory to its parts.
    i32 counts_at;
    i32 moments_at;
    i32 table_at;
    i32 shared;  // Bytes of shared memory of a window.

    // window_map writes targets in blocks of their own: 2 ** target_z windows of 2 ** target_r threads each.
    i32 target_blocks;
    i32 target_r;
    i32 target_z;
    i32 target_x;  // 2 ** target_x threads along the axis of targets whose neighbours lie side by side. window_cut too.
    i32 target_time_last;

    Copy moved;   // The inputs of window_copy.
    Copy labels;  // Targets, if they are copied.
};

// Returns the row at which window b begins.
INLINE i64 first_row(const i64 *rows, i64 staged, i64 first, int b) { return staged ? staged * b : rows[b] + first; }
