"""The kernel of Fourier transforms: Stockham's method in shared memory, several points a thread in registers."""

from __future__ import annotations

from functools import cache
from typing import Any

import graphopt
from graphopt.layers.launch import blocks, vector

TRANSFORM = graphopt.Kernel(
    r"""
#include <graphopt.cuh>
using namespace go;

__device__ __forceinline__ float2 plus(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
__device__ __forceinline__ float2 minus(float2 a, float2 b) { return make_float2(a.x - b.x, a.y - b.y); }
__device__ __forceinline__ float2 times(float2 a, float2 b) {
    return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}
template <bool INVERSE> __device__ __forceinline__ float2 root(int turn, int length) {  // exp(-+ 2 pi i turn / length)
    float s, c;
    sincospif((INVERSE ? 2.0f : -2.0f) * float(turn) / float(length), &s, &c);
    return make_float2(c, s);
}
// exp(2 pi i k / length), worked out by the compiler: series about the nearest whole turn.
struct Turn {
    float c, s;
    __host__ __device__ constexpr Turn(int k, int length) : c(), s() {
        const double x = 6.283185307179586476925 * (2 * k > length ? k - length : k) / length;
        double term = 1, cosine = 0, sine = 0;
        for (int i = 0; i < 40; i += 2) {
            cosine += term;
            term *= x / (i + 1);
            sine += term;
            term *= -x / (i + 2);
        }
        c = float(cosine);
        s = float(sine);
    }
};
// The turns of k * STEP / LENGTH for 0 <= k < COUNT.
template <int COUNT, int STEP, int LENGTH> struct Turns {
    float c[COUNT], s[COUNT];
    __host__ __device__ constexpr Turns() : c(), s() {
        for (int k = 0; k < COUNT; k++) {
            const Turn one(k * STEP % LENGTH, LENGTH);
            c[k] = one.c;
            s[k] = one.s;
        }
    }
};

// u becomes its transform of R points, in registers.
template <int R, bool INVERSE> __device__ __forceinline__ void short_transform(float2 (&u)[R]) {
    constexpr float SIGN = INVERSE ? 1.0f : -1.0f;
    constexpr Turns<R, 1, R> roots;
    if constexpr (R == 1) {
    } else if constexpr (R == 2) {
        const float2 a = u[0], b = u[1];
        u[0] = plus(a, b);
        u[1] = minus(a, b);
    } else if constexpr (R == 4) {
        const float2 a = plus(u[0], u[2]), b = minus(u[0], u[2]), c = plus(u[1], u[3]), d = minus(u[1], u[3]);
        const float2 turned = make_float2(-SIGN * d.y, SIGN * d.x);
        u[0] = plus(a, c);
        u[2] = minus(a, c);
        u[1] = plus(b, turned);
        u[3] = minus(b, turned);
    } else if constexpr (R % 2 && (R % 3 || R == 3) && (R % 5 || R == 5) && (R % 7 || R == 7)) {  // a prime up to 13
        float2 even[R / 2], odd[R / 2], first = u[0];
#pragma unroll
        for (int k = 1; k <= R / 2; k++) {
            even[k - 1] = plus(u[k], u[R - k]);
            odd[k - 1] = minus(u[k], u[R - k]);
            first = plus(first, even[k - 1]);
        }
#pragma unroll
        for (int m = 1; m <= R / 2; m++) {
            float2 a = u[0], b = make_float2(0.0f, 0.0f);
#pragma unroll
            for (int k = 1; k <= R / 2; k++) {
                const float c = roots.c[k * m % R], s = SIGN * roots.s[k * m % R];
                a.x += even[k - 1].x * c;
                a.y += even[k - 1].y * c;
                b.x -= odd[k - 1].y * s;
                b.y += odd[k - 1].x * s;
            }
            u[m] = a;  // these places are read through even and odd alone
            u[R - m] = b;
        }
#pragma unroll
        for (int m = 1; m <= R / 2; m++) {
            const float2 a = u[m], b = u[R - m];
            u[m] = plus(a, b);
            u[R - m] = minus(a, b);
        }
        u[0] = first;
    } else {
        constexpr int A = R % 4 == 0 ? 4 : R % 2 == 0 ? 2 : R % 3 == 0 ? 3 : R % 5 == 0 ? 5 : 7, B = R / A;
        float2 made[R];
#pragma unroll
        for (int b = 0; b < B; b++) {
            float2 part[A];
#pragma unroll
            for (int a = 0; a < A; a++) part[a] = u[B * a + b];
            short_transform<A, INVERSE>(part);
#pragma unroll
            for (int a = 0; a < A; a++)
                made[a * B + b] = a * b ? times(part[a], make_float2(roots.c[a * b % R], SIGN * roots.s[a * b % R]))
                                        : part[a];
        }
#pragma unroll
        for (int a = 0; a < A; a++) {
            float2 part[B];
#pragma unroll
            for (int b = 0; b < B; b++) part[b] = made[a * B + b];
            short_transform<B, INVERSE>(part);
#pragma unroll
            for (int b = 0; b < B; b++) u[a + A * b] = part[b];
        }
    }
}

constexpr int LONGEST_SHORT = 16;
__device__ __forceinline__ int place(int at) { return at + at / 16; }  // without it, steps of 16 meet in one bank

// The step of Stockham's method that makes transforms of DONE points those of DONE * R, and the steps after it:
// to[(q R + m) DONE + r] = sum over k of from[q DONE + r + k N / R] w^(k (r + m DONE)), w = exp(-+ 2 pi i / (DONE R)).
// P threads; a step reads all before it writes, so that one copy in shared memory is enough.
template <int N, int P, bool INVERSE, int DONE, int R, int... REST, class Read, class Write>
__device__ __forceinline__ void steps(const Read& read, float2* memory, const Write& write) {
    constexpr bool LAST = sizeof...(REST) == 0, SHORT = R <= LONGEST_SHORT;
    constexpr int STRIDE = N / R, COUNT = SHORT ? STRIDE : N, TURNS = (COUNT + P - 1) / P, EACH = SHORT ? R : 1;
    float2 u[TURNS][EACH];
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
        const int at = threadIdx.x + turn * P;
        if (at >= COUNT) break;
        if constexpr (SHORT) {
#pragma unroll
            for (int k = 0; k < R; k++) u[turn][k] = read(at + k * STRIDE);
        } else {
            const int q = at / (DONE * R), phase = at - q * (DONE * R), from = q * DONE + phase % DONE;
            float2 total = make_float2(0.0f, 0.0f);
            int angle = 0;  // k * phase modulo DONE * R
            for (int k = 0; k < R; k++) {
                total = plus(total, times(read(from + k * STRIDE), root<INVERSE>(angle, DONE * R)));
                angle += phase;
                if (angle >= DONE * R) angle -= DONE * R;
            }
            u[turn][0] = total;
        }
    }
    if (DONE > 1 || !SHORT) __syncthreads();
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
        const int at = threadIdx.x + turn * P;
        if (at >= COUNT) break;
        if constexpr (SHORT) {
            const int r = at % DONE;
            if constexpr (DONE > 1) {
                float2 power[R];
                power[1] = root<INVERSE>(r, DONE * R);
#pragma unroll
                for (int k = 2; k < R; k++) power[k] = times(power[k / 2], power[k - k / 2]);
#pragma unroll
                for (int k = 1; k < R; k++) u[turn][k] = times(u[turn][k], power[k]);
            }
            short_transform<R, INVERSE>(u[turn]);
#pragma unroll
            for (int m = 0; m < R; m++) {
                const int to = (at - r) * R + m * DONE + r;
                if constexpr (LAST) write(to, u[turn][m]);
                else memory[place(to)] = u[turn][m];
            }
        } else if constexpr (LAST) {
            write(at, u[turn][0]);
        } else {
            memory[place(at)] = u[turn][0];
        }
    }
    if constexpr (!LAST) {
        __syncthreads();
        const auto next = [memory](int at) { return memory[place(at)]; };
        steps<N, P, INVERSE, DONE * R, REST...>(next, memory, write);
    }
}

template <int WIDE, class T> __device__ __forceinline__ float2 two(const T* p) {
    if constexpr (WIDE == 1) return make_float2(to_float(p[0]), to_float(p[1]));
    const Vector<float, 2> v = floats(load<2>(p));
    return make_float2(v[0], v[1]);
}

// Every row of P threads transforms a frame. x: frames that begin `apart` elements after each other in rows of `row`
// elements (of PARTS numbers); y: (frames, bins, 2). PARTS 0: real frames of 2 N points, taken as N complex ones z,
// y[k] = e + w o, y[N - k] = conj(e - w o), e and o = (Z[k] +- conj Z[N - k]) / 2 (o by i), w = exp(-i pi k / N).
// WIDE 2: addresses of pairs are multiples of their bytes.
template <class T, int PARTS, bool WINDOW, bool INVERSE, int WIDE, int N, int P, int... RADICES>
__global__ void transform(const T* x, const T* window, T* y, int frames, int per_row, i64 row, i64 apart, int bins,
                          float scale) {
    extern __shared__ float2 memory[];
    float2* mine = memory + (N + N / 16) * threadIdx.y;
    const int frame = blockIdx.x * blockDim.y + threadIdx.y, which = frame / per_row;
    const bool in = frame < frames;
    const T* from = x + (which * row + (frame - which * per_row) * apart) * (PARTS == 2 ? 2 : 1);
    T* out = y + i64(frame) * bins * 2;
    const auto read = [=](int at) {
        if (!in) return make_float2(0.0f, 0.0f);
        if constexpr (PARTS == 1) {
            return make_float2(to_float(from[at]) * (WINDOW ? to_float(window[at]) : 1.0f), 0.0f);
        } else {
            const float2 v = two<WIDE>(from + 2 * at);
            if constexpr (!WINDOW) return v;
            const float2 w = two<WIDE>(window + 2 * at);
            return make_float2(v.x * w.x, v.y * w.y);
        }
    };
    const auto write = [=](int bin, float2 v) {
        if (!in || bin >= bins) return;
        const Vector<float, 2> both{v.x * scale, v.y * scale};
        const Vector<T, 2> made = rounded<T>(both);
        if constexpr (WIDE == 2) {
            store<2>(out + 2 * bin, made);
        } else {
            out[2 * bin] = made[0];
            out[2 * bin + 1] = made[1];
        }
    };
    if constexpr (PARTS > 0) {
        steps<N, P, INVERSE, 1, RADICES...>(read, mine, write);
    } else {
        steps<N, P, INVERSE, 1, RADICES...>(read, mine, [mine](int at, float2 v) { mine[place(at)] = v; });
        __syncthreads();
        constexpr int TURNS = (N / 2 + P) / P;
        constexpr Turns<TURNS, P, 2 * N> further;
        const float2 first = root<false>(threadIdx.x, 2 * N);
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++) {
            const int k = threadIdx.x + turn * P;
            if (2 * k > N) break;
            const float2 a = mine[place(k)], b = mine[place(k ? N - k : 0)];
            const float2 e = make_float2((a.x + b.x) * 0.5f, (a.y - b.y) * 0.5f);
            const float2 o = make_float2((a.y + b.y) * 0.5f, (b.x - a.x) * 0.5f);
            const float2 turned = times(o, times(first, make_float2(further.c[turn], -further.s[turn])));
            const float2 low = plus(e, turned), high = make_float2(e.x - turned.x, turned.y - e.y);
            write(k, low);
            if (2 * k < N) write(N - k, high);
            if (k > 0) write(2 * N - k, make_float2(low.x, -low.y));
            if (k > 0 && 2 * k < N) write(N + k, make_float2(high.x, -high.y));
        }
    }
}
""",
    "transform",
)
LONGEST = 4096
"""Points of one transform, which are kept in shared memory, 8 bytes each."""
THREADS, SHARED_BYTES = 256, 40 << 10
SHORT = 16
"""Points of the longest transform that one thread does in registers."""


@cache
def radices(n: int, most: int) -> tuple[int, ...]:
    """Factors of n: as few as can be, none above `most` but for primes, the largest as small as can be.

    The long ones (above SHORT) come last, and never first.
    """
    found = [(n,)] if n <= most else []
    divisors = [one for one in range(2, n) if n % one == 0]
    for factor in [one for one in divisors if one <= most] or divisors[:1]:
        found.append(tuple(sorted((factor, *radices(n // factor, most)), reverse=True)))
    best = min(found, key=lambda one: (len(one), one), default=(n,))
    short, long = [one for one in best if 1 < one <= SHORT], [one for one in best if one > SHORT]
    return (*(short or [1]), *long)


def transform(
    x: Any, window: Any, y: Any, frames: int, per_row: int, row: int, apart: int, n: int, parts: int, inverse: bool,
    tactic: int,
) -> None:  # fmt: skip
    if parts == 1 and n % 2 == 0 and not inverse:
        parts, n = 0, n // 2
    factors = radices(n, SHORT // tactic)
    lanes = min(max(n if one > SHORT else n // one for one in factors), THREADS)
    together = max(min(THREADS // lanes, SHARED_BYTES // (8 * n)), 1)
    steps = (row, apart) if parts != 2 else ()
    arrays = (x, y) if window is None else (x, window, y)
    whole = all(step % 2 == 0 for step in steps) and vector(*arrays, columns=2) > 1
    template = (x.dtype, parts, window is not None, inverse, 2 if whole else 1, n, lanes, *factors)
    arguments = (x, window, y, frames, per_row, row, apart, y.shape[-2], 1.0 / n if inverse else 1.0)
    shared = 8 * (n + n // 16) * together
    TRANSFORM[template]((blocks(frames, together),), (lanes, together), arguments, shared_mem=shared)
