"""The kernel of a job, how it is compiled, and the structures of its parameters."""

from __future__ import annotations

import numpy as np

from gpuload.core.codes import TYPES
from gpuload.gpu.launch import Kernel, fields_of, options
from gpuload.windows.job import WindowJob

# The structures `Copy` and `Window` of the sources.
COPY = np.dtype(
    fields_of(
        "u8 source out",
        "i8 pitch first staged piece_in window_out piece_out store_out",
        "u4 stores span",
        "i4 pieces piece_span span_count piece_span_count blocks load store x y z",
    ),
    align=True,
)

WINDOW = np.dtype(
    [
        *fields_of(
            "u8 rows pace factors positions mean inverse target_channels target_places target_tiles",
            "u8 values inputs targets mask means scales start",
            "i8 pitch staged",
            "u8 futures",
            "i8 futures_first futures_staged window_out step_out channel_out",
            "i8 target_window_out target_step_out target_place_out",
            "f8 jitter",
            "u8 seed",
            "u4 epoch",
            "i4 batch length dilation futures_dilation channels target_steps per_sample missing running wide",
            "i4 blocks x y z",
            "u4 span",
            "i4 span_count jump_steps jump_channels",
            "i4 tile_channels tile_steps tile_pitch tiles time_last whole segment segments",
            "i4 sums_at counts_at moments_at table_at shared",
            "i4 target_blocks target_r target_z target_x target_time_last",
        ),
        ("moved", COPY),
        ("labels", COPY),
    ],
    align=True,
)


def kernel_of(job: WindowJob) -> Kernel:
    """Return the kernel that does a job."""
    window, name = job.window, job.dtype.name
    cuts = window.per_sample or window.missing == "forward" or window.draws_time or time_last(job)
    if not cuts and job.plain and not job.wants("mask") and (not job.has_targets or copies_targets(job)):
        return Kernel("window_copy.cu", "window_copy", options())
    if job.plain:
        # Only a mask needs to tell numbers from NaN; for all else, elements of one size are alike.
        floating = job.wants("mask") and job.dtype.kind not in "biu"
        kind = TYPES[name] if floating else f"u{8 * job.dtype.itemsize}"
        made = options(IN=kind, OUT=kind, COMPUTE=kind, PLAIN=1)
    else:
        made = options(IN=TYPES[name], OUT=TYPES[job.out_dtype], COMPUTE=TYPES[compute_dtype(job).name])
    return Kernel("window.cu", "window_cut" if cuts else "window_map", made)


def compute_dtype(job: WindowJob) -> np.dtype[np.generic]:
    """Return the dtype that the kernel computes in."""
    if job.plain:
        return job.dtype
    if not job.window.computes and job.dtype.name in ("int64", "uint64"):
        # One rounding, as in NumPy's cast: float64 does not hold all values.
        return np.dtype(np.float32)
    return np.dtype(job.compute_dtype)


def copies_targets(job: WindowJob) -> bool:
    """Return whether targets are whole rows, bit by bit."""
    chosen = job.target_channels
    return job.has_targets if chosen is None else job.plain and np.array_equal(chosen, np.arange(job.channels))


def time_last(job: WindowJob) -> bool:
    """Return whether time is the fastest axis of the inputs in memory, and not the only one."""
    return job.window.layout == "BCL" and job.window.length > 1 and job.channels > 1
