//! Restore records of a merged checkpoint, in the directory `lora_restore` inside it.
//!
//! `restore.json` lists every tensor of the checkpoint: those that the merge changed, with checksums of what they were and
//! of what they became, those that it left as they were, with a checksum, and those that it added. For each changed one
//! there is a safetensors file, either with the codes and escapes of [`RestoreRecord`](lora_kernels::restore::RestoreRecord)s for blocks of the tensor, or with
//! the original tensor. The files' contents have checksums in the list, and the list has one of its own.
//!
//! Nothing is used before its checksum was compared, and what comes of it is compared with the checksum of the original:
//! a damaged record is an error that names the file, never wrong weights. All checksums are XXH3 of 64 bits, against
//! accidents and not against forgery.

use crate::checkpoint::checksum::{Checksum, hex};
use crate::tensor::Dtype;
use lora_kernels::restore::RestoreMethod;
use serde_json::{Map, Value, json};

/// The list of a checkpoint's records.
pub(super) const LIST: &str = "restore.json";
/// Of the list.
pub(super) const VERSION: u64 = 2;
/// The key of the list's own checksum.
pub(super) const CHECKSUM: &str = "checksum";

/// The checksum of a list is that of its text without the checksum and without spaces.
pub(super) fn list_checksum(list: &Map<String, Value>) -> u64 {
    let mut list = list.clone();
    list.shift_remove(CHECKSUM);
    let mut sum = Checksum::new();
    sum.add(Value::Object(list).to_string().as_bytes());
    sum.finish()
}

/// Gives a list of records the checksum that belongs to it. For tests of what comes after the checksum.
#[doc(hidden)]
pub fn seal(list: &mut Map<String, Value>) {
    let sum = list_checksum(list);
    list.insert(CHECKSUM.into(), json!(hex(sum)));
}

/// The tensors of one record, in the order of the file.
pub(super) const BLOCK_TENSORS: [(&str, Dtype); 3] =
    [("escape_index", Dtype::U64), ("escape_bits", Dtype::U32), ("codes", Dtype::U8)];

pub(super) fn method_name(method: RestoreMethod) -> &'static str {
    match method {
        RestoreMethod::Codes => "codes",
        RestoreMethod::Backup => "backup",
    }
}

pub(super) fn method_of(name: &str) -> Option<RestoreMethod> {
    [RestoreMethod::Codes, RestoreMethod::Backup].into_iter().find(|&method| method_name(method) == name)
}
