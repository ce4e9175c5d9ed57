//! What must hold for any bytes that the readers of `lora-peft`, and the views of `lora-kernels`, are given: no panic, and
//! what was accepted survives being written and read, or gives the right result. One function a fuzz target, which returns whether the bytes were accepted; `tests/readers.rs`
//! runs them too.

mod adapter;
mod checkpoint;
mod formats;
mod mutate;
mod record;
mod views;

pub use adapter::{adapter, config};
pub use checkpoint::{index, safetensors};
pub use formats::{foreign, quantized, torch_file};
pub use mutate::mutate_json;
pub use record::{record, record_seeds};
pub use views::views;

/// Two files in one input: a JSON text, which cannot hold a zero byte, and what follows that.
fn two_files(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// A fuzz target: every other change is one of a JSON text, the rest are libFuzzer's own.
#[macro_export]
macro_rules! target {
    ($target:path) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            $target(bytes);
        });

        libfuzzer_sys::fuzz_mutator!(|bytes: &mut [u8], size: usize, max_size: usize, seed: u32| {
            match $crate::mutate_json(&bytes[..size], seed) {
                Some(changed) if seed % 2 == 0 && changed.len() <= max_size => {
                    bytes[..changed.len()].copy_from_slice(&changed);
                    changed.len()
                }
                _ => libfuzzer_sys::fuzzer_mutate(bytes, size, max_size),
            }
        });
    };
}
