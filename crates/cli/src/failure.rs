//! Why the program ends without success, and the exit code that says so.

use lora_peft::printable::{self, line};
use std::fmt;
use std::path::Path;

/// An unsuccessful end.
#[derive(Debug)]
pub enum Failure {
    /// Something could not be done; the text is one paragraph that names what it is about.
    Failed(String),
    /// The arguments contradict each other or the inputs.
    Usage(String),
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// 1 or 2, as `lora --help` documents.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The paths in it come with what the library says already.
            Failure::Failed(text) | Failure::Usage(text) => {
                f.write_str(&line(text, 2 * printable::PARAGRAPH))
            }
        }
    }
}

impl From<lora_peft::Error> for Failure {
    fn from(error: lora_peft::Error) -> Self {
        Failure::Failed(error.to_string())
    }
}

impl From<lora_kernels::Error> for Failure {
    fn from(error: lora_kernels::Error) -> Self {
        Failure::Failed(error.to_string())
    }
}

/// Says which input an error is about, where its text does not.
pub trait About<T> {
    fn about(self, path: &Path) -> Result<T>;
}

impl<T> About<T> for lora_peft::Result<T> {
    fn about(self, path: &Path) -> Result<T> {
        self.map_err(|error| match error {
            lora_peft::Error::Io { .. } | lora_peft::Error::Malformed { .. } => error.into(),
            other => Failure::Failed(format!("{}: {other}", path.display())),
        })
    }
}

impl<T> About<T> for std::io::Result<T> {
    fn about(self, path: &Path) -> Result<T> {
        self.map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
    }
}
