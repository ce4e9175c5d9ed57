//! Why the emulator could not be had.

/// Errors of setting up the emulator. What kernels do wrong is a [`Fault`](crate::Fault).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There was no C++ compiler when this crate was built.
    #[error("the emulator is unavailable: {0}")]
    Unavailable(String),
    /// Kernels could not be compiled or loaded.
    #[error("kernel library: {0}")]
    Library(String),
}

/// A result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
