//! What can go wrong, with the file, key or tensor named.
//!
//! Names and reasons may quote whatever is in a file. They are kept as they are, and shown in one line of sensible length.

use crate::printable::{self, NAME, PARAGRAPH, line};
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Every error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}{hint}", path = printable::path(path), source = paragraph(source), hint = hint(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is not what its name promises.
    #[error("{path}: {reason}", path = printable::path(path), reason = paragraph(reason))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key of an adapter's configuration has a value that cannot be honoured.
    #[error("adapter configuration: `{key}`: {reason}", key = quoted(key), reason = paragraph(reason))]
    Config {
        /// The key.
        key: String,
        /// Why its value cannot be used.
        reason: String,
    },
    /// A tensor is missing, unused, of the wrong shape or type, or holds NaN or infinity.
    #[error("tensor `{name}`: {reason}", name = quoted(name), reason = paragraph(reason))]
    Tensor {
        /// The tensor's name in its file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A module of the model cannot be adapted as asked.
    #[error("module `{path}`: {reason}", path = quoted(path), reason = paragraph(reason))]
    Module {
        /// Dotted path of the module in the base model.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Nothing in the model matches the adapter's configuration.
    #[error("no module matches: {reason}", reason = paragraph(.0))]
    NoMatch(String),
    /// No adapter has this name, or there already is one.
    #[error("adapter `{name}`: {reason}", name = quoted(name), reason = paragraph(reason))]
    Adapter {
        /// The adapter's name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A merged checkpoint or a record does not belong to what it was given with.
    #[error("the restore record does not fit: {reason}", reason = paragraph(.0))]
    Record(String),
    /// There is no memory for what an operation must hold at once; nothing was left behind.
    #[error("no memory for {bytes} bytes: {purpose}", purpose = paragraph(purpose))]
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
        /// What for.
        purpose: String,
    },
    /// The caller asked to stop; nothing was left behind.
    #[error("cancelled")]
    Cancelled,
    /// An operation of lora-kernels refused its arguments or failed.
    #[error(transparent)]
    Kernel(#[from] lora_kernels::Error),
}

fn quoted(name: &str) -> String {
    line(name, NAME)
}

fn paragraph(reason: &(impl Display + ?Sized)) -> String {
    line(&reason.to_string(), PARAGRAPH)
}

/// What to do about an error of the system that does not say so.
fn hint(error: &std::io::Error) -> &'static str {
    #[cfg(unix)]
    if [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
    {
        return "; allow more open files, with `ulimit -n` for instance";
    }
    ""
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The same error for someone who knows a directory by another name: paths below `from` become paths below `to`.
    #[must_use]
    pub fn relocated(self, from: &Path, to: &Path) -> Self {
        let moved = |path: PathBuf| match path.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
            Ok(rest) => to.join(rest),
            Err(_) => path,
        };
        match self {
            Error::Io { path, source } => Error::Io { path: moved(path), source },
            Error::Malformed { path, reason } => Error::Malformed { path: moved(path), reason },
            other => other,
        }
    }

    pub(crate) fn tensor(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Tensor { name: name.into(), reason: reason.into() }
    }

    pub(crate) fn config(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Config { key: key.into(), reason: reason.into() }
    }

    pub(crate) fn module(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Module { path: path.into(), reason: reason.into() }
    }

    pub(crate) fn adapter(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Adapter { name: name.into(), reason: reason.into() }
    }

    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Error::Malformed { path: path.to_owned(), reason: reason.into() }
    }
}

/// Names the file in an I/O error.
pub(crate) trait AtPath<T> {
    fn at(self, path: &Path) -> Result<T>;
}

impl<T> AtPath<T> for std::io::Result<T> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { path: path.to_owned(), source })
    }
}
