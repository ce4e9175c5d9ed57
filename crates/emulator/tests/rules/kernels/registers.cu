// Three warpgroups of 168 registers a thread that move them.
#include "arch/registers.cuh"
#include "arguments.cuh"

__device__ __forceinline__ void done(const Arguments& arguments) { output(arguments)[threadIdx.x] = input(arguments)[threadIdx.x]; }

LORA_KERNEL(one_gives_two_take, Arguments, 384) {
    if (threadIdx.x < 128) decrease_registers<24>();
    else increase_registers<240>();
    done(arguments);
}
LORA_KERNEL(all_take, Arguments, 384) {
    increase_registers<240>();
    done(arguments);
}
LORA_KERNEL(two_take_too_much, Arguments, 384) {
    if (threadIdx.x < 128) decrease_registers<32>();
    else increase_registers<240>();
    done(arguments);
}
LORA_KERNEL(a_warp_takes_less, Arguments, 384) {
    if (threadIdx.x < 128) decrease_registers<24>();
    else if (threadIdx.x < 160) increase_registers<232>();
    else increase_registers<240>();
    done(arguments);
}
LORA_KERNEL(a_warp_takes_nothing, Arguments, 384) {
    if (threadIdx.x < 128) decrease_registers<24>();
    else if (threadIdx.x >= 160) increase_registers<240>();
    done(arguments);
}
LORA_KERNEL(decreases_upwards, Arguments, 384) {
    decrease_registers<176>();
    done(arguments);
}
LORA_KERNEL(takes_in_part_of_a_warpgroup, Arguments, 64) {
    decrease_registers<24>();
    done(arguments);
}
