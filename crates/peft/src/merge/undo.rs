//! What puts a tensor back to what it was before a merge, to the last bit.

use crate::checkpoint::checksum;
use crate::tensor::Tensor;
use crate::update::{HostBackend, Term, unmerge_recorded};
use crate::{Error, Result};
use lora_kernels::restore::{Escape, RestoreRecord};
use std::path::{Path, PathBuf};

/// What to do when a record is of no use.
pub(super) const WAY_OUT: &str = "merge into the base again, or remove the directory `lora_restore`: then adapters can still be taken out, but not \
     exactly";

/// What a merge keeps of a tensor.
#[derive(Clone, Debug)]
pub(crate) enum Undo {
    /// Records for blocks of the tensor, of use together with the adapters.
    Records {
        records: Vec<RestoreRecord>,
        /// The checksum of what the tensor was.
        original: u64,
        /// The file that they were read from, if they were.
        file: Option<PathBuf>,
    },
    /// What the tensor was.
    Original(Tensor),
}

impl Undo {
    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> u64 {
        let of_record =
            |record: &RestoreRecord| record.codes().len() + size_of_val::<[Escape]>(record.escapes());
        let bytes = match self {
            Undo::Records { records, .. } => records.iter().map(of_record).sum(),
            Undo::Original(tensor) => tensor.bytes().len(),
        };
        bytes as u64
    }

    /// Takes the `merged` adapters out.
    ///
    /// # Errors
    /// The records are of other weights or adapters, or give back something else.
    pub fn apply(
        self,
        backend: &HostBackend<'_>,
        name: &str,
        tensor: &mut Tensor,
        merged: &[Term<'_>],
    ) -> Result<()> {
        match self {
            Undo::Original(original) => *tensor = original,
            Undo::Records { records, original, file } => {
                unmerge_recorded(backend, tensor, merged, records)?;
                if checksum::of(tensor) != original {
                    return Err(match file {
                        Some(file) => damaged(
                            &file,
                            &format!(
                                "what it gives back for `{name}` is not what the tensor was before the merge"
                            ),
                        ),
                        None => {
                            Error::Record(format!("it does not give back what `{name}` was before the merge"))
                        }
                    });
                }
            }
        }
        Ok(())
    }
}

/// A record's file cannot be used.
pub(super) fn damaged(path: &Path, reason: &str) -> Error {
    Error::malformed(
        path,
        format!("the restore record is damaged or of another checkpoint: {reason}; {WAY_OUT}"),
    )
}
