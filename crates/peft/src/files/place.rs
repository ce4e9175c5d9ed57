//! Where a new directory is to appear, and why it cannot.

use crate::error::AtPath;
use crate::{Error, Result};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Links in a row that are followed: as many as Linux follows.
const LINKS: usize = 40;

/// Where a destination really is: links are followed, so that what they lead to is replaced and not they.
///
/// # Errors
/// It is empty, or relative to a current directory that is gone.
pub fn resolve(destination: &Path) -> Result<PathBuf> {
    let mut place = std::path::absolute(destination).at(destination)?;
    for _ in 0..LINKS {
        if let Ok(found) = place.canonicalize() {
            return Ok(found);
        }
        // A link that leads nowhere yet.
        let Ok(target) = std::fs::read_link(&place) else { break };
        place = place.parent().unwrap_or(&place).join(target);
    }
    // What exists of it may lie behind links too.
    let found = place.ancestors().find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
    let moved = found.and_then(|(ancestor, found)| Some(found.join(place.strip_prefix(ancestor).ok()?)));
    Ok(moved.unwrap_or(place))
}

/// Whether nothing is there, or an empty directory.
pub fn is_free(place: &Path) -> bool {
    match std::fs::read_dir(place) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => place.symlink_metadata().is_err(),
    }
}

/// Why no new directory can be put at `place`, and what to do about it.
pub fn unplaceable(destination: &Path, place: &Path, error: std::io::Error) -> Error {
    let advice = match error.kind() {
        ErrorKind::ResourceBusy | ErrorKind::CrossesDevices | ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
            if is_mount_point(place) =>
        {
            "it is a mount point, and a new directory cannot be put in its place; choose a directory inside it".into()
        }
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
            let around = place.ancestors().skip(1).find(|ancestor| ancestor.exists() && !ancestor.is_dir());
            let Some(around) = around else { return Error::Io { path: destination.to_owned(), source: error } };
            return Error::malformed(destination, format!("`{}` is not a directory", around.display()));
        }
        ErrorKind::ResourceBusy => {
            "the system holds it, for a mount point perhaps; choose a directory inside it, or another".into()
        }
        ErrorKind::CrossesDevices => {
            "it cannot be moved within its file system; remove it first, or choose another directory".into()
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => format!(
            "a new directory is written beside its place, in `{}`, and moved there when it is complete; choose a place \
             where that is allowed",
            place.parent().unwrap_or(place).display()
        ),
        _ => return Error::Io { path: destination.to_owned(), source: error },
    };
    let source = std::io::Error::new(error.kind(), format!("{error}: {advice}"));
    Error::Io { path: destination.to_owned(), source }
}

#[cfg(unix)]
fn is_mount_point(place: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| path.metadata().ok().map(|metadata| metadata.dev());
    place.is_dir() && place.parent().is_some_and(|parent| device(parent) != device(place))
}

#[cfg(not(unix))]
fn is_mount_point(_: &Path) -> bool {
    false
}

/// Directories that were made because a destination is to lie in them; those that are empty go again with this.
#[derive(Debug)]
pub struct MadeParents(Vec<PathBuf>);

impl MadeParents {
    pub fn make(parent: &Path) -> std::io::Result<Self> {
        let missing = parent.ancestors().take_while(|ancestor| ancestor.symlink_metadata().is_err());
        let made = MadeParents(missing.map(Path::to_owned).collect());
        std::fs::create_dir_all(parent)?;
        Ok(made)
    }

    /// The innermost first.
    pub fn paths(&self) -> &[PathBuf] {
        &self.0
    }

    pub fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for MadeParents {
    fn drop(&mut self) {
        for directory in &self.0 {
            let _ = std::fs::remove_dir(directory);
        }
    }
}
