//! A directory that is written beside its destination and put in place at the end, so that no half-written one is ever
//! seen.

use super::leftovers;
use super::place::{MadeParents, is_free, resolve, unplaceable};
use super::unfinished::Unfinished;
use super::workplace::Workplace;
use crate::error::AtPath;
use crate::{Error, Result};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A directory that is written aside and renamed into place by [`commit`](Self::commit); dropped before that, it is
/// removed. [`remove_all`](super::remove_all) removes it too.
///
/// Meanwhile it lies in a directory `.NAME.partial-…` beside its destination, which holds a file that is locked for as
/// long as this lives. If the process is killed, the next one that writes to the same destination sees that nobody holds
/// the lock any more, and removes what was left.
#[derive(Debug)]
pub struct NewDirectory {
    /// As the caller calls it.
    destination: PathBuf,
    /// Where that is, without links.
    place: PathBuf,
    replaces: bool,
    notes: Vec<String>,
    // Opened beforehand, so that putting the directory in place needs no handle that may not be left by then.
    contents: File,
    parent: File,
    // In this order: the parents are removed after what is in them.
    workplace: Unfinished,
    parents: MadeParents,
}

impl NewDirectory {
    /// Starts a directory that will appear at `destination`, and tries on empty directories whether it can.
    ///
    /// # Errors
    /// Something other than an empty directory is there already, another run is writing there, or no directory can be
    /// put there: no permission, a mount point, a file system that is read-only.
    pub fn create(destination: &Path) -> Result<Self> {
        Self::start(destination, false)
    }

    /// The same for a destination that may be a directory with contents: [`commit`](Self::commit) exchanges it for the
    /// new one, and then removes it.
    ///
    /// # Errors
    /// As [`create`](Self::create), or what is there cannot be moved away.
    pub fn replace(destination: &Path) -> Result<Self> {
        Self::start(destination, true)
    }

    /// Removes what runs to `destination` left behind that were killed, and puts back what one of them was replacing.
    /// Returns a sentence for each; [`create`](Self::create) and [`replace`](Self::replace) do the same first.
    ///
    /// # Errors
    /// Another run is writing there.
    pub fn clear_leftovers(destination: &Path) -> Result<Vec<String>> {
        leftovers::clear(&resolve(destination)?, destination)
    }

    fn start(destination: &Path, replaces: bool) -> Result<Self> {
        let place = resolve(destination)?;
        let notes = leftovers::clear(&place, destination)?;
        let free = is_free(&place);
        let usable = free || replaces && place.is_dir();
        if !usable {
            let mut reason = "already exists; choose a new directory".to_owned();
            notes.iter().for_each(|note| reason += &format!("; {note}"));
            return Err(Error::malformed(destination, reason));
        }
        let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
            return Err(Error::malformed(destination, "not a name for a directory"));
        };
        let explain = |error| unplaceable(destination, &place, error);
        let parents = MadeParents::make(parent).map_err(explain)?;
        match place.symlink_metadata() {
            // Its name is too long, for instance.
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(explain(error)),
            _ => {}
        }
        let make = || {
            let workplace = Workplace::create(parent, name)?;
            workplace.try_renames(&place)?;
            Ok(workplace)
        };
        let workplace = Unfinished::begin(parents.paths(), make).map_err(explain)?;
        Ok(NewDirectory {
            destination: destination.to_owned(),
            replaces: !free,
            notes,
            contents: File::open(workplace.new_path()).at(destination)?,
            parent: File::open(parent).at(destination)?,
            workplace,
            parents,
            place,
        })
    }

    /// Where files are to be written until then.
    pub fn path(&self) -> &Path {
        self.workplace.new_path()
    }

    /// What was done about leftovers of runs that were killed, a sentence for each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Where the directory will appear, and the one beside it that it is written in; without links.
    pub(crate) fn places(&self) -> [&Path; 2] {
        [&self.place, self.workplace.workplace_path()]
    }

    /// An error about a file in it, told as one about the destination.
    #[must_use]
    pub fn explain(&self, error: Error) -> Error {
        error.relocated(self.path(), &self.destination)
    }

    /// Puts the directory in place. Its files must have been synced.
    ///
    /// # Errors
    /// The directory cannot be synced or renamed, or what it replaced cannot be removed; the error says if the new
    /// directory is in place nevertheless.
    pub fn commit(mut self) -> Result<()> {
        self.contents.sync_all().at(&self.destination)?;
        let (place, replaces) = (&self.place, self.replaces && !is_free(&self.place));
        let placed = self.workplace.undisturbed(|workplace| match replaces {
            true => workplace.exchange(place),
            false => std::fs::rename(workplace.new_path(), place),
        });
        placed.map_err(|error| match error.kind() {
            _ if replaces => Error::Io { path: self.destination.clone(), source: error },
            ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                Error::malformed(&self.destination, "was made by someone else meanwhile and stays as it is")
            }
            _ => unplaceable(&self.destination, place, error),
        })?;
        self.parents.keep();
        let aside = self.workplace.workplace_path().display().to_string();
        let in_place = |what: String, error: std::io::Error| {
            let source =
                std::io::Error::new(error.kind(), format!("complete and in place, but {what}: {error}"));
            Error::Io { path: self.destination.clone(), source }
        };
        self.parent.sync_all().map_err(|error| in_place("its place cannot be synced".into(), error))?;
        self.workplace.remove().map_err(|error| in_place(format!("`{aside}` cannot be removed"), error))
    }
}
