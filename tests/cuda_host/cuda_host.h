// The part of CUDA C++ that kernels of this repository use, on the host. One thread of the host stands for each CUDA
// thread of a block, and blocks run one after another. Shared memory is a piece of the heap, of the exact size that the
// launch asks for.
#pragma once

#include <cstddef>

// Declared here because <cmath> takes as long to compile as a kernel.
extern "C" {
float floorf(float) noexcept, logf(float) noexcept, rintf(float) noexcept, sqrtf(float) noexcept, truncf(float) noexcept;
double cos(double) noexcept, floor(double) noexcept, sin(double) noexcept, sqrt(double) noexcept;
}

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

extern thread_local Index threadIdx, blockIdx;
extern thread_local unsigned long long *pool;  // extern __shared__

void __syncthreads();

#define __global__
#define __launch_bounds__(threads, blocks)
#define INLINE inline

inline void sincospif(float turns, float *sine, float *cosine) {
    constexpr double pi = 3.14159265358979323846;
    *sine = float(sin(pi * turns));
    *cosine = float(cos(pi * turns));
}

inline int floor_of(double value) {
    const double whole = floor(value);
    return whole >= 2147483647.0 ? 2147483647 : whole > -2147483648.0 ? int(whole) : -2147483647 - 1;  // NaN too.
}

// Rounded once, to the nearest, by the compiler's own type.
inline float f32_of_half(unsigned short bits) {
    _Float16 value;
    __builtin_memcpy(&value, &bits, 2);
    return float(value);
}

template <class From>
unsigned short half_of(From from) {
    const _Float16 value = _Float16(from);
    unsigned short bits;
    __builtin_memcpy(&bits, &value, 2);
    return bits;
}
inline unsigned short half_of_f32(float value) { return half_of(value); }
inline unsigned short half_of_f64(double value) { return half_of(value); }
inline float f32_of_f64(double value) { return float(value); }
inline double f64_of_f32(float value) { return double(value); }
