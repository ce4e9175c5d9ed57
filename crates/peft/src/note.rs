//! What a user should know of a result that is right.
//!
//! Names may quote whatever is in a file; they are shown in one line of sensible length, as in errors.

use crate::printable::{self, NAME, line};
use std::fmt;
use std::path::PathBuf;

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
    /// The adapter has nothing for whole parts of the model that its configuration would mean: they stay as they are.
    AbsentSubtrees {
        /// Dotted paths of the parts, as the model's class names them.
        subtrees: Vec<String>,
        /// How many modules and parameters in them the configuration means.
        targets: usize,
    },
    /// Names in a file have the adapter's name in them, as in memory: `lora_A.default.weight`.
    AdapterName {
        /// The adapter's name.
        name: String,
    },
    /// Names in a file have something in them that a wrapper around the model has put there.
    Wrapped {
        /// The part of the names that was left out.
        part: String,
        /// What puts it there.
        by: String,
    },
    /// A checkpoint holds the tensors of an adapter that was not merged; they are left out.
    UnmergedAdapter {
        /// How many tensors.
        tensors: usize,
    },
    /// The root of the hub's cache was given; a snapshot in it was taken.
    HubCache {
        /// Path of the snapshot below the directory that was given.
        snapshot: String,
    },
    /// The index names tensors that are not there, of parts that the model's class does not use.
    AbsentTensors {
        /// One of them.
        example: String,
        /// How many.
        tensors: usize,
    },
    /// A shard holds tensors that the index says are in another; they are not used.
    OtherCopies {
        /// The shard.
        file: String,
        /// One of the tensors.
        example: String,
        /// How many.
        tensors: usize,
    },
    /// A file of weights beside the index, which does not name it; it is not used.
    NotIndexed {
        /// The file.
        file: String,
    },
    /// Shards were read without the index that should be beside them.
    NoIndex {
        /// How many.
        shards: usize,
    },
    /// The adapter has layers for other parts of a pipeline than this checkpoint.
    OtherParts {
        /// What the adapter's file calls the other part.
        part: String,
        /// Layers that were left out.
        layers: usize,
    },
}

impl Note {
    /// Whether something may be missing or other than it was meant, beyond how a file was read.
    pub fn is_warning(&self) -> bool {
        !matches!(
            self,
            Note::AbsentSubtrees { .. }
                | Note::AdapterName { .. }
                | Note::Wrapped { .. }
                | Note::UnmergedAdapter { .. }
                | Note::HubCache { .. }
                | Note::AbsentTensors { .. }
                | Note::OtherCopies { .. }
                | Note::NotIndexed { .. }
                | Note::NoIndex { .. }
        )
    }
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
                "the head of this {} model is no longer tied, and config.json says so; transformers 5 scales the decoder's \
                 output by 1/√d_model as before, as `scale_decoder_outputs` there says, but version 4 does not: its logits are \
                 larger by √d_model than in training",
                name(model_type)
            ),
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
            Note::AbsentSubtrees { subtrees, targets } => {
                let named: Vec<String> = subtrees.iter().take(5).map(|path| format!("`{path}`")).collect();
                let more = match subtrees.len() - named.len() {
                    0 => String::new(),
                    count => format!(" and {count} more"),
                };
                write!(
                    f,
                    "the adapter has nothing for {}{more}, where its configuration would mean {targets} modules: they stay as \
                     they are, as the class that it was trained with did not have them",
                    named.join(", ")
                )
            }
            Note::AdapterName { name } => {
                write!(
                    f,
                    "the names of the adapter's tensors have its name `{name}` in them; read without it"
                )
            }
            Note::Wrapped { part, by } => {
                write!(f, "names of tensors have `{part}` in them, which {by} puts there; read without it")
            }
            Note::UnmergedAdapter { tensors } => write!(
                f,
                "the checkpoint holds {tensors} tensors of an adapter that was not merged; they are left out, and what is \
                 computed with are the weights below them"
            ),
            Note::HubCache { snapshot } => write!(f, "the root of a hub cache; `{snapshot}` is taken"),
            Note::AbsentTensors { example, tensors } => write!(
                f,
                "the index names {tensors} tensors that are not there, `{example}` for one; the model's class does not use \
                 them, and so the checkpoint is read without"
            ),
            Note::OtherCopies { file, example, tensors } => write!(
                f,
                "`{file}` holds {tensors} tensors that the index says are in other files, `{example}` for one; the index \
                 decides"
            ),
            Note::NotIndexed { file } => write!(f, "`{file}` is not named by the index and is not used"),
            Note::NoIndex { shards } => {
                write!(f, "no index beside the {shards} shards; all of them are read")
            }
            Note::OtherParts { part, layers } => write!(
                f,
                "{layers} of the adapter's layers are for another part of the pipeline ({}) and have no place here; \
                 merge the adapter into that part's directory too",
                line(part, NAME)
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
