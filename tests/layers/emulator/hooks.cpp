// What g++ -fsanitize=thread calls.
#include "emulator.h"
extern "C" {
#define TOLD(N)                                                                       \
    void __tsan_read##N(void* p) { emu::touch(uintptr_t(p), N, false); }              \
    void __tsan_write##N(void* p) { emu::touch(uintptr_t(p), N, true); }              \
    void __tsan_unaligned_read##N(void* p) { emu::touch(uintptr_t(p), N, false); }    \
    void __tsan_unaligned_write##N(void* p) { emu::touch(uintptr_t(p), N, true); }
TOLD(1) TOLD(2) TOLD(4) TOLD(8) TOLD(16)
void __tsan_read_range(void* p, size_t n) { emu::touch(uintptr_t(p), int(n), false); }
void __tsan_write_range(void* p, size_t n) { emu::touch(uintptr_t(p), int(n), true); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
