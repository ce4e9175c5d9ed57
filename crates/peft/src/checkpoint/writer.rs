//! Writing the files of a checkpoint.

use crate::error::AtPath;
use crate::files::SourceFile;
use crate::{Error, Result};
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes that are copied at a time where they go through this process.
const PIECE: u64 = 1 << 20;

/// What will be written of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, slowest first.
    pub shape: Vec<usize>,
}

impl Outline {
    /// Bytes of the tensor.
    pub fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() as u64 * self.dtype.bitsize() as u64).div_ceil(8)
    }
}

/// A safetensors file that is written tensor by tensor, in the order that was announced.
#[derive(Debug)]
pub struct ShardWriter {
    path: PathBuf,
    file: File,
    expected: u64,
    start: u64,
}

impl ShardWriter {
    /// Writes the header.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path, metadata: &BTreeMap<String, String>, tensors: &[Outline]) -> Result<Self> {
        let mut header = Map::new();
        if !metadata.is_empty() {
            header.insert("__metadata__".into(), json!(metadata));
        }
        let mut offset = 0;
        for tensor in tensors {
            let end = offset + tensor.bytes();
            let info = json!({
                "dtype": tensor.dtype.to_string(), "shape": tensor.shape, "data_offsets": [offset, end],
            });
            header.insert(tensor.name.clone(), info);
            offset = end;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        // The format wants the data aligned to 8 bytes; spaces may follow the JSON text.
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = File::create_new(path).at(path)?;
        file.write_all(&(header.len() as u64).to_le_bytes()).at(path)?;
        file.write_all(&header).at(path)?;
        let start = 8 + header.len() as u64;
        Ok(ShardWriter { path: path.to_owned(), file, expected: start + offset, start })
    }

    /// Writes the bytes of the next tensor, or of a part of it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).at(&self.path)
    }

    /// Copies bytes of another file, without a detour through this process where the system can do that.
    ///
    /// # Errors
    /// A file cannot be read or written, or the other one was changed.
    pub(crate) fn copy(&mut self, source: &SourceFile, range: Range<u64>) -> Result<()> {
        let mut rest = range;
        while rest.start < rest.end {
            // Whatever the system has against it, reading and writing tells.
            let copied = copy_within_system(source.handle(), &self.file, &rest);
            rest.start += match copied {
                0 => self.copy_piece(source, &rest)?,
                copied => copied,
            };
        }
        Ok(())
    }

    fn copy_piece(&mut self, source: &SourceFile, range: &Range<u64>) -> Result<u64> {
        let len = (range.end - range.start).min(PIECE);
        let mut piece = vec![0; len as usize];
        source.read(&mut piece, range.start)?;
        self.write(&piece)?;
        Ok(len)
    }

    /// Another handle of the file, to sync what has been written so far while writing goes on.
    ///
    /// # Errors
    /// The system has no handle left.
    pub(crate) fn handle(&self) -> Result<File> {
        self.file.try_clone().at(&self.path)
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that everything is on the disk.
    ///
    /// # Errors
    /// The file cannot be synced, or more or less was written than announced.
    pub fn finish(mut self) -> Result<()> {
        let position = self.file.stream_position().at(&self.path)?;
        if position != self.expected {
            let (written, announced) = (position - self.start, self.expected - self.start);
            return Err(Error::malformed(
                &self.path,
                format!("{written} bytes written, {announced} announced"),
            ));
        }
        self.file.sync_all().at(&self.path)
    }
}

/// Bytes copied; 0 where the system cannot.
#[cfg(target_os = "linux")]
fn copy_within_system(from: &File, to: &File, range: &Range<u64>) -> u64 {
    let mut offset = range.start;
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    rustix::fs::copy_file_range(from, Some(&mut offset), to, None, len).map_or(0, |copied| copied as u64)
}

#[cfg(not(target_os = "linux"))]
fn copy_within_system(_from: &File, _to: &File, _range: &Range<u64>) -> u64 {
    0
}

/// Writes a small file and syncs it.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create_new(path).at(path)?;
    file.write_all(bytes).at(path)?;
    file.sync_all().at(path)
}
