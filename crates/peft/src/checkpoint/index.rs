//! Checkpoints in shards: the index says which file holds which tensor.

use super::{Checkpoint, Unbuilt, place};
use crate::error::AtPath;
use crate::files::{SourceFile, WEIGHTS_FILE, foreign};
use crate::note::Note;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// The index of a sharded checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub file_name: String,
    pub metadata: Map<String, Value>,
}

impl Checkpoint {
    pub(super) fn open_index(&mut self, file_name: String) -> Result<()> {
        let path = self.directory.join(&file_name);
        let source = SourceFile::open(&path)?;
        foreign::refuse(&source)?;
        let index: Value = serde_json::from_slice(&source.read_all()?)
            .map_err(|error| Error::malformed(&path, error.to_string()))?;
        self.beside.push(source.snapshot().clone());
        let places = places(&path, &index)?;
        let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in &places {
            files.entry(shard).or_default().push(tensor);
        }
        let unbuilt = Unbuilt::of(&self.model_config);
        let mut absent: Vec<&str> = Vec::new();
        let mut there = Vec::new();
        for (shard, expected) in &files {
            let path = self.directory.join(shard);
            match std::fs::metadata(&path) {
                Err(error)
                    if error.kind() == std::io::ErrorKind::NotFound
                        && expected.iter().all(|name| unbuilt.has(name)) =>
                {
                    absent.extend(expected);
                }
                found => {
                    found.at(&path)?;
                    there.push((*shard, expected));
                }
            }
        }
        for (shard, expected) in there {
            self.open_indexed(shard, &places)?;
            let held: HashSet<&str> = self
                .shards
                .last()
                .map(|shard| shard.names().iter().map(String::as_str).collect())
                .unwrap_or_default();
            let missing: Vec<&str> = expected.iter().filter(|name| !held.contains(**name)).copied().collect();
            if let Some(needed) = missing.iter().find(|name| !unbuilt.has(name)) {
                return Err(Error::tensor(
                    *needed,
                    format!("the index says that `{shard}` holds it, but it does not"),
                ));
            }
            absent.extend(missing);
        }
        if let Some(example) = absent.iter().min() {
            self.notes.push(Note::AbsentTensors { example: (*example).to_owned(), tensors: absent.len() });
        }
        self.note_other_files(&files);
        let metadata = index.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        self.index = Some(Index { file_name, metadata });
        Ok(())
    }

    fn open_indexed(&mut self, shard: &str, places: &BTreeMap<&str, &str>) -> Result<()> {
        let mut others: Vec<String> = Vec::new();
        self.open_shard(shard.to_owned(), |name| match places.get(name) {
            Some(place) if *place == shard => Ok(true),
            Some(_) => {
                others.push(name.to_owned());
                Ok(false)
            }
            None => Err(Error::tensor(name, format!("`{shard}` holds it, but the index does not name it"))),
        })?;
        if let Some(example) = others.iter().min() {
            let (file, example) = (shard.to_owned(), example.clone());
            self.notes.push(Note::OtherCopies { file, example, tensors: others.len() });
        }
        Ok(())
    }

    /// Weights beside the index that it does not name.
    fn note_other_files(&mut self, files: &BTreeMap<&str, Vec<&str>>) {
        let directory = match self.directory.as_os_str().is_empty() {
            true => Path::new("."),
            false => self.directory.as_path(),
        };
        // A directory that cannot be listed hides what it holds.
        for file in place::names_in(directory).unwrap_or_default() {
            if file.ends_with(".safetensors") && file != WEIGHTS_FILE && !files.contains_key(file.as_str()) {
                self.notes.push(Note::NotIndexed { file });
            }
        }
    }

    /// Shards that are all there, while the index is not; the new checkpoint gets one.
    pub(super) fn open_without_index(&mut self, file_name: String, shards: Vec<String>) -> Result<()> {
        for shard in shards {
            self.open_shard(shard, |_| Ok(true))?;
        }
        self.index = Some(Index { file_name, metadata: Map::new() });
        Ok(())
    }
}

/// Which file holds each tensor.
fn places<'a>(path: &Path, index: &'a Value) -> Result<BTreeMap<&'a str, &'a str>> {
    let malformed = |reason: String| Error::malformed(path, reason);
    let Some(weight_map) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(malformed(
            "not the index of a checkpoint: it has no `weight_map`; a checkpoint is its directory, its \
             .safetensors file or its .safetensors.index.json"
                .into(),
        ));
    };
    let mut places = BTreeMap::new();
    for (tensor, shard) in weight_map {
        let shard =
            shard.as_str().ok_or_else(|| malformed(format!("`{tensor}` is not mapped to a file name")))?;
        // An index that names itself, another index or a file elsewhere is refused here.
        if !shard.ends_with(".safetensors")
            || Path::new(shard).components().count() != 1
            || shard.contains('\\')
        {
            return Err(malformed(format!(
                "`{tensor}` is mapped to `{shard}`, which is not a safetensors file beside the index"
            )));
        }
        places.insert(tensor.as_str(), shard);
    }
    Ok(places)
}
