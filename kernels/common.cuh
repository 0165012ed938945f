// Shared by all kernels: element types and their conversions, shared memory, small helpers.
//
// tests/cuda_host/cuda_host.h defines on the host the parts that stand under __CUDACC__ here.

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

struct alignas(16) Sixteen {
    u32 word[4];
};

#ifdef __CUDACC__
#define INLINE __device__ __forceinline__
extern __shared__ __align__(16) u64 pool[];

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
// In assembly, because CuPy compiles with -ftz=true, with which C++ casts make 0 of subnormal numbers.
INLINE f32 f32_of_f64(f64 value) {
    f32 rounded;
    asm("cvt.rn.f32.f64 %0, %1;" : "=f"(rounded) : "d"(value));
    return rounded;
}
INLINE f64 f64_of_f32(f32 value) {
    f64 same;
    asm("cvt.f64.f32 %0, %1;" : "=d"(same) : "f"(value));
    return same;
}
#endif

template <class T>
INLINE T smaller(T a, T b) {
    return a < b ? a : b;
}
template <class T>
INLINE T larger(T a, T b) {
    return a > b ? a : b;
}

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

template <class To, class From>
INLINE To cast(From value) {
    return To(value);
}
template <>
INLINE f32 cast<f32, f64>(f64 value) {
    return f32_of_f64(value);
}
template <>
INLINE f64 cast<f64, f32>(f32 value) {
    return f64_of_f32(value);
}

// Casts of a number, as NumPy casts it. f16 and bf16 take f32 and f64 only.
template <class To>
struct Cast {
    template <class From>
    static INLINE To of(From value) {
        return cast<To>(value);
    }
    static INLINE To of(f16 value) { return cast<To>(f32_of_half(value.bits)); }
    static INLINE To of(bf16 value) { return cast<To>(same_bits<f32>(u32(value.bits) << 16)); }
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
    static INLINE bf16 of(f64 value) { return {brain_of_f32(f32_of_f64(value))}; }  // NumPy rounds twice too.
};
