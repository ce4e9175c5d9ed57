//! Arguments of the kernels that change or identify weights: `kernels/weight_arguments.cuh`.
