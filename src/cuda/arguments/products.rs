//! Arguments of the skinny products: `kernels/product_arguments.cuh`.
