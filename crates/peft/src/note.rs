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
    /// An adapter whose B or A, or whose factors, are all zero: it leaves the model as it is.
    NothingChanges {
        /// The adapter's name.
        adapter: String,
    },
    /// Embeddings and heads get another number of rows; `config.json` says so.
    VocabularyResized {
        /// Rows of the base.
        from: usize,
        /// Rows of the new checkpoint.
        to: usize,
    },
    /// An adapter brings the head of a classifier that the base does not have; `config.json` says how many labels there are.
    NewHead {
        /// The head's name in the checkpoint.
        tensor: String,
        /// How many labels it has.
        labels: usize,
        /// The class that `config.json` now names, if there is one.
        class: Option<String>,
    },
    /// Embeddings of an encoder-decoder part ways, and `config.json` must say so, by which models of this type also know
    /// that the decoder's output is not to be scaled.
    UntiedWithoutScale {
        /// The model's type.
        model_type: String,
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
            Note::NothingChanges { adapter } => {
                write!(
                    f,
                    "`{}` changes nothing: in each of its layers A, B or the factor is zero",
                    name(adapter)
                )
            }
            Note::VocabularyResized { from, to } => {
                write!(f, "the vocabulary has {to} rows now, as the adapter's; the base has {from}")
            }
            Note::NewHead { tensor, labels, class } => {
                write!(f, "`{}` is a head that the base does not have, for {labels} labels; ", name(tensor))?;
                match class {
                    Some(class) => write!(f, "config.json says so and names the class {}", name(class)),
                    None => {
                        write!(f, "config.json says so, but names the base's class: load it with the task's")
                    }
                }
            }
            Note::UntiedWithoutScale { model_type } => write!(
                f,
                "the head of this {} model is no longer tied, and config.json says so; models of this type then do not scale \
                 the decoder's output by 1/√d_model, so that logits are larger by √d_model than in training",
                name(model_type)
            ),
        }
    }
}
