//! Checkpoints: one file, and shards with an index.

use lora_peft::tensor::float_type;
use lora_peft::{Checkpoint, Note};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

thread_local! {
    static DIRECTORY: TempDir = tempfile::tempdir().expect("a temporary directory");
    static SHARDED: TempDir = shards();
}

/// A `model.safetensors`.
pub fn safetensors(bytes: &[u8]) -> bool {
    DIRECTORY.with(|directory| {
        let path = directory.path().join("model.safetensors");
        std::fs::write(&path, bytes).expect("room for a file");
        // The format's own crate reads the same files, and finds the same in them.
        let expected = SafeTensors::deserialize(bytes);
        let checkpoint = match (Checkpoint::open(&path), &expected) {
            (Ok(checkpoint), Ok(_)) => checkpoint,
            (Err(_), Err(_)) => return false,
            // Refused by its names: modules that are there twice, or two of one name.
            (Err(lora_peft::Error::Tensor { .. }), Ok(_)) => return false,
            (found, expected) => {
                panic!("{:?}, but the format's crate says {:?}", found.err(), expected.as_ref().err())
            }
        };
        let expected = expected.expect("matched above");
        // What wrappers have put into names is left out.
        if !checkpoint.notes().is_empty() {
            return true;
        }
        assert_eq!(checkpoint.tensors().len(), expected.len());
        for (name, view) in expected.iter() {
            let info = checkpoint.info(name).expect("the same tensors");
            assert_eq!((info.dtype, info.shape.as_slice()), (view.dtype(), view.shape()));
            assert_eq!(&*checkpoint.bytes(name).expect("read"), view.data());
            match (checkpoint.tensor(name), float_type(info.dtype)) {
                (Ok(tensor), Some(dtype)) => {
                    assert_eq!((tensor.dtype(), tensor.shape()), (dtype, view.shape()));
                    assert_eq!(tensor.bytes(), view.data());
                }
                (Err(_), None) => {}
                (found, dtype) => panic!("{dtype:?} becomes {found:?}"),
            }
        }
        true
    })
}

/// A `model.safetensors.index.json` beside two shards.
pub fn index(bytes: &[u8]) -> bool {
    SHARDED.with(|directory| {
        let path = directory.path().join("model.safetensors.index.json");
        std::fs::write(&path, bytes).expect("room for a file");
        let Ok(checkpoint) = Checkpoint::open(&path) else { return false };
        let index: Value = serde_json::from_slice(bytes).expect("an index was read from it");
        let map = index["weight_map"].as_object().expect("an index was read from it");
        // Names of what a model does not use may be of tensors that are not there.
        let is_of_absent = |note: &Note| matches!(note, Note::AbsentTensors { .. } | Note::Wrapped { .. });
        if checkpoint.notes().iter().any(is_of_absent) {
            return true;
        }
        assert_eq!(checkpoint.tensors().len(), map.len());
        for (name, shard) in map {
            let info = checkpoint.info(name).expect("named by the index");
            assert_eq!(checkpoint.shards()[info.shard].file_name(), shard.as_str().expect("a file name"));
            assert_eq!(checkpoint.bytes(name).expect("read").len() as u64, info.bytes());
        }
        let metadata = index["metadata"].as_object().cloned().unwrap_or_default();
        assert_eq!(checkpoint.index_metadata(), metadata);
        true
    })
}

fn shards() -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    write_file(&directory.path().join(SHARDS[0]), &["a", "b.weight"]);
    write_file(&directory.path().join(SHARDS[1]), &["c"]);
    directory
}

fn write_file(path: &Path, names: &[&str]) {
    let view = || TensorView::new(Dtype::BF16, vec![2, 1], &[0, 1, 2, 3]).expect("two elements of two bytes");
    let bytes = safetensors::serialize(names.iter().map(|name| (*name, view())), None);
    std::fs::write(path, bytes.expect("serializable")).expect("room for a file");
}
