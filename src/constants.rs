//! What the kernels' headers `kernels/**/*_constants.cuh` declare: build.rs reads them, so that a number stands in one place.

include!(concat!(env!("OUT_DIR"), "/kernel_constants.rs"));
