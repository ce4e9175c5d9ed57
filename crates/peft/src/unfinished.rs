//! Directories that are removed unless they are finished, also when a signal is about to end the process.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All of this process. Whoever holds the lock decides what is finished.
static PATHS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Times that a directory is tried to be removed while other threads still write into it.
const TRIES: usize = 1000;

/// A directory that is removed when this is dropped, and by [`remove_all`].
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    finished: bool,
}

impl Unfinished {
    /// Creates a directory.
    ///
    /// # Errors
    /// As [`std::fs::create_dir`].
    pub fn create(path: &Path) -> Result<Self> {
        let absolute = std::path::absolute(path)?;
        let mut paths = lock();
        std::fs::create_dir(path)?;
        paths.insert(absolute.clone());
        Ok(Unfinished { path: absolute, finished: false })
    }

    /// Announces a directory that will appear later, where nothing is yet.
    ///
    /// # Errors
    /// The working directory cannot be found out.
    pub fn reserve(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)?;
        lock().insert(path.clone());
        Ok(Unfinished { path, finished: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the directory in place by `rename`, which [`remove_all`] comes before or after.
    ///
    /// # Errors
    /// Those of `rename`; the directory is then removed.
    pub fn finish(mut self, rename: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let mut paths = lock();
        rename(&self.path)?;
        paths.remove(&self.path);
        self.finished = true;
        Ok(())
    }

    /// Exchanges the directory for another one by `exchange`, which [`remove_all`] comes before or after, and removes
    /// what is here afterwards.
    ///
    /// # Errors
    /// Those of `exchange` and of the removal.
    pub fn exchange(mut self, exchange: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let mut paths = lock();
        exchange(&self.path)?;
        std::fs::remove_dir_all(&self.path)?;
        paths.remove(&self.path);
        self.finished = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            let mut paths = lock();
            remove(&self.path);
            paths.remove(&self.path);
        }
    }
}

/// That nothing is unfinished. Whoever wants to finish or begin something waits as long as this lives.
#[derive(Debug)]
pub struct Removed {
    _paths: MutexGuard<'static, BTreeSet<PathBuf>>,
}

/// Removes everything that is unfinished, for those who end the process next: signal handlers on a thread of their own.
/// Other threads may go on writing until then; their files have no names any more.
///
/// [`Progress::cancel`](crate::Progress::cancel) is the way to stop an operation in a process that goes on.
pub fn remove_all() -> Removed {
    let paths = lock();
    paths.iter().for_each(|path| remove(path));
    Removed { _paths: paths }
}

fn remove(path: &Path) {
    // Nothing better can be done with a failure than to leave the directory, whose name says what it is.
    let _ = (0..TRIES).map(|_| std::fs::remove_dir_all(path)).find(|removed| {
        // Another thread has put a file into it meanwhile. It cannot once the directory is gone.
        !matches!(removed, Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty)
    });
}

fn lock() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    PATHS.lock().unwrap_or_else(PoisonError::into_inner)
}
