// Linked into every kernel library, and compiled without instrumentation: forwards a kernel's calls and memory accesses
// to the emulator, together with the caller's program counter.
#include <link.h>

#include <cstring>

#include "runtime.h"
#include "registration.h"

using emulator::Thread;

#define EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))
#define EMULATOR_PARAMETERS(...) (Thread*, const void* __VA_OPT__(, ) __VA_ARGS__)
#define EMULATOR_ARGUMENTS(...) (&emulator::thread(), __builtin_return_address(0) __VA_OPT__(, ) __VA_ARGS__)

// ---- Calls ----

namespace {

struct Functions {
    void (*memory_access)(Thread*, const void* pc, const void* address, uint64_t bytes, uint32_t flags);
#define EMULATOR_POINTER(result, name, parameters, arguments) result(*name) EMULATOR_PARAMETERS parameters;
    EMULATOR_FUNCTIONS(EMULATOR_POINTER)
} functions;

struct Entry {
    const char* name;
    void** pointer;
} const entries[] = {
    {"memory_access", reinterpret_cast<void**>(&functions.memory_access)},
#define EMULATOR_ENTRY(result, name, parameters, arguments) {#name, reinterpret_cast<void**>(&functions.name)},
    EMULATOR_FUNCTIONS(EMULATOR_ENTRY)
};

}  // namespace

#define EMULATOR_FORWARD(result, name, parameters, arguments) \
    extern "C" result emulator_##name parameters { return functions.name EMULATOR_ARGUMENTS arguments; }
EMULATOR_FUNCTIONS(EMULATOR_FORWARD)

// Sets the function that a name stands for; false if there is no such name.
EMULATOR_EXPORT bool emulator_bind(const char* name, void* function) {
    for (const Entry& entry : entries) {
        if (!std::strcmp(entry.name, name)) {
            *entry.pointer = function;
            return true;
        }
    }
    return false;
}

// The first function without an implementation, or null.
EMULATOR_EXPORT const char* emulator_unbound() {
    for (const Entry& entry : entries) {
        if (!*entry.pointer) return entry.name;
    }
    return nullptr;
}

// ---- What the library holds ----

const emulator::Registration* emulator::first_registration = nullptr;

emulator::Registration::Registration(const char* name, void (*entry)(const void*), uint64_t argument_bytes,
                                     uint32_t threads, uint32_t cluster)
    : name(name), entry(entry), argument_bytes(argument_bytes), threads(threads), cluster(cluster),
      next(first_registration) {
    first_registration = this;
}

EMULATOR_EXPORT const emulator::Registration* emulator_kernels() { return emulator::first_registration; }

extern "C" const char __ehdr_start __attribute__((visibility("hidden")));
extern "C" const char _end __attribute__((visibility("hidden")));

EMULATOR_EXPORT void emulator_image(const void** first, const void** end) {
    *first = &__ehdr_start;
    *end = &_end;
}

// Every `__shared__` variable of this library is thread-local, and nothing else is: its thread-local storage is the
// statically declared shared memory of a block. Touching this variable makes the calling thread allocate its copy.
static thread_local unsigned char storage_exists;

EMULATOR_EXPORT void* emulator_static_shared(uint64_t* bytes) {
    storage_exists = 1;
    struct Found {
        void* address;
        uint64_t bytes;
    } found{nullptr, 0};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            auto* found = static_cast<Found*>(data);
            for (int i = 0; i < info->dlpi_phnum; i++) {
                const auto& header = info->dlpi_phdr[i];
                auto* block = static_cast<unsigned char*>(info->dlpi_tls_data);
                if (header.p_type == PT_TLS && block && &storage_exists >= block &&
                    &storage_exists < block + header.p_memsz) {
                    found->address = block;
                    found->bytes = header.p_memsz;
                    return 1;
                }
            }
            return 0;
        },
        &found);
    *bytes = found.bytes;
    return found.address;
}

// ---- Memory accesses: what `-fsanitize=thread` inserts ----

namespace {

constexpr uint32_t read = 0, write = 1, is_volatile = 2, may_be_unaligned = 4;

__attribute__((always_inline)) inline void access(const void* address, uint64_t bytes, uint32_t flags) {
    auto here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
    auto there = reinterpret_cast<uintptr_t>(address);
    if ((here ^ there) < emulator::stack_bytes) return;  // a local variable
    Thread& thread = emulator::thread();
    if (!(flags & write) && there - reinterpret_cast<uintptr_t>(thread.arguments) < thread.argument_bytes) return;
    functions.memory_access(&thread, __builtin_return_address(0), address, bytes, flags);
}

}  // namespace

#define EMULATOR_ACCESS(bytes)                                                                                        \
    extern "C" void __tsan_read##bytes(void* address) { access(address, bytes, read); }                              \
    extern "C" void __tsan_write##bytes(void* address) { access(address, bytes, write); }                            \
    extern "C" void __tsan_unaligned_read##bytes(void* address) { access(address, bytes, read | may_be_unaligned); } \
    extern "C" void __tsan_unaligned_write##bytes(void* address) { access(address, bytes, write | may_be_unaligned); } \
    extern "C" void __tsan_volatile_read##bytes(void* address) { access(address, bytes, read | is_volatile); }       \
    extern "C" void __tsan_volatile_write##bytes(void* address) { access(address, bytes, write | is_volatile); }

EMULATOR_ACCESS(1)
EMULATOR_ACCESS(2)
EMULATOR_ACCESS(4)
EMULATOR_ACCESS(8)
EMULATOR_ACCESS(16)

extern "C" void __tsan_read_range(void* address, size_t bytes) { access(address, bytes, read | may_be_unaligned); }
extern "C" void __tsan_write_range(void* address, size_t bytes) { access(address, bytes, write | may_be_unaligned); }
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}

// What `-fsanitize=alignment` calls where a pointer is less aligned than its type: vectors may be accessed in parts.
struct TypeMismatch {
    const char* file;
    uint32_t line, column;
    const void* type;
    unsigned char log_alignment, kind;
};

extern "C" void __ubsan_handle_type_mismatch_v1(const TypeMismatch* mismatch, uintptr_t address) {
    functions.misaligned(&emulator::thread(), __builtin_return_address(0), address, 1u << mismatch->log_alignment);
}

// What `-fsanitize=bounds-strict` calls where an index is outside its array, which may lie in the middle of others.
extern "C" void __ubsan_handle_out_of_bounds(const void*, intptr_t index) {
    functions.outside_array(&emulator::thread(), __builtin_return_address(0), index);
}
