//! The files beside an adapter's own that change the model which it was trained with: further weights, and another tokenizer
//! or chat template.

use super::Edit;
use crate::error::AtPath;
use crate::files::{CONFIG_FILE, WEIGHTS_FILE, hub_cache, open_plain};
use crate::formats;
use crate::note::Note;
use crate::{Error, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Weights that trainers keep beside an adapter and that change the base model: projectors and the like (LLaVA, Qwen-VL),
/// and embeddings of added tokens (vLLM).
const MODEL_WEIGHTS: [&str; 4] = ["non_lora_trainables", "new_embeddings", "mm_projector", "projector"];
/// Endings of files that hold weights.
const WEIGHT_ENDINGS: [&str; 5] = ["bin", "safetensors", "pt", "pth", "ckpt"];
/// Beginnings of the files of a trainer's state, and of the adapter's own.
const OTHER_STATE: [&str; 9] = [
    "adapter_model",
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "random_states",
    "training_args",
    "trainer_state",
    // A checkpoint that has the adapter in its directory.
    "model",
];

/// Files that a tokenizer's vocabulary is in.
const VOCABULARY_FILES: [&str; 11] = [
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "bpe.codes",
    "tekken.json",
    "added_tokens.json",
];
/// Files that a tokenizer has besides, chat templates among them.
const OTHER_TOKENIZER_FILES: [&str; 5] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model.v3",
];

/// Bytes of a file that is looked at as JSON, at most; larger ones must be equal byte by byte.
const LONGEST_JSON: u64 = 64 << 20;

/// Whose tokenizer and chat template a merged checkpoint gets where they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TokenizerOf {
    /// The base's.
    Base,
    /// The adapter's, which is what the model was trained with.
    #[default]
    Adapter,
}

/// What is done about the files beside adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AdapterFileOptions {
    /// Whose tokenizer is taken.
    pub tokenizer: TokenizerOf,
    /// Whether weights that change the base model and cannot be merged are left out; they are an error otherwise.
    pub leave_weights: bool,
}

/// Files that are copied from an adapter's directory in the place of the checkpoint's.
#[derive(Clone, Debug, Default)]
pub(crate) struct TakenFiles {
    /// Where they are.
    pub directory: PathBuf,
    /// Their names.
    pub names: Vec<String>,
    /// Files of the checkpoint that they take the place of without having their names.
    pub dropped: BTreeSet<String>,
}

impl Edit<'_> {
    /// Looks at the files beside adapters, whose paths are given; the tokenizer that is taken comes into the new
    /// checkpoint. An adapter that is a file has nothing beside it. Nothing is done about the tokenizer of a checkpoint that is a file without its directory.
    ///
    /// # Errors
    /// There are weights that change the model and are in no adapter's file, unless they are to be left out; tokenizers of
    /// two adapters differ; a file cannot be read.
    pub fn take_adapter_files(
        &mut self,
        adapters: &[&Path],
        options: AdapterFileOptions,
    ) -> Result<Vec<Note>> {
        let mut notes = Vec::new();
        let directories = adapters.iter().map(|path| own_directory(path)).collect::<Result<Vec<_>>>()?;
        let directories: Vec<&Path> = directories.iter().flatten().map(PathBuf::as_path).collect();
        for directory in &directories {
            let own = formats::weights_file(directory)?;
            let mut unknown = Vec::new();
            for name in weights_beside(directory)? {
                if own.file_name().is_some_and(|own| own == name.as_str()) {
                    continue;
                }
                match is_known(&name) {
                    true if !options.leave_weights => return Err(refused(directory, &name)),
                    _ => unknown.push(name),
                }
            }
            if !unknown.is_empty() {
                notes.push(Note::WeightsLeft { directory: directory.to_path_buf(), files: unknown });
            }
        }
        if self.checkpoint.owns_directory() {
            self.take_tokenizer(&directories, options.tokenizer, &mut notes)?;
        }
        Ok(notes)
    }

    fn take_tokenizer(&mut self, adapters: &[&Path], from: TokenizerOf, notes: &mut Vec<Note>) -> Result<()> {
        let base = self.checkpoint.directory();
        let mut taken: Option<TakenFiles> = None;
        for directory in adapters {
            let names = tokenizer_files(directory)?;
            let differing = differing(directory, base, &names)?;
            if differing.is_empty() {
                continue;
            }
            if from == TokenizerOf::Base {
                notes.push(Note::Tokenizer {
                    directory: directory.to_path_buf(),
                    files: differing,
                    taken: false,
                });
                continue;
            }
            if let Some(first) = &taken {
                if self::differing(directory, &first.directory, &names)?.is_empty() {
                    continue;
                }
                return Err(Error::malformed(
                    directory,
                    format!(
                        "its tokenizer (`{}`) differs from the base's, and so does the other one of {}; take the base's \
                         with `--tokenizer base`",
                        differing[0],
                        first.directory.display()
                    ),
                ));
            }
            notes.push(Note::Tokenizer { directory: directory.to_path_buf(), files: differing, taken: true });
            let is_vocabulary = |name: &str| VOCABULARY_FILES.contains(&name);
            let is_whole = names.iter().any(|name| is_vocabulary(name) && name != "added_tokens.json");
            // The base's vocabulary in another format would be read instead of the adapter's.
            let dropped = VOCABULARY_FILES.iter().map(|name| (*name).to_owned());
            let dropped = dropped.filter(|name| is_whole && !names.contains(name)).collect();
            taken = Some(TakenFiles { directory: directory.to_path_buf(), names, dropped });
        }
        self.taken_files = taken.unwrap_or_default();
        Ok(())
    }
}

/// The directory that an adapter has for itself.
fn own_directory(path: &Path) -> Result<Option<PathBuf>> {
    if !path.is_dir() {
        return Ok(None);
    }
    let snapshot = hub_cache::snapshot(path)?;
    Ok(Some(snapshot.map_or_else(|| path.to_owned(), |snapshot| path.join(snapshot))))
}

/// Names of the files in a directory that hold weights which are neither the adapter's nor a trainer's state.
fn weights_beside(directory: &Path) -> Result<Vec<String>> {
    let is_weights = |name: &String| {
        let ends = name.rsplit_once('.').is_some_and(|(_, ending)| WEIGHT_ENDINGS.contains(&ending));
        ends && !name.starts_with('.') && !OTHER_STATE.iter().any(|beginning| name.starts_with(beginning))
    };
    let mut names = names(directory)?;
    names.retain(is_weights);
    Ok(names)
}

fn is_known(file: &str) -> bool {
    file.rsplit_once('.').is_some_and(|(stem, _)| MODEL_WEIGHTS.contains(&stem))
}

fn refused(directory: &Path, name: &str) -> Error {
    let what = match name.starts_with("new_embeddings") {
        true => "embeddings of added tokens",
        false => "weights of the base model that were trained with the adapter",
    };
    Error::malformed(
        &directory.join(name),
        format!(
            "holds {what}, without which the adapter is not what was trained; they are not read. Put them into the base \
             checkpoint or, with PEFT's `modules_to_save`, into {WEIGHTS_FILE}, or merge without them with \
             `--leave-weights`"
        ),
    )
}

fn tokenizer_files(directory: &Path) -> Result<Vec<String>> {
    let is_of_tokenizer = |name: &String| {
        VOCABULARY_FILES.contains(&name.as_str())
            || OTHER_TOKENIZER_FILES.contains(&name.as_str())
            || name.ends_with(".tiktoken")
    };
    let mut names = names(directory)?;
    names.retain(is_of_tokenizer);
    Ok(names)
}

/// Plain files of a directory, and links to such; sorted.
fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory).at(directory)?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.at(directory)?;
        if entry.path().is_file()
            && let Ok(name) = entry.file_name().into_string()
            && name != CONFIG_FILE
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Those files of `directory` that `other` does not have, or has with other contents.
fn differing(directory: &Path, other: &Path, names: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in names {
        let (one, two) = (directory.join(name), other.join(name));
        if !two.is_file() || !is_same(&one, &two)? {
            found.push(name.clone());
        }
    }
    Ok(found)
}

fn is_same(one: &Path, two: &Path) -> Result<bool> {
    let read = |path: &Path| -> Result<Option<Vec<u8>>> {
        let file = open_plain(path)?;
        if file.metadata().at(path)?.len() > LONGEST_JSON {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(LONGEST_JSON).read_to_end(&mut bytes).at(path)?;
        Ok(Some(bytes))
    };
    let (Some(one), Some(two)) = (read(one)?, read(two)?) else {
        return Ok(false);
    };
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
    Ok(one == two || json(&one).is_some_and(|one| json(&two) == Some(one)))
}
