// What makes a kernel short: #include <graphopt.cuh>. Everything is in namespace go.
#pragma once
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>

namespace go {

using i64 = long long;

// A value as float, and a float as a T (rounded to nearest even; integers saturate).
template <class T> __device__ __forceinline__ float to_float(T v) { return float(v); }
template <class T> __device__ __forceinline__ T from_float(float v) { return T(v); }
template <> __device__ __forceinline__ float to_float<__half>(__half v) { return __half2float(v); }
template <> __device__ __forceinline__ __half from_float<__half>(float v) { return __float2half_rn(v); }
template <> __device__ __forceinline__ float to_float<__nv_bfloat16>(__nv_bfloat16 v) { return __bfloat162float(v); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float v) { return __float2bfloat16_rn(v); }
template <> __device__ __forceinline__ signed char from_float<signed char>(float v) {
    return (signed char)(max(-128, min(127, __float2int_rn(v))));
}
template <> __device__ __forceinline__ unsigned char from_float<unsigned char>(float v) {
    return (unsigned char)(max(0, min(255, __float2int_rn(v))));
}

template <class T> constexpr bool is_half = false;
template <> constexpr bool is_half<__half> = true;
template <class T> constexpr bool is_bfloat16 = false;
template <> constexpr bool is_bfloat16<__nv_bfloat16> = true;
// Two floats as two values of a half type, in one word.
template <class T> __device__ __forceinline__ unsigned pair(float low, float high) {
    unsigned word;
    if constexpr (is_half<T>) {
        const __half2 two = __floats2half2_rn(low, high);
        memcpy(&word, &two, 4);
    } else {
        const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
        memcpy(&word, &two, 4);
    }
    return word;
}

// N values that are loaded and stored at once; the address must be a multiple of their bytes (launch.vector(...)).
template <class T, int N> struct alignas(sizeof(T) * N) Vector {
    T v[N];
    __device__ __forceinline__ T& operator[](int i) { return v[i]; }
    __device__ __forceinline__ const T& operator[](int i) const { return v[i]; }
};
template <int N, class T> __device__ __forceinline__ Vector<T, N> load(const T* p) {
    return *reinterpret_cast<const Vector<T, N>*>(p);
}
template <int N, class T> __device__ __forceinline__ void store(T* p, const Vector<T, N>& v) {
    *reinterpret_cast<Vector<T, N>*>(p) = v;
}

// N values as floats, and floats as N values of T: words of two for the half types, which saves registers.
template <class T, int N> __device__ __forceinline__ Vector<float, N> floats(const Vector<T, N>& v) {
    Vector<float, N> out;
#pragma unroll
    for (int i = 0; i < N; i++) out[i] = to_float(v[i]);
    return out;
}
template <class T, int N> __device__ __forceinline__ Vector<T, N> rounded(const Vector<float, N>& v) {
    Vector<T, N> out;
    if constexpr (sizeof(T) == 2 && N % 2 == 0 && (is_half<T> || is_bfloat16<T>)) {
        unsigned words[N / 2];
#pragma unroll
        for (int i = 0; i < N / 2; i++) words[i] = pair<T>(v[2 * i], v[2 * i + 1]);
        memcpy(&out, words, sizeof(out));
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) out[i] = from_float<T>(v[i]);
    }
    return out;
}
template <int N> __device__ __forceinline__ Vector<float, N> floats(const Vector<__half, N>& v) {
    Vector<float, N> out;
    if constexpr (N % 2 == 0) {
        __half2 pairs[N / 2];
        memcpy(pairs, &v, sizeof(v));
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const float2 two = __half22float2(pairs[i]);
            out[2 * i] = two.x;
            out[2 * i + 1] = two.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) out[i] = to_float(v[i]);
    }
    return out;
}
template <int N> __device__ __forceinline__ Vector<float, N> floats(const Vector<__nv_bfloat16, N>& v) {
    Vector<float, N> out;
    if constexpr (N % 2 == 0) {
        unsigned words[N / 2];
        memcpy(words, &v, sizeof(v));
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            out[2 * i] = __uint_as_float(words[i] << 16);
            out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) out[i] = to_float(v[i]);
    }
    return out;
}

// This thread's number, and the number of threads, of a grid of one axis.
__device__ __forceinline__ i64 thread() { return i64(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ i64 threads() { return i64(gridDim.x) * blockDim.x; }

struct Sum { __device__ __forceinline__ float operator()(float a, float b) const { return a + b; } };
struct Max { __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); } };
struct Min { __device__ __forceinline__ float operator()(float a, float b) const { return fminf(a, b); } };

// Every thread of the warp gets the result; all 32 threads must call it.
template <class F> __device__ __forceinline__ float warp_reduce(float v, F f) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v = f(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}
// Every thread of the block gets the result; all threads must call it, and their number is a multiple of 32.
// May be called again at once. The order of additions depends on the block's size alone.
template <class F> __device__ __forceinline__ float block_reduce(float v, F f) {
    __shared__ float part[32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    v = warp_reduce(v, f);
    if (warps == 1) return v;
    __syncthreads();  // an earlier call may still be reading
    if (lane == 0) part[warp] = v;
    __syncthreads();
    float total = part[0];
    for (int i = 1; i < warps; i++) total = f(total, part[i]);
    return total;
}
__device__ __forceinline__ float warp_sum(float v) { return warp_reduce(v, Sum()); }
__device__ __forceinline__ float warp_max(float v) { return warp_reduce(v, Max()); }
__device__ __forceinline__ float block_sum(float v) { return block_reduce(v, Sum()); }
__device__ __forceinline__ float block_max(float v) { return block_reduce(v, Max()); }

// n / d and n % d for 0 <= n < 2^31 and 1 <= d < 2^31 without a division; made on the device or passed by value.
// Method: multiplication by a rounded-up reciprocal (Granlund and Montgomery, 1994).
struct Divide {
    unsigned d, magic, shift;
    __device__ __host__ explicit Divide(unsigned divisor) : d(divisor), magic(0), shift(0) {
        while (shift < 32 && (1ull << shift) < d) shift++;
        magic = unsigned(((1ull << 32) * ((1ull << shift) - d)) / d + 1);
    }
    __device__ __forceinline__ unsigned operator()(unsigned n) const { return (__umulhi(magic, n) + n) >> shift; }
    __device__ __forceinline__ unsigned remainder(unsigned n) const { return n - (*this)(n) * d; }
};

}  // namespace go
