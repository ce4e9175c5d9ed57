//! Bad input: the exit code, one clear paragraph, and nothing written.

mod common;

use common::{changed_adapter, golden, large, listing, lora, lora_limited, open};
use serde_json::json;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn base() -> PathBuf {
    golden("bases/llama-bf16")
}

fn adapter() -> PathBuf {
    golden("cases/llama-bf16/adapter")
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Merging fails with these words and leaves nothing.
#[track_caller]
fn refused(base: &Path, adapter: &Path, words: &[&str]) {
    let directory = directory();
    let out = directory.path().join("out");
    let run = lora("merge --base {} --adapter {} --out {}", &[base, adapter, &out]).fails(1, words);
    assert_eq!(run.stderr.trim_end().lines().count(), 1, "{}", run.stderr);
    assert!(listing(directory.path()).is_empty());
}

#[test]
fn wrong_usage_ends_with_2() {
    let (base, adapter) = (base(), adapter());
    lora("", &[]).fails_with_usage();
    lora("merge --base {} --out x", &[&base]).fails_with_usage();
    lora("merge --base {} --adapter {} --out x --device gpu", &[&base, &adapter]).fails_with_usage();
    lora("merge --base {} --adapter {} --out x --dtype f32 --exact", &[&base, &adapter]).fails_with_usage();
    lora("extract --base {} --tuned {} --rank 0 --out x", &[&base, &base]).fails_with_usage();
    lora("bench --shape 3x4", &[]).fails_with_usage();
    let early = lora("merge --base {} --weight 1 --adapter {} --out x", &[&base, &adapter]);
    early.fails(2, &["--weight comes before the adapter"]);
    let twice = lora("merge --base {} --adapter {} --weight 1 --weight 2 --out x", &[&base, &adapter]);
    twice.fails(2, &["--weight is given twice"]);
    let two_bases = lora("info {} {} {}", &[&base, &golden("bases/gpt2-f32"), &adapter]);
    two_bases.fails(2, &["both", "llama-bf16", "gpt2-f32"]);
}

trait FailsWithUsage {
    fn fails_with_usage(self);
}

impl FailsWithUsage for common::Run {
    #[track_caller]
    fn fails_with_usage(self) {
        assert_eq!(self.code, Some(2), "{}", self.stderr);
        assert!(self.stderr.contains("--help"), "{}", self.stderr);
    }
}

#[test]
fn missing_files_are_named() {
    refused(Path::new("/no/such/base"), &adapter(), &["/no/such/base"]);
    refused(&base(), Path::new("/no/such/adapter"), &["/no/such/adapter"]);
    lora("info /no/such/thing", &[]).fails(1, &["/no/such/thing"]);
    let empty = directory();
    refused(empty.path(), &adapter(), &["no checkpoint", "model.safetensors"]);
    refused(&base(), empty.path(), &["adapter_config.json"]);
}

/// What is written is not yet where it will be, which the user need not know.
#[test]
fn failures_to_write_name_the_output() {
    let directory = directory();
    let out = directory.path().join("out");
    let full = "ulimit -f 8";
    let line = "merge --base {} --adapter {} --out {}";
    let run = lora_limited(full, line, &[&base(), &adapter(), &out]);
    run.fails(1, &[&format!("error: {}: ", out.join("model.safetensors").display())]);
    let tuned = directory.path().join("tuned");
    lora(line, &[&base(), &adapter(), &tuned]).succeeds();
    let run = lora_limited(
        "ulimit -f 4",
        "extract --base {} --tuned {} --rank 8 --out {}",
        &[&base(), &tuned, &out],
    );
    run.fails(1, &[&format!("error: {}: ", out.join("adapter_model.safetensors").display())]);
    assert_eq!(listing(directory.path()), ["tuned"]);
    // Nobody can make directories there.
    let out = Path::new("/proc/out");
    lora(line, &[&base(), &adapter(), out]).fails(1, &["error: /proc/out: "]);
}

#[test]
fn what_was_given_instead_is_told() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name);
    refused(&adapter(), &adapter(), &["llama-bf16/adapter: no checkpoint", "it holds an adapter"]);
    refused(&base(), &base(), &["bases/llama-bf16: not an adapter: it has no adapter_config.json"]);
    let file = adapter().join("adapter_model.safetensors");
    refused(&base(), &file, &["adapter_model.safetensors: not a directory"]);
    let (config, index) = (base().join("config.json"), "model.safetensors.index.json");
    refused(
        &config,
        &adapter(),
        &["config.json: not the index of a checkpoint", index.trim_start_matches("model")],
    );
    let misfit = golden("cases/gpt2-attention/adapter");
    refused(&base(), &misfit, &["none of the adapter's modules", "made for `tiny-gpt2`"]);
    // Adapters with names of their own, and files with pickled weights.
    for name in ["one", "two"] {
        changed_adapter(&adapter(), &path("several").join(name), "r", json!(4));
    }
    refused(&base(), &path("several"), &["no adapter_config.json here", "several/one`", "several/two`"]);
    std::fs::rename(path("several/one/adapter_model.safetensors"), path("several/one/adapter_model.bin"))
        .unwrap();
    refused(&base(), &path("several/one"), &["adapter_model.bin", "adapter_model.safetensors"]);
    std::fs::create_dir(path("pickled")).unwrap();
    std::fs::write(path("pickled/pytorch_model.bin"), "x").unwrap();
    refused(&path("pickled"), &adapter(), &["no checkpoint", "`pytorch_model.bin`", "safetensors"]);
}

#[test]
fn keys_that_change_numbers_are_named() {
    let directory = directory();
    let changed = directory.path().join("adapter");
    changed_adapter(&adapter(), &changed, "alora_invocation_tokens", json!([1, 2]));
    refused(&base(), &changed, &["alora_invocation_tokens", &changed.display().to_string()]);
}

#[test]
fn tensors_are_named_with_their_file() {
    let directory = directory();
    let changed = directory.path().join("adapter");
    changed_adapter(&adapter(), &changed, "r", json!(3));
    refused(&base(), &changed, &["lora_A.weight", &changed.display().to_string()]);
    refused(&golden("bases/gpt2-f32"), &adapter(), &["gpt2-f32", "llama-bf16/adapter", "mlp.down_proj"]);
}

#[test]
fn truncated_files_are_named() {
    let directory = directory();
    let broken = directory.path().join("model.safetensors");
    let bytes = std::fs::read(base().join("model.safetensors")).unwrap();
    std::fs::write(&broken, &bytes[..bytes.len() - 1]).unwrap();
    refused(&broken, &adapter(), &["model.safetensors", "truncated"]);
}

#[test]
fn a_record_of_another_merge_is_refused() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name);
    lora("merge --base {} --adapter {} --out {} --exact", &[&base(), &adapter(), &path("merged")]).succeeds();
    let other = golden("cases/llama-bf16-two/adapter-1");
    let run = lora("unmerge --merged {} --adapter {} --out {}", &[&path("merged"), &other, &path("out")]);
    run.fails(1, &["record", "merged"]);
    let line = "unmerge --merged {} --adapter {} --weight 0.5 --out {}";
    lora(line, &[&path("merged"), &adapter(), &path("out")]).fails(1, &["record"]);
    assert_eq!(listing(directory.path()), ["merged"]);
}

#[test]
fn an_absent_gpu_is_explained() {
    let directory = directory();
    let out = directory.path().join("out");
    let line = "merge --base {} --adapter {} --out {} --device cuda:99";
    let run = lora(line, &[&base(), &adapter(), &out]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
    assert!(listing(directory.path()).is_empty());
}

#[test]
fn an_existing_directory_is_replaced_only_by_force() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name);
    let merge = |options: &str, out: &Path| {
        lora(&format!("merge --base {{}} --adapter {{}} --out {{}} {options}"), &[&base(), &adapter(), out])
    };
    // An empty directory is as good as none.
    std::fs::create_dir(path("out")).unwrap();
    merge("", &path("out")).succeeds();
    std::fs::write(path("out/old.txt"), "old").unwrap();
    merge("", &path("out")).fails(1, &["already exists", "--force"]);
    assert!(path("out/old.txt").exists());
    // A failure leaves the old one as it was.
    let misfit = golden("cases/gpt2-attention/adapter");
    lora("merge --base {} --adapter {} --out {} --force", &[&base(), &misfit, &path("out")]).fails(1, &[]);
    lora_limited(
        "ulimit -f 8",
        "merge --base {} --adapter {} --out {} --force",
        &[&base(), &adapter(), &path("out")],
    )
    .fails(1, &["out/model.safetensors: "]);
    assert!(path("out/old.txt").exists());
    merge("--force", &path("out")).succeeds();
    assert!(!path("out/old.txt").exists());
    assert_eq!(listing(directory.path()), ["out"]);
    // What is no checkpoint is never replaced.
    std::fs::create_dir(path("home")).unwrap();
    std::fs::write(path("home/precious"), "x").unwrap();
    merge("--force", &path("home")).fails(1, &["neither a checkpoint nor an adapter"]);
    std::fs::write(path("file"), "x").unwrap();
    merge("--force", &path("file")).fails(1, &["neither a checkpoint nor an adapter"]);
}

#[test]
fn inputs_cannot_be_outputs() {
    let directory = directory();
    let [base, adapter] = large(directory.path(), 1, 16);
    let merge = "merge --force --base {} --adapter {} --out {}";
    for out in [base.clone(), base.join("merged"), adapter.clone(), directory.path().to_owned()] {
        lora(merge, &[&base, &adapter, &out]).fails(1, &["inputs are never changed"]);
    }
    assert_eq!(listing(directory.path()), ["adapter", "base"]);
    assert_eq!(
        listing(&base),
        ["config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json"]
    );
    // Beside a checkpoint that is one file, there is room.
    let file = base.join("model-00001-of-00001.safetensors");
    lora(merge, &[&file, &adapter, &base.join("merged")]).succeeds();
    assert_eq!(open(&base.join("merged/model-00001-of-00001.safetensors")).tensors().len(), 2);
}
