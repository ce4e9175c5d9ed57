//! Finding an adapter's files, and telling what a path leads to.

use super::format::Format;
use super::gguf::GgufHeader;
use super::mlx;
use crate::checkpoint::read_header;
use crate::error::{AtPath, Error, Result};
use crate::files::{CONFIG_FILE, SourceFile, WEIGHTS_FILE};
use serde_json::Value;
use std::path::{Path, PathBuf};

const SHARDED: &str = "adapter_model.safetensors.index.json";
const PICKLED: [&str; 2] = ["adapter_model.bin", "adapter_model.pt"];
/// Files that need no configuration beside them.
const ALONE: [&str; 2] = ["pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin"];
const MLX: &str = "adapters.safetensors";
/// Names of a model's weights, with `.safetensors` or its index.
const MODELS: [&str; 3] = ["model", "diffusion_pytorch_model", "pytorch_model"];
/// Files of a directory without a known name whose headers are looked at.
const MOST_FILES: usize = 64;

/// An adapter's files.
pub(super) struct Found {
    pub format: Format,
    pub config: Option<PathBuf>,
    pub weights: PathBuf,
}

/// What a file or directory holds.
///
/// # Errors
/// It cannot be read.
pub fn identify(path: &Path) -> Result<Format> {
    let holds_model = |path: &Path| {
        let files = MODELS.iter().flat_map(|stem| {
            ["safetensors", "safetensors.index.json"].map(|ending| path.join(format!("{stem}.{ending}")))
        });
        !path.join(CONFIG_FILE).exists() && files.into_iter().any(|file| file.exists())
    };
    let is_index = |path: &Path| {
        path.file_name().is_some_and(|name| name != SHARDED && name.to_string_lossy().ends_with(".json"))
    };
    if std::fs::metadata(path).at(path)?.is_dir() {
        if holds_model(path) {
            return Ok(Format::Checkpoint);
        }
        let found = locate(path)?;
        // A directory that holds nothing of an adapter's.
        let is_adapter = found.format != Format::Peft || path.join(CONFIG_FILE).exists();
        return Ok(if is_adapter { found.format } else { Format::Checkpoint });
    }
    if is_index(path) { Ok(Format::Checkpoint) } else { Ok(locate(path)?.format) }
}

/// The files of the adapter that a path leads to. What is neither an adapter's nor of another known format is called
/// [`Format::Peft`], whose reader says what is missing.
pub(super) fn locate(path: &Path) -> Result<Found> {
    match std::fs::metadata(path).at(path)?.is_dir() {
        true => in_directory(path),
        false => of_file(path),
    }
}

fn in_directory(directory: &Path) -> Result<Found> {
    let file = |name: &str| Some(directory.join(name)).filter(|path| path.exists());
    let peft = || Found { format: Format::Peft, config: None, weights: directory.join(WEIGHTS_FILE) };
    if let Some(config) = file(CONFIG_FILE) {
        let keys: Value = serde_json::from_slice(&SourceFile::open(&config)?.read_all()?).unwrap_or_default();
        if mlx::is_config(&keys) {
            let Some(weights) = file(MLX) else {
                return Err(Error::malformed(
                    directory,
                    format!(
                        "mlx-lm's {CONFIG_FILE}, but no {MLX}; of adapters.npz, which old versions wrote, save the \
                             arrays as {MLX}"
                    ),
                ));
            };
            return Ok(Found { format: Format::Mlx, config: Some(config), weights });
        }
        return Ok(if let Some(weights) = file(WEIGHTS_FILE) {
            match of_weights(&weights) {
                Some(Format::Diffusers) => Found { format: Format::Diffusers, config: Some(config), weights },
                _ => peft(),
            }
        } else if let Some(weights) = file(SHARDED) {
            Found { format: Format::PeftSharded, config: Some(config), weights }
        } else if let Some(weights) = PICKLED.iter().find_map(|name| file(name)) {
            Found { format: Format::PeftPickled, config: Some(config), weights }
        } else {
            peft()
        });
    }
    if let Some(weights) = ALONE.iter().find_map(|name| file(name)) {
        return of_file(&weights);
    }
    if let Some(weights) = file(MLX) {
        return Ok(Found { format: Format::Mlx, config: None, weights });
    }
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory).at(directory)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let is_named = |path: &&PathBuf, endings: &[&str]| {
        path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known))
    };
    let weights = files.iter().filter(|path| is_named(path, &["safetensors"])).take(MOST_FILES);
    let adapters: Vec<(&PathBuf, Format)> = weights
        .filter_map(|path| Some((path, of_weights(path)?)))
        .filter(|(_, format)| !matches!(format, Format::Checkpoint | Format::Peft))
        .collect();
    if let [(weights, format)] = *adapters {
        return Ok(Found { format, config: None, weights: weights.clone() });
    }
    if let [(one, _), (two, _), ..] = *adapters {
        return Err(Error::malformed(
            directory,
            format!(
                "it holds several adapters, {} and {} among them; give one of the files",
                one.display(),
                two.display()
            ),
        ));
    }
    let is_torchtunes = |path: &&PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        name.starts_with("adapter_") && is_named(path, &["pt"])
    };
    if let Some(weights) = files.iter().find(is_torchtunes) {
        return Ok(Found { format: Format::Torchtune, config: None, weights: weights.clone() });
    }
    if let Some(path) = files.iter().find(|path| is_named(path, &["gguf"])) {
        return of_file(path);
    }
    Ok(peft())
}

fn of_file(path: &Path) -> Result<Found> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let beside = || {
        let config = path.with_file_name(CONFIG_FILE);
        config.exists().then_some(config)
    };
    let found = |format, config| Found { format, config, weights: path.to_owned() };
    let source = SourceFile::open(path)?;
    let mut beginning = vec![0; source.len().min(GgufHeader::LOOKED_AT) as usize];
    source.read(&mut beginning, 0)?;
    if let Some(header) = GgufHeader::from_slice(&beginning) {
        return Ok(found(Format::Gguf(header), None));
    }
    if name == SHARDED {
        return Ok(found(Format::PeftSharded, beside()));
    }
    if PICKLED.contains(&name.as_str()) {
        return Ok(found(Format::PeftPickled, beside()));
    }
    if ["bin", "pt", "pth", "ckpt"].iter().any(|ending| name.ends_with(&format!(".{ending}"))) {
        if name.starts_with("adapter_") && name.ends_with(".pt") {
            return Ok(found(Format::Torchtune, None));
        }
        let format = match ALONE.contains(&name.as_str()) {
            true => Format::Diffusers,
            false => Format::Checkpoint,
        };
        return Ok(found(format, None));
    }
    Ok(match of_weights(path) {
        Some(Format::Mlx) => found(Format::Mlx, beside()),
        // Another file's fault, or none.
        Some(Format::Peft) | None => found(Format::Peft, None),
        Some(format) => found(format, None),
    })
}

/// The format by the names in a safetensors file; `None` if it is none.
fn of_weights(path: &Path) -> Option<Format> {
    let source = SourceFile::open(path).ok()?;
    let (header, _) = read_header(&source).ok()?;
    let names = header.offset_keys();
    Some(Format::of_names(names.iter().map(String::as_str)))
}
