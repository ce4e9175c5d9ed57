//! Roundings that no tolerance shows: the order of sums, and how often a result is rounded.

use crate::devices::{cuda_device_tests, device_tests};
use lora_kernels::DType;
use lora_oracle::device::{TestDevice, Tested};
use lora_oracle::ordered_sums::OrderedSum;
use lora_oracle::rounded_once;

cuda_device_tests!(parts_are_added_in_order);

/// On the CUDA backend only: the CPU cuts its sums otherwise.
fn parts_are_added_in_order<D: TestDevice>(device: &Tested<D>) {
    for sum in OrderedSum::ALL {
        sum.check(device);
    }
}

mod accumulation {
    use super::*;

    device_tests!(accumulated_gradients_are_rounded_once);

    /// Features that go to memory as vectors, and one by one.
    fn accumulated_gradients_are_rounded_once<D: TestDevice>(device: &Tested<D>) {
        for dtype in [DType::F16, DType::Bf16] {
            for in_features in [8, 3] {
                rounded_once::check(device, dtype, in_features);
            }
        }
    }
}
