// CUDA on one CPU thread: the threads of a block are fibers that run until they wait. For tests of kernels without a GPU.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __expf expf

#define OUTSIDE __attribute__((no_sanitize("thread"), noinline))

extern "C" {
extern char __bss_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));
}

namespace emu {
struct Place { unsigned x = 0, y = 0, z = 0; };
struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    int waits = 0;  // 1: for the block, 2: for the warp
    unsigned fences = 0;  // barriers of its warp so far
    const void* at = nullptr;
    bool ended = false;
};
inline std::vector<Fiber> fibers;
inline ucontext_t home;
inline int current;
inline unsigned long long slots[1024];
inline char dynamic_shared[1 << 18] __attribute__((aligned(256)));
inline char message[256];
inline sigjmp_buf escape;
inline void (*body)(void*);
inline void* data;

// Which thread wrote and read each byte last, and after how many barriers of its block. The compiler tells of every
// access (-fsanitize=thread); atomics are not told, and conflict with nothing.
struct Cell { unsigned writer = 0, written = 0, reader = 0, read = 0, write_fences = 0, read_fences = 0; };
inline std::unordered_map<uintptr_t, Cell> cells;
inline unsigned barriers, block;
inline bool watched = false;
OUTSIDE inline void touch(uintptr_t at, int size, bool writes) {
    if (!watched) return;
    const auto& stack = fibers[current].stack;
    if (at >= uintptr_t(stack.data()) && at < uintptr_t(stack.data()) + stack.size()) return;
    const unsigned self = block * 1024 + current + 1;
    const bool shared = at >= uintptr_t(__bss_start) && at < uintptr_t(_end);  // each block has its own
    for (int i = 0; i < size; i++) {
        Cell& c = cells[at + i];
        const auto meets = [&](unsigned other, unsigned when, unsigned fences) {
            if (!other || other == self) return false;
            if ((other - 1) / 1024 != block) return !shared;
            return when == barriers && ((other - 1) / 32 != (self - 1) / 32 || fences == fibers[current].fences);
        };
        const bool after_write = meets(c.writer, c.written, c.write_fences);
        const bool after_read = meets(c.reader, c.read, c.read_fences);
        if (after_write || (writes && after_read)) {
            snprintf(message, sizeof message, "threads %u and %u of blocks %u and %u race", (after_write ? c.writer : c.reader) - 1,
                     self - 1, ((after_write ? c.writer : c.reader) - 1) / 1024, block);
            watched = false;
            siglongjmp(escape, 1);
        }
        if (writes) c.writer = self, c.written = barriers, c.write_fences = fibers[current].fences;
        else c.reader = self, c.read = barriers, c.read_fences = fibers[current].fences;
    }
}

OUTSIDE inline void wait(int kind, const void* at) {
    Fiber& f = fibers[current];
    f.waits = kind, f.at = at;
    swapcontext(&f.context, &home);
}
OUTSIDE inline void begin() {
    body(data);
    fibers[current].ended = true;
    swapcontext(&fibers[current].context, &home);
}
OUTSIDE inline void fault(int number, siginfo_t* info, void*) {
    const char* what = number == SIGILL ? "computes what is undefined, or loads a vector from no multiple of its bytes"
                                        : "reads or writes outside of its buffers";
    snprintf(message, sizeof message, "thread %d %s, at %p", current, what, info->si_addr);
    siglongjmp(escape, 1);
}
}  // namespace emu

inline emu::Place threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace emu {
OUTSIDE inline void set_thread(int number) {
    current = number;
    threadIdx = {number % blockDim.x, number / blockDim.x % blockDim.y, number / (blockDim.x * blockDim.y)};
}
// Threads run in this order between two barriers: 0 forward, 1 backward, 2 odd ones first.
OUTSIDE inline bool run_block(int order) {
    const int count = blockDim.x * blockDim.y * blockDim.z;
    for (int i = 0; i < count; i++) {
        Fiber& f = fibers[i];
        f.waits = 0, f.fences = 0, f.ended = false;
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.data();
        f.context.uc_stack.ss_size = f.stack.size();
        f.context.uc_link = nullptr;
        makecontext(&f.context, begin, 0);
    }
    for (;;) {
        int live = 0, moved = 0;
        for (int n = 0; n < count; n++) {
            const int i = order == 0 ? n : order == 1 ? count - 1 - n : n < count / 2 ? 2 * n + 1 : 2 * (n - count / 2);
            if (fibers[i].ended) continue;
            live++;
            if (fibers[i].waits) continue;
            set_thread(i);
            swapcontext(&home, &fibers[i].context);
            moved++;
        }
        if (!live) return true;
        for (int warp = 0; warp < count; warp += 32) {
            bool all = true;
            for (int i = warp; i < count && i < warp + 32; i++) all = all && (fibers[i].ended || fibers[i].waits == 2);
            if (all)
                for (int i = warp; i < count && i < warp + 32; i++) moved += fibers[i].waits == 2, fibers[i].waits = 0;
        }
        bool all = true;
        const void* at = nullptr;
        for (int i = 0; i < count; i++) {
            if (fibers[i].ended) continue;
            all = all && fibers[i].waits == 1;
            if (all && at && at != fibers[i].at) {
                snprintf(message, sizeof message, "threads of a block wait at different barriers");
                return false;
            }
            at = fibers[i].at;
        }
        if (all)
            for (int i = 0; i < count; i++) moved += fibers[i].waits, fibers[i].waits = 0;
        barriers += all;
        if (!moved) {
            snprintf(message, sizeof message, "threads wait for each other for ever");
            return false;
        }
    }
}
template <class... P, size_t... I> void call(void (*kernel)(P...), void** a, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<P>*>(a[I])...);
}
template <class... P> OUTSIDE const char* run(void (*kernel)(P...), const unsigned* shape, void** arguments, int order) {
    static char alternative[1 << 16];
    stack_t stack = {};
    stack.ss_sp = alternative, stack.ss_size = sizeof alternative;
    sigaltstack(&stack, nullptr);
    struct sigaction now = {}, segv, bus, ill;
    now.sa_sigaction = fault, now.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &now, &segv);
    sigaction(SIGBUS, &now, &bus);
    sigaction(SIGILL, &now, &ill);
    gridDim = dim3(shape[0], shape[1], shape[2]), blockDim = dim3(shape[3], shape[4], shape[5]);
    const size_t count = size_t(blockDim.x) * blockDim.y * blockDim.z;
    if (fibers.size() < count) fibers.resize(count);
    for (auto& f : fibers) f.stack.resize(1 << 16);
    struct Call { void (*kernel)(P...); void** arguments; } one{kernel, arguments};
    data = &one;
    body = [](void* p) {
        auto* c = static_cast<Call*>(p);
        call(c->kernel, c->arguments, std::index_sequence_for<P...>());
    };
    message[0] = 0, barriers = 0, watched = false;
    cells.clear();
    if (sigsetjmp(escape, 1) == 0) {
        bool good = true;
        const unsigned long long blocks = 1ull * gridDim.x * gridDim.y * gridDim.z;
        for (unsigned long long n = 0; n < blocks && good; n++) {
            const unsigned long long b = order == 1 ? blocks - 1 - n : n;
            blockIdx = {unsigned(b % gridDim.x), unsigned(b / gridDim.x % gridDim.y), unsigned(b / gridDim.x / gridDim.y)};
            memset(dynamic_shared, 0x7f, sizeof dynamic_shared);
            block = unsigned(b), watched = true;
            good = run_block(order);
            watched = false;
        }
    }
    sigaction(SIGSEGV, &segv, nullptr);
    sigaction(SIGBUS, &bus, nullptr);
    sigaction(SIGILL, &ill, nullptr);
    return message;
}
}  // namespace emu

__attribute__((noinline)) inline void __syncthreads() { emu::wait(1, __builtin_return_address(0)); }
OUTSIDE inline void __syncwarp(unsigned = ~0u) {
    emu::wait(2, nullptr);
    emu::fibers[emu::current].fences++;
}
template <class T> OUTSIDE T emu_exchange(T v, int lane) {
    const int self = emu::current, base = self & ~31;
    memcpy(&emu::slots[self], &v, sizeof v);
    emu::wait(2, nullptr);
    T out;
    memcpy(&out, &emu::slots[base + (lane & 31)], sizeof out);
    emu::wait(2, nullptr);
    return out;
}
template <class T> T __shfl_xor_sync(unsigned, T v, int step) { return emu_exchange(v, (emu::current & 31) ^ step); }
template <class T> T __shfl_up_sync(unsigned, T v, unsigned step) {
    const int lane = emu::current & 31;
    return emu_exchange(v, lane >= int(step) ? lane - int(step) : lane);
}
template <class T> T __shfl_sync(unsigned, T v, int lane) { return emu_exchange(v, lane); }
// The lanes whose values are like this one's.
OUTSIDE inline unsigned __match_any_sync(unsigned, unsigned v) {
    const int self = emu::current, base = self & ~31;
    memcpy(&emu::slots[self], &v, sizeof v);
    emu::wait(2, nullptr);
    unsigned same = 0;
    for (int lane = 0; lane < 32; lane++) same |= unsigned(memcmp(&emu::slots[base + lane], &v, sizeof v) == 0) << lane;
    emu::wait(2, nullptr);
    return same;
}
OUTSIDE inline unsigned __ballot_sync(unsigned all, bool v) { const unsigned same = __match_any_sync(all, v); return v ? same : ~same; }
template <class T> OUTSIDE T atomicAdd(T* p, T v) { const T old = *p; *p = old + v; return old; }
template <class T> OUTSIDE T atomicCAS(T* p, T seen, T wanted) { const T old = *p; if (old == seen) *p = wanted; return old; }
template <class T> OUTSIDE T atomicMax(T* p, T v) { const T old = *p; if (v > old) *p = v; return old; }
template <class T> OUTSIDE T atomicMin(T* p, T v) { const T old = *p; if (v < old) *p = v; return old; }
template <class A, class B> std::common_type_t<A, B> min(A a, B b) { return a < b ? a : b; }
template <class A, class B> std::common_type_t<A, B> max(A a, B b) { return a < b ? b : a; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline void sincospif(float x, float* s, float* c) { *s = float(sin(M_PI * x)), *c = float(cos(M_PI * x)); }
inline int __float2int_rn(float v) { return int(nearbyintf(v)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((1ull * a * b) >> 32); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return unsigned(((1ull * high << 32) | low) >> (by & 31));
}
inline float __uint_as_float(unsigned v) { float f; memcpy(&f, &v, 4); return f; }
inline unsigned __float_as_uint(float f) { unsigned v; memcpy(&v, &f, 4); return v; }
inline float __int_as_float(int v) { float f; memcpy(&f, &v, 4); return f; }
inline int __float_as_int(float f) { int v; memcpy(&v, &f, 4); return v; }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
template <class T> T __ldg(const T* p) { return *p; }
#include <graphopt.cuh>
