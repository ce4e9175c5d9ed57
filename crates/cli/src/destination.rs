//! Where a result goes, and the replacing of what is there.

use crate::failure::{About, Failure, Result};
use lora_peft::unfinished::Unfinished;
use std::path::{Path, PathBuf};

/// A directory that is free, or that will be exchanged for a complete new one.
#[derive(Debug)]
pub struct Destination {
    out: PathBuf,
    /// Where the new directory is built if `out` is to be replaced.
    aside: Option<Unfinished>,
    inputs: Vec<PathBuf>,
}

impl Destination {
    /// Checks that `out` may be written, and that no input would be touched by that.
    pub fn new(out: &Path, force: bool, inputs: &[&Path]) -> Result<Self> {
        for input in inputs {
            check_apart(out, input)?;
        }
        let mut destination = Destination {
            out: out.to_owned(),
            aside: None,
            inputs: inputs.iter().map(|&p| p.into()).collect(),
        };
        if is_free(out) {
            return Ok(destination);
        }
        if !force {
            return Err(Failure::Failed(format!(
                "{} already exists; choose another --out, or replace it with --force",
                out.display()
            )));
        }
        if !is_ours(out) {
            return Err(Failure::Failed(format!(
                "{} is neither a checkpoint nor an adapter; --force does not replace it",
                out.display()
            )));
        }
        let name = out.canonicalize().about(out)?;
        let (Some(parent), Some(name)) = (name.parent(), name.file_name()) else {
            return Err(Failure::Failed(format!("{} cannot be replaced", out.display())));
        };
        let name = format!(".{}.new-{}", name.to_string_lossy(), std::process::id());
        destination.aside = Some(Unfinished::reserve(&parent.join(name)).about(out)?);
        Ok(destination)
    }

    /// Where the new directory must be created.
    pub fn path(&self) -> &Path {
        self.aside.as_ref().map_or(self.out.as_path(), Unfinished::path)
    }

    /// An error about what is being built, told as one about `--out`.
    pub fn explain(&self, error: lora_peft::Error) -> lora_peft::Error {
        match &self.aside {
            Some(aside) => error.relocated(aside.path(), &self.out),
            None => error,
        }
    }

    /// Puts the complete new directory in place of the old one.
    pub fn finish(self) -> Result<()> {
        let Some(new) = self.aside else { return Ok(()) };
        let out = self.out.canonicalize().about(&self.out)?;
        for input in &self.inputs {
            check_apart(&out, input)?;
        }
        new.exchange(|new| exchange(new, &out)).about(&out)
    }
}

/// Afterwards each has the contents of the other; there is no moment in which `out` is missing.
#[cfg(target_os = "linux")]
fn exchange(new: &Path, out: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, new, CWD, out, RenameFlags::EXCHANGE) {
        // Some network file systems cannot exchange.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => rename_twice(new, out),
        result => Ok(result?),
    }
}

#[cfg(not(target_os = "linux"))]
fn exchange(new: &Path, out: &Path) -> std::io::Result<()> {
    rename_twice(new, out)
}

fn rename_twice(new: &Path, out: &Path) -> std::io::Result<()> {
    let mut old = new.as_os_str().to_owned();
    old.push("-old");
    std::fs::rename(out, &old)?;
    std::fs::rename(new, out)?;
    std::fs::rename(&old, new)
}

fn is_free(out: &Path) -> bool {
    match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => out.symlink_metadata().is_err(),
    }
}

/// Whether a directory holds what this program writes.
fn is_ours(out: &Path) -> bool {
    std::fs::read_dir(out).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")
    })
}

/// Neither may be inside the other; beside an input that is a file there is room.
fn check_apart(out: &Path, input: &Path) -> Result<()> {
    let found = input.canonicalize().about(input)?;
    // The part of `out` that exists decides where it is.
    let absolute = std::path::absolute(out).about(out)?;
    let place = absolute
        .ancestors()
        .find_map(|ancestor| Some(ancestor.canonicalize().ok()?.join(absolute.strip_prefix(ancestor).ok()?)))
        .unwrap_or_else(|| absolute.clone());
    if place.starts_with(&found) || found.starts_with(&place) {
        return Err(Failure::Failed(format!(
            "--out {} and the input {} are one inside the other; inputs are never changed",
            out.display(),
            input.display()
        )));
    }
    Ok(())
}
