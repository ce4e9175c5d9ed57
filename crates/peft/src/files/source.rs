//! Files that others might change while they are read: read through one handle, at given places, without mapping them,
//! and told apart from what has taken their place meanwhile.

use crate::error::AtPath;
use crate::{Error, Result};
use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a file is recognised by.
#[derive(Clone, Debug, PartialEq)]
struct Identity {
    bytes: u64,
    modified: Option<SystemTime>,
    /// Device and inode; where there are none, the time of creation.
    #[cfg(unix)]
    node: (u64, u64),
    #[cfg(not(unix))]
    created: Option<SystemTime>,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt;
        Identity {
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            node: (metadata.dev(), metadata.ino()),
            #[cfg(not(unix))]
            created: metadata.created().ok(),
        }
    }
}

/// What a file was when it was first looked at.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    path: PathBuf,
    identity: Identity,
}

impl Snapshot {
    /// Looks at a file by its path.
    pub fn take(path: &Path) -> Result<Self> {
        Ok(Snapshot { path: path.to_owned(), identity: Identity::of(&std::fs::metadata(path).at(path)?) })
    }

    /// The path must still lead to the same file, which must not have been written to.
    pub fn check(&self) -> Result<()> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => self.compare(&metadata),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(self.changed("it is gone")),
            Err(error) => Err(error).at(&self.path),
        }
    }

    fn compare(&self, metadata: &Metadata) -> Result<()> {
        let (old, new) = (&self.identity, Identity::of(metadata));
        if *old == new {
            return Ok(());
        }
        Err(self.changed(&if old.bytes != new.bytes {
            format!("it has {} bytes in place of {}", new.bytes, old.bytes)
        } else if old.modified != new.modified {
            "it was written to, or another file has taken its place".to_owned()
        } else {
            "another file has taken its place".to_owned()
        }))
    }

    fn changed(&self, how: &str) -> Error {
        Error::malformed(
            &self.path,
            format!("changed while it was in use: {how}; begin again when nothing changes it any more"),
        )
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) struct SourceFile {
    file: File,
    snapshot: Snapshot,
}

impl SourceFile {
    /// Opens a plain file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_plain(path)?;
        let identity = Identity::of(&file.metadata().at(path)?);
        Ok(SourceFile { file, snapshot: Snapshot { path: path.to_owned(), identity } })
    }

    pub fn path(&self) -> &Path {
        &self.snapshot.path
    }

    /// Bytes of the file when it was opened.
    pub fn len(&self) -> u64 {
        self.snapshot.identity.bytes
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The handle, for copies within the system.
    pub fn handle(&self) -> &File {
        &self.file
    }

    /// Fills `buffer` with what stands at `offset`. The handle has no position of its own: threads may share it.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let read = read_exact_at(&self.file, buffer, offset);
        // Tells a changed file from a broken one, and catches a change that left the length as it was.
        self.snapshot.compare(&self.file.metadata().at(self.path())?)?;
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(Error::malformed(self.path(), "ends before its header says so"))
            }
            result => result.at(self.path()),
        }
    }

    /// Everything in the file.
    pub fn read_all(&self) -> Result<Vec<u8>> {
        let mut bytes = zeroed(self.len(), || self.path().display().to_string())?;
        self.read(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Neither the open file nor what its path leads to may have changed.
    pub fn check(&self) -> Result<()> {
        self.snapshot.compare(&self.file.metadata().at(self.path())?)?;
        self.snapshot.check()
    }
}

/// Opens a file that must be a plain one, or a link to one; others could block, or never end.
pub(crate) fn open_plain(path: &Path) -> Result<File> {
    #[cfg(unix)]
    let file = {
        use rustix::fs::{Mode, OFlags, open};
        let opened = open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        opened.map(File::from).map_err(std::io::Error::from).at(path)?
    };
    #[cfg(not(unix))]
    let file = File::open(path).at(path)?;
    match file.metadata().at(path)?.is_file() {
        true => Ok(file),
        false => Err(Error::malformed(path, "not a plain file but a directory, a pipe or a device")),
    }
}

/// A buffer for bytes of a file, or an error that says how many were asked for.
pub(crate) fn zeroed(bytes: u64, purpose: impl Fn() -> String) -> Result<Vec<u8>> {
    let len = usize::try_from(bytes).ok();
    let buffer = len.and_then(|len| bytemuck::allocation::try_zeroed_vec(len).ok());
    buffer.ok_or_else(|| Error::OutOfMemory { bytes, purpose: purpose() })
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn written(directory: &tempfile::TempDir) -> PathBuf {
        let path = directory.path().join("file");
        std::fs::write(&path, b"0123456789").unwrap();
        path
    }

    /// Later than any time that the file can have been written at so far.
    fn touch(path: &Path) {
        let file = File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::now() + std::time::Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn every_way_to_change_a_file_is_seen() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 5] = [
            ("in place of 10", |path| {
                File::options().append(true).open(path).unwrap().write_all(b"x").unwrap();
            }),
            ("in place of 10", |path| File::options().write(true).open(path).unwrap().set_len(3).unwrap()),
            ("written to", touch),
            ("another file", |path| {
                let other = path.with_extension("other");
                std::fs::write(&other, b"0123456789").unwrap();
                let modified = std::fs::metadata(path).unwrap().modified().unwrap();
                File::options().append(true).open(&other).unwrap().set_modified(modified).unwrap();
                std::fs::rename(other, path).unwrap();
            }),
            ("gone", |path| std::fs::remove_file(path).unwrap()),
        ];
        for (reason, change) in changes {
            let directory = tempfile::tempdir().unwrap();
            let path = written(&directory);
            let source = SourceFile::open(&path).unwrap();
            source.check().unwrap();
            change(&path);
            let error = source.check().unwrap_err().to_string();
            assert!(error.contains("changed while it was in use") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_and_not_a_fault() {
        let directory = tempfile::tempdir().unwrap();
        let path = written(&directory);
        let source = SourceFile::open(&path).unwrap();
        let mut buffer = [0; 4];
        source.read(&mut buffer, 3).unwrap();
        assert_eq!(&buffer, b"3456");
        File::options().write(true).open(&path).unwrap().set_len(5).unwrap();
        let error = source.read(&mut buffer, 3).unwrap_err().to_string();
        assert!(error.contains("5 bytes in place of 10"), "{error}");
        assert!(source.read(&mut buffer, 9).is_err());
    }

    #[test]
    fn what_has_been_replaced_is_still_read_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = written(&directory);
        let source = SourceFile::open(&path).unwrap();
        std::fs::write(path.with_extension("other"), b"abcdefghij").unwrap();
        std::fs::rename(path.with_extension("other"), &path).unwrap();
        assert_eq!(source.read_all().unwrap(), b"0123456789");
        assert!(source.check().is_err());
    }

    #[test]
    fn directories_are_refused() {
        let error = SourceFile::open(tempfile::tempdir().unwrap().path()).unwrap_err().to_string();
        assert!(error.contains("not a plain file"), "{error}");
    }
}
