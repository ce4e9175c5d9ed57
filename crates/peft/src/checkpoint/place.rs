//! Which files a checkpoint consists of.

use crate::error::AtPath;
use crate::files::{CONFIG_FILE, SourceFile, foreign, hub_cache};
use crate::note::Note;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Names that a directory's checkpoint may have, the first found counting.
const STEMS: [&str; 3] = ["model", "diffusion_pytorch_model", "pytorch_model"];
const ENDING: &str = ".safetensors";

/// Where a checkpoint is.
pub(super) struct Place {
    pub directory: PathBuf,
    pub files: Files,
    /// Whether the other files in the directory belong to the checkpoint.
    pub owns_directory: bool,
    pub notes: Vec<Note>,
}

/// The files in the directory, by name.
pub(super) enum Files {
    One(String),
    Index(String),
    /// Shards, and what their index would be called.
    WithoutIndex {
        index: String,
        shards: Vec<String>,
    },
}

impl Place {
    /// Of a path that a user gave.
    pub fn of(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::in_directory(path);
        }
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        let name = match path.file_name().and_then(|name| name.to_str()) {
            Some(name) => name.to_owned(),
            None => return Err(Error::malformed(path, "not a file name")),
        };
        let is_index = name.ends_with(".json");
        let files = if is_index { Files::Index(name) } else { Files::One(name) };
        Ok(Place { directory, files, owns_directory: is_index, notes: Vec::new() })
    }

    fn in_directory(directory: &Path) -> Result<Self> {
        let place =
            |files, notes| Place { directory: directory.to_owned(), files, owns_directory: true, notes };
        for stem in STEMS {
            let name = format!("{stem}{ENDING}");
            if directory.join(&name).exists() {
                return Ok(place(Files::One(name), Vec::new()));
            }
            let name = format!("{stem}{ENDING}.index.json");
            if directory.join(&name).exists() {
                return Ok(place(Files::Index(name), Vec::new()));
            }
        }
        let names = names_in(directory)?;
        for stem in STEMS {
            let shards = numbered_shards(directory, stem, &names)?;
            if !shards.is_empty() {
                let notes = vec![Note::NoIndex { shards: shards.len() }];
                let index = format!("{stem}{ENDING}.index.json");
                return Ok(place(Files::WithoutIndex { index, shards }, notes));
            }
        }
        if let Some(snapshot) = hub_cache::snapshot(directory)? {
            let mut place = Self::in_directory(&directory.join(&snapshot))?;
            place.notes.insert(0, Note::HubCache { snapshot });
            return Ok(place);
        }
        Err(nothing(directory, &names))
    }
}

pub(super) fn names_in(directory: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory).at(directory)?.flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// All of `STEM-00001-of-00003.safetensors` and so on, in their order; none if there is no such file.
fn numbered_shards(directory: &Path, stem: &str, names: &[String]) -> Result<Vec<String>> {
    let number = |name: &str| {
        let numbers = name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(ENDING)?;
        let (one, of) = numbers.split_once("-of-")?;
        Some((one.parse::<usize>().ok()?, of.parse::<usize>().ok()?))
    };
    let mut found: Vec<(&String, (usize, usize))> =
        names.iter().filter_map(|name| Some((name, number(name)?))).collect();
    found.sort_by_key(|(_, number)| *number);
    let Some((_, (_, count))) = found.first() else { return Ok(Vec::new()) };
    let complete =
        found.len() == *count && (1..).zip(&found).all(|(place, (_, number))| *number == (place, *count));
    if !complete {
        let there: Vec<usize> = found.iter().map(|(_, (one, _))| *one).collect();
        let missing = (1..=*count).find(|place| !there.contains(place));
        return Err(Error::malformed(
            directory,
            match missing {
                Some(missing) => format!(
                    "shards without an index, and shard {missing} of {count} is missing; download what is missing"
                ),
                None => "shards of several checkpoints and no index; give the index or one file".to_owned(),
            },
        ));
    }
    Ok(found.into_iter().map(|(name, _)| name.clone()).collect())
}

/// What to say of a directory without a checkpoint.
fn nothing(directory: &Path, names: &[String]) -> Error {
    let stems: Vec<String> = STEMS.iter().map(|stem| format!("{stem}{ENDING}")).collect();
    let ends = |ending: &str| names.iter().find(|name| name.ends_with(ending));
    let hint = if names.iter().any(|name| name == "model_index.json") {
        "; it holds a diffusers pipeline, whose parts are checkpoints: give its unet, transformer or text_encoder"
            .to_owned()
    } else if names.iter().any(|name| name == CONFIG_FILE) {
        "; it holds an adapter".to_owned()
    } else if let Some(name) = ends(ENDING) {
        format!("; `{name}` can be given itself")
    } else if let Some(name) =
        [".gguf", ".bin", ".pt", ".pth", ".ckpt"].iter().find_map(|ending| ends(ending))
    {
        let source = SourceFile::open(&directory.join(name));
        match source.and_then(|source| foreign::refuse(&source)) {
            Err(Error::Malformed { reason, .. }) => format!("; `{name}` is {reason}"),
            _ => format!("; `{name}` is of a format that is not read, save the model as safetensors"),
        }
    } else {
        String::new()
    };
    Error::malformed(
        directory,
        format!("no checkpoint: none of {} (or its index) found{hint}", stems.join(", ")),
    )
}
