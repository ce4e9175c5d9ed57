//! What must hold for any bytes that the readers of `lora-peft` are given: no panic, and what was accepted survives
//! being written and read. One function a fuzz target, which returns whether the bytes were accepted; `tests/readers.rs`
//! runs them too.

mod adapter;
mod checkpoint;
mod record;

pub use adapter::{adapter, config};
pub use checkpoint::{index, safetensors};
pub use record::{record, record_seeds};

/// Two files in one input: a JSON text, which cannot hold a zero byte, and what follows that.
fn two_files(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}
