//! What is removed unless it is finished, also when a signal is about to end the process.

use super::workplace::Workplace;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The workplaces of this process, with the directories that were made to hold them. Whoever holds the lock decides what
/// is finished.
static UNFINISHED: Mutex<BTreeMap<PathBuf, Vec<PathBuf>>> = Mutex::new(BTreeMap::new());

/// Times that a directory is tried to be removed while other threads still write into it.
const TRIES: usize = 1000;

/// A workplace that is removed when this is dropped, and by [`remove_all`].
#[derive(Debug)]
pub(super) struct Unfinished {
    path: PathBuf,
    /// Taken when this is dropped only.
    workplace: Option<Workplace>,
}

impl Unfinished {
    /// Makes a workplace in `parents`, the innermost first, which go with it if they are empty. [`remove_all`] comes
    /// before or after `make`.
    pub fn begin(parents: &[PathBuf], make: impl FnOnce() -> Result<Workplace>) -> Result<Self> {
        let mut unfinished = lock();
        let workplace = make()?;
        let path = std::path::absolute(workplace.path())?;
        unfinished.insert(path.clone(), parents.to_vec());
        Ok(Unfinished { path, workplace: Some(workplace) })
    }

    /// Where it is.
    pub fn workplace_path(&self) -> &Path {
        self.workplace.as_ref().map_or(&self.path, |workplace| workplace.path())
    }

    /// The directory in it that is being written.
    pub fn new_path(&self) -> &Path {
        self.workplace.as_ref().map_or(&self.path, |workplace| workplace.new_path())
    }

    /// Does something that [`remove_all`] comes before or after. What is in the workplace afterwards is still removed in
    /// the end, unless it says that it stays.
    pub fn undisturbed<T>(&mut self, work: impl FnOnce(&mut Workplace) -> Result<T>) -> Result<T> {
        let mut unfinished = lock();
        let Some(workplace) = &mut self.workplace else { return Err(ErrorKind::NotFound.into()) };
        let result = work(workplace);
        if workplace.stays() {
            unfinished.remove(&self.path);
        }
        result
    }

    /// Removes the workplace.
    pub fn remove(mut self) -> Result<()> {
        let mut unfinished = lock();
        unfinished.remove(&self.path);
        self.workplace.take().map_or(Ok(()), Workplace::remove)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(workplace) = self.workplace.take() {
            let mut unfinished = lock();
            unfinished.remove(&self.path);
            drop(workplace);
        }
    }
}

/// That nothing is unfinished. Whoever wants to finish or begin something waits as long as this lives.
#[derive(Debug)]
pub struct Removed {
    _unfinished: MutexGuard<'static, BTreeMap<PathBuf, Vec<PathBuf>>>,
}

/// Removes every [`NewDirectory`](super::NewDirectory) that is unfinished, for those who end the process next: signal
/// handlers on a thread of their own. Other threads may go on writing until then; their files have no names any more.
///
/// [`Progress::cancel`](crate::Progress::cancel) is the way to stop an operation in a process that goes on.
pub fn remove_all() -> Removed {
    let unfinished = lock();
    for (path, parents) in unfinished.iter() {
        remove(path);
        for parent in parents {
            let _ = std::fs::remove_dir(parent);
        }
    }
    Removed { _unfinished: unfinished }
}

fn remove(path: &Path) {
    // Nothing better can be done with a failure than to leave the directory, which the next run finds.
    let _ = (0..TRIES).map(|_| std::fs::remove_dir_all(path)).find(|removed| {
        // Another thread has put a file into it meanwhile. It cannot once the directory is gone.
        !matches!(removed, Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty)
    });
}

fn lock() -> MutexGuard<'static, BTreeMap<PathBuf, Vec<PathBuf>>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}
