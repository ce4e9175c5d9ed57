//! What a GGUF file says about itself. Its tensors are not read.

use std::fmt;

/// The beginning of a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgufHeader {
    /// Version of the format.
    pub version: u32,
    /// Number of tensors.
    pub tensors: u64,
    /// Whether its metadata say that it is an adapter.
    pub adapter: bool,
}

impl GgufHeader {
    /// Bytes at a file's beginning that are looked at.
    pub(super) const LOOKED_AT: u64 = 4096;

    /// Reads the beginning of a file; `None` if it is not GGUF's.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(b"GGUF")?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (tensors, rest) = rest.split_first_chunk::<8>()?;
        // `general.type`, of type string (8), with the value `adapter`.
        let entry = b"general.type\x08\0\0\0\x07\0\0\0\0\0\0\0adapter";
        let adapter = rest.windows(entry.len()).any(|window| window == entry);
        Some(GgufHeader {
            version: u32::from_le_bytes(*version),
            tensors: u64::from_le_bytes(*tensors),
            adapter,
        })
    }
}

impl fmt::Display for GgufHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.adapter { "LoRA adapter" } else { "model" };
        write!(f, "{what} in GGUF (llama.cpp), version {}, {} tensors", self.version, self.tensors)
    }
}
