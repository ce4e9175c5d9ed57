//! The header of a safetensors file, and what can be wrong with it.

use crate::files::{SourceFile, foreign, zeroed};
use crate::{Error, Result};
use safetensors::SafeTensorError;
use safetensors::tensor::Metadata;

/// Bytes of a header, at most: as the safetensors crate has it.
const MAX_HEADER: u64 = 100_000_000;

/// The header, checked against the file's length, and where the data begins.
pub(crate) fn read_header(source: &SourceFile) -> Result<(Metadata, u64)> {
    foreign::refuse(source)?;
    let len = source.len();
    let malformed = |error: &SafeTensorError| Error::malformed(source.path(), header_error(error));
    if len < 8 {
        return Err(malformed(&SafeTensorError::HeaderTooSmall));
    }
    let mut size = [0; 8];
    source.read(&mut size, 0)?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER {
        return Err(malformed(&SafeTensorError::HeaderTooLarge));
    }
    if 8 + size > len {
        return Err(malformed(&SafeTensorError::InvalidHeaderLength));
    }
    let mut header = zeroed(size, || format!("the header of {}", source.path().display()))?;
    source.read(&mut header, 8)?;
    let text =
        std::str::from_utf8(&header).map_err(|error| malformed(&SafeTensorError::InvalidHeader(error)))?;
    let metadata: Metadata = serde_json::from_str(text)
        .map_err(|error| malformed(&SafeTensorError::InvalidHeaderDeserialization(error)))?;
    if 8 + size + metadata.data_len() as u64 != len {
        return Err(malformed(&SafeTensorError::MetadataIncompleteBuffer));
    }
    Ok((metadata, 8 + size))
}

/// The safetensors crate's errors in words for users.
pub(crate) fn header_error(error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::HeaderTooSmall => "not a safetensors file: shorter than 8 bytes".into(),
        SafeTensorError::HeaderTooLarge => {
            "not a safetensors file: the header would be larger than 100 MB".into()
        }
        SafeTensorError::InvalidHeaderLength => "truncated: the file ends inside its header".into(),
        SafeTensorError::MetadataIncompleteBuffer => {
            "truncated or too long: the file's length is not what its header says".into()
        }
        SafeTensorError::InvalidHeader(error) => format!("the header is not UTF-8: {error}"),
        SafeTensorError::InvalidHeaderDeserialization(error) => format!("the header is malformed: {error}"),
        SafeTensorError::InvalidOffset(name) => {
            format!("tensor `{name}` has offsets that overlap or leave a gap")
        }
        other => format!("not a valid safetensors file: {other:?}"),
    }
}
