//! The files beside a checkpoint's weights: configurations, tokenizers, further modules.

use crate::Result;
use crate::error::AtPath;
use crate::record::RECORD_DIRECTORY;
use crate::writer::{copy_synced, write_synced};
use serde_json::Value;
use std::path::Path;

/// Files that are weights in one format or another and would contradict the new ones, or would be taken for an adapter.
const WEIGHT_ENDINGS: [&str; 10] =
    ["safetensors", "bin", "pt", "pth", "ckpt", "h5", "msgpack", "onnx", "gguf", "index.json"];

/// Copies all files but weights, those in sub-directories too. Directories that are modules of their own keep their
/// weights. Files that are there already stay.
pub(crate) fn copy_side_files(from: &Path, to: &Path) -> Result<()> {
    copy(from, to, &own_modules(from)?)
}

/// The directories that sentence-transformers' `modules.json` lists: dense layers after the model, for instance.
fn own_modules(directory: &Path) -> Result<Vec<String>> {
    let path = directory.join("modules.json");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = crate::input::read(&path)?;
    // A file of that name that is something else lists nothing.
    let modules: Value = serde_json::from_slice(&text).unwrap_or_default();
    let paths = modules.as_array().into_iter().flatten().filter_map(|module| module["path"].as_str());
    Ok(paths.filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

fn copy(from: &Path, to: &Path, own_modules: &[String]) -> Result<()> {
    for entry in std::fs::read_dir(from).at(from)? {
        let path = entry.at(from)?.path();
        let Some(name) = path.file_name() else { continue };
        let text = name.to_string_lossy();
        let target = to.join(name);
        if path.is_dir() {
            if text.starts_with('.') || text == RECORD_DIRECTORY {
                continue;
            }
            std::fs::create_dir(&target).at(&target)?;
            match own_modules.iter().any(|module| *module == text) {
                true => copy_whole(&path, &target)?,
                false => copy(&path, &target, &[])?,
            }
            continue;
        }
        let weights = WEIGHT_ENDINGS.iter().any(|ending| text.ends_with(&format!(".{ending}")));
        if path.is_file() && !weights && !text.starts_with("adapter_") && !target.exists() {
            let bytes = std::fs::read(&path).at(&path)?;
            write_synced(&target, &bytes)?;
        }
    }
    Ok(())
}

fn copy_whole(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from).at(from)? {
        let path = entry.at(from)?.path();
        let Some(name) = path.file_name() else { continue };
        let target = to.join(name);
        if path.is_dir() {
            std::fs::create_dir(&target).at(&target)?;
            copy_whole(&path, &target)?;
        } else if path.is_file() {
            copy_synced(&path, &target)?;
        }
    }
    Ok(())
}
