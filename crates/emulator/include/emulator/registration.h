// How a library's kernels are found from Rust: a list that static constructors build. src/library/kernel_library.rs mirrors it.
#pragma once
#include <cstdint>

namespace emulator {

struct Registration {
    const char* name;
    void (*entry)(const void* arguments);
    uint64_t argument_bytes;
    uint32_t threads;
    uint32_t cluster;
    const Registration* next;

    Registration(const char* name, void (*entry)(const void*), uint64_t argument_bytes, uint32_t threads, uint32_t cluster);
};

extern const Registration* first_registration;

}  // namespace emulator
