//! Writing a checkpoint aside and putting it in place at the end, so that no half-written one is ever seen.

use crate::error::AtPath;
use crate::unfinished::Unfinished;
use crate::{Error, Result};
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A directory that is written beside its destination and renamed into place by [`commit`](Self::commit); dropped
/// before that, it is removed. [`remove_all`](crate::unfinished::remove_all) removes it too.
#[derive(Debug)]
pub struct NewDirectory {
    partial: PathBuf,
    unfinished: Unfinished,
    destination: PathBuf,
}

impl NewDirectory {
    /// Starts a directory that will appear at `destination`.
    ///
    /// # Errors
    /// Something other than an empty directory is there already, or nothing can be written beside it.
    pub fn create(destination: &Path) -> Result<Self> {
        let occupied = match std::fs::read_dir(destination) {
            Ok(mut entries) => entries.next().is_some(),
            Err(_) => destination.symlink_metadata().is_ok(),
        };
        if occupied {
            return Err(Error::malformed(destination, "already exists; choose a new directory"));
        }
        let name = destination.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Error::malformed(destination, "not a name for a directory"))?;
        let parent = destination.parent().map(Path::to_owned).unwrap_or_default();
        if !parent.as_os_str().is_empty() {
            std::fs::create_dir_all(&parent).at(&parent)?;
        }
        let partial = parent.join(format!(".{name}.partial-{}", std::process::id()));
        let unfinished = Unfinished::create(&partial).at(destination)?;
        Ok(NewDirectory { partial, unfinished, destination: destination.to_owned() })
    }

    /// Where files are to be written until then.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// An error about a file in it, told as one about the destination.
    #[must_use]
    pub fn explain(&self, error: Error) -> Error {
        error.relocated(&self.partial, &self.destination)
    }

    /// Puts the directory in place. Its files must have been synced.
    ///
    /// # Errors
    /// The directory cannot be synced or renamed.
    pub fn commit(self) -> Result<()> {
        File::open(&self.partial).and_then(|directory| directory.sync_all()).at(&self.destination)?;
        self.unfinished.finish(|partial| std::fs::rename(partial, &self.destination)).at(&self.destination)?;
        if let Some(parent) = self.destination.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent).and_then(|directory| directory.sync_all()).at(parent)?;
        }
        Ok(())
    }
}

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
    /// A file cannot be read or written.
    pub fn copy(&mut self, path: &Path, range: std::ops::Range<u64>) -> Result<()> {
        let mut source = File::open(path).at(path)?;
        source.seek(SeekFrom::Start(range.start)).at(path)?;
        let len = range.end - range.start;
        let mut source = std::io::Read::take(source, len);
        let copied = std::io::copy(&mut source, &mut self.file).at(&self.path)?;
        if copied != len {
            return Err(Error::malformed(path, "ends before its header says so"));
        }
        Ok(())
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

/// Writes a small file and syncs it.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create_new(path).at(path)?;
    file.write_all(bytes).at(path)?;
    file.sync_all().at(path)
}

/// Copies a file of any size and syncs it.
pub(crate) fn copy_synced(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).at(from)?;
    let mut target = File::create_new(to).at(to)?;
    std::io::copy(&mut source, &mut target).at(to)?;
    target.sync_all().at(to)
}
