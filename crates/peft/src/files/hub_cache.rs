//! The hub's cache (`models--org--name`): `refs/main` names the commit, whose files are in `snapshots/COMMIT`.

use crate::error::AtPath;
use crate::{Error, Result};
use std::path::Path;

/// The snapshot that a cache's root stands for, as a path below it; `None` if the directory is no such root.
///
/// # Errors
/// There are several snapshots and nothing says which one is meant, or none.
pub(crate) fn snapshot(directory: &Path) -> Result<Option<String>> {
    let snapshots = directory.join("snapshots");
    if !snapshots.is_dir() {
        return Ok(None);
    }
    let main = std::fs::read_to_string(directory.join("refs").join("main")).unwrap_or_default();
    let main = main.trim();
    // A commit is a name and leads nowhere else.
    if !main.is_empty() && main.chars().all(char::is_alphanumeric) && snapshots.join(main).is_dir() {
        return Ok(Some(format!("snapshots/{main}")));
    }
    let entries = std::fs::read_dir(&snapshots).at(&snapshots)?.flatten();
    let directories = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> =
        directories.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    match names.as_slice() {
        [name] => Ok(Some(format!("snapshots/{name}"))),
        [] => Err(Error::malformed(
            directory,
            "the root of a hub cache without a snapshot: download the model again",
        )),
        [first, ..] => Err(Error::malformed(
            directory,
            format!(
                "the root of a hub cache with {} snapshots, of which `refs/main` names none; give one of them, \
                 `snapshots/{first}` for instance",
                names.len()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_snapshot_is_that_of_main_or_the_only_one() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(snapshot(root).unwrap(), None);
        let make = |name: &str| std::fs::create_dir_all(root.join(name)).unwrap();
        make("snapshots");
        assert!(snapshot(root).unwrap_err().to_string().contains("without a snapshot"));
        make("snapshots/aaa");
        assert_eq!(snapshot(root).unwrap().unwrap(), "snapshots/aaa");
        make("snapshots/bbb");
        let error = snapshot(root).unwrap_err().to_string();
        assert!(error.contains("2 snapshots") && error.contains("snapshots/aaa"), "{error}");
        make("refs");
        std::fs::write(root.join("refs/main"), "bbb\n").unwrap();
        assert_eq!(snapshot(root).unwrap().unwrap(), "snapshots/bbb");
        for elsewhere in ["../..", "ccc", ""] {
            std::fs::write(root.join("refs/main"), elsewhere).unwrap();
            assert!(snapshot(root).is_err());
        }
    }
}
