//! Adapters in other programs' formats, and quantised checkpoints.

use super::two_files;
use lora_peft::formats::{Contents, Format, GgufHeader, Target, from_contents, from_mlx, place, write};
use lora_peft::{Adapter, Checkpoint};
use std::path::Path;
use tempfile::TempDir;

thread_local! {
    static QUANTIZED: TempDir = tempfile::tempdir().expect("a temporary directory");
    static WRITTEN: TempDir = tempfile::tempdir().expect("a temporary directory");
    static UNET: TempDir = unet();
}

/// A kohya or diffusers file; or mlx-lm's configuration, a zero byte, and its file.
pub fn foreign(bytes: &[u8]) -> bool {
    let adapter = match two_files(bytes) {
        Some((config, weights)) if config.starts_with(b"{") => {
            Contents::from_safetensors(weights).and_then(|contents| from_mlx(config, contents))
        }
        _ => Contents::from_safetensors(bytes).and_then(|contents| {
            let _ = Format::of_names(contents.tensors.keys().map(String::as_str));
            from_contents(contents)
        }),
    };
    let Ok(adapter) = adapter else { return false };
    let base = UNET.with(|directory| Checkpoint::open(directory.path()).expect("written by this target"));
    let placed = place(&adapter, &base);
    if let Ok((placed, _)) = &placed {
        for layer in placed.layers.keys() {
            assert!(placed.layers.len() <= 4 * adapter.layers.len(), "{layer}");
        }
    }
    for target in [Target::Peft, Target::Kohya, Target::Diffusers, Target::Mlx] {
        WRITTEN.with(|directory| round_trip(&adapter, target, directory.path()));
    }
    true
}

/// What is written in a format is read, and has the same layers.
fn round_trip(adapter: &Adapter, target: Target, directory: &Path) {
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        std::fs::remove_file(entry.path()).expect("written by this target");
    }
    if write(adapter, target, directory).is_err() {
        return;
    }
    // Sums and products may be too large for a file's numbers, which the reader sees.
    if let Ok((_, again)) = lora_peft::formats::load(directory) {
        assert_eq!(again.layers.len(), adapter.layers.len());
    }
}

/// A file that `torch.save` wrote, or a GGUF file.
pub fn torch_file(bytes: &[u8]) -> bool {
    let _ = GgufHeader::from_slice(bytes);
    let Ok(contents) = Contents::from_torch_file(bytes) else { return false };
    let elements: usize = contents.tensors.values().map(lora_peft::Tensor::len).sum();
    // Tensors may share a storage, but none is larger than the file.
    assert!(contents.tensors.values().all(|tensor| tensor.len() <= bytes.len()), "{elements}");
    true
}

/// A model's `config.json`, a zero byte, and a quantised `model.safetensors`.
pub fn quantized(bytes: &[u8]) -> bool {
    let Some((config, weights)) = two_files(bytes) else { return false };
    QUANTIZED.with(|directory| {
        std::fs::write(directory.path().join("config.json"), config).expect("room for a file");
        std::fs::write(directory.path().join("model.safetensors"), weights).expect("room for a file");
        let Ok(checkpoint) = Checkpoint::open(directory.path()) else { return false };
        let stored = checkpoint.quantized_formats();
        let Ok(plain) = checkpoint.dequantized() else { return false };
        assert!(stored.is_ok_and(|formats| !formats.is_empty()));
        for (name, info) in plain.tensors() {
            // Parts may hold numbers that fit nothing (groups that are not there).
            if let Ok(tensor) = plain.tensor(name) {
                assert_eq!(tensor.shape(), info.shape);
                assert_eq!(tensor.bytes().len() as u64, info.bytes());
            }
        }
        true
    })
}

fn unet() -> TempDir {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = [0; 4 * 16 * 16];
    let names =
        ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attentions.0.proj_in"];
    let view = || TensorView::new(Dtype::F32, vec![16, 16], &data).expect("as many bytes as it says");
    let tensors = names.iter().map(|name| (format!("{name}.weight"), view()));
    let bytes = safetensors::serialize(tensors, None).expect("serializable");
    std::fs::write(directory.path().join("diffusion_pytorch_model.safetensors"), bytes)
        .expect("room for a file");
    std::fs::write(directory.path().join("config.json"), r#"{"_class_name": "UNet2DConditionModel"}"#)
        .expect("room for a file");
    directory
}
