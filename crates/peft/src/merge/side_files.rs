//! The files beside a checkpoint's weights: configurations, tokenizers, templates, code, further modules.
//!
//! Plain files of known kinds are copied, from sub-directories too. A link to a file counts as the file, as the hub's
//! cache consists of such; a link to a directory is not followed. What else is there is named, unless it is hidden or
//! weights in another form.

use crate::Result;
use crate::error::AtPath;
use crate::files::{NewDirectory, RECORD_DIRECTORY, open_plain};
use crate::progress::Progress;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Files that are weights in one format or another and would contradict the new ones, or would be taken for an adapter.
const WEIGHT_ENDINGS: [&str; 13] = [
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "h5",
    "msgpack",
    "onnx",
    "onnx_data",
    "gguf",
    "ot",
    "tflite",
    "index.json",
];

/// Configurations, documents and templates, code, tokenizers, and the pictures of a model's page.
const KNOWN_ENDINGS: [&str; 31] = [
    "json", "jsonl", "yaml", "yml", "toml", "cfg", "ini", "txt", "md", "rst", "csv", "tsv", "html", "pdf",
    "jinja", "jinja2", "py", "model", "tiktoken", "vocab", "merges", "bpe", "codes", "spm", "sp", "png",
    "jpg", "jpeg", "gif", "svg", "webp",
];

/// Names that need no ending, in lower case.
const KNOWN_BEGINNINGS: [&str; 11] = [
    "license",
    "licence",
    "notice",
    "readme",
    "copying",
    "citation",
    "use_policy",
    "tokenizer",
    "vocab",
    "merges",
    ".gitattributes",
];

/// Bytes of a list of modules, at most: it is read whole.
const LONGEST_LIST: u64 = 1 << 20;

/// Bytes that are copied before cancellation is looked at again.
const CHUNK: u64 = 64 << 20;

/// Copies the files beside a checkpoint; those that are there already stay. Directories that are modules of their own are
/// copied with their weights and everything else in them. Neither the place of the new directory nor what is written there
/// is copied, nor are the `dropped` files. Returns what was left.
pub(crate) fn copy_side_files(
    from: &Path,
    to: &NewDirectory,
    dropped: &BTreeSet<String>,
    progress: &Progress,
) -> Result<Vec<String>> {
    // A file's parent may be the empty path.
    let from = if from.as_os_str().is_empty() { Path::new(".") } else { from };
    let from = from.canonicalize().at(from)?;
    let own_modules = own_modules(&from)?;
    let mut copier = Copier { outputs: to.places(), progress, own_modules, dropped, left: Vec::new() };
    copier.copy(&Directory { from, to: to.path().to_owned(), below: PathBuf::new(), whole: false })?;
    Ok(copier.left)
}

/// Copies files by name.
pub(crate) fn copy_files(
    from: &Path,
    names: &[String],
    to: &NewDirectory,
    progress: &Progress,
) -> Result<()> {
    names.iter().try_for_each(|name| copy_synced(&from.join(name), &to.path().join(name), progress))
}

/// The directories that sentence-transformers' `modules.json` lists: dense layers after the model, for instance.
fn own_modules(directory: &Path) -> Result<Vec<PathBuf>> {
    let path = directory.join("modules.json");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let mut text = Vec::new();
    open_plain(&path)?.take(LONGEST_LIST).read_to_end(&mut text).at(&path)?;
    // A file of that name that is something else lists nothing.
    let modules: Value = serde_json::from_slice(&text).unwrap_or_default();
    let paths = modules.as_array().into_iter().flatten().filter_map(|module| module["path"].as_str());
    Ok(paths.filter(|path| !path.is_empty()).map(PathBuf::from).collect())
}

struct Copier<'a> {
    /// Where the new directory will be, and where it is written.
    outputs: [&'a Path; 2],
    progress: &'a Progress,
    own_modules: Vec<PathBuf>,
    /// Files of the checkpoint's own directory that are not copied.
    dropped: &'a BTreeSet<String>,
    left: Vec<String>,
}

struct Directory {
    from: PathBuf,
    to: PathBuf,
    /// Its path from the checkpoint.
    below: PathBuf,
    /// Whether everything in it is copied.
    whole: bool,
}

impl Copier<'_> {
    fn copy(&mut self, directory: &Directory) -> Result<()> {
        let from = &directory.from;
        let entries = std::fs::read_dir(from).at(from)?;
        // Without the handle that each entry keeps open.
        let names = entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<OsString>>>();
        let mut names = names.at(from)?;
        names.sort();
        for name in names {
            self.progress.check()?;
            let entry = Directory {
                from: from.join(&name),
                to: directory.to.join(&name),
                below: directory.below.join(&name),
                whole: directory.whole,
            };
            self.copy_entry(entry, &name.to_string_lossy())?;
        }
        Ok(())
    }

    fn copy_entry(&mut self, mut entry: Directory, name: &str) -> Result<()> {
        let is_link = entry.from.symlink_metadata().at(&entry.from)?.is_symlink();
        let (kind, is_hidden) = (Kind::of(name), name.starts_with('.'));
        let Ok(metadata) = entry.from.metadata() else {
            self.leave(&entry, "leads nowhere", is_hidden);
            return Ok(());
        };
        if metadata.is_dir() {
            if self.outputs.contains(&entry.from.as_path())
                || !entry.whole && (is_hidden || name == RECORD_DIRECTORY)
            {
                return Ok(());
            }
            if is_link {
                self.leave(&entry, "a link to a directory", false);
                return Ok(());
            }
            entry.whole |= self.own_modules.contains(&entry.below);
            std::fs::create_dir(&entry.to).at(&entry.to)?;
            return self.copy(&entry);
        }
        if entry.below.to_str().is_some_and(|below| self.dropped.contains(below)) {
            return Ok(());
        }
        if entry.whole || kind == Kind::Known {
            if !metadata.is_file() {
                self.leave(&entry, "not a plain file", false);
            } else if entry.to.symlink_metadata().is_err() {
                copy_synced(&entry.from, &entry.to, self.progress)?;
            }
        } else if kind == Kind::Unknown {
            self.leave(&entry, if metadata.is_file() { "" } else { "not a plain file" }, is_hidden);
        }
        Ok(())
    }

    fn leave(&mut self, entry: &Directory, reason: &str, is_hidden: bool) {
        let shown = entry.below.display();
        match reason {
            _ if is_hidden => {}
            "" => self.left.push(shown.to_string()),
            reason => self.left.push(format!("{shown} ({reason})")),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Kind {
    Known,
    Weights,
    Unknown,
}

impl Kind {
    fn of(name: &str) -> Self {
        let name = name.to_lowercase();
        let ends = |endings: &[&str]| {
            endings.iter().any(|ending| name.strip_suffix(ending).is_some_and(|stem| stem.ends_with('.')))
        };
        if ends(&WEIGHT_ENDINGS) || name.starts_with("adapter_") {
            Kind::Weights
        } else if ends(&KNOWN_ENDINGS) && !name.starts_with('.')
            || KNOWN_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        {
            Kind::Known
        } else {
            Kind::Unknown
        }
    }
}

/// Copies a file of any size and syncs it.
fn copy_synced(from: &Path, to: &Path, progress: &Progress) -> Result<()> {
    let source = open_plain(from)?;
    let mut target = File::create_new(to).at(to)?;
    while std::io::copy(&mut (&source).take(CHUNK), &mut target).at(to)? > 0 {
        progress.check()?;
    }
    target.sync_all().at(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_names() {
        for (kind, names) in [
            (
                Kind::Known,
                "config.json tokenizer.model tokenizer.model.v3 vocab.bpe spiece.model chat_template.jinja merges.txt \
                 README.md LICENSE USE_POLICY.md modeling_x.py .gitattributes source.spm qwen.tiktoken bpe.codes",
            ),
            (
                Kind::Weights,
                "model.safetensors pytorch_model.bin tf_model.h5 x.PT model.safetensors.index.json adapter_config.json",
            ),
            (Kind::Unknown, "core.1234 notes json .hidden.json data.parquet x.tar.gz"),
        ] {
            for name in names.split_whitespace() {
                assert_eq!(Kind::of(name), kind, "{name}");
            }
        }
    }
}
