// Stand-in for CUDA's header of the same name: the type of tensor maps. src/mechanisms/tensor_map.rs fills them.
#pragma once
#include <cstdint>

struct alignas(64) CUtensorMap {
    uint64_t opaque[16];
};
