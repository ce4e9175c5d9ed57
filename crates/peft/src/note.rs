//! What the user should know of a result that is right.

use crate::printable::{self, NAME, line};
use std::fmt;
use std::path::PathBuf;

/// What the user should know of a result that is right: one line each, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// Extraction: tensors that a model computes anew from its configuration, such as `inv_freq`, differ or are in one of
    /// the checkpoints only.
    ComputedTensors(Vec<String>),
    /// Extraction: tensors that differ and were left out, as no adapter can have them; the reason for the first.
    LeftOut {
        /// Names in the file.
        tensors: Vec<String>,
        /// Why the first cannot be had.
        reason: String,
    },
    /// Extraction: tensors that belong to no module that `modules_to_save` or `bias` could name. The file has them under
    /// their own names; PEFT loads them in place of the base model's.
    InPlace(Vec<String>),
    /// Extraction: the embeddings have another number of rows than the base's.
    Vocabulary {
        /// Name in the file.
        tensor: String,
        /// Rows in the base.
        base: usize,
        /// Rows in the tuned checkpoint, and in the adapter.
        tuned: usize,
    },
    /// Extraction: a tied embedding changed. It goes whole, as PEFT merges factors of tied embeddings twice or not at all.
    TiedWhole(String),
    /// Merging: an adapter's directory has further weights, which are not in the new checkpoint.
    WeightsLeft {
        /// The adapter's directory.
        directory: PathBuf,
        /// Names of the files.
        files: Vec<String>,
    },
    /// Merging: an adapter's tokenizer or chat template differs from the base's.
    Tokenizer {
        /// The adapter's directory.
        directory: PathBuf,
        /// Names of the files that differ.
        files: Vec<String>,
        /// Whether the adapter's are taken.
        taken: bool,
    },
    /// Extraction: the names of the adapter are those of a model class, and not those of the files.
    ClassNames {
        /// The class in `architectures`.
        class: String,
        /// A name in the file.
        file: String,
        /// What the class calls it.
        model: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::ComputedTensors(names) => {
                write!(f, "not looked at, as models compute them anew: {}", listed(names))
            }
            Note::LeftOut { tensors, reason } => {
                write!(
                    f,
                    "left out, as no adapter can have them: {}; {}",
                    listed(tensors),
                    line(reason, NAME)
                )
            }
            Note::InPlace(names) => write!(
                f,
                "whole and under their own names, as they belong to no module that `modules_to_save` could name: {}; \
                 PEFT loads them in place of the base model's, and does not save them again",
                listed(names)
            ),
            Note::Vocabulary { tensor, base, tuned } => write!(
                f,
                "`{}` has {tuned} rows instead of {base} and goes whole; before PEFT loads the adapter, the base model \
                 needs `resize_token_embeddings({tuned})`",
                line(tensor, NAME)
            ),
            Note::TiedWhole(name) => write!(
                f,
                "`{}` goes whole: it is tied to the output head, and PEFT adds factors of tied embeddings to one of \
                 the two or twice",
                line(name, NAME)
            ),
            Note::WeightsLeft { directory, files } => {
                write!(
                    f,
                    "not merged, beside the adapter in {}: {}",
                    printable::path(directory),
                    listed(files)
                )
            }
            Note::Tokenizer { directory, files, taken } => write!(
                f,
                "the tokenizer of {} differs from the base's ({}); the {} is taken, as `--tokenizer` says",
                printable::path(directory),
                listed(files),
                if *taken { "adapter's" } else { "base's" }
            ),
            Note::ClassNames { class, file, model } => write!(
                f,
                "modules are named as the class {} names them: `{}` for the file's `{}`",
                line(class, NAME),
                line(model, NAME),
                line(file, NAME)
            ),
        }
    }
}

/// Names that are shown where there are many.
const SHOWN: usize = 4;

fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{}`", line(name, NAME))).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
