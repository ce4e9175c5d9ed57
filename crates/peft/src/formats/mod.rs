//! Adapters in other programs' files: which format a file has, reading it, fitting its names to a checkpoint, and writing
//! it.
//!
//! | format | files | written by |
//! |---|---|---|
//! | PEFT | `adapter_config.json` with `adapter_model.safetensors`, its shards, or `adapter_model.bin` | PEFT, torchtune and others |
//! | kohya | one `.safetensors`: `lora_unet_….lora_down.weight`, `.alpha` | sd-scripts, LyCORIS (LoCon), musubi-tuner |
//! | diffusers | `pytorch_lora_weights.safetensors`: `unet.….lora_A.weight`, `.lora.down.weight` | diffusers, ai-toolkit |
//! | mlx-lm | `adapter_config.json` with `adapters.safetensors`: `….lora_a` \[in, r\] | mlx-lm |
//!
//! Torch's pickled files are read as data: tensors in a dictionary, and nothing is ever executed.

mod assemble;
mod contents;
mod diffusers;
mod endings;
mod factors;
mod flux_names;
mod format;
mod gguf;
mod ldm_names;
mod locate;
mod mlx;
mod parts;
mod pickle;
mod place;
mod torch_file;
mod write;

pub use contents::Contents;
pub use format::Format;
pub use gguf::GgufHeader;
pub use locate::identify;
pub use place::place;
pub use write::{Target, write};

use crate::adapter::{Adapter, AdapterConfig, PREFIX};
use crate::error::{Error, Result};
use crate::files::{Snapshot, SourceFile};
use locate::{Found, locate};
use std::path::{Path, PathBuf};

/// Loads an adapter of any format that is read, from its directory or its file.
///
/// Names of kohya's and diffusers' modules stay as they are in the file; [`place`] fits them to a checkpoint.
///
/// # Errors
/// The file is of no known format, or of one that is not read: the error names it and the way out. Or it is malformed, a
/// tensor has no use, has not its partner or the wrong shape, or holds NaN or infinity.
pub fn load(path: &Path) -> Result<(Format, Adapter)> {
    let found = locate(path)?;
    if found.format == Format::Peft {
        return Ok((Format::Peft, Adapter::load(path)?));
    }
    let paths = found.config.iter().chain([&found.weights]);
    let before: Vec<Snapshot> = paths.map(|path| Snapshot::take(path)).collect::<Result<_>>()?;
    let adapter = read(&found).map_err(|error| about(error, &found.weights))?;
    before.iter().try_for_each(Snapshot::check)?;
    Ok((found.format, adapter))
}

/// The file of an adapter's weights, or their index.
pub(crate) fn weights_file(path: &Path) -> Result<PathBuf> {
    Ok(locate(path)?.weights)
}

fn read(found: &Found) -> Result<Adapter> {
    let config = match &found.config {
        Some(path) => Some(SourceFile::open(path)?.read_all()?),
        None => None,
    };
    let named = |error| match (error, &found.config) {
        (Error::Malformed { reason, .. }, Some(path)) => Error::malformed(path, reason),
        (error, _) => error,
    };
    match (found.format, config) {
        (Format::PeftSharded | Format::PeftPickled, Some(config)) => {
            let config = AdapterConfig::from_slice(&config).map_err(named)?;
            Adapter::from_tensors(config, Contents::read(&found.weights)?.tensors)
        }
        // The configuration is PEFT's, the names are not.
        (Format::Diffusers, Some(config)) => {
            let config = AdapterConfig::from_slice(&config).map_err(named)?;
            let tensors = Contents::read(&found.weights)?.tensors;
            let own = tensors.into_iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor));
            Adapter::from_tensors(config, own.collect())
        }
        (Format::Mlx, Some(config)) => {
            let scale = mlx::Scale::from_slice(&config).map_err(named)?;
            mlx::adapter(scale, Contents::read(&found.weights)?)
        }
        (Format::Kohya | Format::Diffusers, _) => from_contents(Contents::read(&found.weights)?),
        (format, _) => Err(Error::malformed(&found.weights, format.refusal())),
    }
}

/// An adapter from the tensors of a file that needs no configuration: kohya's or diffusers'.
///
/// # Errors
/// A tensor has no use, has not its partner, or the wrong shape.
pub fn from_contents(contents: Contents) -> Result<Adapter> {
    let configured = diffusers::Configured::from_metadata(&contents.metadata)?;
    let layers = factors::collect(contents.tensors)?;
    let layers = layers.into_iter().map(|(module, factors)| factors.finish(module, &configured));
    assemble::assemble(layers.collect::<Result<_>>()?, AdapterConfig::default())
}

/// An adapter from mlx-lm's `adapter_config.json` and the tensors of its `adapters.safetensors`.
///
/// # Errors
/// The configuration is of another method, a tensor has no use, has not its partner, or the wrong shape.
pub fn from_mlx(config: &[u8], contents: Contents) -> Result<Adapter> {
    mlx::adapter(mlx::Scale::from_slice(config)?, contents)
}

fn about(error: Error, path: &Path) -> Error {
    match error {
        Error::Malformed { path: named, reason } if named.as_os_str().is_empty() => {
            Error::malformed(path, reason)
        }
        other => other,
    }
}
