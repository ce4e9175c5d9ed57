//! The directory beside a destination in which a new one is written.
//!
//! ```text
//! .NAME.partial-0123456789abcdef/
//!   lock    locked by the run that writes, for as long as it lives
//!   new/    what becomes NAME
//!   old/    what NAME was, where the two cannot be exchanged at once
//!   trial/  something to try renames on
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use twox_hash::XxHash3_64;

const LOCK: &str = "lock";
const NEW: &str = "new";
const OLD: &str = "old";
const TRIAL: &str = "trial";

/// Handles kept for the removal, which needs one for each level of directories.
const RESERVED: usize = 4;
/// Bytes of a destination's name that its workplace's name repeats; names may have 255.
const LONGEST: usize = 200;
/// Others may take a directory for a leftover only in the instant before it is locked.
const ATTEMPTS: usize = 100;

#[derive(Debug)]
pub struct Workplace {
    path: PathBuf,
    new: PathBuf,
    lock: Option<File>,
    reserve: Vec<File>,
    /// Whether it stays when this is dropped.
    keep: bool,
}

/// What the lock tells of a workplace that was found.
#[derive(Debug)]
pub enum Found {
    /// Its run is dead. It is locked now, and removed when this is dropped.
    Dead(Workplace),
    /// Its run is writing.
    Living,
    /// It was removed meanwhile.
    Gone,
}

impl Workplace {
    /// Makes one, with an empty directory in it to write to.
    pub fn create(parent: &Path, name: &OsStr) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let path = parent.join(random_name(name));
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            let mut workplace = Workplace::at(path, None);
            let lock = match File::create_new(workplace.path.join(LOCK)) {
                // Another run took it for a leftover and removed it.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                lock => lock?,
            };
            match lock.try_lock() {
                // Another run took it for a leftover and is removing it.
                Err(TryLockError::WouldBlock) => {
                    workplace.keep = true;
                    continue;
                }
                // Where files cannot be locked, other runs fail to lock it too, and leave it alone.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            if !workplace.path.join(LOCK).exists() {
                continue;
            }
            workplace.reserve = (0..RESERVED).map(|_| lock.try_clone()).collect::<Result<_>>()?;
            workplace.lock = Some(lock);
            std::fs::create_dir(&workplace.new)?;
            return Ok(workplace);
        }
        Err(Error::other("others keep removing the directory that was made to write to"))
    }

    /// Whether a file name is that of a workplace for a directory called `name`.
    pub fn is_for(found: &OsStr, name: &OsStr) -> bool {
        let prefix = prefix(name);
        let random = found.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
        random.is_some_and(|random| random.len() == 16 && random.iter().all(u8::is_ascii_hexdigit))
    }

    /// Looks at one that was found, and locks it if its run is dead. An error says that this cannot be known.
    pub fn take(path: PathBuf) -> Result<Found> {
        for entry in std::fs::read_dir(&path)? {
            let name = entry?.file_name();
            if ![LOCK, NEW, OLD, TRIAL].iter().any(|known| name == *known) {
                return Err(Error::other("it holds more than such a directory does"));
            }
        }
        let lock = path.join(LOCK);
        match lock.symlink_metadata() {
            Ok(metadata) if !metadata.is_file() => return Err(Error::other("its lock is not a plain file")),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Self::take_without_lock(path),
            Err(error) => return Err(error),
        }
        let file = match OpenOptions::new().write(true).open(&lock) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Gone),
            file => file?,
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(Found::Living),
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) if lock.exists() => Ok(Found::Dead(Workplace::at(path, Some(file)))),
            Ok(()) => Ok(Found::Gone),
        }
    }

    /// The lock is the first thing that a run makes and the last that it removes.
    fn take_without_lock(path: PathBuf) -> Result<Found> {
        match std::fs::remove_dir(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Gone),
            // It was locked in this instant.
            Err(_) if path.join(LOCK).exists() => Ok(Found::Living),
            // Removed now, or not empty and so not just made.
            _ => Ok(Found::Dead(Workplace::at(path, None))),
        }
    }

    fn at(path: PathBuf, lock: Option<File>) -> Self {
        Workplace { new: path.join(NEW), path, lock, reserve: Vec::new(), keep: false }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that is being written.
    pub fn new_path(&self) -> &Path {
        &self.new
    }

    /// The directory that was to be replaced, if the run was killed before it put the new one in its place.
    pub fn old_path(&self) -> Option<PathBuf> {
        let old = self.path.join(OLD);
        old.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()).then_some(old)
    }

    /// Does with an empty directory what will be done with the new one, and tries to move away what is at `place` in a
    /// way that cannot succeed: where another directory with contents is. That must be the only thing in its way.
    pub fn try_renames(&self, place: &Path) -> Result<()> {
        let parent = place.parent().unwrap_or(place);
        let aside = parent.join(random_name(place.file_name().unwrap_or_default()));
        std::fs::rename(&self.new, &aside)?;
        match std::fs::rename(&aside, &self.new) {
            // Another run took it for a leftover.
            Err(error) if error.kind() == ErrorKind::NotFound => std::fs::create_dir(&self.new)?,
            renamed => renamed.inspect_err(|_| {
                let _ = std::fs::remove_dir(&aside);
            })?,
        }
        if !place.is_dir() || cfg!(not(unix)) {
            return Ok(());
        }
        let trial = self.path.join(TRIAL);
        std::fs::create_dir(&trial)?;
        File::create_new(trial.join("contents"))?;
        match std::fs::rename(place, &trial) {
            Ok(()) => std::fs::rename(&trial, place)?,
            Err(error) if is_occupied(&error) => std::fs::remove_dir_all(&trial)?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Puts the new directory at `place`, and takes what is there in its stead.
    pub fn exchange(&mut self, place: &Path) -> Result<()> {
        match exchange(&self.new, place) {
            // Some network file systems cannot exchange.
            Err(error) if is_unsupported(&error) => self.rename_twice(place),
            result => result,
        }
    }

    /// For a moment nothing is at `place`. A run that is killed then leaves what was there as `old`, for the next one to
    /// put back.
    pub(super) fn rename_twice(&mut self, place: &Path) -> Result<()> {
        let old = self.path.join(OLD);
        std::fs::rename(place, &old)?;
        let Err(error) = std::fs::rename(&self.new, place) else { return Ok(()) };
        if let Err(second) = std::fs::rename(&old, place) {
            self.keep = true;
            let lies = format!("{error}; what was there is now in `{}`: {second}", old.display());
            return Err(Error::new(error.kind(), lies));
        }
        Err(error)
    }

    /// Leaves it where it is.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Whether it is left where it is.
    pub fn stays(&self) -> bool {
        self.keep
    }

    /// Removes it and everything in it.
    pub fn remove(mut self) -> Result<()> {
        self.clear()
    }

    fn clear(&mut self) -> Result<()> {
        self.keep = true;
        self.reserve.clear();
        for part in [NEW, OLD, TRIAL] {
            if_there(std::fs::remove_dir_all(self.path.join(part)))?;
        }
        // Network file systems keep an open file's directory. There is nothing left to be protected.
        self.lock = None;
        if_there(std::fs::remove_file(self.path.join(LOCK)))?;
        if_there(std::fs::remove_dir(&self.path))
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing better can be done with a failure here than to leave the directory, which the next run finds.
            let _ = self.clear();
        }
    }
}

fn if_there(result: Result<()>) -> Result<()> {
    result.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// What the names of all workplaces for `name` begin with.
fn prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    if name.len() <= LONGEST {
        prefix.push(name);
    } else {
        let hash = XxHash3_64::oneshot(name.as_encoded_bytes());
        prefix.push(name.to_string_lossy().chars().take(LONGEST / 8).collect::<String>());
        prefix.push(format!("~{hash:016x}"));
    }
    prefix.push(".partial-");
    prefix
}

fn random_name(name: &OsStr) -> OsString {
    let mut unique = prefix(name);
    unique.push(format!("{:016x}", RandomState::new().build_hasher().finish()));
    unique
}

fn is_occupied(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists)
}

/// Afterwards each has the contents of the other; there is no moment in which `place` is missing.
#[cfg(target_os = "linux")]
fn exchange(new: &Path, place: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, new, CWD, place, RenameFlags::EXCHANGE)?)
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> Result<()> {
    Err(ErrorKind::Unsupported.into())
}

fn is_unsupported(error: &Error) -> bool {
    // The first is EINVAL, the second ENOSYS and EOPNOTSUPP.
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_tell_their_destination() {
        let long = OsString::from("é".repeat(127));
        for name in [OsStr::new("out"), OsStr::new("out.partial-0123456789abcdef"), &long] {
            let (one, two) = (random_name(name), random_name(name));
            assert_ne!(one, two);
            assert!(one.len() < 255 && Workplace::is_for(&one, name), "{one:?}");
            for other in [OsStr::new("ou"), OsStr::new("out2"), OsStr::new("out.partial-0123456789abcde")] {
                assert!(!Workplace::is_for(&one, other), "{one:?} {other:?}");
            }
        }
        assert!(!Workplace::is_for(&random_name(OsStr::new("a.partial-b")), OsStr::new("a")));
        let mut longer = long.clone();
        longer.push("x");
        assert!(!Workplace::is_for(&random_name(&long), &longer));
    }

    #[test]
    fn what_is_replaced_without_an_exchange_is_there_or_put_back() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("out");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("file"), "old").unwrap();
        let mut workplace = Workplace::create(directory.path(), OsStr::new("out")).unwrap();
        std::fs::write(workplace.new_path().join("file"), "new").unwrap();
        workplace.rename_twice(&place).unwrap();
        workplace.remove().unwrap();
        assert_eq!(std::fs::read(place.join("file")).unwrap(), b"new");
        // Without a new directory the second rename fails.
        let mut workplace = Workplace::create(directory.path(), OsStr::new("out")).unwrap();
        std::fs::remove_dir(workplace.new_path()).unwrap();
        workplace.rename_twice(&place).unwrap_err();
        drop(workplace);
        assert_eq!(std::fs::read(place.join("file")).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
