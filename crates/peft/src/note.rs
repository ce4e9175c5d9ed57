//! What the user should know about a result that is right.

use crate::printable::{NAME, line};
use std::fmt;

/// Something that was decided, and that might surprise.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Note {
    /// The adapter has layers for other parts of a pipeline than this checkpoint.
    OtherParts {
        /// What the adapter's file calls the other part.
        part: String,
        /// Layers that were left out.
        layers: usize,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::OtherParts { part, layers } => write!(
                f,
                "{layers} of the adapter's layers are for another part of the pipeline ({}) and have no place here; \
                 merge the adapter into that part's directory too",
                line(part, NAME)
            ),
        }
    }
}
