//! What was taken although it is not as it should be, or left as it is although it might have been meant: one line each.

use std::fmt::{self, Display};

/// Something that a user should know and that is no error. [`Display`] says it in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
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
}

impl Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
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
        }
    }
}
