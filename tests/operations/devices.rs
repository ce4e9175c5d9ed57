//! The devices of these tests, and a `#[test]` for each body on each of them.

use lora_emulator::EmulatedCuda;
#[cfg(feature = "cuda")]
use lora_kernels::cuda::Cuda;
use lora_oracle::device::{Roundings, Size, TestDevice};

const ROUNDINGS: Roundings = Roundings { adapters: true, partial_sums: true };

/// The CUDA backend on the emulator: the real planner, launch parameters and kernels, without a GPU.
pub struct Emulated;

impl TestDevice for Emulated {
    const NAME: &'static str = "emulated CUDA backend";
    const SIZE: Size = Size::Small;
    const ROUNDINGS: Roundings = ROUNDINGS;
    type Device = EmulatedCuda;

    fn open() -> Result<EmulatedCuda, String> {
        EmulatedCuda::new().map_err(|error| error.to_string())
    }
}

/// The CUDA backend on GPU 0.
#[cfg(feature = "cuda")]
pub struct Gpu;

#[cfg(feature = "cuda")]
impl TestDevice for Gpu {
    const NAME: &'static str = "GPU";
    const SIZE: Size = Size::Full;
    const ROUNDINGS: Roundings = ROUNDINGS;
    type Device = Cuda;

    fn open() -> Result<Cuda, String> {
        Cuda::on_device(0).map_err(|error| error.to_string())
    }
}

/// Makes one `#[test]` for each body and device.
macro_rules! device_tests {
    ($($body:ident),+ $(,)?) => {
        mod cpu {
            $(#[test]
            fn $body() {
                lora_oracle::device::on::<lora_oracle::device::Cpu>("", super::$body);
            })+
        }
        $crate::devices::cuda_device_tests!($($body),+);
    };
}
pub(crate) use device_tests;

/// Makes one `#[test]` for each body and device of the CUDA backend.
macro_rules! cuda_device_tests {
    ($($body:ident),+ $(,)?) => {
        mod emulated {
            $(#[test]
            fn $body() {
                lora_oracle::device::on::<$crate::devices::Emulated>(
                    "LORA_KERNELS_REQUIRE_EMULATOR",
                    super::$body,
                );
            })+
        }
        #[cfg(feature = "cuda")]
        mod gpu {
            $(#[test]
            fn $body() {
                lora_oracle::device::on::<$crate::devices::Gpu>("LORA_KERNELS_REQUIRE_GPU", super::$body);
            })+
        }
    };
}
pub(crate) use cuda_device_tests;
