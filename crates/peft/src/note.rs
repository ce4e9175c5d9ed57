//! What a user should know of an edit that is no error.
//!
//! Names may quote whatever is in a file; they are shown in one line of sensible length, as in errors.

use crate::printable::{NAME, line};
use std::fmt;

/// Something that was found and decided without asking; [`Display`](fmt::Display) says it in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// Biases that an adapter trained and its file has lost: with `bias` = `lora_only`, older versions of PEFT save none.
    /// The base model's are kept, as PEFT does.
    LostBiases {
        /// The adapter's name.
        adapter: String,
        /// How many are lost.
        count: usize,
        /// The name of the first of them in the checkpoint.
        first: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name: &str| line(name, NAME);
        match self {
            Note::LostBiases { adapter, count, first } => write!(
                f,
                "`{}` trained biases (`bias` is `lora_only`) that the PEFT which saved it left out, {count} of them, the \
                 first of which is `{}`; the base model's are kept, as PEFT does",
                name(adapter),
                name(first)
            ),
        }
    }
}
