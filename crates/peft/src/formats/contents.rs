//! The tensors of an adapter's file, whatever holds them.

use super::torch_file;
use crate::adapter::read_tensor;
use crate::checkpoint::{Checkpoint, header_error};
use crate::error::{Error, Result};
use crate::files::SourceFile;
use crate::tensor::{Dtype, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;
use std::path::Path;

/// Tensors by name, and what the file says about itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The tensors, all finite.
    pub tensors: BTreeMap<String, Tensor>,
    /// `__metadata__` of a safetensors file.
    pub metadata: BTreeMap<String, String>,
}

impl Contents {
    /// Reads a `.safetensors` file, the index of several, or a file that torch pickled.
    ///
    /// # Errors
    /// It is malformed, or holds something else than finite floating-point tensors.
    pub fn read(path: &Path) -> Result<Self> {
        let is_named = |ending: &str| path.to_string_lossy().ends_with(ending);
        let named = |error| match error {
            Error::Malformed { path: inner, reason } if inner.as_os_str().is_empty() => {
                Error::malformed(path, reason)
            }
            other => other,
        };
        if is_named(".json") {
            return Self::of_shards(path);
        }
        let bytes = SourceFile::open(path)?.read_all()?;
        if is_named(".safetensors") {
            Self::from_safetensors(&bytes).map_err(named)
        } else {
            Self::from_torch_file(&bytes).map_err(named)
        }
    }

    /// The tensors of a safetensors file.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self> {
        let malformed = |error| Error::malformed(Path::new(""), header_error(&error));
        let file = SafeTensors::deserialize(bytes).map_err(malformed)?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
        let tensors = file.iter().map(|(name, view)| Ok((name.to_owned(), value(name, &view)?)));
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Contents { tensors: tensors.collect::<Result<_>>()?, metadata })
    }

    /// The tensors of a file that `torch.save` wrote: a dictionary of tensors in torch's zip format. Nothing in it is
    /// executed; what is not a tensor is refused.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_torch_file(bytes: &[u8]) -> Result<Self> {
        Ok(Contents { tensors: torch_file::tensors(bytes)?, metadata: BTreeMap::new() })
    }

    fn of_shards(index: &Path) -> Result<Self> {
        let shards = Checkpoint::open(index)?;
        let read = |(name, info): (&String, &crate::checkpoint::TensorInfo)| {
            let bytes = shards.bytes(name)?;
            let view = TensorView::new(info.dtype, info.shape.clone(), &bytes)
                .map_err(|error| Error::tensor(name, format!("{error:?}")))?;
            Ok((name.clone(), value(name, &view)?))
        };
        let tensors = shards.tensors().iter().map(read).collect::<Result<_>>()?;
        shards.check_unchanged()?;
        Ok(Contents { tensors, metadata: BTreeMap::new() })
    }
}

/// α may be an integer or a double.
fn value(name: &str, view: &TensorView<'_>) -> Result<Tensor> {
    let scalar = match (view.dtype(), view.data()) {
        (Dtype::F64, bytes) => bytes.try_into().ok().map(|bytes| f64::from_le_bytes(bytes) as f32),
        (Dtype::I64, bytes) => bytes.try_into().ok().map(|bytes| i64::from_le_bytes(bytes) as f32),
        (Dtype::I32, bytes) => bytes.try_into().ok().map(|bytes| i32::from_le_bytes(bytes) as f32),
        _ => None,
    };
    match scalar {
        Some(scalar) if scalar.is_finite() => Ok(Tensor::of(view.shape(), vec![scalar])),
        _ => read_tensor(name, view),
    }
}
