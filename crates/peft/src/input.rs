//! Reading files that others have made.

use crate::error::AtPath;
use crate::{Error, Result};
use std::fs::File;
use std::path::Path;

/// Opens a file; pipes, which may block for ever, and devices, which may have no end, are refused before.
pub(crate) fn open(path: &Path) -> Result<File> {
    if !std::fs::metadata(path).at(path)?.is_file() {
        return Err(Error::malformed(path, "not a file but a directory, a pipe or a device"));
    }
    File::open(path).at(path)
}

/// The contents of such a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut open(path)?, &mut bytes).at(path)?;
    Ok(bytes)
}
