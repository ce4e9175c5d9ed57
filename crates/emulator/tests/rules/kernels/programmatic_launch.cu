// Kernels that may start before those before them have ended.
#include "arch/grid_dependency.cuh"
#include "arguments.cuh"

// Reads x, writes y.
LORA_KERNEL(first, Arguments, 64) {
    allow_next_kernel();
    unsigned i = blockIdx.x * 64 + threadIdx.x;
    output(arguments)[i] = input(arguments)[i] + 1;
}

// Adds to y what nobody writes, which it reads early.
LORA_KERNEL(second, Arguments, 64) {
    unsigned i = blockIdx.x * 64 + threadIdx.x;
    uint32_t value = input(arguments)[i];
    wait_for_previous_kernel();
    allow_next_kernel();
    output(arguments)[i] += value;
}
LORA_KERNEL(second_reads_before_it_waits, Arguments, 64) {
    unsigned i = blockIdx.x * 64 + threadIdx.x;
    uint32_t value = output(arguments)[i];
    wait_for_previous_kernel();
    output(arguments)[i] = value + input(arguments)[i];
}
LORA_KERNEL(second_writes_before_it_waits, Arguments, 64) {
    unsigned i = blockIdx.x * 64 + threadIdx.x;
    reinterpret_cast<uint32_t*>(arguments.x)[i] = 0;
    wait_for_previous_kernel();
}
LORA_KERNEL(second_never_waits, Arguments, 64) { output(arguments)[1024 + blockIdx.x * 64 + threadIdx.x] = 1; }

template <bool barrier>
__device__ void one_thread_waits(const Arguments& arguments) {
    unsigned i = blockIdx.x * 64 + threadIdx.x;
    if (threadIdx.x == 0) wait_for_previous_kernel();
    if (barrier) __syncthreads();
    output(arguments)[i] += input(arguments)[i];
}
LORA_KERNEL(one_thread_waits_for_all, Arguments, 64) { one_thread_waits<true>(arguments); }
LORA_KERNEL(one_thread_waits_for_itself, Arguments, 64) { one_thread_waits<false>(arguments); }

// Waits, and has nothing to do with y.
LORA_KERNEL(bystander, Arguments, 64) {
    allow_next_kernel();
    wait_for_previous_kernel();
    output(arguments)[1024 + blockIdx.x * 64 + threadIdx.x] = 1;
}
