//! What runs leave beside a destination when they are killed.

use super::place::is_free;
use super::workplace::{Found, Workplace};
use crate::{Error, Result};
use std::path::Path;

/// Removes what dead runs left that were writing to `place`, and puts back what one of them was replacing. Returns a
/// sentence for each. A run that lives, or that may, is left alone.
pub fn clear(place: &Path, destination: &Path) -> Result<Vec<String>> {
    let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else { return Ok(Vec::new()) };
    let Ok(entries) = std::fs::read_dir(parent) else { return Ok(Vec::new()) };
    let found = entries.flatten().filter(|entry| Workplace::is_for(&entry.file_name(), name));
    let directories = found.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let paths: Vec<_> = directories.map(|entry| entry.path()).collect();
    let mut notes = Vec::new();
    for path in paths {
        let shown = path.display().to_string();
        match Workplace::take(path) {
            Ok(Found::Gone) => {}
            Ok(Found::Living) => {
                return Err(Error::malformed(
                    destination,
                    format!("another run is writing it, in `{shown}`; wait for that, or choose another directory"),
                ));
            }
            Ok(Found::Dead(workplace)) => notes.extend(bury(workplace, place)),
            Err(error) => notes.push(format!(
                "`{shown}` looks like the leftover of a run that was killed, but that cannot be known ({error}); remove \
                 it if no run is writing there"
            )),
        }
    }
    Ok(notes)
}

fn bury(mut workplace: Workplace, place: &Path) -> Vec<String> {
    let shown = workplace.path().display().to_string();
    let place_shown = place.display();
    let mut notes = Vec::new();
    if let Some(old) = workplace.old_path() {
        let put_back = if is_free(place) { Some(std::fs::rename(&old, place)) } else { None };
        match put_back {
            Some(Ok(())) => notes.push(format!(
                "`{place_shown}` was missing, because a run was killed while it replaced it; it is there again, as it was"
            )),
            Some(Err(error)) => {
                workplace.keep();
                return vec![format!(
                    "`{place_shown}` is missing, because a run was killed while it replaced it; it lies in `{}` and cannot \
                     be put back: {error}",
                    old.display()
                )];
            }
            // Neither the old nor the new directory is what is there now.
            None if workplace.new_path().exists() => {
                workplace.keep();
                return vec![format!(
                    "a run was killed while it replaced `{place_shown}`; what it replaced lies in `{}`, and is yours to \
                     remove",
                    old.display()
                )];
            }
            None => {}
        }
    }
    notes.push(match workplace.remove() {
        Ok(()) => format!("removed `{shown}`, which a run left behind that was killed"),
        Err(error) => {
            format!("`{shown}`, which a run left behind that was killed, cannot be removed: {error}")
        }
    });
    notes
}
